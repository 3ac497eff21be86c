//! What the handle of a task does with its lane: it collects the task, and frees the record.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ClientLane;
use super::claim::{ClaimState, Flight};
use super::handle_table::HarvestedTask;
use super::lingering::unlock_and_let_go;
use crate::call::Call;
use crate::reentrancy::Outermost;
use crate::wakers::{Wakers, wake_all};

/// Where a task is that its handle collects.
pub(crate) enum Collected {
    /// At its record, complete or in flight. The claim is `Awaited`, and the handle frees the record.
    AtRecord,
    /// It completed before, and was harvested.
    Harvested(Box<HarvestedTask>),
}

impl ClientLane {
    /// Takes an attached task for its handle, which waits for it next and ends it.
    #[inline]
    pub(crate) fn collect(&self, flight: Flight) -> Collected {
        if !self.begin_wait(flight) {
            return Collected::Harvested(self.take_harvested(flight));
        }
        if self.flags.with_wakers() & flight.bit() != 0 {
            self.discard_waker(flight);
        }
        Collected::AtRecord
    }

    /// Makes an attached task `Awaited`. Returns false if it was harvested before.
    #[inline]
    pub(crate) fn begin_wait(&self, flight: Flight) -> bool {
        // A signal handler of this thread must not harvest meanwhile.
        let _inside = Outermost::enter();
        self.claim_for_handle(flight, ClaimState::Awaited)
    }

    #[cold]
    fn discard_waker(&self, flight: Flight) {
        let mut handles = self.handles.lock();
        let waker = self.remove_waker(&mut handles, flight.record);
        drop(handles);
        // A waker that panics must not unwind past the handle, which has to end its task.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
    }

    /// Takes a task out of the handle table. Its claim says that it was harvested.
    #[cold]
    fn take_harvested(&self, flight: Flight) -> Box<HarvestedTask> {
        let mut handles = self.handles.lock();
        let task = handles.harvested.remove(&flight.sequence);
        unlock_and_let_go(handles);
        task.expect("a task that left its record without its handle was harvested")
    }

    /// What an attached task was asked to do.
    pub(crate) fn call_of(&self, flight: Flight) -> Call {
        let handles = self.handles.lock();
        if self.is_attached(flight) {
            // SAFETY: the payload is that of the handle, which is the caller, or of a harvester, which would hold the
            // lock.
            return unsafe { self.payloads.of(flight.record) }.call;
        }
        let task = handles.harvested.get(&flight.sequence);
        task.expect("an attached task is at its record or in the handle table")
            .payload
            .call
    }

    /// Frees the record of a handle. The lane may be gone as soon as that is done. So a thread that owns the lane frees
    /// the record with its last access to the lane; other threads do it under the lock of the handle table, which
    /// [`Self::is_held`] takes.
    #[inline]
    pub(crate) fn release_from_handle(&self, flight: Flight) {
        // On this thread's lane only this thread joins the queue, so it sees whether anybody waits.
        if self.submitter.is_mine() && !self.queue.is_waiting() {
            self.submitter.free_mine(flight.bit());
        } else if self.is_here() {
            self.release_under_lock(flight);
        }
    }

    #[cold]
    #[inline(never)]
    fn release_under_lock(&self, flight: Flight) {
        let mut wakers = Wakers::new();
        let handles = self.handles.lock();
        if self.submitter.is_mine() {
            self.submitter.free_mine(flight.bit());
            self.queue.notify(|| self.available(), &mut wakers);
        } else {
            self.release(flight);
        }
        unlock_and_let_go(handles);
        wake_all(wakers);
    }
}
