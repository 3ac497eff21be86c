//! A thread of another process that stands still while the rest of its process goes on.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Holds the thread (`ptrace`) until it is dropped.
#[derive(Debug)]
pub struct HeldThread {
    /// Dropped to let go.
    holding: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl HeldThread {
    /// Takes hold of a thread, by its folder in `/proc`, and returns when it stands still.
    ///
    /// # Errors
    /// This machine does not permit it; the text says why.
    ///
    /// # Panics
    /// If there is no such thread.
    pub fn of(thread_folder: &str) -> Result<Self, String> {
        let id = thread_folder.rsplit('/').next().expect("a path");
        let id = Pid::from_raw(id.parse().expect("a thread's folder"));
        let (holding, let_go) = channel::<()>();
        let (begun, result) = channel();
        // Only the thread that has taken hold of another may let it go.
        let holder = thread::spawn(move || {
            let held = hold(id);
            let is_held = held.is_ok();
            let _ = begun.send(held);
            if is_held {
                let _ = let_go.recv();
                // The thread may have ended with its process.
                let _ = ptrace::detach(id, None);
            }
        });
        match result.recv().expect("it says how it went") {
            Ok(()) => Ok(Self {
                holding: Some(holding),
                holder: Some(holder),
            }),
            Err(error) => Err(format!("the system forbids tracing (ptrace: {error})")),
        }
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        drop(self.holding.take());
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}

fn hold(id: Pid) -> Result<(), Errno> {
    ptrace::seize(id, Options::empty())?;
    ptrace::interrupt(id)?;
    loop {
        match waitpid(id, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => {}
            stopped => return stopped.map(|_| ()),
        }
    }
}
