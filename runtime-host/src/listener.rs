//! The Unix socket that a daemon listens on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chimaera_fork::Private;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};

use crate::error::HostError;

/// A listening socket, and the lock that says whose it is. A lock file beside the socket is held
/// as long as the daemon lives, so a socket whose lock is free was left behind by a crash. Neither is a
/// forked child's: the lock would be held as long as the child lives.
#[derive(Debug)]
pub(crate) struct Listener {
    path: PathBuf,
    socket: Private<OwnedFd>,
    lock_path: PathBuf,
    _lock: Private<Flock<File>>,
}

impl Listener {
    /// Listens on `path`, for the daemon's own user only. Makes the folder if it is missing.
    pub(crate) fn bind(path: &Path) -> Result<Self, HostError> {
        let failed = |error: io::Error| HostError::Listen {
            path: path.to_owned(),
            error,
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .map_err(failed)?;
        }
        let lock_path = PathBuf::from(format!("{}.lock", path.display()));
        let lock = || lock(&lock_path)?.ok_or_else(|| io::ErrorKind::WouldBlock.into());
        let lock = Private::with_file(lock, |lock| lock.as_raw_fd());
        let lock = lock.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => HostError::AlreadyRunning(path.to_owned()),
            _ => failed(error),
        })?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(HostError::NotASocket(path.to_owned()));
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let socket = Private::new(|| open(path)).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            socket,
            lock_path,
            _lock: lock,
        })
    }

    /// Takes a waiting connection, if there is one.
    pub(crate) fn accept(&self) -> io::Result<Option<Private<OwnedFd>>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accept = || {
            let connection = accept4(self.socket.as_raw_fd(), flags)?;
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(unsafe { OwnedFd::from_raw_fd(connection) })
        };
        match Private::new(accept) {
            Ok(connection) => Ok(Some(connection.closed_apart())),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Both are ours as long as the lock is, which the next field's drop gives up. A failure
        // leaves files that the next daemon removes.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Takes the lock, or `None` if another daemon has it.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, error)) => return Err(error.into()),
        };
        // A daemon that ended between our open and our lock has removed the file: what we hold
        // then is the lock of a name that the next one will not find.
        let held = lock.metadata()?;
        match std::fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                return Ok(Some(lock));
            }
            _ => {}
        }
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody can connect before `listen`, so there is no moment with wider rights.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}
