//! Writes what the daemon says beside its log: that it is ready, or why it fails.
//!
//! The reader of that may be slow or stuck. So a thread of its own writes it, which is started before the daemon needs
//! it, and nobody waits long for that thread.

use std::sync::mpsc::{Sender, channel};

use chimaera_runtime::log;
use chimaera_thread as thread;

use crate::failure::CommandFailure;

type Saying = Box<dyn FnOnce() + Send>;

/// The thread that writes to standard output and standard error. Nobody joins it: it may be stuck when the process
/// ends.
pub(super) struct Announcer {
    sayings: Sender<Saying>,
}

impl Announcer {
    pub(super) fn start() -> Result<Self, CommandFailure> {
        let (sayings, to_say) = channel::<Saying>();
        let thread = thread::spawn("chimaera-output", move || {
            to_say.into_iter().for_each(|say| say());
        });
        thread.map_err(|refused| {
            CommandFailure::new(format!("cannot start the runtime: {refused}"))
        })?;
        Ok(Self { sayings })
    }

    /// Has the thread say something, and does not wait.
    pub(super) fn say(&self, saying: impl FnOnce() + Send + 'static) {
        // This cannot fail: the thread ends after this value does.
        let _ = self.sayings.send(Box::new(saying));
    }

    /// Has the thread say something, and waits until it is said, for a limited time: the process is about to end.
    pub(super) fn say_last(&self, saying: impl FnOnce() + Send + 'static) {
        let (said, is_said) = channel();
        self.say(move || {
            saying();
            let _ = said.send(());
        });
        let _ = is_said.recv_timeout(log::END_PATIENCE);
    }
}
