//! Getting a record where there may be none: waiting in the queue of a lane ([`crate::lane::wait_queue`]).
//!
//! Who waits for a record waits for one of three things: that somebody frees one, that a task in flight
//! completes whose record a harvest would free, or that the connection is lost. A freed record tells the
//! queue, or rings the bell for its watcher to do so; a completion rings it, because as long as somebody
//! waits the bell rings for all records; a loss tells all.
//!
//! Laws of this module:
//! - On a lane that is owned only its owner joins the queue, since only its owner can submit there. A
//!   task that is polled on another thread gives up its seat and waits for that thread's lane. So an
//!   owner who frees a record by plain stores and finds nobody waiting is right.
//! - On a lane that is owned, a call that blocks does not queue: its thread can carry out nothing else
//!   meanwhile, and when it comes back its record is free again. On a lane that is shared, it queues as
//!   tasks do, so neither keeps the other from the lane.
//! - On a lane that is shared nobody waits for a record with the right to submit.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use chimaera_proto::BufferRange;

use crate::call::Call;
use crate::lane::claim::{ClaimState, Flight};
use crate::lane::payload::Place;
use crate::lane::wait_queue::{Joined, PATIENCE, Ticket};
use crate::lane::{ClientLane, Lost};
use crate::reentrancy::is_inside;
use crate::wakers::{Unparking, Wakers, unpark_this_thread, wake_all};

/// A task's place in the queue of a lane, until it is dropped.
pub(crate) struct Seat<L: Deref<Target = ClientLane>> {
    pub(crate) lane: L,
    pub(crate) ticket: Ticket,
}

impl<L: Deref<Target = ClientLane>> Seat<L> {
    /// Takes the waker out, unless it was woken, or this is another process, or a signal handler that has
    /// interrupted who has the queue.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        let lane = &*self.lane;
        (lane.is_here() && !is_inside()).then(|| lane.queue.take_waker(self.ticket))?
    }
}

impl<L: Deref<Target = ClientLane>> Drop for Seat<L> {
    fn drop(&mut self) {
        let lane = &*self.lane;
        if !lane.is_here() || is_inside() {
            // The queue is another process's; or it may be locked by what a signal handler has interrupted.
            return;
        }
        let mut wakers = Wakers::new();
        let waker = lane
            .queue
            .leave(self.ticket, || lane.available(), &mut wakers);
        // One that panics must not keep the others from being woken.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
        wake_all(wakers);
    }
}

impl ClientLane {
    /// How many records are free, or would be after a harvest.
    pub(crate) fn available(&self) -> usize {
        let free = self.submission.free_records();
        let mut available = free;
        let mut taken = !free;
        while taken != 0 {
            let record = taken.trailing_zeros() as usize;
            taken &= taken - 1;
            available |= u64::from(self.is_harvestable(record)) << record;
        }
        available.count_ones() as usize
    }

    /// Waits in the queue with this waker, in the seat that there is or at the end.
    pub(crate) fn join(&self, ticket: Option<Ticket>, waker: Waker) -> Joined {
        let joined = {
            // Locked lest the bell's watcher take the watch back before the queue has the seat.
            let _desk = self.watch_for_room();
            self.queue.join(ticket, waker, || self.available())
        };
        if joined.is_first {
            // From now on the watcher looks from time to time whether who was told came.
            self.segment.ring_bell();
        }
        joined
    }

    /// Submits a task if it is its turn, and there is a record or a harvest frees one.
    pub(crate) fn submit_in_turn(
        &self,
        seat: Option<Ticket>,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        leave: impl FnOnce(&mut Place),
        wakers: &mut Wakers,
    ) -> Option<Result<Flight, Lost>> {
        if self.is_lost() {
            return Some(Err(Lost));
        }
        if self.queue.is_waiting() && !self.queue.may_go(seat, self.available()) {
            return None;
        }
        let mut turn = self.submission.turn();
        let record = match self.free_record(&mut turn) {
            Some(record) => record,
            None if self.harvestable() => {
                self.harvest(wakers);
                self.free_record(&mut turn)?
            }
            None => return None,
        };
        Some(self.publish(turn, record, call, buffer, state, leave))
    }

    /// Submits on a lane that is shared. Waits for its turn and a record.
    #[cold]
    pub(crate) fn submit_shared(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        leave: impl FnOnce(&mut Place),
    ) -> Result<Flight, Lost> {
        let mut leave = Some(leave);
        let mut attempt = |seat: Option<Ticket>| {
            let mut wakers = Wakers::new();
            let leave = |place: &mut Place| {
                if let Some(leave) = leave.take() {
                    leave(place);
                }
            };
            let submitted = self.submit_in_turn(seat, call, buffer, state, leave, &mut wakers);
            wake_all(wakers);
            submitted
        };
        if let Some(submitted) = attempt(None) {
            return submitted;
        }
        let waker = unpark_this_thread();
        let _unparking = Unparking;
        let mut seat: Option<Seat<&Self>> = None;
        loop {
            let ticket = seat.as_ref().map(|seat| seat.ticket);
            let joined = self.join(ticket, waker.clone());
            let ticket = joined.ticket;
            // Not made where there is one: it would give the seat up as it is dropped.
            seat.get_or_insert_with(|| Seat { lane: self, ticket });
            // A loss tells all who have joined, and whoever joins later sees it.
            if let Some(submitted) = attempt(Some(ticket)) {
                return submitted;
            }
            if self.link.watch_the_bell() {
                thread::park();
            } else {
                thread::yield_now();
            }
        }
    }

    /// Tells those who wait of the records that are available. To be called with nothing locked.
    #[cold]
    pub(crate) fn tell_waiters(&self) {
        let mut wakers = Wakers::new();
        self.queue.tell(|| self.available(), &mut wakers);
        wake_all(wakers);
    }

    /// Tells those who wait of the records that are available, and passes over those who do not come.
    /// For the bell's watcher: gives the time after which it is to look again, if anybody waits.
    pub(crate) fn look_after_queue(&self, wakers: &mut Wakers) -> Option<Duration> {
        if !self.queue.is_waiting() {
            self.unwatch_if_empty();
            return None;
        }
        self.queue
            .pass_over(Instant::now(), || self.available(), wakers);
        Some(PATIENCE)
    }
}
