//! The Unix socket that a daemon listens on, and the lock that says whose it is.
//!
//! Laws of this module:
//! - The lock file beside the socket is locked as long as the daemon lives, so a socket whose lock is free was
//!   left behind by a crash; unless somebody answers there: then the lock file was removed, and the socket
//!   still belongs to that daemon.
//! - Only a file that was looked at or made is removed: as soon as somebody else has been there, the path may name
//!   another file.
//! - If binding fails, no file is left behind.
//! - A forked child gets neither socket nor lock: else the lock would be held as long as the child lives. So both are
//!   made while `fork` is held off ([`Private`]). The order is: first `fork` is held off, then the lock file is locked,
//!   without waiting, and a holder of that lock never waits for `fork` to be held off. Only the folder's file system
//!   can take time, and a socket lies on a local one.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chimaera_chimod::ModuleError;
use chimaera_fork::Private;
use chimaera_proto::shown::printable;
use chimaera_proto::socket_path::{MAX_SOCKET_PATH_BYTES, create_open};
use chimaera_shm::peer_process;
use chimaera_thread::condition::Mutex;
use chimaera_thread::standstill::{is_killed, patiently};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, accept4, bind, connect,
    getsockopt, listen, shutdown, socket, sockopt::PeerCredentials,
};
use nix::sys::stat::{Mode, fchmod};

use crate::error::{HostError, show_process};
use crate::file_id::{FileId, id_of};
use crate::lock::holder::lock_holder;
use crate::lock::takeover::remove_lock_of_killed;
use crate::lock::{SocketLock, lock_path, remove_if_same};
use crate::log;
use crate::trusted_path;

/// A socket that listens, and the file that it made.
#[derive(Debug)]
struct Bound {
    socket: OwnedFd,
    /// The file that its path named once it was bound.
    file: FileId,
}

/// A listening socket, and the lock that says whose it is.
#[derive(Debug)]
pub(crate) struct Listener {
    path: PathBuf,
    bound: Private<Bound>,
    /// `None` once the path was given up.
    lock: Mutex<Option<SocketLock>>,
}

impl Listener {
    /// Listens on `path`, for those who may write to a file of this mode and group. Makes the folder if it is missing.
    /// If others may write to that, it is an error, or with `warns` the log says so. Waits up to two seconds for
    /// another runtime there that was killed, is stopping or is about to serve.
    pub(crate) fn bind(
        path: &Path,
        access: (u32, Option<u32>),
        warns: bool,
    ) -> Result<Self, HostError> {
        check_socket_path(path)?;
        let failed = |error: io::Error| HostError::Listen {
            path: path.to_owned(),
            error,
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            create_open(folder).map_err(failed)?;
        }
        check_folder(path, warns)?;
        let taken = patiently(|| take_socket(path, None), HostError::may_pass);
        let lock = match taken {
            Err(HostError::Killed { process, .. }) => {
                if remove_lock_of_killed(path, process) {
                    log::warning(format_args!(
                        "the runtime {} that served {} was killed and cannot end: its place is taken, and the files \
                         of its pools stay locked until it ends",
                        show_process(process),
                        printable(&path.to_string_lossy())
                    ));
                }
                take_socket(path, Some(process))
            }
            taken => taken,
        }?;
        let bound = Private::with_file(|| open(path, access), |bound| bound.socket.as_raw_fd());
        let bound = bound.map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            bound,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Its path, for a text.
    pub(crate) fn shown_path(&self) -> String {
        printable(&self.path.to_string_lossy()).into_owned()
    }

    /// Lets no client connect any more. Clients that have connected wait to be accepted.
    pub(crate) fn stop_connections(&self) {
        // It fails for nothing that a listening socket is.
        let _ = shutdown(self.bound.socket.as_raw_fd(), Shutdown::Read);
    }

    /// Listens no more, and gives the path up to the next host, if that was not done before. First writes how the
    /// pools have ended into the lock file, for processes that wait for the host's end and get no answer.
    pub(crate) fn close(&self, unflushed: Option<&ModuleError>) {
        self.stop_connections();
        if let Some(mut lock) = self.lock.lock().take() {
            lock.write_last_word(unflushed);
            self.give_up(lock);
        }
    }

    /// Removes the socket and then unlocks its path, without which nobody else binds here. A failure leaves a file that
    /// the next daemon removes.
    fn give_up(&self, lock: SocketLock) {
        let _ = remove_if_same(&self.path, self.bound.file);
        drop(lock);
    }

    /// Listens no more, and leaves socket and lock file behind as a crash does.
    pub(crate) fn leave(&self) {
        self.stop_connections();
        if let Some(lock) = self.lock.lock().take() {
            lock.leave();
        }
    }

    /// Takes a waiting connection, if there is one.
    pub(crate) fn accept(&self) -> io::Result<Option<Private<OwnedFd>>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accept = || {
            let connection = accept4(self.bound.socket.as_raw_fd(), flags)?;
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
        self.bound.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.lock().take() {
            self.give_up(lock);
        }
    }
}

/// Refuses a socket in a folder where others could put one of their own in its place, or with `warns` has the log say
/// so.
fn check_folder(path: &Path, warns: bool) -> Result<(), HostError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let Err(found) = trusted_path::check_folder(folder) else {
        return Ok(());
    };
    let error = HostError::OpenFolder {
        socket: path.to_owned(),
        found,
    };
    if !warns {
        return Err(error);
    }
    log::warning(error);
    Ok(())
}

