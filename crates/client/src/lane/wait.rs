//! Waiting for the completion of a task: spinning first, then sleeping.

use std::time::{Duration, Instant};

use chimaera_shm::Record;

use super::ClientLane;
use super::claim::{Claim, ClaimState, Flight};
use crate::adaptive_spin::SpinOutcome;

impl ClientLane {
    /// Waits for a task whose claim is `Awaited`, takes what is wanted of its completion, and frees its record.
    #[inline]
    pub(crate) fn finish<T>(&self, flight: Flight, take: impl FnOnce(&Record) -> T) -> T {
        self.wait_until_complete(flight, None);
        let taken = take(self.memory.record(flight.record));
        self.release_and_notify(flight);
        taken
    }

    /// As [`Self::finish`], for a task that is known to take long: sleeps without spinning.
    pub(crate) fn finish_asleep<T>(&self, flight: Flight, take: impl FnOnce(&Record) -> T) -> T {
        while !self.memory.is_complete(flight.record, flight.wire()) {
            self.memory.sleep(flight.record, flight.wire(), None);
        }
        let taken = take(self.memory.record(flight.record));
        self.release_and_notify(flight);
        taken
    }

    /// Waits for a task whose claim is `Awaited`, until the deadline. Returns whether it is complete.
    #[inline]
    pub(crate) fn wait_until_complete(&self, flight: Flight, deadline: Option<Instant>) -> bool {
        let complete = move || self.memory.is_complete(flight.record, flight.wire());
        let spun = self
            .adaptive_spin
            .spin_until(&*self.memory, complete, deadline);
        spun == SpinOutcome::Ready || self.sleep_until_complete(flight, deadline, spun)
    }

    /// Sleeps until a task has completed that was spun for, but no longer than until the deadline. Returns whether it
    /// has.
    fn sleep_until_complete(
        &self,
        flight: Flight,
        deadline: Option<Instant>,
        spun: SpinOutcome,
    ) -> bool {
        let begin = Instant::now();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return self.memory.is_complete(flight.record, flight.wire());
            }
            if self.memory.sleep(flight.record, flight.wire(), left) {
                self.adaptive_spin.learn_from_sleep(spun, begin.elapsed());
                return true;
            }
        }
    }

    /// Makes an `Awaited` task, which may be incomplete, `Attached` again, so that it can be harvested.
    pub(crate) fn end_wait(&self, flight: Flight) {
        // Pairs with `wait_for_record`: a starved submitter may have passed over this record because it was `Awaited`.
        self.claims[flight.record].exchange(Claim::new(flight.sequence, ClaimState::Attached));
        self.ring_if_wanted();
    }

    /// As [`Self::release`], and notifies the queue. The caller holds no lock.
    #[inline]
    fn release_and_notify(&self, flight: Flight) {
        self.release(flight);
        // On a lane that is not this thread's own, `release` was a `SeqCst` operation, and has rung.
        if self.queue.is_waiting() {
            self.notify_waiters();
        }
    }
}
