//! Saying what a command waits for, where it waits for longer than a moment.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use chimaera_shm::thread;

use crate::output;

/// How long a command may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// Something that is waited for until this is dropped.
pub(crate) struct WaitNotice {
    _until: Sender<()>,
}

impl WaitNotice {
    /// Says on standard error what is waited for, once that has taken longer than [`SILENCE`]. `what` is asked
    /// then, on a thread of its own. Where the system gives no thread, nothing is said.
    pub(crate) fn begin(what: impl FnOnce() -> String + Send + 'static) -> Self {
        let (until, is_over) = channel::<()>();
        let watch = move || {
            if is_over.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                output::note(format_args!("waiting for {}", what()));
            }
        };
        // A thread that is refused is a notice less, and nothing else.
        let _ = thread::spawn("chimaera-waiting", watch);
        Self { _until: until }
    }
}
