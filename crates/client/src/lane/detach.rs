//! Tasks whose handles were dropped before they completed.

use std::sync::atomic::Ordering;

use super::ClientLane;
use super::claim::{Claim, ClaimState, Flight};
use super::handle_table::HandleTable;
use super::lingering::unlock_and_let_go;
use crate::reentrancy::is_inside;

/// No task has this sequence.
const NO_TASK: u64 = 0;

impl ClientLane {
    /// Leaves a task behind whose handle is dropped. Its buffer stays in its place until it
    /// completes.
    #[cold]
    pub(crate) fn detach(&self, flight: Flight) {
        if is_inside() {
            self.note_detach(flight);
            return;
        }
        let mut handles = self.handles.lock();
        if !self.claim_for_handle(flight, ClaimState::Detached) {
            let parcel = handles.harvested.remove(&flight.sequence);
            unlock_and_let_go(handles);
            drop(parcel);
            return;
        }
        let waker = self.remove_waker(&mut handles, flight.record);
        self.flags.mark_detached(flight);
        self.reap(&mut handles, flight.record);
        unlock_and_let_go(handles);
        drop(waker);
    }

    /// Leaves a task behind whose handle a signal handler drops while it cannot have the desk. A note is
    /// left instead, and read by who looks for detached ([`Self::read_detach_notes`]).
    #[cold]
    fn note_detach(&self, flight: Flight) {
        self.detach_notes[flight.record].store(flight.sequence, Ordering::Relaxed);
        // With this the lane may be gone: release pairs with the acquire in `read_detach_notes`.
        self.flags.mark_detached(flight);
    }

    /// Frees the records and buffers of detached that have completed.
    #[cold]
    pub(crate) fn reap_detached(&self) {
        let mut handles = self.handles.lock();
        self.read_detach_notes(&mut handles);
        let mut detached = self.flags.detached();
        while detached != 0 {
            let record = detached.trailing_zeros() as usize;
            detached &= detached - 1;
            self.reap(&mut handles, record);
        }
    }

    /// Frees the record of an orphan if its task has completed. The claim of an orphan changes
    /// only here, under the desk's lock.
    pub(crate) fn reap(&self, _: &mut HandleTable, record: usize) {
        let (flight, state) = self.claim_of(record);
        if state == ClaimState::Detached && self.memory.is_complete(record, flight.wire()) {
            // SAFETY: an orphan's place is the desk's, which is locked.
            let buffer = unsafe { self.payloads.of(record) }.buffer.take();
            if let Some(buffer) = buffer {
                buffer.give_back();
            }
            self.flags.unmark_detached(record);
            if self.detach_notes[record].load(Ordering::Relaxed) != NO_TASK {
                // Of one that was in this record before, and was harvested.
                self.flags.mark_detached(flight);
            }
            self.end_claim(flight);
            self.release(flight);
        }
    }

    /// Makes detached of tasks of which a signal handler has left a note.
    pub(crate) fn read_detach_notes(&self, handles: &mut HandleTable) {
        let mut noted = self.flags.detached();
        while noted != 0 {
            let record = noted.trailing_zeros() as usize;
            noted &= noted - 1;
            // First the mark: who leaves a note from now on leaves another.
            self.flags.unmark_detached(record);
            let sequence = self.detach_notes[record].swap(NO_TASK, Ordering::Relaxed);
            if sequence != NO_TASK
                && !self.move_claim(Flight { record, sequence }, ClaimState::Detached)
            {
                let parcel = handles.harvested.remove(&sequence);
                if let Some(buffer) = parcel.and_then(|mut parcel| parcel.payload.buffer.take()) {
                    buffer.give_back();
                }
            }
            let (flight, state) = self.claim_of(record);
            if state == ClaimState::Detached {
                self.flags.mark_detached(flight);
            }
        }
    }

    /// Ends an orphan's claim. Only under the desk's lock.
    pub(crate) fn end_claim(&self, flight: Flight) {
        self.claims[flight.record].store(Claim::new(flight.sequence, ClaimState::Done));
    }
}
