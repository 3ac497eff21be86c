//! What a host lets go of that cannot come to its end: everything that others wait for.
//!
//! A thread that is stuck in a system call keeps the whole process, and with it every file and lock, also after
//! `SIGKILL`. So before the process ends, or the application that embeds the host goes on without it, the host shuts
//! its sockets down, unlocks what says whose they are, and ends the sessions: their clients see the end, and the next
//! host starts at once. Only what the stuck threads themselves use stays theirs: the files of their pools, and the
//! memory of clients into which an operation of a module may still write. Whoever has such a client's memory must not
//! learn that nobody touches it any more, so its connection stays until the kernel closes it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::bounded;

use crate::control::listener::Listener;
use crate::control_side::ControlSide;
use crate::messages::ControlEvent;

/// How long somebody may take who is writing a reply.
const REPLY_PATIENCE: Duration = Duration::from_millis(100);

/// How long the control thread may take to let go of the sessions.
const CONTROL_PATIENCE: Duration = Duration::from_millis(500);

/// What lets go of a host's sockets, locks and sessions. Nothing that it does waits for long.
pub(crate) struct Departure {
    shared: Weak<ControlSide>,
    listeners: Vec<Arc<Listener>>,
}

impl Departure {
    pub(crate) fn new(shared: &Arc<ControlSide>, listeners: Vec<Arc<Listener>>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            listeners,
        }
    }

    /// Lets go of everything. The host's word on how its pools have ended is in the lock files then.
    pub(crate) fn let_go(&self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let keeps_all = !shared.replies.close_within(REPLY_PATIENCE);
        let (done, is_done) = bounded(1);
        shared.events.send(ControlEvent::LetGo { keeps_all, done });
        let _ = is_done.recv_timeout(CONTROL_PATIENCE);
        // The control thread has done this, unless it hangs.
        for listener in &self.listeners {
            listener.close(shared.ending.failure().as_ref());
        }
    }

    /// Lets go of everything, leaving files behind as a crash does: without a word on how the pools have ended.
    pub(crate) fn cut_short(&self) {
        for listener in &self.listeners {
            listener.leave();
        }
        self.let_go();
    }
}
