//! Asking a host to stop.

use std::fmt;
use std::sync::{Arc, OnceLock};

use chimaera_fork::ProcessIdentity;
use chimaera_thread::condition::{Condvar, Mutex};

/// Asks a host to stop, from anywhere.
#[derive(Clone)]
pub struct Stopper {
    process: ProcessIdentity,
    state: Arc<StopperState>,
}

type CutShort = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct StopperState {
    is_asked_for: Mutex<bool>,
    asked: Condvar,
    /// Lets go of what others wait for.
    cut_short: OnceLock<CutShort>,
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper").finish_non_exhaustive()
    }
}

impl Default for Stopper {
    fn default() -> Self {
        Self {
            process: ProcessIdentity::current(),
            state: Arc::default(),
        }
    }
}

impl Stopper {
    /// Makes [`Host::wait`](crate::Host::wait) return. Does not block. Does nothing in a forked child.
    pub fn stop(&self) {
        if !self.process.is_current() {
            return;
        }
        *self.state.is_asked_for.lock() = true;
        self.state.asked.notify_all();
    }

    /// Lets go of what others wait for, because the process ends in the next moment, with pools that are not flushed:
    /// shuts the sockets down, unlocks them for the next host, and ends the sessions. A thread that is stuck in a
    /// system call would keep all that as long as it is. Takes less than a second. Does nothing in a forked child.
    pub fn cut_short(&self) {
        if !self.process.is_current() {
            return;
        }
        if let Some(cut_short) = self.state.cut_short.get() {
            cut_short();
        }
    }

    /// Says how [`Self::cut_short`] lets go.
    pub(crate) fn cuts_short_by(&self, cut_short: impl Fn() + Send + Sync + 'static) {
        let _ = self.state.cut_short.set(Box::new(cut_short));
    }

    pub(crate) fn wait(&self) {
        if !self.process.is_current() {
            return;
        }
        let mut is_asked_for = self.state.is_asked_for.lock();
        while !*is_asked_for {
            self.state.asked.wait(&mut is_asked_for);
        }
    }
}
