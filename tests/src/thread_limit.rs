//! Limits on threads that are met in the middle of a process's life.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;

use crate::build::program;
use crate::daemon::finish;
use crate::process::ClientProcess;

/// Threads of a limited program and of whoever takes the rest of them.
const THREADS: u32 = 48;

/// A user whose threads can be limited. The system counts threads by user, and does not limit root. A test of root's
/// therefore runs programs as a user that nothing else belongs to, with all rights but that of going beyond limits. Any
/// other test runs them as its own user, and limits each process by itself.
#[derive(Debug)]
pub struct ThreadLimit {
    user: Option<u32>,
}

impl ThreadLimit {
    /// A user of the caller's own.
    ///
    /// # Errors
    /// What is missing here.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for tool in ["prlimit", "setpriv"] {
            let found = Command::new(tool).arg("--version").output();
            if !found.is_ok_and(|output| output.status.success()) {
                return Err(format!("there is no program {tool}"));
            }
        }
        let number =
            std::process::id() % (1 << 22) * 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 64;
        let user = Uid::effective().is_root().then_some(1_000_000_000 + number);
        Ok(Self { user })
    }

    /// As [`Self::new`], where so many threads can be granted and no more.
    ///
    /// # Errors
    /// What is missing here.
    pub fn counted() -> Result<Self, String> {
        let limit = Self::new()?;
        let is_alone = limit.user.is_some();
        let reason = || "only root has a user that nothing else belongs to".to_owned();
        is_alone.then_some(limit).ok_or_else(reason)
    }

    /// A command for this program, which can be denied threads.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        self.command_with(program, THREADS)
    }

    /// A command for this program with so many threads at most, including its first. The limit must be
    /// [counted](Self::counted).
    #[must_use]
    pub fn command_with(&self, program: &Path, threads: u32) -> Command {
        let Some(user) = self.user else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--ruid={user}"))
            .args(["--bounding-set", "-sys_resource,-sys_admin"])
            .args(["--inh-caps=-all", "--", "prlimit"])
            .arg(format!("--nproc={threads}:{threads}"))
            .arg(program);
        command
    }

    /// From now on this process, which was started by [`Self::command`], gets no further thread.
    ///
    /// # Panics
    /// If it cannot be denied.
    #[must_use]
    pub fn deny(&self, process: u32) -> Denial {
        if self.user.is_none() {
            let hard = hard_limit(process);
            set_soft_limit(process, 1);
            return Denial::OfProcess { process, hard };
        }
        let mut command = self.command(&program("chimaera-test-client"));
        command.arg("take-threads");
        let mut taker = ClientProcess::run(command);
        taker.expect("taken");
        Denial::ByTaker(taker)
    }
}

/// A process gets no further thread as long as this is there.
#[derive(Debug)]
pub enum Denial {
    /// By a limit of its own.
    OfProcess {
        /// Which.
        process: u32,
        /// What its limit was.
        hard: u64,
    },
    /// By another process of its user, which has all that are left. It ends with this.
    ByTaker(ClientProcess),
}

impl Drop for Denial {
    fn drop(&mut self) {
        if let Self::OfProcess { process, hard } = *self
            && Path::new("/proc").join(process.to_string()).exists()
        {
            set_soft_limit(process, hard);
        }
    }
}

fn hard_limit(process: u32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits"));
    let limits = limits.expect("the process is there");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max processes"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    hard.expect("a number")
}

fn set_soft_limit(process: u32, limit: u64) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={process}"));
    command.arg(format!("--nproc={limit}:"));
    let _ = finish(command).success();
}
