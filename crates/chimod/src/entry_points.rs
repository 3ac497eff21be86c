//! The plugin's side of the table: functions through which the host calls a [`Container`].

use std::ffi::{OsStr, c_void};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Once;

use chimaera_proto::module_name::{RULE, is_module_name};
use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{ModuleError, PoolId, Status};

use crate::abi::{
    ABI_VERSION, Activity, HOST_MAGIC, Header, HostVTable, IncompatibleTable, LentBytes,
    MODULE_MAGIC, ModuleVTable, RawAllowedFolder, RawCreateAgain, RawCreateContext, RawIncarnation,
    RawPermissions, RawTask, TextSink,
};
use crate::container::{
    AllowedFolder, AllowedPaths, Container, CreateAgain, CreateContext, Creator, Worker,
};
use crate::failing_call::report;
use crate::host_handle::Host;
use crate::methods::{LentMethods, check_methods};
use crate::request::Request;

/// A container with what its entry points need.
struct Instance<C> {
    container: C,
    host: Host,
}

/// The table of a module. Used by [`export_chimod!`](crate::export_chimod).
///
/// # Panics
/// If `name` is not a module's name, or the methods are not as they have to be: such a module does not compile.
#[must_use]
pub const fn vtable_of<C: Container>(name: &'static str, version: &'static str) -> ModuleVTable {
    assert!(is_module_name(name), "{}", RULE);
    check_methods(C::METHODS);
    ModuleVTable {
        header: Header::of::<ModuleVTable>(MODULE_MAGIC),
        name: LentBytes::new(name.as_bytes()),
        version: LentBytes::new(version.as_bytes()),
        methods: LentMethods::new(C::METHODS),
        create: create::<C>,
        pool_id: pool_id::<C>,
        was_opened: was_opened::<C>,
        incarnation: incarnation::<C>,
        permissions: permissions::<C>,
        set_permissions: set_permissions::<C>,
        create_again: create_again::<C>,
        submit: submit::<C>,
        prefetch: if C::PREFETCHES {
            Some(prefetch::<C>)
        } else {
            None
        },
        poll: poll::<C>,
        wake_fd: wake_fd::<C>,
        flush: flush::<C>,
        destroy: destroy::<C>,
    }
}

/// The folders beneath which a module may open paths.
///
/// # Safety
/// The pointers and descriptors must be valid during `'a`.
unsafe fn allowed_folders<'a>(arguments: &RawCreateContext) -> Vec<AllowedFolder<'a>> {
    if arguments.allowed_count == 0 {
        return Vec::new();
    }
    // SAFETY: by this function's contract.
    let raw =
        unsafe { std::slice::from_raw_parts(arguments.allowed, arguments.allowed_count as usize) };
    let folder = |raw: &RawAllowedFolder| {
        // SAFETY: by this function's contract.
        let (path, folder) = unsafe { (raw.path.as_slice(), BorrowedFd::borrow_raw(raw.folder)) };
        let path = Path::new(OsStr::from_bytes(path));
        AllowedFolder { path, folder }
    };
    raw.iter().map(folder).collect()
}

