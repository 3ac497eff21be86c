//! Which of the kernel's engines a pool gets.

use std::io;
use std::sync::Arc;

use chimaera_bdev_format::image::PoolFile;
use chimaera_bdev_proto::IoEngine;
use chimaera_chimod::{Host, Level, ModuleError};
use chimaera_proto::{Failure, Status};
use nix::sys::eventfd::EventFd;

use super::aio::Aio;
use super::blocking::Blocking;
use super::engine::{DeviceCommand, DeviceResult, Engine};
use super::rings::{STOCK_IS_EMPTY, interrupts_workers};
use super::submitter::SubmittingThread;
use super::uring::Uring;

/// One of the kernel's engines.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per worker, and a box would be one more step on every pass"
)]
pub(super) enum KernelEngine {
    Libaio(Aio),
    IoUring(Uring),
}

impl Engine for KernelEngine {
    unsafe fn submit(&mut self, batch: &[DeviceCommand]) -> io::Result<usize> {
        // SAFETY: by this function's contract, which is theirs.
        unsafe {
            match self {
                Self::Libaio(engine) => engine.submit(batch),
                Self::IoUring(engine) => engine.submit(batch),
            }
        }
    }

    fn reap(&mut self, results: &mut Vec<DeviceResult>) {
        match self {
            Self::Libaio(engine) => engine.reap(results),
            Self::IoUring(engine) => engine.reap(results),
        }
    }

    fn kept_back(&self) -> usize {
        match self {
            Self::Libaio(engine) => engine.kept_back(),
            Self::IoUring(engine) => engine.kept_back(),
        }
    }

    fn give_up(&mut self, tags: &mut Vec<u64>) {
        match self {
            Self::Libaio(engine) => engine.give_up(tags),
            Self::IoUring(engine) => engine.give_up(tags),
        }
    }
}

/// What a worker's engine is made for.
pub(super) struct EngineSetup<'a> {
    pub(super) file: &'a PoolFile,
    /// Signalled when an operation ends.
    pub(super) wake: &'a Arc<EventFd>,
    /// Operations in flight.
    pub(super) io_depth: u32,
    /// Workers of the pool, each of which has an engine.
    pub(super) worker_count: usize,
    /// Which operations may keep whoever hands them to the kernel.
    pub(super) blocking: Blocking,
    /// Who hands over those that may, if the engine has somebody for it.
    pub(super) submitter: Option<&'a Arc<SubmittingThread>>,
    /// Whether no other engine than io_uring may take its place.
    pub(super) needs_ring: bool,
}

impl KernelEngine {
    /// Makes an engine of this kind, which is not [`IoEngine::Auto`].
    ///
    /// # Errors
    /// Why the kernel refuses it, and what to do.
    pub(super) fn new(kind: IoEngine, setup: &EngineSetup<'_>) -> Result<Self, ModuleError> {
        let (file, wake) = (Arc::clone(setup.file), Arc::clone(setup.wake));
        if kind == IoEngine::IoUring {
            return Uring::new(file, wake, setup.io_depth, setup.blocking)
                .map(Self::IoUring)
                .map_err(|error| no_ring(&error, setup.needs_ring));
        }
        Aio::new(file, wake, setup.io_depth)
            .map(|engine| match setup.submitter {
                Some(submitter) => engine.without_blocking(setup.blocking, submitter),
                None => engine,
            })
            .map(Self::Libaio)
            .map_err(|error| no_context(&error, setup))
    }
}

/// Calls `make` for the kind of engine that was asked for. If the choice is free, calls it for the
/// `preferred` kind, or without a preference for the better one; if that is refused, the other kind takes its
/// place for as long as the pool is open, and the host's log says so. A lack of descriptors is an error
/// instead: it passes sooner than the pool closes.
///
/// # Errors
/// Why the kind that was asked for, or each of the two, is refused; [`Status::OutOfResources`] without
/// descriptors.
pub(super) fn choose<T>(
    (asked, preferred): (IoEngine, IoEngine),
    direct: bool,
    mut make: impl FnMut(IoEngine) -> Result<T, ModuleError>,
    host: Host,
) -> Result<(T, IoEngine), ModuleError> {
    if asked != IoEngine::Auto {
        return Ok((make(asked)?, asked));
    }
    let (first, second) = match preferred {
        IoEngine::Auto if direct && !interrupts_workers() => (IoEngine::IoUring, IoEngine::Libaio),
        IoEngine::IoUring => (IoEngine::IoUring, IoEngine::Libaio),
        IoEngine::Auto | IoEngine::Libaio => (IoEngine::Libaio, IoEngine::IoUring),
    };
    let refusal = match make(first) {
        Ok(made) => return Ok((made, first)),
        Err(refusal) if refusal.failure.status == Status::OutOfResources => return Err(refusal),
        Err(refusal) => refusal.message,
    };
    match make(second) {
        Ok(made) => {
            host.log(
                Level::Warning,
                format_args!("its I/O goes through {second} until it is opened anew: {refusal}"),
            );
            Ok((made, second))
        }
        Err(error) => Err(ModuleError {
            message: format!("{refusal}; and {}", error.message),
            ..error
        }),
    }
}

