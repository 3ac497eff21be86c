//! What the daemon has to say besides its log: that it is ready, and why it fails.
//!
//! Whoever reads it may not read. So a thread of its own says it, which is there before the daemon needs it,
//! and nobody waits for it for long.

use std::sync::mpsc::{Sender, channel};

use chimaera_runtime::log;
use chimaera_shm::thread;

use crate::failure::CommandFailure;

type Saying = Box<dyn FnOnce() + Send>;

/// The thread that writes to standard output and standard error. It is left where it is when the process
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

    /// Says something some time.
    pub(super) fn say(&self, saying: impl FnOnce() + Send + 'static) {
        // It has no end but that of this value.
        let _ = self.sayings.send(Box::new(saying));
    }

    /// Says something and waits until it is said, but not for ever: the process is about to end.
    pub(super) fn say_last(&self, saying: impl FnOnce() + Send + 'static) {
        let (said, is_said) = channel();
        self.say(move || {
            saying();
            let _ = said.send(());
        });
        let _ = is_said.recv_timeout(log::END_PATIENCE);
    }
}
