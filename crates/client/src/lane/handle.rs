//! What the handle of a task does with its lane.
//!
//! Everything here is off the busy path. See [`crate::lane`] for who may do what.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ClientLane;
use super::claim::{ClaimState, Flight};
use super::handle_table::Parcel;
use super::lingering::leave;
use crate::call::Call;
use crate::reentrancy::Outermost;
use crate::wakers::{Wakers, wake_all};

/// What became of a task whose handle took it up.
pub(crate) enum TakenUp {
    /// It is the handle's: the record is `OWNED` and complete or in flight.
    Owned,
    /// It completed before, and its record was needed.
    Harvested(Box<Parcel>),
}

impl ClientLane {
    /// Makes an attached task `OWNED`, so that its handle can wait for it.
    #[inline]
    pub(crate) fn take_up(&self, flight: Flight) -> TakenUp {
        if !self.own(flight) {
            return TakenUp::Harvested(self.fetch_parcel(flight));
        }
        if self.flags.awaited() & flight.bit() != 0 {
            self.take_waker_back(flight);
        }
        TakenUp::Owned
    }

    /// Makes an attached task `OWNED`. False if it was harvested before.
    #[inline]
    pub(crate) fn own(&self, flight: Flight) -> bool {
        // A signal handler may harvest.
        let _inside = Outermost::enter();
        self.claim_for_handle(flight, ClaimState::Owned)
    }

    #[cold]
    fn take_waker_back(&self, flight: Flight) {
        let mut desk = self.desk.lock();
        let waker = self.forget_waker(&mut desk, flight.record);
        drop(desk);
        // One that panics must not part the handle from its task, which is the handle's to end now.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
    }

    /// Fetches a task that was harvested: the claim says so.
    #[cold]
    fn fetch_parcel(&self, flight: Flight) -> Box<Parcel> {
        let mut desk = self.desk.lock();
        let parcel = desk.parcels.remove(&flight.sequence);
        leave(desk);
        parcel.expect("a task that left its record without its handle was harvested")
    }

    /// What an attached task was asked to do.
    pub(crate) fn call_of(&self, flight: Flight) -> Call {
        let desk = self.desk.lock();
        if self.is_attached(flight) {
            // SAFETY: the place is the handle's, who asks, or its harvester's, who would have the
            // desk locked.
            return unsafe { self.places.of(flight.record) }.call;
        }
        let parcel = desk.parcels.get(&flight.sequence);
        parcel
            .expect("an attached task is at its record or the desk")
            .place
            .call
    }

    /// Frees the record of a handle. The lane may be gone as soon as that is done: so the thread
    /// that owns the lane has freed the record with its last access to the lane, and others are
    /// waited for under the lock of the desk ([`Self::is_held`]).
    #[inline]
    pub(crate) fn release_from_handle(&self, flight: Flight) {
        // Who waits for a record of this thread's lane was seen to wait by this thread.
        if self.submission.is_mine() && !self.queue.is_waiting() {
            self.submission.free_mine(flight.bit());
        } else if self.is_here() {
            self.release_at_the_desk(flight);
        }
    }

    #[cold]
    #[inline(never)]
    fn release_at_the_desk(&self, flight: Flight) {
        let mut wakers = Wakers::new();
        let desk = self.desk.lock();
        if self.submission.is_mine() {
            self.submission.free_mine(flight.bit());
            self.queue.tell(|| self.available(), &mut wakers);
        } else {
            self.release(flight);
        }
        leave(desk);
        wake_all(wakers);
    }
}
