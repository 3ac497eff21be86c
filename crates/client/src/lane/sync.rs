//! The lock and atomics of [`crate::lane::wait_queue`], real or of the model checker, and the steps of its
//! protocol that the model checker can take away, to show that its tests notice. In normal builds all
//! of it is constant.

#[cfg(not(loom))]
pub(crate) use crate::reentrancy::Mutex;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};

/// A step that the queue's protocol depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueStep {
    /// Who joins looks for a record after it is seen to wait.
    JoinThenLook,
    /// Who makes a record available looks whether somebody waits afterwards. (Real ones do by `SeqCst`
    /// operations.)
    #[cfg(loom)]
    FreeThenLook,
    /// Who was told of a record and leaves without it passes that on.
    PassOn,
    /// Who was told and does not come is passed over.
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

/// Takes a step away for the rest of this test thread.
#[cfg(all(test, loom))]
pub(crate) fn leave_out(guard: QueueStep) {
    LEFT_OUT.set(Some(guard));
}

/// The model checker's lock, which is locked as the real one is.
#[cfg(loom)]
#[derive(Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("not poisoned")
    }
}
