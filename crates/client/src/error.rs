//! The one error type of every client.
//!
//! An error says what happened, to what, and what to do. Its text is put together only when there
//! is an error, so it costs a call that succeeds nothing.

use std::fmt;
use std::io;

use chimaera_proto::{Failure, Status};
use chimaera_shm::Shortage;
use chimaera_thread::NoThread;
use nix::errno::Errno;

/// What went wrong, with what, and what can be done.
///
/// [`Error::status`] tells the cases apart for a program, [`Error::errno`] gives the system's
/// number behind it, and the text is for whoever reads it: `Display`, and `Debug` too, which is what a `main`
/// that returns it shows. `{:#?}` shows the parts.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(Box<Report>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    operation: String,
    failure: Failure,
    detail: Option<String>,
    /// Whether the detail stands in place of the failure's own text.
    says_all: bool,
}

impl Error {
    /// An error with a status or failure, for an operation such as "write of 4096 bytes to …".
    pub fn new(failure: impl Into<Failure>, operation: impl fmt::Display) -> Self {
        Self(Box::new(Report {
            operation: operation.to_string(),
            failure: failure.into(),
            detail: None,
            says_all: false,
        }))
    }

    /// The same error with a text that says more than its status does, and what to do.
    #[must_use]
    pub fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        self.0.detail = Some(detail.to_string());
        self
    }

    /// The same error with a text that says all there is to say, in place of its status's: what
    /// happened, to what, and what to do.
    #[must_use]
    pub fn with_account(mut self, account: impl fmt::Display) -> Self {
        self.0.says_all = true;
        self.with_detail(account)
    }

    /// The same error as one of a larger operation, which knows better what was being done.
    #[must_use]
    pub fn during(mut self, operation: impl fmt::Display) -> Self {
        self.0.operation = operation.to_string();
        self
    }

    /// The operation is one of another process.
    #[cold]
    pub(crate) fn forked(operation: impl fmt::Display) -> Self {
        Self::new(Status::Forked, operation)
    }

    /// The daemon is gone.
    #[cold]
    pub(crate) fn connection_lost(operation: impl fmt::Display) -> Self {
        Self::new(Status::ConnectionLost, operation)
    }

    pub(crate) fn io(error: &std::io::Error, operation: impl fmt::Display) -> Self {
        let shortage = Shortage::of(error);
        let failure = match error.raw_os_error() {
            Some(errno) => Failure {
                status: shortage.map_or_else(|| Status::from_errno(errno), Shortage::status),
                ..Failure::io(errno)
            },
            None => Failure::new(shortage.map_or(Status::IoError, Shortage::status)),
        };
        let io_error = Self::new(failure, operation);
        match shortage {
            Some(shortage) => io_error.with_account(format_args!(
                "this process has {}: {}, and try again",
                shortage.what(),
                shortage.remedy()
            )),
            None => io_error,
        }
    }

    /// The system refuses a segment of so many bytes. Most of it may be space for further buffers
    /// ([`ConnectOptions::buffer_bytes`](crate::ConnectOptions::buffer_bytes)).
    pub(crate) fn segment(error: &io::Error, len_bytes: u64, operation: impl fmt::Display) -> Self {
        let io_error = Self::io(error, operation);
        let smaller = "connect with less `ConnectOptions::buffer_bytes`";
        match (Shortage::of(error), io_error.errno().map(Errno::from_raw)) {
            (Some(shortage @ (Shortage::Memory | Shortage::Room)), _) => {
                io_error.with_account(format_args!(
                    "this process has {} for a segment of {len_bytes} bytes: {}, or {smaller}, and try again",
                    shortage.what(),
                    shortage.remedy()
                ))
            }
            (None, Some(Errno::EFBIG)) => io_error.with_account(format_args!(
                "a segment of {len_bytes} bytes is more than this process may give a file: raise `ulimit -f`, or \
                 {smaller} and ask for smaller buffers"
            )),
            _ => io_error,
        }
    }

    /// The system refuses to start a thread.
    pub(crate) fn no_thread(refused: &NoThread, operation: impl fmt::Display) -> Self {
        Self::new(Status::OutOfResources, operation).with_account(refused)
    }

    /// What happened, for a program to tell apart.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.failure.status
    }

    /// Status and errno.
    #[must_use]
    pub fn failure(&self) -> Failure {
        self.0.failure
    }

    /// The system's error number behind it, if there was one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        (self.0.failure.errno != 0).then_some(i32::from(self.0.failure.errno))
    }

    /// What was being done, to what.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Whether a connection failed because no daemon listens where one was looked for:
    /// [`Status::NoRuntime`].
    #[must_use]
    pub fn is_no_daemon(&self) -> bool {
        self.status() == Status::NoRuntime
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.operation)?;
        match (&self.detail, advice(self.failure.status)) {
            (Some(account), _) if self.says_all => write!(f, "{account}"),
            (Some(detail), _) => write!(f, "{}: {detail}", self.failure),
            (None, Some(advice)) => write!(f, "{}: {advice}", self.failure),
            (None, None) => write!(f, "{}", self.failure),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        let report = &self.0;
        f.debug_struct("Error")
            .field("operation", &report.operation)
            .field("failure", &report.failure)
            .field("detail", &report.detail)
            .finish()
    }
}

/// The kind is that of the errno behind the error, else the one that its status is closest to. The error itself is
/// inside, with all of its text.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(io_kind(&error), error)
    }
}

