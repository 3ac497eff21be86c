//! What is wrong with a folder in which a daemon's socket is to lie.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::socket_path::SOCKET_VARIABLE;

/// Why a folder, or what lies in it, is no place for a daemon's socket.
#[derive(Debug, thiserror::Error)]
#[error("{} {reason}", folder.display())]
pub struct SocketFolderError {
    pub(crate) folder: PathBuf,
    pub(crate) reason: WrongFolder,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongFolder {
    #[error("is not there: make it, or choose another place for the socket")]
    Missing,
    #[error("is not a folder: choose another place for the socket")]
    NoFolder,
    #[error("is not a socket: remove it, or choose another place for the socket")]
    NoSocket,
    #[error("cannot be used: {0}")]
    System(io::Error),
    #[error(
        "is not a folder, so anybody might listen there: {remedy}, or set {SOCKET_VARIABLE} to \
         another socket"
    )]
    NotAFolder { remedy: &'static str },
    #[error(
        "belongs to user {owner}, not to user {user}, so somebody else might listen there: {remedy}, or \
         set {SOCKET_VARIABLE} to another socket"
    )]
    Owner {
        owner: u32,
        user: u32,
        remedy: &'static str,
    },
    #[error(
        "is open to other users (mode {mode:04o}), so somebody else might listen there: make its mode \
         0700, or set {SOCKET_VARIABLE} to another socket"
    )]
    Mode { mode: u32 },
}

impl SocketFolderError {
    /// The system's error number that says the same; none of a folder that is only open to others.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let errno = match &self.reason {
            WrongFolder::System(error) => return error.raw_os_error(),
            WrongFolder::Missing => Errno::ENOENT,
            WrongFolder::NoFolder => Errno::ENOTDIR,
            WrongFolder::NoSocket | WrongFolder::NotAFolder { .. } | WrongFolder::Owner { .. } => {
                Errno::EEXIST
            }
            WrongFolder::Mode { .. } => return None,
        };
        Some(errno as i32)
    }

    /// Whether the folder is simply not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match &self.reason {
            WrongFolder::Missing => true,
            WrongFolder::System(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
