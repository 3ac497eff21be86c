//! Why a host does not start, or does not end well.

use std::io;
use std::path::PathBuf;

use chimaera_chimod::ModuleError;

/// Why a host does not start, or does not end well.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Somebody serves this socket already.
    #[error("another runtime serves {0}: stop it first, or choose another socket")]
    AlreadyRunning(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{0} exists and is not a socket: remove it, or choose another socket")]
    NotASocket(PathBuf),
    /// The socket's path cannot be used.
    #[error("cannot listen on {path}: {error}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The system lacks what a host needs.
    #[error("cannot start the runtime: {action}: {error}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The host is another process's, from which this one was forked. It is as it was.
    #[error("the runtime belongs to the process that this one was forked from: start one here")]
    Forked,
    /// A pool could not be flushed as the host ended. There may be more; the log has all.
    #[error(
        "the runtime has stopped, and what was done last may be lost, as it was not flushed: {0}"
    )]
    Unflushed(ModuleError),
}

impl HostError {
    /// What the system said, where it lacks something or refuses it.
    #[must_use]
    pub fn system_error(&self) -> Option<&io::Error> {
        match self {
            Self::Listen { error, .. } | Self::System { error, .. } => Some(error),
            _ => None,
        }
    }

    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { action, error }
    }
}