unsafe extern "C" fn create<C: Container>(
    arguments: *const RawCreateContext,
    container: *mut *mut c_void,
    error: *const TextSink,
) -> u32 {
    let made = guarded("creating a container", || {
        // SAFETY: the host passes arguments that are valid during the call.
        let arguments = unsafe { &*arguments };
        // SAFETY: every host's table starts with a header, which is all that is read so far.
        let header = unsafe { (*arguments.host).header };
        header
            .check::<HostVTable>(HOST_MAGIC)
            .map_err(incompatible_host)?;
        // SAFETY: the table was just checked, and is never freed, by the ABI's contract.
        let host = unsafe { Host::from_table(arguments.host) }.spoken_to_by(arguments.speaker);
        if arguments.flags & RawCreateContext::IS_LIBRARY != 0 {
            log_panics(host);
        }
        // SAFETY: the host lends both for the time of the call.
        let (name, params) = unsafe { (arguments.name.as_slice(), arguments.params.as_slice()) };
        let name = std::str::from_utf8(name).map_err(|_| {
            ModuleError::new(Status::InvalidArgument, "the pool's name is not UTF-8")
        })?;
        // SAFETY: as many folders as the host says lie there, which it keeps open and lends for the time of the call.
        let folders = unsafe { allowed_folders(arguments) };
        let allowed = match arguments.flags & RawCreateContext::ANY_PATH {
            0 => AllowedPaths::Beneath(&folders),
            _ => AllowedPaths::Any,
        };
        // SAFETY: the host keeps the file open during the call.
        let file = (arguments.file >= 0).then(|| unsafe { BorrowedFd::borrow_raw(arguments.file) });
        let context = CreateContext {
            host,
            pool: PoolId::new(arguments.pool_major, arguments.pool_minor),
            id_is_chosen: arguments.flags & RawCreateContext::ID_IS_CHOSEN != 0,
            name,
            creator: Creator {
                uid: arguments.creator_uid,
                gid: arguments.creator_gid,
                is_operator: arguments.flags & RawCreateContext::CREATOR_IS_OPERATOR != 0,
            },
            permissions: arguments.permissions.to_permissions(),
            params,
            worker_count: arguments.worker_count as usize,
            file,
            allowed,
        };
        Ok(Instance {
            container: C::create(context)?,
            host,
        })
    });
    match made {
        Ok(instance) => {
            // SAFETY: the host passes a place for one pointer.
            unsafe { *container = Box::into_raw(Box::new(instance)).cast() };
            0
        }
        // SAFETY: the host passes a sink that is valid during the call.
        Err(failed) => unsafe { report(&failed, error) },
    }
}

/// The error of a plugin whose host's table it cannot use.
fn incompatible_host(error: IncompatibleTable) -> ModuleError {
    let reason = match error {
        IncompatibleTable::Magic(found) => {
            format!("the host's table does not start as one (first word {found:#018x})")
        }
        IncompatibleTable::Version(found) => format!(
            "the host has plugin ABI version {found}, this plugin was built for version {ABI_VERSION}"
        ),
        IncompatibleTable::Size { found, expected } => format!(
            "the host's table has {found} bytes where plugin ABI version {ABI_VERSION} has {expected} in this plugin"
        ),
    };
    let advice = "rebuild the plugin with the SDK of the host's release";
    ModuleError::new(Status::ModuleIncompatible, format!("{reason}: {advice}"))
}

unsafe extern "C" fn pool_id<C: Container>(
    container: *const c_void,
    major: *mut u32,
    minor: *mut u32,
    error: *const TextSink,
) -> u32 {
    // SAFETY: the host passes what `create` made.
    let container = unsafe { &instance::<C>(container).container };
    let told = guarded("telling the pool's id", || match container.pool_id() {
        Some(PoolId::NULL) => Err(ModuleError::new(
            Status::Aborted,
            format!(
                "the module says that the pool has the id {}, which stands for none: a mistake in the module, or what \
                 the pool stands on is damaged",
                PoolId::NULL
            ),
        )),
        own => Ok(own),
    });
    let stored = told.map(|own| {
        let id = own.unwrap_or(PoolId::NULL);
        // SAFETY: the host passes a place for each of the parts.
        unsafe {
            *major = id.major;
            *minor = id.minor;
        }
    });
    // SAFETY: the host passes a sink that is valid during the call.
    unsafe { finish(stored, error) }
}

unsafe extern "C" fn was_opened<C: Container>(
    container: *const c_void,
    opened: *mut u32,
    error: *const TextSink,
) -> u32 {
    // SAFETY: the host passes what `create` made.
    let container = unsafe { &instance::<C>(container).container };
    let told = guarded("telling whether the pool was opened", || {
        Ok(container.was_opened())
    });
    let stored = told.map(|was_opened| {
        // SAFETY: the host passes a place for it.
        unsafe { *opened = u32::from(was_opened) };
    });
    // SAFETY: the host passes a sink that is valid during the call.
    unsafe { finish(stored, error) }
}

