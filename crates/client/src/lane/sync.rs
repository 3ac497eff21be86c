//! The lock and atomics of [`super::wait_queue`], real ones or the model checker's, and the steps of its protocol that
//! a model can leave out, to show that its tests notice. In normal builds all of it is constant.

#[cfg(not(loom))]
pub(crate) use crate::reentrancy::Mutex;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};

/// A step that the queue's protocol depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueStep {
    /// A task that joins looks for a record after it is seen to wait.
    JoinThenLook,
    /// A thread that makes a record available looks afterwards whether anybody waits. (In normal builds the `SeqCst`
    /// operation that frees the record takes this step.)
    #[cfg(loom)]
    FreeThenLook,
    /// A notified seat that is given up passes its notification on.
    PassOn,
    /// A notified seat that is not used is passed over.
    PassOver,
}

impl QueueStep {
    #[inline(always)]
    pub(crate) fn fence(self) {
        if self.is_taken() {
            fence(Ordering::SeqCst);
        }
    }

    #[cfg(not(loom))]
    #[inline(always)]
    pub(crate) const fn is_taken(self) -> bool {
        true
    }

    #[cfg(loom)]
    pub(crate) fn is_taken(self) -> bool {
        LEFT_OUT.get() != Some(self)
    }
}

#[cfg(loom)]
thread_local! {
    // The model checker runs all threads of a model on the thread that started it.
    static LEFT_OUT: std::cell::Cell<Option<QueueStep>> = const { std::cell::Cell::new(None) };
}

/// Leaves a step out for the rest of this test thread.
#[cfg(all(test, loom))]
pub(crate) fn leave_out(guard: QueueStep) {
    LEFT_OUT.set(Some(guard));
}

/// The model checker's lock, with the interface of the real one.
#[cfg(loom)]
#[derive(Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("not poisoned")
    }
}
