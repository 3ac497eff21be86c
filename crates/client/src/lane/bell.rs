//! For which completions the segment's bell rings: those of tasks with a waker, and all while somebody waits for a
//! record.

use std::sync::atomic::{Ordering, fence};
use std::task::Waker;

use super::ClientLane;
use super::claim::Flight;
use super::handle_table::HandleTable;
use crate::reentrancy::MutexGuard;
use crate::wakers::Wakers;

impl ClientLane {
    /// Leaves a waker for an attached task. Returns whether the task has completed already; the
    /// waker may not be woken then.
    pub(crate) fn set_waker(&self, flight: Flight, waker: &Waker) -> bool {
        let mut waker = Some(waker.clone());
        let mut handles = self.handles.lock();
        if !self.is_attached(flight) {
            drop(handles);
            return true;
        }
        std::mem::swap(&mut handles.wakers[flight.record], &mut waker);
        self.flags.mark_waker(flight.record);
        // The bell's watcher reads the bell, then the marks, under this lock. Had it been here
        // before, the bell rings after it read it.
        let complete = self.memory.watch(flight.record, flight.wire());
        drop(handles);
        complete
    }

    #[must_use = "it is dropped when the desk is not locked"]
    pub(crate) fn remove_waker(&self, handles: &mut HandleTable, record: usize) -> Option<Waker> {
        let waker = handles.wakers[record].take()?;
        self.flags.unmark_waker(record);
        if self.flags.is_watched_for_queue() {
            return Some(waker);
        }
        self.memory.unwatch(record);
        // This may have taken away a watch that a starved submitter relies on (`watch_all`),
        // between the task's completion and the worker's look for waiters. Of this fence and
        // those of `watch_all` one comes first: either the submitter sees the completion that
        // was seen here, or `starved` is seen here.
        fence(Ordering::SeqCst);
        self.ring_if_wanted();
        Some(waker)
    }

    /// Collects the wakers of tasks that have completed.
    pub(crate) fn collect_wakers(&self, wakers: &mut Wakers) {
        if self.flags.with_wakers() == 0 {
            return;
        }
        let mut handles = self.handles.lock();
        let mut awaited = self.flags.with_wakers();
        while awaited != 0 {
            let record = awaited.trailing_zeros() as usize;
            awaited &= awaited - 1;
            // The claim is the waker's task's: whoever moves it on takes the waker along.
            let (flight, _) = self.claim_of(record);
            if self.memory.is_complete(record, flight.wire()) {
                wakers.extend(self.remove_waker(&mut handles, record));
            }
        }
    }

    /// Asks for the bell when any record completes, on behalf of the submitter.
    pub(crate) fn watch_all(&self) {
        let _handles = self.handles.lock();
        self.memory.watch_all();
    }

    /// Takes back [`Self::watch_all`], but leaves what wakers wait for.
    pub(crate) fn unwatch_all(&self) {
        let handles = self.handles.lock();
        if !self.flags.is_watched_for_queue() {
            self.memory.unwatch_many(!handles.records_with_wakers());
        }
    }

    /// Asks for the bell when any record completes, on behalf of who is about to join the queue, and
    /// does so before the desk is unlocked.
    pub(crate) fn watch_for_queue(&self) -> MutexGuard<'_, HandleTable> {
        let handles = self.handles.lock();
        self.flags.mark_watched_for_queue(true);
        self.memory.watch_all();
        handles
    }

    /// Takes back [`Self::watch_for_queue`] where nobody waits any more, but leaves what wakers and
    /// submitters wait for.
    pub(crate) fn unwatch_if_empty(&self) {
        if !self.flags.is_watched_for_queue() {
            return;
        }
        let handles = self.handles.lock();
        if !self.queue.is_waiting() && !self.flags.is_starved() {
            self.flags.mark_watched_for_queue(false);
            self.memory.unwatch_many(!handles.records_with_wakers());
        }
    }
}
