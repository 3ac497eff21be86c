//! A host that keeps what is completed and logged, and tasks without one.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use chimaera_chimod::abi::{HOST_MAGIC, Header, HostVTable, LentBytes, RawTask, TextSink};
use chimaera_chimod::host::report;
use chimaera_chimod::{Host, HostResource, ModuleError, Request};
use chimaera_proto::task::{ARGUMENT_COUNT, Completion, VALUE_COUNT};
use chimaera_proto::{Failure, Status};
use chimaera_testing::SystemCallFilter;

use super::TestBuffer;

pub(super) type TaskOutcome = Result<[u64; VALUE_COUNT], Failure>;

type LineHook = Box<dyn Fn(&str) + Send + Sync>;

/// What a host was told.
#[derive(Default)]
pub(crate) struct Recorder {
    /// What each thread is refused that the module starts.
    refused: Option<SystemCallFilter>,
    /// Device and inode of a file that the host needs itself.
    own_file: Option<(u64, u64)>,
    /// Called for each line of the log, as it comes.
    on_line: Option<LineHook>,
    /// How much of each resource, by number, containers may take; the rest without limit.
    limit: Option<(u32, u64)>,
    /// What containers have said that they take: resource and amount.
    charges: Mutex<Vec<(u32, u64)>>,
    completions: Mutex<HashMap<u64, TaskOutcome>>,
    log: Mutex<Vec<(u32, String)>>,
}

impl Recorder {
    /// A recorder for a module whose threads are refused these system calls; those that call it are not.
    pub(crate) fn refusing(filter: SystemCallFilter) -> Self {
        Self {
            refused: Some(filter),
            ..Self::default()
        }
    }

    /// A recorder for a host that needs the file of this device and inode itself.
    pub(crate) fn needing(device: u64, inode: u64) -> Self {
        Self {
            own_file: Some((device, inode)),
            ..Self::default()
        }
    }

    /// A recorder for a host in which this happens at each line of the log.
    pub(crate) fn doing(on_line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            on_line: Some(Box::new(on_line)),
            ..Self::default()
        }
    }

    /// A recorder for a host that lets a container take only so much of a resource at a time.
    pub(crate) fn limiting(resource: HostResource, amount: u64) -> Self {
        Self {
            limit: Some((resource as u32, amount)),
            ..Self::default()
        }
    }

    /// How much of a resource containers have said that they take.
    pub(crate) fn charged(&self, resource: HostResource) -> u64 {
        let charges = self.charges.lock().expect("no test panics with it");
        let of_it = charges.iter().filter(|charge| charge.0 == resource as u32);
        of_it.map(|charge| charge.1).sum()
    }

    /// What was logged with its level, so far.
    pub(crate) fn log(&self) -> Vec<(u32, String)> {
        self.log.lock().expect("no test panics with it").clone()
    }

    pub(crate) fn take(&self, task: u64) -> Option<TaskOutcome> {
        let mut completions = self.completions.lock().expect("no test panics with it");
        completions.remove(&task)
    }
}

unsafe extern "C" fn complete(
    context: *const c_void,
    token: *const [u64; 2],
    status_word: u32,
    values: *const u64,
    value_count: u32,
) {
    // SAFETY: the table's context is the recorder, which outlives the table; token and values
    // are valid during the call.
    let (recorder, token, first) = unsafe {
        (
            &*context.cast::<Recorder>(),
            *token,
            std::slice::from_raw_parts(values, value_count as usize),
        )
    };
    let mut completion = Completion::success(first);
    completion.status_word = status_word;
    let outcome = completion.result().copied();
    let before = recorder
        .completions
        .lock()
        .expect("no test panics with it")
        .insert(token[0], outcome);
    // A panic could not leave this function, so a task that completes twice aborts the tests.
    if before.is_some() {
        std::process::abort();
    }
}

