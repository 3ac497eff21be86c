//! How a task ended.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! statuses {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// How a task ended. The codes are part of the protocol and never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Status { $($(#[doc = $doc])+ $name = $code,)+ }

        impl Status {
            /// Every status that this version knows.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The status with this code, if this version knows it.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)+ _ => None }
            }

            const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

statuses! {
    /// Done as asked.
    Ok = 0, "done";
    /// The module dropped the task without completing it, or failed it with a status that a module may not give
    /// ([`Status::is_of_runtime`]).
    Aborted = 1, "the module dropped the task, or failed it without a valid status";
    /// The module panicked while it worked on the task.
    ModulePanicked = 2, "the module panicked while it worked on the task";
    /// The pool's module has no such method.
    UnknownMethod = 3, "the pool's module has no such method";
    /// No pool with this id or name.
    PoolNotFound = 4, "no such pool";
    /// The query names a container that does not exist.
    ContainerNotFound = 5, "the query names a container that is not there";
    /// The query names a node that does not exist.
    NodeNotFound = 6, "the query names a node that is not there";
    /// An argument has a value that it cannot have.
    InvalidArgument = 7, "invalid argument";
    /// The buffer does not lie inside the client's registered memory, or is too small.
    InvalidBuffer = 8, "the buffer is missing, too small, or outside the client's registered memory";
    /// The pool or the runtime is being taken down.
    ShuttingDown = 9, "the pool or the runtime is shutting down";
    /// The caller or the daemon lacks a right.
    PermissionDenied = 10, "permission denied";
    /// A file or device that does not exist.
    NotFound = 11, "no such file or device";
    /// It exists already, with other parameters.
    ParameterMismatch = 12, "it exists already with other parameters";
    /// No plugin of this name in the plugin folders.
    ModuleNotFound = 13, "no such module in the plugin folders";
    /// The plugin cannot be used with this host.
    ModuleIncompatible = 14, "the module cannot be used with this host";
    /// What was asked for is not supported here.
    Unsupported = 15, "not supported";
    /// The daemon went away, or ended the session, before the task completed.
    ConnectionLost = 16, "the connection to the runtime was lost";
    /// In use by somebody else.
    Busy = 17, "in use";
    /// Memory ran out.
    OutOfMemory = 18, "out of memory";
    /// The other side broke the protocol.
    ProtocolViolation = 19, "the protocol was violated";
    /// A process, or the system, has none left of something that is used and given back: file descriptors, threads.
    /// The errno says of what. A later attempt may succeed.
    OutOfResources = 20, "a limit of the process or of the system is reached";
    /// The connection belongs to another process, from which this one was forked.
    Forked = 21, "the connection belongs to the process that this one was forked from";
    /// No daemon listens where one was looked for.
    NoRuntime = 22, "no daemon listens there";
    /// The session has not attached to the pool that the task is for.
    NotAttached = 23, "the session is not attached to the pool";
    /// The pool is another one than it was, or has forgotten what was not durable: which blocks are whose has to be
    /// asked again.
    PoolChanged = 24, "the pool is not what it was: ask which blocks there are";
    /// The pool belongs to another module than the one meant.
    WrongModule = 25, "the pool is another module's";
    /// A user, a session, or all users together have as much of something as the daemon gives them.
    LimitReached = 26, "a limit of the daemon for its users is reached";
    /// The pool has not enough free space, or not in pieces of the size needed.
    NoSpace = 32, "not enough free space";
    /// The block is not allocated.
    NotAllocated = 33, "the block is not allocated";
    /// The block to be freed is not allocated: freed before, twice in one list, or never allocated.
    DoubleFree = 34, "the block is not allocated: it was freed before, or named twice";
    /// Size, type and offset of the block do not go together, or not with how it was allocated.
    WrongSize = 35, "the block's size or type is not that of the allocation at its offset";
    /// The block does not lie inside the pool.
    OutOfRange = 36, "the block does not lie inside the pool";
    /// Offset and length reach beyond the end of the block.
    BeyondBlock = 37, "offset and length reach beyond the end of the block";
    /// An alignment that the device does not support.
    Alignment = 38, "alignment violation";
    /// The device or file system reported an error; the errno stands beside it.
    IoError = 39, "I/O error";
    /// Metadata on the device is damaged.
    CorruptedMetadata = 40, "corrupted block metadata";
    /// The pool is open for reading only.
    ReadOnly = 41, "the pool is open for reading only";
    /// The file or device holds something that is not a pool.
    NotBlank = 42, "the file or device holds something else";
}

