//! The lock beside a daemon's socket: whose the socket is, and how that daemon ended.
//!
//! The file has a line with the daemon's process id and, once the daemon's pools have ended, a second line: the
//! daemon's last word. Then it is removed. A process that has opened it before reads the last word, and knows by its
//! absence that the daemon was killed or cut short.
//!
//! Laws of this module:
//! - No link is followed, and nothing but a regular file is taken for a lock: one of root's or of this process's user,
//!   with no other name, as it is written to.
//! - A file is removed only under the lock, and only if the path still names it.

pub(crate) mod holder;
pub(crate) mod takeover;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chimaera_chimod::ModuleError;
use chimaera_fork::Private;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::file_id::{FileId, id_of};
use crate::own_files::OwnPath;
use crate::trusted_path;
use takeover::Takeover;

/// The last word of a daemon that has flushed all of its pools.
const FINISHED: &str = "finished";

/// The beginning of the last word of a daemon that has not. The reason follows.
const UNFLUSHED: &str = "unflushed: ";

/// The most bytes of a last word, including the line's end. So it fits the page in which the process id lies, and needs
/// no space that the file system may lack.
const MAX_WORD_BYTES: usize = 2048;

/// The most bytes of a lock file.
const MAX_BYTES: usize = MAX_WORD_BYTES + 32;

/// How often taking a lock is retried while other processes only look at it, and the pause before each retry.
const MAX_RETRIES: usize = 100;
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// The lock of a socket's path, held until this is dropped.
#[derive(Debug)]
pub(crate) struct SocketLock {
    path: PathBuf,
    file: Private<Flock<File>>,
    /// Whether the file stays when the lock is released.
    keeps_file: bool,
    _own: OwnPath,
}

impl SocketLock {
    /// Takes the lock of a socket.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another daemon holds it; [`io::ErrorKind::InvalidData`] if the file is not a
    /// regular one, belongs to somebody else or has another name; else what the system refuses.
    pub(crate) fn take(socket: &Path) -> io::Result<Self> {
        let path = lock_path(socket);
        let take = || Private::with_file(|| lock(&path), |lock| lock.as_raw_fd());
        let mut taken = take();
        // A process that only looks whether the lock is held ([`is_locked`]) shares it for a moment.
        for _ in 0..MAX_RETRIES {
            match &taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_locked(socket) => {}
                _ => break,
            }
            std::thread::sleep(RETRY_PAUSE);
            taken = take();
        }
        let mut file = taken?;
        // Only shown to people ([`holder::lock_holder`]), so it need not succeed.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = writeln!(file, "{}", std::process::id());
        let own = OwnPath::new(&path);
        Ok(Self {
            path,
            file,
            keeps_file: false,
            _own: own,
        })
    }

    /// Writes the last word: how the pools have ended. Without it a process that waits for the daemon's end says that
    /// this is not known, so writing need not succeed either.
    pub(crate) fn write_last_word(&mut self, unflushed: Option<&ModuleError>) {
        let word = match unflushed {
            None => FINISHED.to_owned(),
            Some(error) => format!("{UNFLUSHED}{error}").replace(['\n', '\r'], " "),
        };
        let end = word.floor_char_boundary(MAX_WORD_BYTES - 1);
        let _ = writeln!(self.file, "{}", &word[..end]);
    }

    /// Releases the lock and leaves its file behind, as a crash does.
    pub(crate) fn leave(mut self) {
        self.keeps_file = true;
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        if self.keeps_file {
            return;
        }
        // Under the lock, which the drop of the field releases.
        if let Ok(held) = self.file.metadata() {
            let _ = remove_if_same(&self.path, id_of(&held));
        }
    }
}

