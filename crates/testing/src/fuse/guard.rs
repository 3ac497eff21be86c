//! Lets go of whoever waits for a file system whose server has ended.
//!
//! A thread that waits for an answer to a request that was read cannot be killed. If it is one of the server's own
//! process, and that process ends without dropping the server, the waiting thread keeps the process from being
//! collected, and its files (`/dev/fuse` among them) from being closed: everybody would wait for ever.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process that ends the file system when the thread that made it ends.
#[derive(Debug)]
pub(super) struct UnmountGuard {
    process: libc::pid_t,
}

impl UnmountGuard {
    /// Guards what is mounted at this folder, for the calling thread.
    ///
    /// # Panics
    /// If the path has a zero.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let folder = CString::new(folder.as_os_str().as_bytes()).expect("a path without a zero");
        // SAFETY: the child uses only system calls, its stack and what was there before the fork.
        let process = unsafe { libc::fork() };
        match process {
            -1 => Err(io::Error::last_os_error()),
            0 => unmount_at_parents_end(&folder),
            _ => Ok(Self { process }),
        }
    }
}

impl Drop for UnmountGuard {
    fn drop(&mut self) {
        // SAFETY: these take numbers only, and the child was not collected yet.
        unsafe {
            libc::kill(self.process, libc::SIGKILL);
            libc::waitpid(self.process, std::ptr::null_mut(), 0);
        }
    }
}

fn unmount_at_parents_end(folder: &CString) -> ! {
    // SAFETY: these are system calls, on values of this stack and on a text that this process has a copy of.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1);
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        let mut awaited = std::mem::zeroed();
        libc::sigemptyset(&raw mut awaited);
        libc::sigaddset(&raw mut awaited, libc::SIGUSR1);
        while libc::sigwaitinfo(&raw const awaited, std::ptr::null_mut()) != libc::SIGUSR1 {}
        libc::umount2(folder.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH);
        libc::_exit(0)
    }
}