/// Checks that a socket can lie at this path. Makes nothing.
///
/// # Errors
/// [`HostError::PathTooLong`], or [`HostError::Listen`] for an empty path.
pub fn check_socket_path(path: &Path) -> Result<(), HostError> {
    match path.as_os_str().as_bytes().len() {
        // The system would choose a name of its own.
        0 => Err(HostError::Listen {
            path: path.to_owned(),
            error: Errno::ENOENT.into(),
        }),
        len if len > MAX_SOCKET_PATH_BYTES => Err(HostError::PathTooLong {
            path: path.to_owned(),
            len,
        }),
        _ => Ok(()),
    }
}

/// The process that answers at a socket, by the kernel's word; `None` if nobody does.
///
/// # Errors
/// Somebody may be there, but cannot be asked.
pub fn process_at(path: &Path) -> io::Result<Option<i32>> {
    Ok(connect_to(path)?.map(|(_, process)| process))
}

/// The process that answers at a socket, for whoever waits for its end.
#[derive(Debug)]
pub struct DaemonProcess {
    /// Its id, by the kernel's word; 0 if this process's pid namespace does not have it.
    pub id: i32,
    /// A file that becomes readable when it has ended, where there is one ([`peer_process::watch`]).
    pub end: Option<OwnedFd>,
}

