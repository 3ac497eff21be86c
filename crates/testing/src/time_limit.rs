//! Limits on how long something may take: a test that hangs fails instead.

use std::io::Write;
use std::process::exit;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything in the tests takes on a loaded machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For how long [`until`] looks without a pause in between, and its pause from then on.
const MAX_YIELDING: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(2);

/// Runs an action on a thread of its own and gives its result.
///
/// # Panics
/// If it panics, or takes longer than [`PATIENCE`].
pub fn within<T: Send + 'static>(what: &str, action: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let thread = thread::spawn(move || {
        let _ = done.send(action());
    });
    match result.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("{what} takes longer than {PATIENCE:?}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(()) => unreachable!("a thread that did not panic has sent its result"),
        },
    }
}

/// Looks again and again until something holds that nobody reports, such as a state of another process.
///
/// # Panics
/// If it does not hold within [`PATIENCE`].
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        let elapsed = begin.elapsed();
        assert!(elapsed < PATIENCE, "{what}: not within {PATIENCE:?}");
        if elapsed < MAX_YIELDING {
            thread::yield_now();
        } else {
            thread::sleep(PAUSE);
        }
    }
}

/// A limit on a whole test, whose calls may block: if it is not dropped in time, the test's process ends. The test may
/// have a daemon, which is killed first: its clients then fail instead of waiting on.
#[derive(Debug)]
pub struct Watchdog {
    daemon: Arc<Mutex<Option<Pid>>>,
    _alive: Sender<()>,
}

impl Watchdog {
    /// Begins to watch a test that has no daemon.
    #[must_use]
    pub fn start() -> Self {
        Self::watch(None)
    }

    /// Begins to watch a test with this daemon, which is a child of the test's process.
    #[must_use]
    pub fn with_daemon(process: u32) -> Self {
        Self::watch(Some(Pid::from_raw(process.cast_signed())))
    }

    /// The daemon is about to be collected: its process id may be another's from then on.
    pub fn let_go_of_the_daemon(&self) {
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn watch(daemon: Option<Pid>) -> Self {
        let (alive, watched) = channel();
        let daemon = Arc::new(Mutex::new(daemon));
        let shared = Arc::clone(&daemon);
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || watch(&test, &watched, &shared));
        Self {
            daemon,
            _alive: alive,
        }
    }
}

fn watch(test: &str, watched: &Receiver<()>, daemon: &Mutex<Option<Pid>>) {
    let has_ended = || watched.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Disconnected);
    if has_ended() {
        return;
    }
    if let Some(process) = *daemon.lock().unwrap_or_else(PoisonError::into_inner) {
        complain(&format!("{test} hangs: its daemon is killed"));
        let _ = kill(process, Signal::SIGKILL);
        if has_ended() {
            return;
        }
    }
    complain(&format!("{test} hangs: its process ends"));
    exit(101);
}

/// Past the harness, which shows what a test prints only once it has ended.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
