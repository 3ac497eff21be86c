//! Why a command failed: a text for people, and an exit code for scripts.

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

use chimaera_bdev_client::{Error, Status};
use chimaera_bdev_format::image::ModuleError;
use chimaera_client::proto::socket_path::SocketFolderError;
use chimaera_runtime::HostError;
use chimaera_shm::Shortage;
use nix::errno::Errno;

/// Why a command failed.
#[derive(Clone, Debug)]
pub(crate) struct CommandFailure {
    code: u8,
    text: String,
    is_reported: bool,
}

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const NO_RUNTIME: u8 = 3;
const NOT_FOUND: u8 = 4;
const IN_THE_WAY: u8 = 5;
const NOT_PERMITTED: u8 = 6;
const NO_SPACE: u8 = 7;
const DAMAGED_METADATA: u8 = 8;
const HANGING: u8 = 9;

impl CommandFailure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            text: text.into(),
            is_reported: false,
        }
    }

    /// Wrong usage.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self {
            code: WRONG_USAGE,
            text: text.into(),
            is_reported: false,
        }
    }

    /// A failure of the operating system's. `action` says what was tried, and with what.
    pub(crate) fn system(action: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| {
            let failure = Self {
                code: code_of_system(&error),
                ..Self::new(format!("{action}: {error}"))
            };
            match Shortage::of(&error) {
                Some(shortage @ (Shortage::Descriptors | Shortage::SystemDescriptors)) => {
                    failure.explain(shortage.remedy())
                }
                _ => failure,
            }
        }
    }

    /// The folder of a socket in which no daemon can listen.
    pub(crate) fn unusable_folder(error: &SocketFolderError) -> Self {
        Self {
            code: error.errno().map_or(FAILED, code_of_errno),
            ..Self::new(error.to_string())
        }
    }

    /// Something that is not there, or not any more: a pool, a file, a folder, a module.
    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self {
            code: NOT_FOUND,
            text: text.into(),
            is_reported: false,
        }
    }

    /// Something stands in the way: it exists already, is in use, or is something else.
    pub(crate) fn in_the_way(text: impl Into<String>) -> Self {
        Self {
            code: IN_THE_WAY,
            text: text.into(),
            is_reported: false,
        }
    }

    /// A pool's metadata is damaged.
    pub(crate) fn damaged_metadata(text: impl Into<String>) -> Self {
        Self {
            code: DAMAGED_METADATA,
            text: text.into(),
            is_reported: false,
        }
    }

    /// Something hangs in the daemon, as the answer has said.
    pub(crate) fn hanging(count: u32) -> Self {
        Self {
            code: HANGING,
            text: format!("calls that hang: {count}"),
            is_reported: true,
        }
    }

    /// There is no daemon, or not any more.
    pub(crate) fn no_runtime(text: impl Into<String>) -> Self {
        Self {
            code: NO_RUNTIME,
            text: text.into(),
            is_reported: false,
        }
    }

    /// Whether the daemon is not there, or what it was asked for.
    pub(crate) const fn is_loss(&self) -> bool {
        matches!(self.code, NO_RUNTIME | NOT_FOUND)
    }

    /// Whether what the daemon was asked for is not there.
    pub(crate) const fn is_not_found(&self) -> bool {
        self.code == NOT_FOUND
    }

    /// The same failure, with advice behind it.
    pub(crate) fn explain(mut self, advice: impl fmt::Display) -> Self {
        self.text = format!("{}; {advice}", self.text);
        self
    }

    /// The same failure, with advice behind it if it is a loss ([`Self::is_loss`]).
    pub(crate) fn explain_loss(self, advice: impl fmt::Display) -> Self {
        match self.is_loss() {
            true => self.explain(advice),
            false => self,
        }
    }

    /// The same failure in other words.
    pub(crate) fn map_text(mut self, words: impl FnOnce(&str) -> String) -> Self {
        self.text = words(&self.text);
        self
    }

    /// The failure of a child process that is this program too, with its exit code.
    pub(crate) fn of_child(code: Option<i32>, text: impl Into<String>) -> Self {
        let code = code.and_then(|code| u8::try_from(code).ok());
        Self {
            code: code.filter(|&code| code != 0).unwrap_or(FAILED),
            text: text.into(),
            is_reported: false,
        }
    }

    /// What happened, to what, and what to do.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    /// The same failure, marked as reported.
    pub(crate) fn reported(mut self) -> Self {
        self.is_reported = true;
        self
    }

    /// Whether it was reported already.
    pub(crate) const fn is_reported(&self) -> bool {
        self.is_reported
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for CommandFailure {
    fn from(error: Error) -> Self {
        Self {
            code: code_of(error.failure()),
            text: error.to_string(),
            is_reported: false,
        }
    }
}

impl From<ModuleError> for CommandFailure {
    fn from(error: ModuleError) -> Self {
        Self {
            code: code_of(error.failure),
            text: error.message,
            is_reported: false,
        }
    }
}

/// The exit code of the system's error. A library may have wrapped the error to name a file: then its kind tells the
/// code.
fn code_of_system(error: &std::io::Error) -> u8 {
    let kind = || code_of_kind(error.kind());
    error.raw_os_error().map_or_else(kind, code_of_errno)
}

fn code_of_errno(errno: i32) -> u8 {
    match Errno::from_raw(errno) {
        Errno::ENXIO | Errno::ENODEV => NOT_FOUND,
        _ => code_of_kind(std::io::Error::from_raw_os_error(errno).kind()),
    }
}

/// The exit codes of the system's errors, in one place.
const fn code_of_kind(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound | ErrorKind::NotADirectory => NOT_FOUND,
        ErrorKind::AlreadyExists
        | ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::ResourceBusy
        | ErrorKind::ExecutableFileBusy
        | ErrorKind::AddrInUse => IN_THE_WAY,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => NOT_PERMITTED,
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::FileTooLarge
        | ErrorKind::OutOfMemory => NO_SPACE,
        _ => FAILED,
    }
}

