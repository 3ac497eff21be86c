//! The atomics, locks and waiting that the allocator is built from, so that loom can take their
//! place (`--cfg loom`) and run every interleaving of the same code.
pub(crate) use crossbeam::utils::CachePadded;

#[cfg(not(loom))]
pub(crate) use {
    crossbeam::utils::Backoff,
    parking_lot::{Mutex, RwLock},
    std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

#[cfg(all(test, loom))]
pub(crate) use modelled::with_weakness;
#[cfg(loom)]
pub(crate) use {
    loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    modelled::{Backoff, Mutex, RwLock},
};

/// How many threads may use an allocator. Threads that only read how much is free do not count.
///
/// A thread that is alone needs no ordering, and changes words by plain loads and stores. A locked instruction would
/// wait until all earlier stores have reached the cache: the last byte of a transfer, or the completion of the
/// task before, whose cache line is still with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// One thread, or several one after another, each of which knows that the one before has stopped.
    One,
    /// Any number at the same time.
    Many,
}

/// Each returns the word as it was before.
impl Threads {
    #[inline]
    pub(crate) fn fetch_or(self, word: &AtomicU64, bits: u64, order: Ordering) -> u64 {
        match self {
            Self::One => Self::replace(word, |before| before | bits),
            Self::Many => word.fetch_or(bits, order),
        }
    }

    #[inline]
    pub(crate) fn fetch_and(self, word: &AtomicU64, bits: u64, order: Ordering) -> u64 {
        match self {
            Self::One => Self::replace(word, |before| before & bits),
            Self::Many => word.fetch_and(bits, order),
        }
    }

    #[inline]
    pub(crate) fn fetch_add(self, word: &AtomicU64, more: u64, order: Ordering) -> u64 {
        match self {
            Self::One => Self::replace(word, |before| before + more),
            Self::Many => word.fetch_add(more, order),
        }
    }

    #[inline]
    pub(crate) fn fetch_sub(self, word: &AtomicU64, less: u64, order: Ordering) -> u64 {
        match self {
            Self::One => Self::replace(word, |before| before - less),
            Self::Many => word.fetch_sub(less, order),
        }
    }

    #[inline]
    fn replace(word: &AtomicU64, change: impl FnOnce(u64) -> u64) -> u64 {
        let before = word.load(Ordering::Relaxed);
        word.store(change(before), Ordering::Relaxed);
        before
    }
}

/// A step that an argument in this crate's comments depends on.
///
/// A model that never fails proves nothing. So under loom each of these steps can be left out, and for each there is a
/// test that sees the model find the fault then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// A pin looks at the live map before it counts itself.
    PinChecksLiveFirst,
    /// A free reads the pins without writing them.
    FreeOnlyLoadsPins,
    /// A pin counts itself without acquire.
    PinCountsRelaxed,
    /// An I/O gives its pin back without release.
    UnpinRelaxed,
    /// A free announces that it waits only after its last look at the counts.
    DrainAnnouncedLate,
    /// A free waits only for the phase that is current.
    DrainAwaitsCurrentOnly,
    /// The phases are never exchanged.
    DrainNeverFlips,
    /// A bit of an upper level is cleared without a second look at the word below it.
    SummaryNotRechecked,
    /// A bit of an upper level that seems to be set already is not set again.
    SummaryNotRewritten,
    /// While a thread breaks a megabyte, others may break one or give up.
    BreakNotExclusive,
    /// A megabyte leaves its old class before it enters its new one.
    ClassLeftFirst,
    /// A megabyte that becomes whole leaves its class before it counts as whole.
    WholeCountedLate,
    /// A thread that finds no space does not look whether some came in the meantime.
    CensusNotRepeated,
    /// Whole megabytes are checked and subtracted in two steps.
    WholesNotReserved,
    /// A megabyte's lock is released without release.
    UnlockRelaxed,
    /// A megabyte is noted as changed before a block in it has died.
    ChangeNotedFirst,
    /// A note relies on another note in its word for the bits above.
    NoteLeftToOthers,
    /// A commit removes the note of a megabyte after it has looked at the megabyte.
    NoteTakenLast,
    /// A commit looks at blocks while their free may yet be refused.
    UndecidedFreeCommitted,
    /// Who finds a block dead does not wait for the lists that may yet be refused.
    RefusedAtFirstSight,
    /// A list that meets another one does not try again alone.
    ListsDecidedTogether,
    /// Space that waits for a commit counts as free only after it.
    DeferredCountedLate,
    /// An owner tag is counted when it is added, after its thread has seen that there is room.
    TagCountedLate,
    /// Who asks for a commit is forgotten after the commit has looked at the megabytes.
    AskTakenBackLast,
    /// The tag of a dead block is removed without the megabyte's lock.
    TagForgottenUnlocked,
}

/// Whether a step is left out. Only loom's models leave steps out.
#[cfg(not(loom))]
#[inline]
pub(crate) const fn weakened(_: Weakness) -> bool {
    false
}

#[cfg(loom)]
pub(crate) fn weakened(weakness: Weakness) -> bool {
    modelled::current_weakness() == Some(weakness)
}

#[cfg(loom)]
mod modelled {
    use std::cell::Cell;

    use super::Weakness;

    // Loom runs all threads of a model on the thread that started it, so a thread-local keeps
    // models that run side by side apart.
    thread_local! {
        static WEAKNESS: Cell<Option<Weakness>> = const { Cell::new(None) };
    }

    pub(crate) fn current_weakness() -> Option<Weakness> {
        WEAKNESS.get()
    }

    /// Runs a model with one step left out.
    pub(crate) fn with_weakness(weakness: Option<Weakness>, model: impl FnOnce()) {
        WEAKNESS.set(weakness);
        model();
        WEAKNESS.set(None);
    }

    /// Loom's mutex with parking_lot's interface.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("a model that panicked has ended")
        }
    }

    /// Loom's read-write lock with parking_lot's interface.
    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
            self.0.read().expect("a model that panicked has ended")
        }

        pub(crate) fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
            self.0.write().expect("a model that panicked has ended")
        }
    }

    /// Waiting gives way to the other threads of the model.
    pub(crate) struct Backoff;

    impl Backoff {
        pub(crate) const fn new() -> Self {
            Self
        }

        pub(crate) fn snooze(&self) {
            loom::thread::yield_now();
        }
    }
}
