//! Which completions ring the segment's bell: those of tasks with a waker, and all of them while a record is waited
//! for.

use std::sync::atomic::{Ordering, fence};
use std::task::Waker;

use super::ClientLane;
use super::claim::Flight;
use super::handle_table::HandleTable;
use crate::reentrancy::MutexGuard;
use crate::wakers::Wakers;

impl ClientLane {
    /// Registers a waker for an attached task. Returns whether the task has completed already; the waker may not be
    /// woken then.
    pub(crate) fn set_waker(&self, flight: Flight, waker: &Waker) -> bool {
        let mut waker = Some(waker.clone());
        let mut handles = self.handles.lock();
        if !self.is_attached(flight) {
            drop(handles);
            return true;
        }
        std::mem::swap(&mut handles.wakers[flight.record], &mut waker);
        self.flags.mark_waker(flight.record);
        // The bell's thread reads the bell's count, then takes this lock and reads the marks. If it took the lock
        // before, the bell rings after it read the count, and it comes once more.
        let complete = self.memory.watch(flight.record, flight.wire());
        drop(handles);
        complete
    }

    /// Removes the waker of a record, and takes back that the bell rings for it.
    #[must_use = "it is dropped when the table is not locked"]
    pub(crate) fn remove_waker(&self, handles: &mut HandleTable, record: usize) -> Option<Waker> {
        let waker = handles.wakers[record].take()?;
        self.flags.unmark_waker(record);
        if self.flags.is_watched_for_queue() {
            return Some(waker);
        }
        self.memory.unwatch(record);
        // This may have taken away a watch that a starved submitter relies on (`watch_all`), between the task's
        // completion and the worker's look for waiters. Of this fence and the one of `watch_all`, one comes first:
        // either the submitter sees the completion that was seen here, or `starved` is seen here.
        fence(Ordering::SeqCst);
        self.ring_if_wanted();
        Some(waker)
    }

    /// Takes out the wakers of tasks that have completed.
    pub(crate) fn collect_wakers(&self, wakers: &mut Wakers) {
        if self.flags.with_wakers() == 0 {
            return;
        }
        let mut handles = self.handles.lock();
        let mut records = self.flags.with_wakers();
        while records != 0 {
            let record = records.trailing_zeros() as usize;
            records &= records - 1;
            // The claim is that of the waker's task: whoever moves the claim takes the waker out.
            let (flight, _) = self.claim_of(record);
            if self.memory.is_complete(record, flight.wire()) {
                wakers.extend(self.remove_waker(&mut handles, record));
            }
        }
    }

    /// Has every completion ring the bell, on behalf of a starved submitter.
    pub(crate) fn watch_all(&self) {
        let _handles = self.handles.lock();
        self.memory.watch_all();
    }

    /// Takes back [`Self::watch_all`], except for tasks with wakers.
    pub(crate) fn unwatch_all(&self) {
        let handles = self.handles.lock();
        if !self.flags.is_watched_for_queue() {
            self.memory.unwatch_many(!handles.records_with_wakers());
        }
    }

    /// Has every completion ring the bell, on behalf of a seat that the caller takes in the queue before it unlocks the
    /// table.
    pub(crate) fn watch_for_queue(&self) -> MutexGuard<'_, HandleTable> {
        let handles = self.handles.lock();
        self.flags.mark_watched_for_queue(true);
        self.memory.watch_all();
        handles
    }

    /// Takes back [`Self::watch_for_queue`] if the queue is empty, except for tasks with wakers and a starved
    /// submitter.
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
