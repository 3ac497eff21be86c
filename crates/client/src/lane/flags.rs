//! What every task looks at and few change: one cache line that stays with all threads of the client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::claim::Flight;

/// Words that are read with every task and seldom written.
pub(crate) struct LaneFlags {
    lost: AtomicBool,
    /// A submitter waits for a record.
    starved: AtomicBool,
    /// Records whose handles were dropped in flight.
    orphans: AtomicU64,
    /// Records for whose completion somebody left a waker.
    awaited: AtomicU64,
    /// The bell rings for all records, on behalf of the queue. Written under the desk's lock.
    watched_for_room: AtomicBool,
}

impl LaneFlags {
    pub(crate) const fn new() -> Self {
        Self {
            lost: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            orphans: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            watched_for_room: AtomicBool::new(false),
        }
    }

    /// Whether nothing can be submitted any more.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// From now on nothing is submitted. Followed by a fence and a look at the claims.
    pub(crate) fn mark_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether a submitter relies on the bell ringing for all records.
    #[inline]
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::SeqCst)
    }

    /// For a submitter, which then looks once more for a record before it sleeps.
    pub(crate) fn mark_starved(&self) {
        self.starved.store(true, Ordering::SeqCst);
    }

    pub(crate) fn unmark_starved(&self) {
        self.starved.store(false, Ordering::Relaxed);
    }

    /// Whether there are handles that were dropped in flight.
    #[inline]
    pub(crate) fn has_orphans(&self) -> bool {
        self.orphans.load(Ordering::Relaxed) != 0
    }

    /// Records whose handles were dropped in flight.
    pub(crate) fn orphans(&self) -> u64 {
        self.orphans.load(Ordering::Acquire)
    }

    pub(crate) fn mark_orphan(&self, flight: Flight) {
        self.orphans.fetch_or(flight.bit(), Ordering::Release);
    }

    pub(crate) fn unmark_orphan(&self, record: usize) {
        self.orphans.fetch_and(!(1 << record), Ordering::AcqRel);
    }

    /// Records for whose completion somebody left a waker.
    #[inline]
    pub(crate) fn awaited(&self) -> u64 {
        self.awaited.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_awaited(&self, record: usize) {
        self.awaited.fetch_or(1 << record, Ordering::Relaxed);
    }

    pub(crate) fn unmark_awaited(&self, record: usize) {
        self.awaited.fetch_and(!(1 << record), Ordering::Relaxed);
    }

    /// Whether the bell rings for all records, on behalf of the queue.
    pub(crate) fn is_watched_for_room(&self) -> bool {
        self.watched_for_room.load(Ordering::Relaxed)
    }

    /// To be called with the desk locked.
    pub(crate) fn mark_watched_for_room(&self, is_watched: bool) {
        self.watched_for_room.store(is_watched, Ordering::Relaxed);
    }
}
