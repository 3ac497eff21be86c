//! A host for tests: it makes pools through the module's real table, drives their workers, and
//! keeps what they complete and log.

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chimaera_chimod::abi::{Activity, Bytes, HOST_MAGIC, Header, HostVTable, RawTask};
use chimaera_chimod::host::{ContainerHandle, NewPool};
use chimaera_chimod::{Creator, Host, ModuleError, Request};
use chimaera_proto::bdev::{
    AllocationPlan, BdevType, Block, CreateParams, INLINE_BLOCKS, IoEngine, Method, OwnerTag,
    STATS_BUFFER_BYTES, Stats, TransferArguments, allocate_arguments, free_arguments,
};
use chimaera_proto::task::{ARGUMENT_COUNT, Completion, VALUE_COUNT};
use chimaera_proto::{Failure, PoolId, Status, codec};

/// How long a test waits before it fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Outcome = Result<[u64; VALUE_COUNT], Failure>;

/// What a host was told.
#[derive(Default)]
pub(crate) struct Recorder {
    completions: Mutex<HashMap<u64, Outcome>>,
    log: Mutex<Vec<(u32, String)>>,
}

impl Recorder {
    /// What was logged with its level, so far.
    pub(crate) fn log(&self) -> Vec<(u32, String)> {
        self.log.lock().expect("no test panics with it").clone()
    }

    pub(crate) fn take(&self, task: u64) -> Option<Outcome> {
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
    // A panic could not leave this function; an outcome that no test expects does.
    if before.is_some() {
        std::process::abort();
    }
}

unsafe extern "C" fn log(context: *const c_void, level: u32, text: Bytes) {
    // SAFETY: as in `complete`; the text is valid during the call.
    let (recorder, text) = unsafe { (&*context.cast::<Recorder>(), text.as_slice()) };
    let text = String::from_utf8_lossy(text).into_owned();
    let mut log = recorder.log.lock().expect("no test panics with it");
    log.push((level, text));
}

/// A table that leads to a recorder. The recorder must outlive it.
fn table_of(recorder: &Arc<Recorder>) -> HostVTable {
    HostVTable {
        header: Header::of::<HostVTable>(HOST_MAGIC),
        context: Arc::as_ptr(recorder).cast(),
        complete,
        log,
    }
}

/// A request without a pool, for tests of what lies below the container.
pub(crate) fn loose_request(recorder: &Arc<Recorder>, task: u64, buffer: &mut Buffer) -> Request {
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
    buffer: Option<&mut Buffer>,
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

/// Memory as a client has it, that begins `shift` bytes behind a page's border.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    pub(crate) len: usize,
}

impl Buffer {
    pub(crate) fn new(len: usize, shift: usize) -> Self {
        let memory = vec![0; len + shift + 4096];
        let start = memory.as_ptr().align_offset(4096) + shift;
        Self { memory, start, len }
    }

    pub(crate) fn of(bytes: &[u8], shift: usize) -> Self {
        let mut buffer = Self::new(bytes.len(), shift);
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    fn address(&mut self) -> *mut u8 {
        self.memory.as_mut_ptr().wrapping_add(self.start)
    }
}

/// A pool, driven by its test. Calls for one worker must not meet on two threads.
pub(crate) struct Pool {
    handle: ContainerHandle,
    recorder: Arc<Recorder>,
    workers: u32,
    next_task: std::sync::atomic::AtomicU64,
}

impl Pool {
    pub(crate) fn create(
        name: &str,
        params: &CreateParams,
        workers: u32,
    ) -> Result<Self, ModuleError> {
        Self::create_recorded(name, params, workers, Arc::new(Recorder::default()))
    }

    pub(crate) fn create_recorded(
        name: &str,
        params: &CreateParams,
        workers: u32,
        recorder: Arc<Recorder>,
    ) -> Result<Self, ModuleError> {
        let params = codec::encode(params).expect("encodes");
        let table = Arc::new(table_of(&recorder));
        let pool = NewPool {
            id: PoolId::new(8000, 0),
            id_is_chosen: false,
            name,
            params: &params,
            creator: Creator { uid: 0, gid: 0 },
            worker_count: workers,
        };
        let handle = crate::module().create(table, &pool)?;
        Ok(Self {
            handle,
            recorder,
            workers,
            next_task: 0.into(),
        })
    }

    pub(crate) fn check(&self, params: &CreateParams) -> Result<(), ModuleError> {
        let params = codec::encode(params).expect("encodes");
        self.handle.check_params(&params)
    }