/// Whether a process holds the lock of a socket, be it one that the kernel does not name; false also if that cannot be
/// known. This locks the file for a moment, shared with other processes that look.
fn is_locked(socket: &Path) -> bool {
    let Ok(LockFile { file }) = LockFile::open(socket, OFlag::empty()) else {
        return false;
    };
    let locked = Flock::lock(file, FlockArg::LockSharedNonblock);
    // A lock that was taken is released when this returns, even if a forked child has the file.
    matches!(locked, Err((_, Errno::EAGAIN)))
}

/// The lock file of a daemon's socket, opened by a process that waits for the daemon's end and will want to know how it
/// ended.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

/// How a daemon ended, by its lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonEnd {
    /// It has flushed every pool.
    Finished,
    /// It ended by itself and could not flush a pool: which one, and why.
    Unflushed(String),
    /// It was killed or cut short, or still runs.
    CutShort,
    /// Its lock file was removed, and does not say how it ended or may not be read.
    Unknown,
}

impl LockFile {
    /// The lock file beside a socket. `None` if it does not exist or cannot be reached. Without the right to read it,
    /// the value knows only whether the file still has its name.
    #[must_use]
    pub fn of(socket: &Path) -> Option<Self> {
        let file = Self::open(socket, OFlag::empty());
        file.or_else(|_| Self::open(socket, OFlag::O_PATH)).ok()
    }

    fn open(socket: &Path, flags: OFlag) -> io::Result<Self> {
        // Non-blocking, since opening a pipe in its place would wait.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | flags;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits());
        let file = options.open(lock_path(socket))?;
        Ok(Self { file })
    }

    /// How the daemon ended. To be called when it has.
    #[must_use]
    pub fn end(&self) -> DaemonEnd {
        let word = self.lines().and_then(|(_, word)| word);
        match word.as_deref() {
            Some(FINISHED) => return DaemonEnd::Finished,
            Some(word) if word.starts_with(UNFLUSHED) => {
                return DaemonEnd::Unflushed(word[UNFLUSHED.len()..].to_owned());
            }
            _ => {}
        }
        // Links are counted, since another file may have its name by now.
        match self.file.metadata() {
            Ok(found) if found.nlink() > 0 => DaemonEnd::CutShort,
            _ => DaemonEnd::Unknown,
        }
    }

    /// The complete lines of the file: the process, and its last word, if there is one.
    fn lines(&self) -> Option<(String, Option<String>)> {
        let mut bytes = [0; MAX_BYTES];
        let len = self.file.read_at(&mut bytes, 0).ok()?;
        let text = String::from_utf8_lossy(&bytes[..len]);
        let mut lines = text.split_inclusive('\n');
        let mut line = || Some(lines.next()?.strip_suffix('\n')?.to_owned());
        Some((line()?, line()))
    }
}

pub(crate) fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

const NOT_REGULAR: &str = "is not a regular file";

/// The error for what cannot be a lock.
fn no_lock(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Refuses what cannot be a lock. A file without any name was removed meanwhile, which its user finds out.
fn check(found: &Metadata) -> io::Result<()> {
    if !found.is_file() {
        Err(no_lock(NOT_REGULAR))
    } else if found.nlink() > 1 {
        Err(no_lock("has another name as well (hard link)"))
    } else if !trusted_path::is_owner_trusted(found) {
        Err(no_lock("belongs to somebody else than root or this user"))
    } else {
        Ok(())
    }
}

/// Takes the lock, as [`SocketLock::take`] does.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    // Non-blocking, since opening a pipe in its place would wait.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags.bits())
            .open(path)
            .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                // A symbolic link, which is not followed.
                Some(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => no_lock(NOT_REGULAR),
                // A daemon of root's that has given up its rights is refused somebody else's file.
                Some(Errno::EACCES) => match std::fs::symlink_metadata(path) {
                    Ok(found) => check(&found).err().unwrap_or(error),
                    Err(_) => error,
                },
                _ => error,
            })?;
        check(&file.metadata()?)?;
        let flock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let lock = flock.map_err(|(_, error)| io::Error::from(error))?;
        // A daemon that ended between our open and our lock has removed the file: then we hold a
        // lock on a file that the next daemon will not find by this name.
        let is_named = {
            let _here = Takeover::begin(&lock)?;
            let held = id_of(&lock.metadata()?);
            std::fs::symlink_metadata(path).is_ok_and(|named| id_of(&named) == held)
        };
        if is_named {
            return Ok(lock);
        }
    }
}

