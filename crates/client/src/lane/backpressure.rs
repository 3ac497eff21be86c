//! What happens when a lane is full: tasks and threads wait for a record.
//!
//! A wait for a record ends when a record is freed, when a task completes whose record a harvest would free, or when
//! the connection is lost. Whoever frees a record notifies the queue ([`super::wait_queue`]), or rings the bell so that
//! the bell's thread does; every completion rings the bell as long as somebody waits; a loss notifies all seats.
//!
//! Laws of this module:
//! - Only the owner of an owned lane joins its queue, since only the owner can submit there. A task that is polled on
//!   another thread gives up its seat and waits for that thread's lane. So an owner that frees a record by plain stores
//!   sees whether anybody waits.
//! - On an owned lane a blocking call does not queue: its thread does nothing else meanwhile, and its record is free
//!   again when it returns. On a shared lane it queues as tasks do, so that neither keeps the other from the lane.
//! - On a shared lane nobody waits for a record while it holds the permit to submit.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::{Duration, Instant};

use chimaera_proto::limits::LANE_DEPTH;

use super::ClientLane;
use super::claim::Flight;
use super::submitter::SubmitPermit;
use super::wait_queue::{Joined, SEAT_TIMEOUT, Ticket};
use crate::adaptive_spin::SpinOutcome;
use crate::reentrancy::is_inside;
use crate::wakers::{Wakers, wake_all};

/// A seat in the queue of a lane, which is given up when this is dropped.
pub(crate) struct Seat<L: Deref<Target = ClientLane>> {
    pub(crate) lane: L,
    pub(crate) ticket: Ticket,
}

impl<L: Deref<Target = ClientLane>> Seat<L> {
    /// Takes the waker out. `None` if it was woken, in another process, and in a signal handler that may have
    /// interrupted the holder of the queue's lock.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        let lane = &*self.lane;
        (lane.is_here() && !is_inside()).then(|| lane.queue.take_waker(self.ticket))?
    }
}

impl<L: Deref<Target = ClientLane>> Drop for Seat<L> {
    fn drop(&mut self) {
        let lane = &*self.lane;
        if !lane.is_here() || is_inside() {
            // The queue is another process's; or a signal handler may have interrupted the holder of its lock.
            return;
        }
        let mut wakers = Wakers::new();
        let waker = lane
            .queue
            .leave(self.ticket, || lane.available(), &mut wakers);
        // A waker that panics must not keep the others from being woken.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
        wake_all(wakers);
    }
}

impl ClientLane {
    /// Waits in the queue with this waker: in the seat with this ticket, or in a new one at the end.
    pub(crate) fn join(&self, ticket: Option<Ticket>, waker: Waker) -> Joined {
        let joined = {
            // Locked, lest the bell's thread take the watch back before the queue has the seat.
            let _handles = self.watch_for_queue();
            self.queue.join(ticket, waker, || self.available())
        };
        if joined.is_first {
            // From now on the bell's thread checks from time to time whether notified seats were used.
            self.segment.ring_bell();
        }
        joined
    }

    /// Waits until a record of the thread's own lane is free: harvests what is complete, else spins for the completion
    /// of the oldest task, else sleeps on the segment's bell.
    #[cold]
    pub(crate) fn wait_for_record(
        &self,
        permit: &mut SubmitPermit<'_>,
        wakers: &mut Wakers,
    ) -> usize {
        loop {
            self.harvest(wakers);
            if let Some(record) = self.free_record(permit) {
                return record;
            }
            let oldest = self.oldest_flight();
            let ready = || {
                self.memory.is_complete(oldest.record, oldest.wire())
                    || self.submitter.has_returned()
            };
            // The oldest task may be complete, and another thread about to free its record: then sleeping is right,
            // lest this thread keep the other from its processor.
            let spun = self.adaptive_spin.spin(&*self.memory, ready);
            if spun == SpinOutcome::Ready && self.harvestable() {
                continue;
            }
            // Pairs with `release` and `end_wait`: either they see `starved` and ring, or what they did is seen below.
            // A completion by the worker rings because of `watch_all`.
            self.flags.mark_starved();
            let seen = self.segment.bell_count();
            self.watch_all();
            if !self.submitter.has_returned() && !self.harvestable() {
                let begin = Instant::now();
                self.segment.wait_for_bell(seen, None);
                self.adaptive_spin.learn_from_sleep(spun, begin.elapsed());
            }
            self.unwatch_all();
            self.flags.unmark_starved();
        }
    }

    /// The task in flight with the lowest sequence. To be called while no record is free.
    fn oldest_flight(&self) -> Flight {
        (0..LANE_DEPTH)
            .map(|record| self.claim_of(record).0)
            .min_by_key(|flight| flight.sequence)
            .expect("a lane has records")
    }

    /// Notifies as many seats as records are available. To be called with nothing locked.
    #[cold]
    pub(crate) fn notify_waiters(&self) {
        let mut wakers = Wakers::new();
        self.queue.notify(|| self.available(), &mut wakers);
        wake_all(wakers);
    }

    /// Notifies as many seats as records are available, and passes over those that were notified and not used. For the
    /// bell's thread: returns the time after which it is to do so again, if anybody waits.
    pub(crate) fn maintain_queue(&self, wakers: &mut Wakers) -> Option<Duration> {
        if !self.queue.is_waiting() {
            self.unwatch_if_empty();
            return None;
        }
        self.queue
            .pass_over(Instant::now(), || self.available(), wakers);
        Some(SEAT_TIMEOUT)
    }
}
