//! Waiting for a task to complete.

use std::time::{Duration, Instant};

use chimaera_shm::Record;

use super::ClientLane;
use super::claim::{Claim, ClaimState, Flight};
use crate::adaptive_spin::SpinOutcome;

impl ClientLane {
    /// Waits for a task of [`Self::submit`], takes what is wanted of its completion and frees its
    /// record.
    #[inline]
    pub(crate) fn finish<T>(&self, flight: Flight, take: impl FnOnce(&Record) -> T) -> T {
        self.wait_until_complete(flight, None);
        let taken = take(self.memory.record(flight.record));
        self.release_and_tell(flight);
        taken
    }

    /// As [`Self::finish`], for a task that is known to take long: sleeps at once.
    pub(crate) fn finish_asleep<T>(&self, flight: Flight, take: impl FnOnce(&Record) -> T) -> T {
        while !self.memory.is_complete(flight.record, flight.wire()) {
            self.memory.sleep(flight.record, flight.wire(), None);
        }
        let taken = take(self.memory.record(flight.record));
        self.release_and_tell(flight);
        taken
    }

    /// Waits for an owned task until the deadline. Returns whether it is complete.
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

    /// Gives an owned task, which may be incomplete, back to the harvester's reach.
    pub(crate) fn end_wait(&self, flight: Flight) {
        // Pairs with `wait_for_record`: a starved submitter may have passed over this record
        // because it was owned.
        self.claims[flight.record].exchange(Claim::new(flight.sequence, ClaimState::Attached));
        self.ring_if_wanted();
    }

    /// As [`Self::release`], for whoever has nothing locked.
    #[inline]
    fn release_and_tell(&self, flight: Flight) {
        self.release(flight);
        // On another's lane this comes after a `SeqCst` operation, and that has rung.
        if self.queue.is_waiting() {
            self.notify_waiters();
        }
    }
}
