//! Taking a lock over from a daemon that was killed and cannot end.
//!
//! Such a daemon's lock is released by the kernel when its last thread has ended, which a system call may keep from
//! that for ever. None of its threads ever runs code of the program again ([`is_killed`]), so it uses neither the lock
//! nor the socket: the lock file may be removed, and the next daemon makes and locks another one.
//!
//! Two daemons that start must not do that to each other. Whoever removes a lock file that somebody else has locked,
//! and whoever has locked one and looks whether it still has its name, holds a second lock of that very file meanwhile,
//! of the other kind (`F_OFD_SETLK`). So if the killed daemon ends in between and a third one gets its lock, either
//! that one finds that the file has lost its name, or it is seen to hold the lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chimaera_thread::standstill::is_killed;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::holder::lock_holder;
use super::{lock_path, remove_if_same};
use crate::file_id::id_of;

/// The second lock of a lock file, held for a moment.
pub(super) struct Takeover<'a>(&'a File);

impl<'a> Takeover<'a> {
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if somebody else has it.
    pub(super) fn begin(file: &'a File) -> io::Result<Self> {
        set(file, libc::F_WRLCK)?;
        Ok(Self(file))
    }
}

impl Drop for Takeover<'_> {
    fn drop(&mut self) {
        let _ = set(self.0, libc::F_UNLCK);
    }
}

fn set(file: &File, kind: libc::c_int) -> io::Result<()> {
    let whole_file = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole_file))?;
    Ok(())
}

/// Removes the lock file of a socket if this process holds its lock, and was killed and cannot end. Gives whether it
/// did.
pub(crate) fn remove_lock_of_killed(socket: &Path, process: i32) -> bool {
    let path = lock_path(socket);
    let mut options = OpenOptions::new();
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    options.read(true).write(true).custom_flags(flags.bits());
    let Ok(file) = options.open(&path) else {
        return false;
    };
    let Ok(_here) = Takeover::begin(&file) else {
        return false;
    };
    let (Ok(opened), Ok(named)) = (file.metadata(), std::fs::symlink_metadata(&path)) else {
        return false;
    };
    let is_its = id_of(&opened) == id_of(&named)
        && process > 0
        && lock_holder(socket) == Some(process)
        && is_killed(process);
    is_its && remove_if_same(&path, id_of(&opened)).is_ok()
}
