//! What the handle of a task does with its lane.
//!
//! Everything here is off the busy path. See [`crate::lane`] for who may do what.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ClientLane;
use super::claim::{ClaimState, Flight};
use super::handle_table::HarvestedTask;
use super::lingering::unlock_and_let_go;
use crate::call::Call;
use crate::reentrancy::Outermost;
use crate::wakers::{Wakers, wake_all};

/// What became of a task whose handle took it up.
pub(crate) enum Collected {
    /// It is the handle's: the record is `AWAITED` and complete or in flight.
    AtRecord,
    /// It completed before, and its record was needed.
    Harvested(Box<HarvestedTask>),
}

impl ClientLane {
    /// Makes an attached task `AWAITED`, so that its handle can wait for it.
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

    /// Makes an attached task `AWAITED`. False if it was harvested before.
    #[inline]
    pub(crate) fn begin_wait(&self, flight: Flight) -> bool {
        // A signal handler may harvest.
        let _inside = Outermost::enter();
        self.claim_for_handle(flight, ClaimState::Awaited)
    }

    #[cold]
    fn discard_waker(&self, flight: Flight) {
        let mut handles = self.handles.lock();
        let waker = self.remove_waker(&mut handles, flight.record);
        drop(handles);
        // One that panics must not part the handle from its task, which is the handle's to end now.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
    }

    /// Fetches a task that was harvested: the claim says so.
    #[cold]
    fn take_harvested(&self, flight: Flight) -> Box<HarvestedTask> {
        let mut handles = self.handles.lock();
        let parcel = handles.harvested.remove(&flight.sequence);
        unlock_and_let_go(handles);
        parcel.expect("a task that left its record without its handle was harvested")
    }

    /// What an attached task was asked to do.
    pub(crate) fn call_of(&self, flight: Flight) -> Call {
        let handles = self.handles.lock();
        if self.is_attached(flight) {
            // SAFETY: the place is the handle's, who asks, or its harvester's, who would have the
            // desk locked.
            return unsafe { self.payloads.of(flight.record) }.call;
        }
        let parcel = handles.harvested.get(&flight.sequence);
        parcel
            .expect("an attached task is at its record or the desk")
            .payload
            .call
    }

    /// Frees the record of a handle. The lane may be gone as soon as that is done: so the thread
    /// that owns the lane has freed the record with its last access to the lane, and others are
    /// waited for under the lock of the desk ([`Self::is_held`]).
    #[inline]
    pub(crate) fn release_from_handle(&self, flight: Flight) {
        // Who waits for a record of this thread's lane was seen to wait by this thread.
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
