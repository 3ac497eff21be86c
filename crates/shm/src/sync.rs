//! Atomics and orderings, real or of the model checker.
//!
//! Every ordering that a protocol of this crate depends on is named here, so that the model
//! checker can take each away and show that its tests notice. In normal builds all of it is
//! constant.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
pub(crate) use std::sync::atomic::compiler_fence;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// An ordering that a protocol depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// The client's last store of an entry is a release.
    Publish,
    /// The worker's load of an entry's sequence is an acquire.
    Take,
    /// The worker's last store of a record is a release.
    Complete,
    /// The client's load of a record's flag is an acquire.
    Observe,
    /// The client's fence between publishing an entry and looking at `need_wakeup`.
    PublishThenLook,
    /// The worker's fence between setting `need_wakeup` and looking at the entry.
    ParkThenLook,
    /// The client's fence between announcing that it sleeps and looking at the flag.
    AnnounceThenLook,
    /// The worker's fence between completing a record and looking for sleepers.
    CompleteThenLook,
}

impl Guard {
    /// The release ordering of this guard.
    #[inline(always)]
    pub(crate) fn release(self) -> Ordering {
        if self.is_broken() {
            Ordering::Relaxed
        } else {
            Ordering::Release
        }
    }

    /// The acquire ordering of this guard.
    #[inline(always)]
    pub(crate) fn acquire(self) -> Ordering {
        if self.is_broken() {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        }
    }

    /// The full fence of this guard.
    #[inline(always)]
    pub(crate) fn fence(self) {
        if !self.is_broken() {
            fence(Ordering::SeqCst);
        }
    }

    #[cfg(not(loom))]
    #[inline(always)]
    const fn is_broken(self) -> bool {
        false
    }

    #[cfg(loom)]
    fn is_broken(self) -> bool {
        BROKEN.get() == Some(self)
    }
}

#[cfg(loom)]
thread_local! {
    // The model checker runs all threads of a model on the thread that started it.
    static BROKEN: std::cell::Cell<Option<Guard>> = const { std::cell::Cell::new(None) };
}

/// Takes an ordering away for the rest of this test thread.
#[cfg(all(test, loom))]
pub(crate) fn break_guard(guard: Guard) {
    BROKEN.set(Some(guard));
}
