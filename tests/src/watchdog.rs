//! A limit on how long something may take: a test that hangs fails instead.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use crate::PATIENCE;

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