impl DaemonProcess {
    /// The process that answers at a socket; `None` if nobody does.
    ///
    /// # Errors
    /// Somebody may be there, but cannot be asked or watched.
    pub fn at(socket: &Path) -> io::Result<Option<Self>> {
        let Some((connection, id)) = connect_to(socket)? else {
            return Ok(None);
        };
        match peer_process::watch(&connection, id) {
            Ok(end) => Ok(Some(Self { id, end })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Connects to whoever answers at a socket, and says which process that is; `None` if nobody does.
fn connect_to(path: &Path) -> io::Result<Option<(OwnedFd, i32)>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => {
            let process = getsockopt(&socket, PeerCredentials)?.pid();
            Ok(Some((socket, process)))
        }
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock of a socket, and frees its path, also of a socket of this process's if that was killed and cannot
/// end.
fn take_socket(path: &Path, killed: Option<i32>) -> Result<SocketLock, HostError> {
    let lock = SocketLock::take(path).map_err(|error| lock_refused(path, error))?;
    remove_stale_socket(path, killed)?;
    Ok(lock)
}

/// Why the lock of a socket cannot be taken.
fn lock_refused(socket: &Path, error: io::Error) -> HostError {
    let path = lock_path(socket);
    match error.kind() {
        io::ErrorKind::WouldBlock => held_by_another(socket, &path),
        io::ErrorKind::InvalidData => HostError::NotALock {
            path,
            what: error.to_string(),
        },
        _ => HostError::Lock { path, error },
    }
}

/// Why the lock is held: by a runtime that serves, is about to serve, was killed or is stopping, or whose socket was
/// removed.
fn held_by_another(socket: &Path, lock: &Path) -> HostError {
    let holder = lock_holder(socket);
    match (process_at(socket), holder) {
        (Ok(Some(process)), _) => served_by(socket, process),
        (_, Some(process)) if is_killed(process) => HostError::Killed {
            socket: socket.to_owned(),
            process,
        },
        (Ok(None), Some(process)) if !socket.exists() => HostError::SocketGone {
            socket: socket.to_owned(),
            lock: lock.to_owned(),
            process,
        },
        (Ok(None), process) => HostError::TakesNobody {
            socket: socket.to_owned(),
            process,
        },
        (Err(_), process) => HostError::AlreadyRunning {
            socket: socket.to_owned(),
            process,
        },
    }
}

/// How often a process that listens is looked at to see whether it was killed, and the time between two looks.
const KILLED_LOOKS: usize = 4;
const KILLED_LOOK: Duration = Duration::from_millis(1);

/// The error for a socket at which this process listens. A process that was killed goes on listening until it has freed
/// its memory.
///
/// While a thread takes the signal that ends it, for some microseconds the system shows neither the signal nor the end.
/// So this looks more than once.
#[must_use]
pub fn served_by(socket: &Path, process: i32) -> HostError {
    let socket = socket.to_owned();
    let is_killed = || {
        std::thread::sleep(KILLED_LOOK);
        is_killed(process)
    };
    match (0..KILLED_LOOKS).any(|_| is_killed()) {
        true => HostError::Killed { socket, process },
        false => HostError::AlreadyRunning {
            socket,
            process: Some(process),
        },
    }
}

/// Removes the socket that a dead daemon left behind. To be called with the lock.
fn remove_stale_socket(path: &Path, killed: Option<i32>) -> Result<(), HostError> {
    let failed = |error: io::Error| HostError::Listen {
        path: path.to_owned(),
        error,
    };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(HostError::NotASocket(path.to_owned()));
    }
    match process_at(path) {
        Ok(None) => remove_if_same(path, id_of(&found)).map_err(failed),
        // It accepts nobody any more.
        Ok(Some(process)) if Some(process) == killed && is_killed(process) => {
            remove_if_same(path, id_of(&found)).map_err(failed)
        }
        Ok(Some(process)) => Err(served_by(path, process)),
        // Somebody listens and is too busy to answer, or the socket is of another kind.
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => Err(HostError::AlreadyRunning {
                socket: path.to_owned(),
                process: None,
            }),
            Some(Errno::EPROTOTYPE) => Err(HostError::ForeignSocket(path.to_owned())),
            _ => Err(failed(error)),
        },
    }
}

/// Makes the socket and listens on it. Its file is removed if it cannot be used.
fn open(path: &Path, (mode, group): (u32, Option<u32>)) -> io::Result<Bound> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    // The file gets the mode of the socket, less what the umask takes: there is no moment with rights that it is not to
    // have.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let file = id_of(&std::fs::symlink_metadata(path)?);
    if let Err(error) = admit(path, file, mode, group) {
        let _ = remove_if_same(path, file);
        return Err(error);
    }
    listen_at(socket, path, file)
}

/// Gives the file of a socket that nobody listens on yet its group and mode, whatever the umask is. No link is
/// followed.
fn admit(path: &Path, made: FileId, mode: u32, group: Option<u32>) -> io::Result<()> {
    let flags = (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if id_of(&file.metadata()?) != made {
        return Err(io::Error::other("somebody put another file in its place"));
    }
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Some(group) = group {
        std::os::unix::fs::chown(&open, None, Some(group)).map_err(|error| {
            let text = format!("its group cannot be {group}: {error}");
            io::Error::new(error.kind(), text)
        })?;
    }
    std::fs::set_permissions(open, Permissions::from_mode(mode))
}

/// Listens on a socket that was bound to this path and made this file there.
///
/// Before it listens, a socket refuses connections like one that a crash has left behind. If the lock file was removed,
/// another daemon may have taken it for such a one meanwhile, and removed it. So this checks afterwards that the path
/// still names the file; if it does, a daemon that comes from now on finds one that answers. One case remains: another
/// daemon that tried to connect before and removes the file after this check, two steps that follow each other at once.
/// Then this daemon serves nobody, and `runtime status` finds the other one.
fn listen_at(socket: OwnedFd, path: &Path, file: FileId) -> io::Result<Bound> {
    if let Err(error) = listen(&socket, Backlog::MAXCONN) {
        let _ = remove_if_same(path, file);
        return Err(error.into());
    }
    if !std::fs::symlink_metadata(path).is_ok_and(|named| id_of(&named) == file) {
        return Err(io::Error::other(
            "somebody removed the socket as it was made, or put another file in its place: another runtime \
             may have started there",
        ));
    }
    Ok(Bound { socket, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_lost_its_place_before_it_listened_is_not_served() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let bound = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
            let socket = socket.expect("a socket");
            bind(socket.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("it is bound");
            let made = std::fs::symlink_metadata(&path).expect("it is there");
            (socket, id_of(&made))
        };
        let (first, file) = bound();
        // What another daemon does that found no lock and nobody who answers.
        remove_stale_socket(&path, None).expect("it is taken for what a crash left");
        let (second, other) = bound();
        let error = listen_at(first, &path, file).expect_err("it is another's place");
        assert!(error.to_string().contains("another runtime"), "{error}");
        listen_at(second, &path, other).expect("that one listens");
        let left = std::fs::symlink_metadata(&path).expect("the other's file stays");
        assert_eq!(id_of(&left), other);
    }
}
