//! What every task looks at and few change: one cache line that stays with all threads of the client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::claim::Flight;

/// Words that are read with every task and seldom written.
pub(crate) struct LaneFlags {
    lost: AtomicBool,
    /// A submitter waits for a record.
    starved: AtomicBool,
    /// Records whose handles were dropped in flight.
    detached: AtomicU64,
    /// Records for whose completion somebody left a waker.
    with_wakers: AtomicU64,
    /// The bell rings for all records, on behalf of the queue. Written under the desk's lock.
    watched_for_queue: AtomicBool,
}

impl LaneFlags {
    pub(crate) const fn new() -> Self {
        Self {
            lost: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            detached: AtomicU64::new(0),
            with_wakers: AtomicU64::new(0),
            watched_for_queue: AtomicBool::new(false),
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
    pub(crate) fn has_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed) != 0
    }

    /// Records whose handles were dropped in flight.
    pub(crate) fn detached(&self) -> u64 {
        self.detached.load(Ordering::Acquire)
    }

    pub(crate) fn mark_detached(&self, flight: Flight) {
        self.detached.fetch_or(flight.bit(), Ordering::Release);
    }

    pub(crate) fn unmark_detached(&self, record: usize) {
        self.detached.fetch_and(!(1 << record), Ordering::AcqRel);
    }

    /// Records for whose completion somebody left a waker.
    #[inline]
    pub(crate) fn with_wakers(&self) -> u64 {
        self.with_wakers.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_waker(&self, record: usize) {
        self.with_wakers.fetch_or(1 << record, Ordering::Relaxed);
    }

    pub(crate) fn unmark_waker(&self, record: usize) {
        self.with_wakers
            .fetch_and(!(1 << record), Ordering::Relaxed);
    }

    /// Whether the bell rings for all records, on behalf of the queue.
    pub(crate) fn is_watched_for_queue(&self) -> bool {
        self.watched_for_queue.load(Ordering::Relaxed)
    }

    /// To be called with the desk locked.
    pub(crate) fn mark_watched_for_queue(&self, is_watched: bool) {
        self.watched_for_queue.store(is_watched, Ordering::Relaxed);
    }
}
