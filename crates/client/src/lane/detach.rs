//! Tasks whose handles were dropped before they completed.

use std::sync::atomic::Ordering;

use super::ClientLane;
use super::claim::{Claim, ClaimState, Flight};
use super::handle_table::Desk;
use super::lingering::leave;
use crate::reentrancy::is_inside;

/// No task has this sequence.
const NO_TASK: u64 = 0;

impl ClientLane {
    /// Leaves a task behind whose handle is dropped. Its buffer stays in its place until it
    /// completes.
    #[cold]
    pub(crate) fn abandon(&self, flight: Flight) {
        if is_inside() {
            self.forsake(flight);
            return;
        }
        let mut desk = self.desk.lock();
        if !self.claim_for_handle(flight, ClaimState::Orphaned) {
            let parcel = desk.parcels.remove(&flight.sequence);
            leave(desk);
            drop(parcel);
            return;
        }
        let waker = self.forget_waker(&mut desk, flight.record);
        self.flags.mark_orphan(flight);
        self.reap(&mut desk, flight.record);
        leave(desk);
        drop(waker);
    }

    /// Leaves a task behind whose handle a signal handler drops while it cannot have the desk. A note is
    /// left instead, and read by who looks for orphans ([`Self::find_orphans`]).
    #[cold]
    fn forsake(&self, flight: Flight) {
        self.forsaken[flight.record].store(flight.sequence, Ordering::Relaxed);
        // With this the lane may be gone: release pairs with the acquire in `find_orphans`.
        self.flags.mark_orphan(flight);
    }

    /// Frees the records and buffers of orphans that have completed.
    #[cold]
    pub(crate) fn reap_orphans(&self) {
        let mut desk = self.desk.lock();
        self.find_orphans(&mut desk);
        let mut orphans = self.flags.orphans();
        while orphans != 0 {
            let record = orphans.trailing_zeros() as usize;
            orphans &= orphans - 1;
            self.reap(&mut desk, record);
        }
    }

    /// Frees the record of an orphan if its task has completed. The claim of an orphan changes
    /// only here, under the desk's lock.
    pub(crate) fn reap(&self, _: &mut Desk, record: usize) {
        let (flight, state) = self.claim_of(record);
        if state == ClaimState::Orphaned && self.memory.is_complete(record, flight.wire()) {
            // SAFETY: an orphan's place is the desk's, which is locked.
            let buffer = unsafe { self.places.of(record) }.buffer.take();
            if let Some(buffer) = buffer {
                buffer.give_back();
            }
            self.flags.unmark_orphan(record);
            if self.forsaken[record].load(Ordering::Relaxed) != NO_TASK {
                // Of one that was in this record before, and was harvested.
                self.flags.mark_orphan(flight);
            }
            self.settle(flight);
            self.release(flight);
        }
    }

    /// Makes orphans of tasks of which a signal handler has left a note.
    pub(crate) fn find_orphans(&self, desk: &mut Desk) {
        let mut noted = self.flags.orphans();
        while noted != 0 {
            let record = noted.trailing_zeros() as usize;
            noted &= noted - 1;
            // First the mark: who leaves a note from now on leaves another.
            self.flags.unmark_orphan(record);
            let sequence = self.forsaken[record].swap(NO_TASK, Ordering::Relaxed);
            if sequence != NO_TASK
                && !self.move_claim(Flight { record, sequence }, ClaimState::Orphaned)
            {
                let parcel = desk.parcels.remove(&sequence);
                if let Some(buffer) = parcel.and_then(|mut parcel| parcel.place.buffer.take()) {
                    buffer.give_back();
                }
            }
            let (flight, state) = self.claim_of(record);
            if state == ClaimState::Orphaned {
                self.flags.mark_orphan(flight);
            }
        }
    }

    /// Ends an orphan's claim. Only under the desk's lock.
    pub(crate) fn settle(&self, flight: Flight) {
        self.claims[flight.record].store(Claim::new(flight.sequence, ClaimState::Done));
    }
}
