//! Asking a host to stop.

use std::sync::Arc;

use chimaera_fork::ProcessIdentity;
use chimaera_thread::condition::{Condvar, Mutex};

/// Asks a host to stop, from anywhere.
#[derive(Clone)]
pub struct Stopper {
    process: ProcessIdentity,
    state: Arc<(Mutex<bool>, Condvar)>,
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
        *self.state.0.lock() = true;
        self.state.1.notify_all();
    }

    pub(crate) fn wait(&self) {
        if !self.process.is_current() {
            return;
        }
        let mut stopped = self.state.0.lock();
        while !*stopped {
            self.state.1.wait(&mut stopped);
        }
    }
}
