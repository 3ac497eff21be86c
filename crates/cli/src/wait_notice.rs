//! Notices of what a command waits for, where it waits for longer than a moment.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use chimaera_thread as thread;

use crate::output;

/// How long a command waits in silence.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// A notice that is due unless this value is dropped in time.
pub(crate) struct WaitNotice {
    /// Its drop cancels the notice.
    _cancelled: Sender<()>,
}

impl WaitNotice {
    /// Says on standard error what the command waits for, unless the value is dropped within [`SILENCE`]. `what` is
    /// called then, on a thread of its own. Where the system gives no thread, there is no notice.
    pub(crate) fn begin(what: impl FnOnce() -> String + Send + 'static) -> Self {
        let (cancelled, is_cancelled) = channel::<()>();
        let watch = move || {
            if is_cancelled.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                output::note(format_args!("waiting for {}", what()));
            }
        };
        let _ = thread::spawn("chimaera-waiting", watch);
        Self {
            _cancelled: cancelled,
        }
    }
}