/// Removes a file, if the path still names it.
pub(crate) fn remove_if_same(path: &Path, file: FileId) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(named) if id_of(&named) == file => std::fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use chimaera_proto::Status;

    use super::holder::lock_holder;
    use super::*;

    /// How a daemon ended whose lock goes through `end`, as read from a lock file that was opened before.
    fn told(end: impl FnOnce(SocketLock)) -> DaemonEnd {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let lock = SocketLock::take(&socket).expect("nobody has it");
        let file = LockFile::of(&socket).expect("it is there");
        assert_eq!(file.end(), DaemonEnd::CutShort, "it has said nothing yet");
        end(lock);
        file.end()
    }

    #[test]
    fn the_lock_tells_how_its_daemon_ended_as_far_as_that_is_known() {
        let finished = told(|mut lock| lock.write_last_word(None));
        assert_eq!(finished, DaemonEnd::Finished);
        let failed = |text: &str| {
            let error = ModuleError::new(Status::IoError, text);
            told(|mut lock| lock.write_last_word(Some(&error)))
        };
        let line = DaemonEnd::Unflushed("pool a (1.2): no\u{20ac} more".to_owned());
        assert_eq!(failed("pool a (1.2): no\u{20ac}\nmore"), line);
        let DaemonEnd::Unflushed(cut) = failed(&"\u{20ac}".repeat(MAX_WORD_BYTES)) else {
            panic!("it is known");
        };
        assert!(cut.chars().all(|character| character == '\u{20ac}'));
        // It ended by itself without a last word; or somebody removed its file.
        assert_eq!(told(drop), DaemonEnd::Unknown);
        assert_eq!(told(std::mem::forget), DaemonEnd::CutShort);
    }

    #[test]
    fn whoever_looks_at_a_lock_keeps_no_daemon_from_taking_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = is_locked(&socket);
                }
            });
            let taken: Vec<_> = (0..1000)
                .map(|_| SocketLock::take(&socket).map(drop))
                .collect();
            is_over.store(true, Ordering::Relaxed);
            for taken in taken {
                taken.expect("nobody has it");
            }
        });
        let held = SocketLock::take(&socket).expect("nobody has it");
        assert!(is_locked(&socket));
        assert!(SocketLock::take(&socket).is_err());
        drop(held);
        assert!(!is_locked(&socket));
    }

    #[test]
    fn who_may_not_read_the_lock_knows_whether_its_daemon_was_cut_short_and_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let mut lock = SocketLock::take(&socket).expect("nobody has it");
        let file = LockFile::open(&socket, OFlag::O_PATH).expect("it is there");
        lock.write_last_word(None);
        assert_eq!(file.end(), DaemonEnd::CutShort);
        drop(lock);
        assert_eq!(file.end(), DaemonEnd::Unknown);
    }

    #[test]
    fn the_last_word_of_one_daemon_is_not_the_next_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let mut lock = SocketLock::take(&socket).expect("nobody has it");
        lock.write_last_word(None);
        // As left by a daemon that is killed at that very moment.
        let copy = folder.path().join("copy");
        std::fs::hard_link(lock_path(&socket), &copy).expect("a link");
        drop(lock);
        std::fs::rename(copy, lock_path(&socket)).expect("renamed");
        let _lock = SocketLock::take(&socket).expect("nobody has it");
        let file = LockFile::of(&socket).expect("it is there");
        assert_eq!(file.end(), DaemonEnd::CutShort);
        assert_eq!(lock_holder(&socket), Some(std::process::id().cast_signed()));
    }
}
