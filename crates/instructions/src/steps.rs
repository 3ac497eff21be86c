//! A thread of another process that goes on by single instructions.
//!
//! What is counted:
//! - An instruction of the program is one, and so is one that repeats itself (`rep movsb`), which
//!   stops once per repetition at the same address.
//! - A call of the C library's copying functions is one, however long it takes: which instructions
//!   they use, and so how many, depends on the kind of processor.
//! - The kernel's instructions are none: a system call is one.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::machine::{MARK_BYTES, instruction_pointer, return_address, set_breakpoint};
use crate::subject::Subject;
use crate::{NotPossible, Result};

/// A subject, and the thread of it that the calling thread traces. Both end when this is dropped.
pub(crate) struct Steps {
    subject: Subject,
    thread: Pid,
    runs: bool,
}

/// How a thread came to stand still.
enum StopReason {
    /// After one instruction, or at a mark.
    Trap,
    /// Because it was asked to.
    Asked,
    /// A signal is about to be delivered to it.
    Signal(Signal),
}

impl Steps {
    /// Takes hold of a subject's thread, which keeps running.
    ///
    /// # Errors
    /// [`NotPossible`] where the system forbids it.
    pub(crate) fn seize(subject: Subject, thread: Pid) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            let here = std::env::consts::ARCH;
            return Err(NotPossible(format!(
                "instructions are counted on x86-64 only, and this is {here}"
            ))
            .into());
        }
        ptrace::seize(thread, Options::PTRACE_O_EXITKILL).map_err(forbidden)?;
        Ok(Self {
            subject,
            thread,
            runs: true,
        })
    }

    /// The subject.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Counts from the next mark that the thread comes to until the one after. `after_each` runs
    /// after every instruction.
    pub(crate) fn count_interval(
        &mut self,
        copying: &[u64],
        mut after_each: impl FnMut(),
    ) -> Result<u64> {
        let mark = self.run_to_mark()?;
        let count = self.step_until(copying, |position| {
            after_each();
            position == mark
        })?;
        self.run_to_mark()?;
        Ok(count)
    }

    /// Lets the thread run into a mark. Gives the address of the mark's instruction.
    fn run_to_mark(&mut self) -> Result<u64> {
        if !self.runs {
            self.run(None)?;
        }
        Ok(self.wait_for_trap()? - MARK_BYTES)
    }

    /// Makes the thread stand still wherever it is.
    pub(crate) fn stop(&mut self) -> Result<()> {
        ptrace::interrupt(self.thread)?;
        loop {
            match self.wait()? {
                StopReason::Asked => return Ok(()),
                StopReason::Trap => self.run(None)?,
                StopReason::Signal(signal) => self.run(Some(signal))?,
            }
        }
    }

    /// Lets the thread, which stands still, run.
    pub(crate) fn run(&mut self, signal: Option<Signal>) -> Result<()> {
        ptrace::cont(self.thread, signal)?;
        self.runs = true;
        Ok(())
    }

    /// Makes the thread, which stands still, go on by single instructions until `done` returns true for the
    /// next instruction's address. Gives their number. `copying` are the addresses of functions whose call
    /// counts as one.
    pub(crate) fn step_until(
        &mut self,
        copying: &[u64],
        mut done: impl FnMut(u64) -> bool,
    ) -> Result<u64> {
        let mut count = 0;
        let mut position = instruction_pointer(self.thread)?;
        while !done(position) {
            let mut next = self.step()?;
            count += u64::from(next != position);
            if copying.contains(&next) {
                next = self.finish_call()?;
            }
            position = next;
        }
        Ok(count)
    }

    /// One instruction, or one repetition. Gives the address of the next.
    fn step(&mut self) -> Result<u64> {
        let mut signal = None;
        loop {
            ptrace::step(self.thread, signal).map_err(forbidden)?;
            match self.wait()? {
                StopReason::Trap => return instruction_pointer(self.thread),
                StopReason::Asked => signal = None,
                StopReason::Signal(other) => signal = Some(other),
            }
        }
    }

    /// Lets the thread run out of the function at whose first instruction it stands. Gives the
    /// address of the next instruction.
    fn finish_call(&mut self) -> Result<u64> {
        let back = return_address(self.thread)?;
        if set_breakpoint(self.thread, Some(back)).is_ok() {
            self.run(None)?;
            self.wait_for_trap()?;
            set_breakpoint(self.thread, None)?;
        }
        // Where the machine has no free breakpoint, steps all the way, which takes long.
        let mut position = instruction_pointer(self.thread)?;
        while position != back {
            position = self.step()?;
        }
        Ok(position)
    }

    /// Waits until the thread that runs comes to a breakpoint. Gives the next address.
    fn wait_for_trap(&mut self) -> Result<u64> {
        loop {
            match self.wait()? {
                StopReason::Trap => return instruction_pointer(self.thread),
                StopReason::Asked => self.run(None)?,
                StopReason::Signal(signal) => self.run(Some(signal))?,
            }
        }
    }

    fn wait(&mut self) -> Result<StopReason> {
        let status = loop {
            match waitpid(self.thread, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => {}
                result => break result?,
            }
        };
        self.runs = false;
        match status {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(StopReason::Trap),
            WaitStatus::Stopped(_, signal) => Ok(StopReason::Signal(signal)),
            WaitStatus::PtraceEvent(..) => Ok(StopReason::Asked),
            ended => Err(format!("the subject ended too early: {ended:?}").into()),
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.subject.kill();
        // A process does not end before its tracer has seen its thread's end.
        while self.wait().is_ok() {}
    }
}

fn forbidden(error: Errno) -> crate::Error {
    match error {
        Errno::ESRCH => format!("the subject ended too early: {error}").into(),
        _ => NotPossible(format!(
            "the system forbids tracing (ptrace: {error}): containers do by a seccomp profile, \
             others by /proc/sys/kernel/yama/ptrace_scope"
        ))
        .into(),
    }
}
