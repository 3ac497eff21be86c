//! Processes that do not go on: suspended, frozen, or killed and not gone yet.
//!
//! A process that was killed has ended when the last of its threads has. A thread does not end before the system call
//! that it is in has returned, nor before its memory is freed. Until then the process keeps its files and locks, and no
//! further signal helps. Whoever needs these has to wait a moment ([`patiently`]); where a device does not answer,
//! nobody can tell how long.

use std::fmt;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// Why a process does not go on. It is shown as what follows "which".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standstill {
    /// A signal has stopped this process.
    Suspended(i32),
    /// Its control group is frozen.
    Frozen,
    /// It was killed, and is not gone yet.
    Killed,
    /// It was killed, and is frozen with its control group.
    KilledFrozen,
}

impl Standstill {
    /// Why this process does not go on; `None` if it does, if it is gone, or if the system does not say.
    #[must_use]
    pub fn of(process: i32) -> Option<Self> {
        // A frozen process may have been killed or suspended, too; neither takes effect before it is thawed.
        match (is_killed(process), is_frozen(process)) {
            (true, true) => return Some(Self::KilledFrozen),
            (true, false) => return Some(Self::Killed),
            (false, true) => return Some(Self::Frozen),
            (false, false) => {}
        }
        let state = ThreadState::read(&format!("/proc/{process}/stat"))?;
        matches!(state.letter, 'T' | 't').then_some(Self::Suspended(process))
    }
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended(process) => {
                write!(f, "is suspended (`kill -CONT {process}` resumes it)")
            }
            Self::Frozen => f.write_str("is frozen with its control group (thawing that resumes it)"),
            Self::Killed => {
                f.write_str("was killed and cannot end, as the system waits for a device")
            }
            Self::KilledFrozen => f.write_str(
                "was killed and cannot end, as it is frozen with its control group (thawing that ends it)",
            ),
        }
    }
}

/// In a thread's flags: the thread is ending (`PF_EXITING`).
const ENDS: u64 = 0x4;

/// In the mask of the signals that are pending for a thread: SIGKILL.
const KILL: u64 = 1 << (libc::SIGKILL - 1);

/// Whether every thread of a process has ended, is ending, or will end when the system call that it is in returns. That
/// does not hold of a process of which only the first thread has ended, though the system shows it as a zombie.
///
/// For a moment the kernel shows it of no killed thread: when the thread has taken the signal and does not end yet.
/// Whoever must not overlook it asks again.
#[must_use]
pub fn is_killed(process: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let mut threads = threads.into_iter().flatten().flatten().peekable();
    threads.peek().is_some()
        && threads.all(|thread| {
            let thread = thread.path();
            let thread = thread.display();
            let has_ended = match fs::read_to_string(format!("{thread}/stat")) {
                Ok(stat) => ThreadState::parse(&stat).is_some_and(|state| state.ends()),
                // Any other error says nothing about the thread.
                Err(error) => is_gone(&error),
            };
            has_ended || is_to_be_killed(&format!("{thread}/status"))
        })
}

/// Whether the error says that a thread which was there a moment ago is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn is_to_be_killed(status: &str) -> bool {
    let status = fs::read_to_string(status).unwrap_or_default();
    let mut waiting = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigPnd:")?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    waiting.any(|signals| signals & KILL != 0)
}

/// What `/proc` says of a thread.
struct ThreadState {
    letter: char,
    flags: u64,
}

impl ThreadState {
    /// Whether it has ended, or is about to.
    fn ends(&self) -> bool {
        matches!(self.letter, 'Z' | 'X') || self.flags & ENDS != 0
    }

    fn read(path: &str) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // After the name, which may hold anything.
        let mut words = stat.rsplit_once(") ")?.1.split(' ');
        let letter = words.next()?.chars().next()?;
        // Parent, group, session, terminal and the terminal's group come before.
        let flags = words.nth(5)?.parse().ok()?;
        Some(Self { letter, flags })
    }
}

/// Whether a process's control group is frozen, with either version of control groups, as far as they are mounted
/// where that is usual.
fn is_frozen(process: i32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let reads = |path: String, text: &str| {
        let content = fs::read_to_string(path).unwrap_or_default();
        content.lines().any(|line| line == text)
    };
    groups.lines().any(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next(), parts.next()) {
            (Some(""), Some(group)) => ["", "/unified"].iter().any(|mount| {
                reads(
                    format!("/sys/fs/cgroup{mount}{group}/cgroup.events"),
                    "frozen 1",
                )
            }),
            (Some(names), Some(group)) if names.split(',').any(|name| name == "freezer") => reads(
                format!("/sys/fs/cgroup/freezer{group}/freezer.state"),
                "FROZEN",
            ),
            _ => false,
        }
    })
}

/// How long to wait for the kernel to release what a killed process had: it frees the memory before it closes the
/// files, and closes those of an io_uring only when the last operation has ended.
const LET_GO_PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two attempts meanwhile.
const LET_GO_PAUSE: Duration = Duration::from_millis(2);

/// Repeats `attempt` for as long as it is busy, for two seconds at most.
///
/// # Errors
/// That of the last attempt.
pub fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + LET_GO_PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && Instant::now() < end => {
                std::thread::sleep(LET_GO_PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn started() -> Child {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().expect("a process")
    }

    fn id(child: &Child) -> i32 {
        child.id().cast_signed()
    }

    fn comes(holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < end, "it does not come");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_runs_waits_or_is_gone_is_at_no_standstill() {
        let mut child = started();
        let process = id(&child);
        assert_eq!(Standstill::of(process), None);
        assert_eq!(Standstill::of(std::process::id().cast_signed()), None);
        assert_eq!(Standstill::of(0), None);
        drop(child.stdin.take());
        child.wait().expect("it was started");
        assert_eq!(Standstill::of(process), None);
    }

    #[test]
    fn a_process_that_was_killed_is_so_until_it_is_collected() {
        let mut child = started();
        child.kill().expect("it runs");
        comes(|| Standstill::of(id(&child)) == Some(Standstill::Killed));
        child.wait().expect("it was started");
        assert!(!is_killed(id(&child)));
    }

    /// A process whose first thread ends, and whose other one stays until it is killed.
    fn process_without_first_thread() -> i32 {
        // SAFETY: the child has only this thread. It starts another one that touches nothing, and ends this one, which
        // nothing in the child waits for.
        unsafe {
            let process = libc::fork();
            if process == 0 {
                std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)));
                libc::syscall(libc::SYS_exit, 0);
            }
            process
        }
    }

    /// It may be an application that embeds a runtime, which goes on serving.
    #[test]
    fn a_process_whose_first_thread_alone_has_ended_goes_on() {
        let process = process_without_first_thread();
        assert!(process > 0, "a process");
        let stat = format!("/proc/{process}/stat");
        comes(|| ThreadState::read(&stat).is_some_and(|state| state.letter == 'Z'));
        assert_eq!(Standstill::of(process), None);
        let pid = nix::unistd::Pid::from_raw(process);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        comes(|| is_killed(process));
        nix::sys::wait::waitpid(pid, None).expect("it was started");
    }

    #[test]
    fn a_name_of_any_kind_does_not_hide_the_state() {
        let state = ThreadState::parse("7 (a) Z 1) D 1 2 3 4 5 4194308 0").expect("it is whole");
        assert_eq!((state.letter, state.flags & ENDS), ('D', ENDS));
        assert!(ThreadState::parse("7 (a) Z").is_none());
    }
}
