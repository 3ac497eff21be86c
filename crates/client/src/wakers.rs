//! Wakers: waking those that were collected under a lock, and those that unpark a thread.
//!
//! Law of this module: no waker is woken under a lock. A waker is an executor's code, and may drop a future with
//! handles of this crate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};

/// Wakers to be woken when no lock is held.
pub(crate) type Wakers = Vec<Waker>;

/// Wakes them all. A waker that panics neither stops the others nor unwinds into the caller, which
/// has a task of its own to see to.
pub(crate) fn wake_all(wakers: Wakers) {
    for waker in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// A waker that unparks the calling thread.
pub(crate) fn unpark_this_thread() -> Waker {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Unparks the calling thread when it is dropped, after the thread has parked for the last time. A signal handler may
/// park, too, and a thread has one token for all that park on it: so the handler may have taken the wake-up of the wait
/// that it has interrupted, and passes it on.
pub(crate) struct UnparkOnDrop;

impl Drop for UnparkOnDrop {
    fn drop(&mut self) {
        thread::current().unpark();
    }
}