    pub(crate) fn handle(&self) -> &ContainerHandle {
        &self.handle
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The recorder, for what completes when the pool is dropped.
    pub(crate) fn recorder_handle(&self) -> Arc<Recorder> {
        Arc::clone(&self.recorder)
    }

    /// Hands a task over. The buffer must be kept until it completes.
    pub(crate) fn submit_to(
        &self,
        worker: u32,
        method: u16,
        arguments: [u64; ARGUMENT_COUNT],
        buffer: Option<&mut Buffer>,
    ) -> (u64, Activity) {
        let task = self
            .next_task
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Leaked: it has to stay until it completes, which may be when the test is over.
        let raw = Box::leak(Box::new(raw_task(task, method, arguments, buffer)));
        // SAFETY: the test calls for one worker from one thread at a time, keeps the buffer
        // until the task completes, and this pool until all have.
        let activity = unsafe { self.handle.submit(worker, raw.into()) };
        (task, activity)
    }

    pub(crate) fn poll(&self, worker: u32) -> Activity {
        // SAFETY: the test calls for one worker from one thread at a time.
        unsafe { self.handle.poll(worker) }
    }

    pub(crate) fn take(&self, task: u64) -> Option<Outcome> {
        self.recorder.take(task)
    }

    /// Drives these workers until the task has completed.
    pub(crate) fn wait_on(&self, workers: impl Fn() -> Vec<u32>, task: u64) -> Outcome {
        let start = Instant::now();
        loop {
            if let Some(outcome) = self.take(task) {
                return outcome;
            }
            assert!(start.elapsed() < PATIENCE, "task {task} does not complete");
            for worker in workers() {
                let _ = self.poll(worker);
            }
            std::thread::yield_now();
        }
    }

    /// Drives all workers until the task has completed.
    pub(crate) fn wait(&self, task: u64) -> Outcome {
        self.wait_on(|| (0..self.workers).collect(), task)
    }

    fn run(
        &self,
        method: Method,
        arguments: [u64; ARGUMENT_COUNT],
        buffer: Option<&mut Buffer>,
    ) -> Outcome {
        let (task, _) = self.submit_to(0, method as u16, arguments, buffer);
        self.wait(task)
    }

    pub(crate) fn allocate(&self, size: u64) -> Result<Vec<Block>, Status> {
        let plan = AllocationPlan::for_size(size);
        let mut list = (plan.count > INLINE_BLOCKS as u64).then(|| {
            Buffer::new(
                plan.list_bytes().map_or(0, |len| len.min(1 << 20)) as usize,
                0,
            )
        });
        let values = self
            .run(
                Method::AllocateBlocks,
                allocate_arguments(size, OwnerTag::NONE),
                list.as_mut(),
            )
            .map_err(|failure| failure.status)?;
        let block = |words: [u64; 2]| Block::from_words(words).expect("the pool's own");
        Ok(match list {
            Some(list) => list
                .bytes()
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| Block::from_bytes(bytes).expect("the pool's own"))
                .collect(),
            None => (0..values[0] as usize)
                .map(|at| block([values[1 + 2 * at], values[2 + 2 * at]]))
                .collect(),
        })
    }

    pub(crate) fn free(&self, blocks: &[Block]) -> Result<(), Status> {
        let single = (blocks.len() == 1).then(|| blocks[0]);
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.to_bytes()).collect();
        let mut list = (blocks.len() > 1).then(|| Buffer::of(&bytes, 0));
        let arguments = free_arguments(blocks.len() as u64, single);
        self.run(Method::FreeBlocks, arguments, list.as_mut())
            .map(|_| ())
            .map_err(|failure| failure.status)
    }

    /// Starts a read or write on a worker.
    pub(crate) fn start(
        &self,
        worker: u32,
        method: Method,
        block: Block,
        offset_in_block: u64,
        buffer: &mut Buffer,
    ) -> u64 {
        let arguments = TransferArguments {
            block,
            offset_in_block,
        }
        .to_arguments();
        self.submit_to(worker, method as u16, arguments, Some(buffer))
            .0
    }

    pub(crate) fn write(&self, block: Block, offset: u64, bytes: &[u8]) -> Result<u64, Failure> {
        let mut buffer = Buffer::of(bytes, 0);
        let task = self.start(0, Method::Write, block, offset, &mut buffer);
        self.wait(task).map(|values| values[0])
    }

    pub(crate) fn read(&self, block: Block, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let mut buffer = Buffer::new(len, 0);
        let task = self.start(0, Method::Read, block, offset, &mut buffer);
        let values = self.wait(task)?;
        assert_eq!(values[0], len as u64);
        Ok(buffer.bytes().to_vec())
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut buffer = Buffer::new(STATS_BUFFER_BYTES as usize, 0);
        let values = self
            .run(Method::GetStats, [0; 3], Some(&mut buffer))
            .expect("statistics");
        codec::decode(&buffer.bytes()[..values[0] as usize]).expect("decodes")
    }
}

pub(crate) fn ram_params(total_size: u64) -> CreateParams {
    CreateParams {
        bdev_type: BdevType::Ram,
        ..file_params(total_size)
    }
}

pub(crate) fn file_params(total_size: u64) -> CreateParams {
    CreateParams {
        bdev_type: BdevType::File,
        total_size,
        io_depth: CreateParams::DEFAULT_IO_DEPTH,
        alignment: CreateParams::DEFAULT_ALIGNMENT,
        io_engine: IoEngine::Auto,
        perf_metrics: None,
        overwrite: false,
        read_only: false,
    }
}

/// A folder on a disk, whose file system has direct I/O, that goes with the value. It lies in
/// the build's folder, since the system's temporary folder is often in memory.
pub(crate) fn disk_folder() -> tempfile::TempDir {
    let build = std::env::current_exe().expect("this test has a path");
    let folder = build.parent().expect("a file lies in a folder");
    tempfile::tempdir_in(folder).expect("the build's folder can be written")
}

/// A folder in memory, whose file system has no real direct I/O, if there is one.
pub(crate) fn memory_folder() -> Option<tempfile::TempDir> {
    let folder = "/dev/shm";
    let system = nix::sys::statfs::statfs(folder).ok()?;
    let in_memory = system.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC;
    in_memory.then(|| tempfile::tempdir_in(folder).ok())?
}

/// The path of a file in a folder, as a pool's name.
pub(crate) fn name_in(folder: &tempfile::TempDir, file: &str) -> String {
    let path: PathBuf = folder.path().join(file);
    path.to_str().expect("test paths are UTF-8").to_owned()
}