unsafe extern "C" fn incarnation<C: Container>(
    container: *const c_void,
    place: *mut RawIncarnation,
    error: *const TextSink,
) -> u32 {
    // SAFETY: the host passes what `create` made.
    let container = unsafe { &instance::<C>(container).container };
    let told = guarded("telling the pool's incarnation", || {
        Ok(container.incarnation())
    });
    let stored = told.map(|own| {
        let raw = own.map_or_else(RawIncarnation::default, |own| RawIncarnation {
            current: own.current,
            predecessor: own.predecessor.unwrap_or(0),
        });
        // SAFETY: the host passes a place for it.
        unsafe { *place = raw };
    });
    // SAFETY: the host passes a sink that is valid during the call.
    unsafe { finish(stored, error) }
}

unsafe extern "C" fn permissions<C: Container>(
    container: *const c_void,
    place: *mut RawPermissions,
    error: *const TextSink,
) -> u32 {
    // SAFETY: the host passes what `create` made.
    let container = unsafe { &instance::<C>(container).container };
    let told = guarded("telling the pool's permissions", || {
        Ok(container.permissions())
    });
    let stored = told.map(|own| {
        let raw = own.map_or_else(RawPermissions::default, RawPermissions::from);
        // SAFETY: the host passes a place for it.
        unsafe { *place = raw };
    });
    // SAFETY: the host passes a sink that is valid during the call.
    unsafe { finish(stored, error) }
}

unsafe extern "C" fn set_permissions<C: Container>(
    container: *const c_void,
    permissions: *const RawPermissions,
    error: *const TextSink,
) -> u32 {
    // SAFETY: the host passes what `create` made, and permissions that are valid during the call.
    let (container, permissions) = unsafe {
        let permissions = (*permissions).to_permissions();
        (&instance::<C>(container).container, permissions)
    };
    let recorded = guarded("recording permissions", || {
        container.set_permissions(permissions)
    });
    // SAFETY: the host passes a sink that is valid during the call.
    unsafe { finish(recorded, error) }
}

unsafe extern "C" fn create_again<C: Container>(
    container: *const c_void,
    arguments: *const RawCreateAgain,
    error: *const TextSink,
) -> u32 {
    // SAFETY: the host passes what `create` made, arguments that are valid during the call, and lends
    // the parameters for as long.
    let (container, asked) = unsafe {
        let arguments = &*arguments;
        let asked = CreateAgain {
            creator: Creator {
                uid: arguments.creator_uid,
                gid: arguments.creator_gid,
                is_operator: arguments.flags & RawCreateAgain::CREATOR_IS_OPERATOR != 0,
            },
            may_manage: arguments.flags & RawCreateAgain::MAY_MANAGE != 0,
            params: arguments.params.as_slice(),
        };
        (&instance::<C>(container).container, asked)
    };
    let taken = guarded("comparing parameters", || container.create_again(asked));
    // SAFETY: the host passes a sink that is valid during the call.
    unsafe { finish(taken, error) }
}

unsafe extern "C" fn submit<C: Container>(
    container: *const c_void,
    worker: u32,
    task: *const RawTask,
) -> u32 {
    // SAFETY: the host passes what `create` made.
    let instance = unsafe { instance::<C>(container) };
    // SAFETY: the host passes each task once, and keeps it and its buffer until it completes.
    let request =
        unsafe { Request::from_raw(NonNull::new_unchecked(task.cast_mut()), instance.host) };
    let after_panic = Activity::PENDING | Activity::PROGRESS;
    on_worker(instance, worker, after_panic, move |container, worker| {
        container.submit(worker, request)
    })
}

unsafe extern "C" fn prefetch<C: Container>(
    container: *const c_void,
    method: u16,
    arguments: *const [u64; ARGUMENT_COUNT],
) {
    // SAFETY: the host passes what `create` made, and arguments that are valid during the call.
    let (container, arguments) = unsafe { (&instance::<C>(container).container, &*arguments) };
    let hint = || container.prefetch(method, arguments);
    if let Err(payload) = catch_unwind(AssertUnwindSafe(hint)) {
        // Whatever panicked here does so again when the task is submitted.
        drop_payload(payload);
    }
}