unsafe extern "C" fn log(context: *const c_void, _: u64, level: u32, text: LentBytes) {
    // SAFETY: as in `complete`; the text is valid during the call.
    let (recorder, text) = unsafe { (&*context.cast::<Recorder>(), text.as_slice()) };
    let text = String::from_utf8_lossy(text).into_owned();
    if let Some(on_line) = &recorder.on_line {
        on_line(&text);
    }
    let mut log = recorder.log.lock().expect("no test panics with it");
    log.push((level, text));
}

/// Records a panic where it is caught. No test's hook tells a host of one.
unsafe extern "C" fn panicked(
    context: *const c_void,
    _: u64,
    _: LentBytes,
    _: LentBytes,
    text: LentBytes,
) {
    // SAFETY: as in `complete`; the text is valid during the call.
    let (recorder, text) = unsafe { (&*context.cast::<Recorder>(), text.as_slice()) };
    let text = format!("panicked: {}", String::from_utf8_lossy(text));
    let mut log = recorder.log.lock().expect("no test panics with it");
    log.push((1, text));
}

unsafe extern "C" fn adopt_thread(context: *const c_void, _: u64) {
    // SAFETY: as in `complete`.
    let recorder = unsafe { &*context.cast::<Recorder>() };
    if let Some(filter) = &recorder.refused
        && filter.clone().apply_to_thread().is_err()
    {
        // A panic could not leave this function.
        std::process::abort();
    }
}

/// Says that the files are the host's own that the test has named.
unsafe extern "C" fn is_own_file(context: *const c_void, device: u64, inode: u64) -> u32 {
    // SAFETY: as in `complete`.
    let recorder = unsafe { &*context.cast::<Recorder>() };
    u32::from(recorder.own_file == Some((device, inode)))
}

unsafe extern "C" fn charge(
    context: *const c_void,
    _: u64,
    resource: u32,
    amount: u64,
    error: *const TextSink,
) -> u32 {
    // SAFETY: as in `complete`.
    let recorder = unsafe { &*context.cast::<Recorder>() };
    if let Some((limited, most)) = recorder.limit
        && limited == resource
        && amount > most
    {
        let refusal = ModuleError::new(Status::LimitReached, "the test's limit");
        // SAFETY: the module passes a sink that is valid during the call.
        return unsafe { report(&refusal, error) };
    }
    let mut charges = recorder.charges.lock().expect("no test panics with it");
    charges.push((resource, amount));
    0
}

/// A table that leads to a recorder. The recorder must outlive it.
pub(crate) fn table_of(recorder: &Arc<Recorder>) -> HostVTable {
    HostVTable {
        header: Header::of::<HostVTable>(HOST_MAGIC),
        context: Arc::as_ptr(recorder).cast(),
        complete,
        log,
        panicked,
        adopt_thread,
        is_own_file,
        charge,
    }
}

/// A request without a pool, for tests of what lies below the container.
pub(crate) fn loose_request(
    recorder: &Arc<Recorder>,
    task: u64,
    buffer: &mut TestBuffer,
) -> Request {
    // Leaked together with a count of the recorder: a request may outlive everything.
    let table = Box::leak(Box::new(table_of(recorder)));
    std::mem::forget(Arc::clone(recorder));
    let task = Box::leak(Box::new(raw_task(task, 0, [0; 3], Some(buffer))));
    // SAFETY: table and task are valid for ever; each task is made once by its test, which keeps
    // the buffer until the task has completed.
    unsafe { Request::from_raw(task.into(), Host::from_table(table)) }
}

pub(crate) fn raw_task(
    task: u64,
    method: u16,
    arguments: [u64; ARGUMENT_COUNT],
    buffer: Option<&mut TestBuffer>,
) -> RawTask {
    let (data, len) = match buffer {
        Some(buffer) => (buffer.address(), buffer.len),
        None => (std::ptr::null_mut(), 0),
    };
    RawTask {
        token: [task, 0],
        arguments,
        buffer: data,
        buffer_len: len as u32,
        method,
        buffer_is_read_only: 0,
        pool_major: 8000,
        pool_minor: 0,
        container: 0,
        reserved: 0,
    }
}