fn code_of(failure: chimaera_bdev_client::Failure) -> u8 {
    match failure.status {
        Status::NoRuntime | Status::ConnectionLost | Status::ShuttingDown => NO_RUNTIME,
        Status::PoolNotFound | Status::NotFound | Status::ModuleNotFound => NOT_FOUND,
        Status::ParameterMismatch
        | Status::Busy
        | Status::NotBlank
        | Status::WrongModule
        | Status::PoolChanged => IN_THE_WAY,
        Status::PermissionDenied | Status::ReadOnly => NOT_PERMITTED,
        Status::NoSpace | Status::OutOfMemory | Status::LimitReached => NO_SPACE,
        Status::CorruptedMetadata => DAMAGED_METADATA,
        Status::InvalidArgument | Status::Alignment => WRONG_USAGE,
        Status::IoError | Status::OutOfResources => code_of_errno(failure.errno.into()),
        _ => FAILED,
    }
}

/// Whether a socket's or lock's folder may be there, and takes no such file.
fn takes_no_files(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::Unsupported
    )
}

impl From<HostError> for CommandFailure {
    fn from(error: HostError) -> Self {
        let code = match error {
            HostError::AlreadyRunning { .. }
            | HostError::Killed { .. }
            | HostError::TakesNobody { .. }
            | HostError::SocketGone { .. }
            | HostError::ForeignSocket(_)
            | HostError::NotALock { .. }
            | HostError::NotASocket(_) => IN_THE_WAY,
            HostError::PathTooLong { .. } | HostError::NoProcessor { .. } => WRONG_USAGE,
            HostError::Lock { ref error, .. } => code_of_system(error),
            HostError::OpenFolder { .. } => NOT_PERMITTED,
            ref other => other.system_error().map_or(FAILED, code_of_system),
        };
        let is_place = matches!(&error, HostError::Lock { error, .. } | HostError::Listen { error, .. }
            if takes_no_files(error));
        let failure = Self {
            code,
            text: error.to_string(),
            is_reported: false,
        };
        match is_place {
            true => failure
                .explain("choose a socket in a folder where this user can make files and sockets"),
            false => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_exit_code_that_the_help_gives() {
        for (status, code) in [
            (Status::NoRuntime, 3),
            (Status::ConnectionLost, 3),
            (Status::ShuttingDown, 3),
            (Status::PoolNotFound, 4),
            (Status::NotBlank, 5),
            (Status::Busy, 5),
            (Status::ReadOnly, 6),
            (Status::NoSpace, 7),
            (Status::CorruptedMetadata, 8),
            (Status::InvalidArgument, 2),
            (Status::Alignment, 2),
            (Status::OutOfMemory, 7),
            (Status::IoError, 1),
        ] {
            let failure = CommandFailure::from(Error::new(status, "trying"));
            assert_eq!(failure.code, code, "{status}");
        }
    }

    #[test]
    fn what_the_system_refuses_has_one_code_whoever_was_refused() {
        for (errno, code) in [
            (Errno::ENOENT, 4),
            (Errno::ENOTDIR, 4),
            (Errno::ENXIO, 4),
            (Errno::EEXIST, 5),
            (Errno::EISDIR, 5),
            (Errno::EBUSY, 5),
            (Errno::EACCES, 6),
            (Errno::EROFS, 6),
            (Errno::ENOSPC, 7),
            (Errno::ENOMEM, 7),
            (Errno::EFBIG, 7),
            (Errno::EDQUOT, 7),
            (Errno::EIO, 1),
            (Errno::EMFILE, 1),
        ] {
            let number = errno as i32;
            let error = std::io::Error::from_raw_os_error(number);
            let of_the_host = HostError::Lock {
                path: "lock".into(),
                error: std::io::Error::from_raw_os_error(number),
            };
            let of_a_task = chimaera_bdev_client::Failure::io(number);
            for failure in [
                CommandFailure::system("trying")(error),
                CommandFailure::from(of_the_host),
                CommandFailure::from(Error::new(of_a_task, "trying")),
            ] {
                assert_eq!(failure.code, code, "{errno}: {failure}");
            }
        }
    }
}