impl Status {
    /// The status's code in a completion record.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Whether only the runtime and the client library give this status: success, what has become of the connection, of
    /// the runtime and of the pool. A module's failure with one of these reaches clients as [`Status::Aborted`].
    #[must_use]
    pub const fn is_of_runtime(self) -> bool {
        matches!(
            self,
            Self::Ok
                | Self::ShuttingDown
                | Self::ConnectionLost
                | Self::ProtocolViolation
                | Self::Forked
                | Self::NoRuntime
                | Self::NotAttached
                | Self::PoolChanged
                | Self::WrongModule
        )
    }

    /// The status that stands for an errno of opening or changing a file.
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        match errno {
            1 | 13 | 30 => Self::PermissionDenied, // EPERM, EACCES, EROFS
            2 | 6 | 19 | 20 => Self::NotFound,     // ENOENT, ENXIO, ENODEV, ENOTDIR
            12 | 105 => Self::OutOfMemory,         // ENOMEM, ENOBUFS
            16 => Self::Busy,                      // EBUSY
            23 | 24 | 109 => Self::OutOfResources, // ENFILE, EMFILE, ETOOMANYREFS
            28 | 122 => Self::NoSpace,             // ENOSPC, EDQUOT
            _ => Self::IoError,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Why a task failed: a status that is not [`Status::Ok`], and the system's errno where one was
/// the cause (0 where not).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// What happened.
    pub status: Status,
    /// The system's error number behind it, or 0.
    pub errno: u16,
}

impl Failure {
    /// A failure that has no errno behind it.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Self { status, errno: 0 }
    }

    /// An I/O error with the errno that the system gave. A value outside `1..=65535` becomes
    /// `EIO` (5), so that a failure never reads as a success.
    #[must_use]
    pub const fn io(errno: i32) -> Self {
        let errno = if errno > 0 && errno <= u16::MAX as i32 {
            errno as u16
        } else {
            5
        };
        Self {
            status: Status::IoError,
            errno,
        }
    }

    /// The failure's status word in a completion record: code, then errno.
    #[must_use]
    pub const fn to_word(self) -> u32 {
        self.status.code() as u32 | (self.errno as u32) << 16
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::new(status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            0 => write!(f, "{}", self.status),
            errno => {
                write!(
                    f,
                    "{}: {}",
                    self.status,
                    std::io::Error::from_raw_os_error(i32::from(errno))
                )
            }
        }
    }
}

/// Reads the status word of a completion record.
///
/// # Errors
/// The failure that the word stands for. A code that this version does not know, which only a
/// newer or broken host sends, is a [`Status::ProtocolViolation`].
pub const fn result_from_word(word: u32) -> Result<(), Failure> {
    match Status::from_code(word as u16) {
        Some(Status::Ok) => Ok(()),
        Some(status) => Err(Failure {
            status,
            errno: (word >> 16) as u16,
        }),
        None => Err(Failure::new(Status::ProtocolViolation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_the_completion_record() {
        for &status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
            let failure = Failure { status, errno: 5 };
            match status {
                Status::Ok => assert_eq!(result_from_word(0), Ok(())),
                _ => assert_eq!(result_from_word(failure.to_word()), Err(failure)),
            }
        }
    }

    #[test]
    fn an_unknown_code_is_never_a_success() {
        assert_eq!(
            result_from_word(0xffff),
            Err(Failure::new(Status::ProtocolViolation))
        );
    }

    #[test]
    fn an_io_failure_names_its_errno() {
        assert!(
            Failure::io(28)
                .to_string()
                .contains("No space left on device")
        );
        assert_eq!(Failure::io(-1).errno, 5);
    }
}
