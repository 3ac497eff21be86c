//! The system calls of a thread of another process, noted one by one.
//!
//! The thread stands still at each call until it was noted (`ptrace`). So calls take far longer than
//! otherwise, and what a thread does between them, including its use of shared memory, takes as long
//! as ever.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A system call that a thread made.
#[derive(Clone, Copy, Debug)]
pub struct SystemCall {
    /// Its number in the kernel's table.
    pub number: i64,
    /// When it was entered.
    pub begin: Instant,
    /// What it took, if it is over.
    pub took: Option<Duration>,
}

/// A thread whose system calls are noted, until its process ends.
#[derive(Debug)]
pub struct Trace {
    calls: Arc<Mutex<Vec<SystemCall>>>,
}

impl Trace {
    /// Takes hold of a thread, by its folder in `/proc`. It goes on as before.
    ///
    /// # Errors
    /// This machine does not permit it; the text says why.
    ///
    /// # Panics
    /// If there is no such thread.
    pub fn of(thread_folder: &str) -> Result<Self, String> {
        let id = thread_folder.rsplit('/').next().expect("a path");
        let id = Pid::from_raw(id.parse().expect("a thread's folder"));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (begun, result) = channel();
        let noted = Arc::clone(&calls);
        // Only the thread that has taken hold of another may go on with it.
        thread::spawn(move || follow(id, &noted, &begun));
        match result.recv() {
            Ok(Ok(())) => Ok(Self { calls }),
            Ok(Err(error)) => Err(format!("the system forbids tracing (ptrace: {error})")),
            Err(_) => Err("system calls are not told apart on this kind of machine".to_owned()),
        }
    }

    /// The calls that were noted since the first `after` of them. A call is noted before it has any
    /// effect.
    #[must_use]
    pub fn calls(&self, after: usize) -> Vec<SystemCall> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(after..).unwrap_or_default().to_vec()
    }

    /// How many calls were noted.
    #[must_use]
    pub fn count(&self) -> usize {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.len()
    }
}

fn follow(id: Pid, calls: &Mutex<Vec<SystemCall>>, begun: &Sender<Result<(), Errno>>) {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let seized = ptrace::seize(id, Options::PTRACE_O_TRACESYSGOOD);
    if let Err(error) = seized.and_then(|()| ptrace::interrupt(id)) {
        let _ = begun.send(Err(error));
        return;
    }
    let (mut is_inside, mut is_new) = (false, true);
    loop {
        let signal = match waitpid(id, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => continue,
            Ok(WaitStatus::PtraceSyscall(_)) => {
                let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
                is_inside = !is_inside;
                if is_inside {
                    calls.push(SystemCall {
                        number: number(id),
                        begin: Instant::now(),
                        took: None,
                    });
                } else if let Some(call) = calls.last_mut() {
                    call.took = Some(call.begin.elapsed());
                }
                None
            }
            Ok(WaitStatus::Stopped(_, signal)) if signal != Signal::SIGTRAP => Some(signal),
            Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..)) => None,
            // The thread has ended.
            _ => return,
        };
        if ptrace::syscall(id, signal).is_err() {
            return;
        }
        // From the first time that it stood still, its calls are noted.
        if std::mem::take(&mut is_new) {
            let _ = begun.send(Ok(()));
        }
    }
}

/// The number of the call at which a thread stands still.
#[cfg(target_arch = "x86_64")]
fn number(id: Pid) -> i64 {
    ptrace::getregs(id).map_or(-1, |registers| registers.orig_rax.cast_signed())
}

#[cfg(not(target_arch = "x86_64"))]
fn number(_: Pid) -> i64 {
    unreachable!("nothing is followed here")
}
