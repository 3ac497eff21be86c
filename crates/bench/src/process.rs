//! Processes that are started here: none of them outlives the program that started it.
//!
//! Laws:
//! - The value that holds a process kills it when it is dropped, by its id.
//! - Should this program be killed, the kernel kills what it started.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use crate::error::Result;

/// How long a process may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two checks whether it is ready.
const LOOK: Duration = Duration::from_millis(2);

/// A process that is killed and waited for when this value goes.
pub(crate) struct ChildProcess(pub(crate) Child);

impl ChildProcess {
    /// Starts a command, on one processor only if one is given. It has no input.
    pub(crate) fn start(command: &mut Command, processor: Option<usize>) -> Result<Self> {
        bind(command, processor)?;
        let program = command.get_program().to_string_lossy().into_owned();
        // An interrupt at the terminal should not reach what this program measures with.
        match command.stdin(Stdio::null()).process_group(0).spawn() {
            Ok(child) => Ok(Self(child)),
            Err(error) => Err(format!("{program} cannot be started: {error}").into()),
        }
    }

    /// Blocks until `is_ready`, for ten seconds at most.
    ///
    /// # Errors
    /// The process ended, or it takes too long.
    pub(crate) fn wait_until(&mut self, is_ready: impl Fn() -> bool) -> Result<()> {
        let begin = Instant::now();
        while !is_ready() {
            if let Some(status) = self.0.try_wait()? {
                return Err(format!("it ended with {status}").into());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("it was not ready after {} s", PATIENCE.as_secs()).into());
            }
            sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that returns through a pipe what it gets through another.
pub(crate) struct EchoProcess {
    input: ChildStdin,
    output: ChildStdout,
    _process: ChildProcess,
}

impl EchoProcess {
    /// Starts it on a processor.
    pub(crate) fn start(processor: usize) -> Result<Self> {
        let mut command = Command::new("cat");
        bind(&mut command, Some(processor))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let process = ChildProcess(child);
        let (Some(input), Some(output)) = pipes else {
            return Err("cat has no pipes".into());
        };
        Ok(Self {
            input,
            output,
            _process: process,
        })
    }

    /// A byte there and back.
    pub(crate) fn round_trip(&mut self) -> Result<()> {
        self.input.write_all(&[7])?;
        Ok(self.output.read_exact(&mut [0])?)
    }
}

/// Makes what a command starts die with the calling thread, and run on one processor only if one is given.
/// Such a command forks, which takes longer the more memory this process has: nothing that is timed from its
/// start is started so.
fn bind(command: &mut Command, processor: Option<usize>) -> Result<()> {
    let mut processors = CpuSet::new();
    if let Some(processor) = processor {
        processors.set(processor)?;
    }
    let parent = getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // The parent died before the kernel was told.
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        if processor.is_some() {
            sched_setaffinity(Pid::from_raw(0), &processors)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only what is safe in a signal handler may run: these are three
    // plain system calls on values that were made before, and errors without allocation.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_guard() -> Result<()> {
        let process = ChildProcess::start(Command::new("sleep").arg("600"), None)?;
        let id = Pid::from_raw(i32::try_from(process.0.id())?);
        nix::sys::signal::kill(id, None)?;
        drop(process);
        assert!(nix::sys::signal::kill(id, None).is_err());
        Ok(())
    }

    #[test]
    fn one_that_ends_early_is_not_waited_for() -> Result<()> {
        let mut process = ChildProcess::start(&mut Command::new("false"), None)?;
        let error = process.wait_until(|| false).expect_err("it is never ready");
        assert!(error.to_string().contains("ended"), "{error}");
        Ok(())
    }

    #[test]
    fn what_goes_to_an_echo_comes_back() -> Result<()> {
        let processors = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
        let first = (0..CpuSet::count()).find(|&one| processors.is_set(one).unwrap_or(false));
        let mut echo = EchoProcess::start(first.ok_or("a thread has a processor")?)?;
        (0..3).try_for_each(|_| echo.round_trip())
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = ChildProcess::start(&mut Command::new("no-such-program"), None);
        let error = error.err().expect("it is not there").to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }
}
