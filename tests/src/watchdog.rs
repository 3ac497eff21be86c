//! Limits on how long something may take: a test that hangs fails instead.

use std::io::Write;
use std::process::exit;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PATIENCE;

/// How often [`until`] looks.
const LOOK: Duration = Duration::from_millis(2);

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

/// Looks again and again until something holds that nobody reports: a state of another process.
///
/// # Panics
/// If it does not hold within [`PATIENCE`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        thread::sleep(LOOK);
    }
}

/// A limit on a whole test: calls of the client block, and so could the test. If it is not
/// dropped in time, its daemon is killed, whose clients then fail instead of waiting on; and if
/// that does not help, the test's process ends.
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

    /// Begins to watch a test with this daemon.
    pub(crate) fn with_daemon(process: Pid) -> Self {
        Self::watch(Some(process))
    }

    fn watch(daemon: Option<Pid>) -> Self {
        let (alive, watched) = channel();
        let daemon = Arc::new(Mutex::new(daemon));
        let shared = Arc::clone(&daemon);
        thread::spawn(move || watch(&watched, &shared));
        Self {
            daemon,
            _alive: alive,
        }
    }

    /// The daemon is about to be collected: its process id may be another's from then on.
    pub(crate) fn let_go_of_the_daemon(&self) {
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn watch(watched: &Receiver<()>, daemon: &Mutex<Option<Pid>>) {
    let ended = || watched.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Disconnected);
    if ended() {
        return;
    }
    if let Some(process) = *daemon.lock().unwrap_or_else(PoisonError::into_inner) {
        complain("a test hangs: its daemon is killed");
        let _ = kill(process, Signal::SIGKILL);
    }
    if ended() {
        return;
    }
    complain("a test hangs: its process ends");
    exit(101);
}

/// Past the harness, which shows what a test prints only once it has ended.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
