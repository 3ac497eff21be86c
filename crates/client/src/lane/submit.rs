//! The ways to submit a task, by what happens if there is no free record.

use std::thread;

use chimaera_proto::BufferRange;

use super::backpressure::Seat;
use super::claim::{ClaimState, Flight};
use super::payload::Payload;
use super::wait_queue::Ticket;
use super::{ClientLane, ConnectionLost};
use crate::call::Call;
use crate::wakers::{UnparkOnDrop, Wakers, unpark_this_thread, wake_all};

impl ClientLane {
    /// Submits a task that the caller waits for next. Waits for a free record if there is none.
    #[inline]
    pub(crate) fn submit(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
    ) -> Result<Flight, ConnectionLost> {
        self.submit_with(call, buffer, ClaimState::Awaited, |_| {})
    }

    /// Submits a task that gets a handle; `fill` puts the payload at its record. Waits for a free record if there is
    /// none.
    pub(crate) fn submit_attached(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        fill: impl FnOnce(&mut Payload),
    ) -> Result<Flight, ConnectionLost> {
        self.submit_with(call, buffer, ClaimState::Attached, fill)
    }

    #[inline]
    fn submit_with(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        fill: impl FnOnce(&mut Payload),
    ) -> Result<Flight, ConnectionLost> {
        let Some(mut permit) = self.submitter.owner_permit() else {
            return self.submit_shared(call, buffer, state, fill);
        };
        if let Some(record) = self.free_record(&mut permit) {
            return self.publish(permit, record, call, buffer, state, fill);
        }
        let mut wakers = Wakers::new();
        let record = self.wait_for_record(&mut permit, &mut wakers);
        let flight = self.publish(permit, record, call, buffer, state, fill);
        wake_all(wakers);
        flight
    }

    /// Submits a task that gets a handle, if there is a free record and nobody waits for one.
    #[inline]
    pub(crate) fn try_submit(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        fill: impl FnOnce(&mut Payload),
    ) -> Option<Result<Flight, ConnectionLost>> {
        if self.queue.is_waiting() {
            return None;
        }
        let mut permit = self.submitter.permit();
        let record = self.free_record(&mut permit)?;
        Some(self.publish(permit, record, call, buffer, ClaimState::Attached, fill))
    }

    /// Submits a task that gets a handle, if there is a free record and no other thread waits for one.
    pub(crate) fn try_submit_attached(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
    ) -> Option<Result<Flight, ConnectionLost>> {
        // Tasks that wait for this thread's own lane cannot submit before this thread returns.
        if !self.submitter.is_mine() && self.queue.is_waiting() {
            return None;
        }
        let mut permit = self.submitter.permit();
        let record = self.free_record(&mut permit)?;
        Some(self.publish(permit, record, call, buffer, ClaimState::Attached, |_| {}))
    }

    /// Submits a task that gets a handle or is waited for, if it is its turn in the queue, and there is a free record
    /// or a harvest frees one. Without a seat, its turn is after all seats.
    pub(crate) fn try_submit_queued(
        &self,
        seat: Option<Ticket>,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        fill: impl FnOnce(&mut Payload),
        wakers: &mut Wakers,
    ) -> Option<Result<Flight, ConnectionLost>> {
        if self.flags.is_lost() {
            return Some(Err(ConnectionLost));
        }
        if self.queue.is_waiting() && !self.queue.may_submit(seat, self.available()) {
            return None;
        }
        let mut permit = self.submitter.permit();
        let record = match self.free_record(&mut permit) {
            Some(record) => record,
            None if self.harvestable() => {
                self.harvest(wakers);
                self.free_record(&mut permit)?
            }
            None => return None,
        };
        Some(self.publish(permit, record, call, buffer, state, fill))
    }

    /// Submits on a shared lane. Waits for its turn in the queue, and for a record.
    #[cold]
    pub(crate) fn submit_shared(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        fill: impl FnOnce(&mut Payload),
    ) -> Result<Flight, ConnectionLost> {
        let mut fill = Some(fill);
        let mut attempt = |seat: Option<Ticket>| {
            let mut wakers = Wakers::new();
            let fill = |payload: &mut Payload| {
                if let Some(fill) = fill.take() {
                    fill(payload);
                }
            };
            let submitted = self.try_submit_queued(seat, call, buffer, state, fill, &mut wakers);
            wake_all(wakers);
            submitted
        };
        if let Some(submitted) = attempt(None) {
            return submitted;
        }
        let waker = unpark_this_thread();
        let _unparking = UnparkOnDrop;
        let mut seat: Option<Seat<&Self>> = None;
        loop {
            let ticket = seat.as_ref().map(|seat| seat.ticket);
            let joined = self.join(ticket, waker.clone());
            let ticket = joined.ticket;
            // Only made if there is none: a second one would give the seat up when it is dropped.
            seat.get_or_insert_with(|| Seat { lane: self, ticket });
            // A loss notifies all seats, and whoever joins later sees it.
            if let Some(submitted) = attempt(Some(ticket)) {
                return submitted;
            }
            if self.connection.watch_the_bell() {
                thread::park();
            } else {
                thread::yield_now();
            }
        }
    }
}
