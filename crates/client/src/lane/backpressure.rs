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
use std::time::{Duration, Instant};

use chimaera_proto::limits::LANE_DEPTH;

use super::ClientLane;
use super::claim::Flight;
use super::submitter::SubmitPermit;
use super::wait_queue::{Joined, SEAT_TIMEOUT, Ticket};
use crate::adaptive_spin::SpinOutcome;
use crate::reentrancy::is_inside;
use crate::wakers::{Wakers, wake_all};

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
    /// Waits in the queue with this waker, in the seat that there is or at the end.
    pub(crate) fn join(&self, ticket: Option<Ticket>, waker: Waker) -> Joined {
        let joined = {
            // Locked lest the bell's watcher take the watch back before the queue has the seat.
            let _handles = self.watch_for_queue();
            self.queue.join(ticket, waker, || self.available())
        };
        if joined.is_first {
            // From now on the watcher looks from time to time whether who was told came.
            self.segment.ring_bell();
        }
        joined
    }

    /// Waits until a record of the thread's own lane is free: harvests what is complete, else looks for
    /// the oldest task's completion for a while, else sleeps on the segment's bell.
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
            // The oldest may be complete and its owner on the way to free it: then sleeping is
            // right, or this thread might keep the owner from its processor.
            let spun = self.adaptive_spin.spin(&*self.memory, ready);
            if spun == SpinOutcome::Ready && self.harvestable() {
                continue;
            }
            // Pairs with `release` and `end_wait`. Either they see `starved` and ring, or what
            // they did is seen below. A completion by the worker rings because of `watch_all`.
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

    /// The task in flight with the lowest sequence. To be called with no record free.
    fn oldest_flight(&self) -> Flight {
        (0..LANE_DEPTH)
            .map(|record| self.claim_of(record).0)
            .min_by_key(|flight| flight.sequence)
            .expect("a lane has records")
    }

    /// Tells those who wait of the records that are available. To be called with nothing locked.
    #[cold]
    pub(crate) fn notify_waiters(&self) {
        let mut wakers = Wakers::new();
        self.queue.notify(|| self.available(), &mut wakers);
        wake_all(wakers);
    }

    /// Tells those who wait of the records that are available, and passes over those who do not come.
    /// For the bell's watcher: gives the time after which it is to look again, if anybody waits.
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
