//! Limits on how long something may take: a test that hangs fails instead.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

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