fn io_kind(error: &Error) -> io::ErrorKind {
    // Before the errno, which is `ENOENT` where the socket is not there.
    if error.is_no_daemon() {
        return io::ErrorKind::ConnectionRefused;
    }
    if let Some(errno) = error.errno() {
        return io::Error::from_raw_os_error(errno).kind();
    }
    match error.status() {
        Status::PoolNotFound
        | Status::ContainerNotFound
        | Status::NodeNotFound
        | Status::NotFound
        | Status::ModuleNotFound => io::ErrorKind::NotFound,
        Status::InvalidArgument
        | Status::InvalidBuffer
        | Status::NotAllocated
        | Status::DoubleFree
        | Status::WrongSize
        | Status::OutOfRange
        | Status::BeyondBlock
        | Status::Alignment => io::ErrorKind::InvalidInput,
        Status::PermissionDenied => io::ErrorKind::PermissionDenied,
        Status::ParameterMismatch | Status::NotBlank => io::ErrorKind::AlreadyExists,
        Status::UnknownMethod | Status::ModuleIncompatible | Status::Unsupported => {
            io::ErrorKind::Unsupported
        }
        Status::ConnectionLost => io::ErrorKind::ConnectionReset,
        Status::ShuttingDown => io::ErrorKind::ConnectionAborted,
        Status::Busy => io::ErrorKind::ResourceBusy,
        Status::OutOfMemory => io::ErrorKind::OutOfMemory,
        Status::NoSpace => io::ErrorKind::StorageFull,
        Status::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
        Status::ProtocolViolation | Status::CorruptedMetadata => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    }
}

/// What to do, where the status alone says it.
const fn advice(status: Status) -> Option<&'static str> {
    Some(match status {
        Status::PoolNotFound => "create the pool first, or check its id",
        Status::NoSpace => "free blocks, or ask for less",
        Status::NotAllocated | Status::DoubleFree => {
            "use only blocks that `allocate_blocks` gave and that were not freed since"
        }
        Status::WrongSize | Status::OutOfRange => "use blocks as `allocate_blocks` gave them",
        Status::BeyondBlock => "transfer less, or begin earlier in the block",
        Status::Alignment => "create the pool with an alignment that the device supports",
        Status::PermissionDenied => "check the owner and mode of the file, device or pool",
        Status::CorruptedMetadata => {
            "`chimaera pool check FILE` says what is damaged, and repairs what can be repaired"
        }
        Status::ConnectionLost => "connect again; what was not flushed may be lost",
        Status::NoRuntime => "start one by `chimaera runtime start`",
        Status::Forked => "connect anew in this process",
        Status::ShuttingDown => "connect again when the runtime is back",
        Status::ModulePanicked => "this is a mistake in the module; the runtime's log says where",
        Status::ModuleNotFound => "install the module's library in a plugin folder",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_main_shows_is_what_a_person_reads() {
        let error = Error::new(Status::NoSpace, "allocating 4096 bytes in pool 8000.0");
        let text = "allocating 4096 bytes in pool 8000.0: not enough free space: free blocks, or ask for \
                    less";
        assert_eq!(format!("{error:?}"), text);
        assert!(format!("{error:#?}").contains("operation:"));
    }

    #[test]
    fn want_of_room_for_shared_memory_is_not_want_of_blocks() {
        let error = Error::io(
            &Errno::ENOSPC.into(),
            "allocating 4096 bytes of shared memory",
        );
        assert_eq!(error.status(), Status::OutOfResources);
        assert_eq!(error.errno(), Some(28));
        for words in ["no room left for shared memory", "try again"] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn memory_that_is_refused_is_told_with_its_size_and_what_to_ask_for_instead() {
        for (errno, status, limit) in [
            (Errno::ENOMEM, Status::OutOfMemory, "ulimit -v"),
            (Errno::EFBIG, Status::IoError, "ulimit -f"),
        ] {
            let error = Error::segment(&errno.into(), 12_345, "connecting to the runtime");
            assert_eq!(error.status(), status);
            let text = error.to_string();
            for words in ["12345 bytes", limit, "ConnectOptions::buffer_bytes"] {
                assert!(text.contains(words), "{text}");
            }
        }
    }

    #[test]
    fn errors_can_be_kept_and_compared() {
        let error = Error::new(Failure::io(28), "writing").with_detail("the disk is full");
        assert_eq!(error.clone(), error);
        assert_ne!(error, error.clone().during("reading"));
        assert_ne!(error, Error::new(Status::NoSpace, "writing"));
    }

    #[test]
    fn an_error_of_the_system_keeps_its_kind_and_all_of_its_text() {
        for (error, kind) in [
            (Error::new(Failure::io(28), "x"), io::ErrorKind::StorageFull),
            (Error::new(Status::NoSpace, "x"), io::ErrorKind::StorageFull),
            (
                Error::new(Status::PoolNotFound, "x"),
                io::ErrorKind::NotFound,
            ),
            (
                Error::new(Status::ConnectionLost, "x"),
                io::ErrorKind::ConnectionReset,
            ),
            (Error::new(Status::IoError, "x"), io::ErrorKind::Other),
            (
                Error::new(
                    Failure {
                        status: Status::NoRuntime,
                        errno: Errno::ENOENT as u16,
                    },
                    "x",
                ),
                io::ErrorKind::ConnectionRefused,
            ),
        ] {
            let text = error.to_string();
            let of_system = io::Error::from(error.clone());
            assert_eq!((of_system.kind(), of_system.to_string()), (kind, text));
            let inside = of_system.downcast::<Error>().expect("it is inside");
            assert_eq!(inside, error);
        }
    }
}