unsafe extern "C" fn poll<C: Container>(container: *const c_void, worker: u32) -> u32 {
    // SAFETY: the host passes what `create` made.
    let instance = unsafe { instance::<C>(container) };
    // Another call at once would likely panic again.
    let after_panic = Activity::PENDING | Activity::PROGRESS | Activity::PANICKED;
    on_worker(instance, worker, after_panic, C::poll)
}

/// Runs a call on a worker. A panic in it fails the requests that it drops. Other requests may be under way, so the
/// container is still polled afterwards: `after_panic` says so.
fn on_worker<C>(
    instance: &Instance<C>,
    worker: u32,
    after_panic: Activity,
    call: impl FnOnce(&C, &mut Worker<'_>) -> Activity,
) -> u32 {
    // SAFETY: the host makes one call at a time per worker, from that worker's thread.
    let mut worker = unsafe { Worker::assume(worker as usize) };
    match catch_unwind(AssertUnwindSafe(|| call(&instance.container, &mut worker))) {
        Ok(activity) => activity.0,
        Err(payload) => {
            caught(instance.host, payload);
            after_panic.0
        }
    }
}

unsafe extern "C" fn wake_fd<C: Container>(container: *const c_void, worker: u32) -> i32 {
    use std::os::fd::AsRawFd;
    // SAFETY: the host passes what `create` made.
    let Instance { container, host } = unsafe { instance::<C>(container) };
    catch_unwind(AssertUnwindSafe(|| {
        container
            .wake_fd(worker as usize)
            .map_or(-1, |file| file.as_raw_fd())
    }))
    .unwrap_or_else(|payload| {
        caught(*host, payload);
        -1
    })
}

unsafe extern "C" fn flush<C: Container>(container: *const c_void, error: *const TextSink) -> u32 {
    // SAFETY: the host passes what `create` made, and a valid sink.
    unsafe {
        let instance = instance::<C>(container);
        finish(guarded("flushing", || instance.container.flush()), error)
    }
}

unsafe extern "C" fn destroy<C: Container>(container: *mut c_void) {
    // SAFETY: the host passes what `create` made, once, after every other call.
    let instance = unsafe { Box::from_raw(container.cast::<Instance<C>>()) };
    let host = instance.host;
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(instance))) {
        caught(host, payload);
    }
}

/// # Safety
/// `container` must come from `create::<C>` and not be destroyed during `'a`.
unsafe fn instance<'a, C>(container: *const c_void) -> &'a Instance<C> {
    // SAFETY: by this function's contract.
    unsafe { &*container.cast::<Instance<C>>() }
}

/// Runs a control-side call; a panic becomes its error.
fn guarded<T>(
    action: &str,
    call: impl FnOnce() -> Result<T, ModuleError>,
) -> Result<T, ModuleError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let text = format!(
            "the module panicked while {action}: {}",
            panic_text(&*payload)
        );
        drop_payload(payload);
        Err(ModuleError::new(Status::ModulePanicked, text))
    })
}

/// # Safety
/// `error` must point to a valid sink.
unsafe fn finish(result: Result<(), ModuleError>, error: *const TextSink) -> u32 {
    match result {
        Ok(()) => 0,
        // SAFETY: by this function's contract.
        Err(failed) => unsafe { report(&failed, error) },
    }
}

/// Has the host log panics anywhere in this library, also those of the library's own threads. The standard library's
/// hook would write to standard error, which is not the library's to write to and may block.
fn log_panics(host: Host) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(move |panic| {
            // The host may know the name of a thread that this library did not start. The system's name is no help: it
            // is cut, and a thread without a name has that of the thread that started it.
            let thread = chimaera_thread::name().unwrap_or_default();
            let text = panic_text(panic.payload());
            let place = panic.location().map(ToString::to_string);
            let place = place.unwrap_or_else(|| "an unknown place".to_owned());
            host.panicked(&place, &thread, text);
        }));
    });
}

/// Has the host log a panic that no caller learns of, unless a hook has done that already.
fn caught(host: Host, payload: Box<dyn std::any::Any + Send>) {
    host.panicked("", "", panic_text(&*payload));
    drop_payload(payload);
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Drops what a panic left. The payload may be any type, so its own drop may panic as well; the
/// second payload is leaked rather than tried again.
fn drop_payload(payload: Box<dyn std::any::Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
}
