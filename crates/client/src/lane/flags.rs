//! What is read with every task and seldom written: one cache line that stays shared among processors.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::claim::Flight;

/// The flags of a lane.
pub(crate) struct LaneFlags {
    /// The connection is lost.
    lost: AtomicBool,
    /// A submitter that owns the lane waits for a record.
    starved: AtomicBool,
    /// Records of tasks whose handles were dropped in flight.
    detached: AtomicU64,
    /// Records of tasks that a waker is registered for.
    with_wakers: AtomicU64,
    /// The bell rings for all records, on behalf of the queue. Written under the lock of the handle table.
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

    /// From now on nothing is submitted. The caller issues a fence next, and reads the claims.
    pub(crate) fn mark_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether a submitter relies on the bell ringing for all records.
    #[inline]
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::SeqCst)
    }

    /// The submitter looks once more for a record before it sleeps.
    pub(crate) fn mark_starved(&self) {
        self.starved.store(true, Ordering::SeqCst);
    }

    pub(crate) fn unmark_starved(&self) {
        self.starved.store(false, Ordering::Relaxed);
    }

    /// Whether handles were dropped in flight.
    #[inline]
    pub(crate) fn has_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed) != 0
    }

    /// Records of tasks whose handles were dropped in flight.
    pub(crate) fn detached(&self) -> u64 {
        self.detached.load(Ordering::Acquire)
    }

    pub(crate) fn mark_detached(&self, flight: Flight) {
        self.detached.fetch_or(flight.bit(), Ordering::Release);
    }

    pub(crate) fn unmark_detached(&self, record: usize) {
        self.detached.fetch_and(!(1 << record), Ordering::AcqRel);
    }

    /// Records of tasks that a waker is registered for.
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

    /// The caller holds the lock of the handle table.
    pub(crate) fn mark_watched_for_queue(&self, is_watched: bool) {
        self.watched_for_queue.store(is_watched, Ordering::Relaxed);
    }
}