/// Calls `make` for io_uring, which is all that serves a file that somebody who is no operator has passed. They have
/// the file open too, and may change its flags at any time: AIO may then block inside its submission, where a worker
/// must not wait, and io_uring does not.
///
/// # Errors
/// Another engine was `asked` for, or the kernel refuses this one.
pub(super) fn choose_ring<T>(
    asked: IoEngine,
    mut make: impl FnMut(IoEngine) -> Result<T, ModuleError>,
) -> Result<(T, IoEngine), ModuleError> {
    if asked == IoEngine::Libaio {
        return Err(ModuleError::new(
            Status::PermissionDenied,
            "io_engine is libaio, which is for operators: leave it out, or ask for io_uring",
        ));
    }
    Ok((make(IoEngine::IoUring)?, IoEngine::IoUring))
}

/// The thread that hands operations to the kernel which may keep it, for engines of this kind that need one.
///
/// # Errors
/// [`Status::OutOfResources`] if the system gives no thread.
pub(super) fn submitter(
    kind: IoEngine,
    blocking: Blocking,
    operations: usize,
    host: Host,
) -> Result<Option<Arc<SubmittingThread>>, ModuleError> {
    if kind != IoEngine::Libaio || blocking == Blocking::None {
        return Ok(None);
    }
    let started = SubmittingThread::start(operations, move || host.adopt_thread());
    let started = started.map_err(|error| {
        let text = format!("cannot set up asynchronous I/O: {error}");
        ModuleError::new(Status::OutOfResources, text)
    })?;
    Ok(Some(Arc::new(started)))
}

fn no_context(error: &io::Error, setup: &EngineSetup<'_>) -> ModuleError {
    if error.kind() == io::ErrorKind::WouldBlock {
        let EngineSetup {
            io_depth,
            worker_count,
            ..
        } = setup;
        return ModuleError {
            failure: Failure {
                status: Status::OutOfMemory,
                errno: libc::EAGAIN as u16,
            },
            message: format!(
                "the system's asynchronous I/O operations are used up: this pool needs {io_depth} \
                 for each of {worker_count} workers; raise /proc/sys/fs/aio-max-nr, or give a \
                 smaller io_depth"
            ),
        };
    }
    ModuleError::system("cannot set up asynchronous I/O (io_setup)", error)
}

fn no_ring(error: &io::Error, needs_ring: bool) -> ModuleError {
    let switch = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let other = match needs_ring {
        false => "ask for libaio",
        true => "let an operator create the pool for you: for others the daemon uses nothing else",
    };
    let (why, remedy) = match (error.raw_os_error(), switch.as_deref().map(str::trim)) {
        (Some(STOCK_IS_EMPTY), _) => (
            "all rings that the daemon has made at its start are in use, one for each worker of each pool on a file",
            Some("start it with a larger number of --rings"),
        ),
        (Some(libc::ENOSYS), _) => (
            "this kernel has none, or a sandbox hides it",
            Some("allow it there"),
        ),
        (Some(libc::EOPNOTSUPP | libc::EINVAL), _) => {
            ("this kernel's is too old (5.6 is needed)", None)
        }
        (Some(libc::EPERM | libc::EACCES), Ok("2")) => (
            "it is switched off",
            Some("write 0 to /proc/sys/kernel/io_uring_disabled"),
        ),
        (Some(libc::EPERM | libc::EACCES), Ok("1")) => (
            "it is switched off for unprivileged users",
            Some(
                "run the daemon with a group that /proc/sys/kernel/io_uring_group names, write 0 to \
                 /proc/sys/kernel/io_uring_disabled",
            ),
        ),
        (Some(libc::EPERM | libc::EACCES), _) => (
            "a sandbox (seccomp, as containers have it) or a security policy forbids it",
            Some("allow it there"),
        ),
        (Some(libc::ENOMEM), _) => (
            "there is no memory for it",
            Some("raise the limit of locked memory (ulimit -l), give a smaller io_depth"),
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => (
            "it takes a file descriptor for each worker",
            Some("try again later, raise `ulimit -n` or fs.file-max"),
        ),
        _ => ("", None),
    };
    let advice = match (why, remedy) {
        ("", _) => other.to_owned(),
        (why, Some(remedy)) => format!("{why}; {remedy}, or {other}"),
        (why, None) => format!("{why}; {other}"),
    };
    let mut refusal = ModuleError::system("cannot set up io_uring", error);
    refusal.message = format!("cannot set up io_uring: {error}: {advice}");
    if let Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) = error.raw_os_error() {
        refusal.failure.status = Status::Unsupported;
    }
    refusal
}
