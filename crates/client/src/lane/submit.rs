//! The ways to submit a task.

use std::thread;

use chimaera_proto::BufferRange;

use super::backpressure::Seat;
use super::claim::{ClaimState, Flight};
use super::payload::Place;
use super::wait_queue::Ticket;
use super::{ClientLane, Lost};
use crate::call::Call;
use crate::wakers::{Unparking, Wakers, unpark_this_thread, wake_all};

impl ClientLane {
    /// Submits a task that its submitter waits for. Waits for a free record if there is none.
    #[inline]
    pub(crate) fn submit(&self, call: &Call, buffer: Option<BufferRange>) -> Result<Flight, Lost> {
        self.submit_with(call, buffer, ClaimState::Owned, |_| {})
    }

    /// Submits a task that gets a handle, at whose place `leave` leaves what goes along. Waits for
    /// a free record if there is none.
    pub(crate) fn submit_attached(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        leave: impl FnOnce(&mut Place),
    ) -> Result<Flight, Lost> {
        self.submit_with(call, buffer, ClaimState::Attached, leave)
    }

    #[inline]
    fn submit_with(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        leave: impl FnOnce(&mut Place),
    ) -> Result<Flight, Lost> {
        let Some(mut turn) = self.submission.own_turn() else {
            return self.submit_shared(call, buffer, state, leave);
        };
        if let Some(record) = self.free_record(&mut turn) {
            return self.publish(turn, record, call, buffer, state, leave);
        }
        let mut wakers = Wakers::new();
        let record = self.wait_for_record(&mut turn, &mut wakers);
        let flight = self.publish(turn, record, call, buffer, state, leave);
        wake_all(wakers);
        flight
    }

    /// Submits a task that gets a handle if there is a record and nobody waits for one.
    #[inline]
    pub(crate) fn submit_at_once(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        leave: impl FnOnce(&mut Place),
    ) -> Option<Result<Flight, Lost>> {
        if self.queue.is_waiting() {
            return None;
        }
        let mut turn = self.submission.turn();
        let record = self.free_record(&mut turn)?;
        Some(self.publish(turn, record, call, buffer, ClaimState::Attached, leave))
    }

    /// Submits a task that gets a handle, if there is a record and no other thread waits for one.
    pub(crate) fn try_submit_attached(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
    ) -> Option<Result<Flight, Lost>> {
        // Those who wait for a lane of this thread's own cannot submit before it comes back.
        if !self.submission.is_mine() && self.queue.is_waiting() {
            return None;
        }
        let mut turn = self.submission.turn();
        let record = self.free_record(&mut turn)?;
        Some(self.publish(turn, record, call, buffer, ClaimState::Attached, |_| {}))
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
        if self.flags.is_lost() {
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
}
