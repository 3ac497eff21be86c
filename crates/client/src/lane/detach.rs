//! Detached tasks: those whose handles were dropped in flight.
//!
//! A detached task is carried out. Its record and buffer are freed after it has completed, by whoever looks for such
//! tasks next: the submitter before it takes a record, a harvest, or `Runtime::reap`.

use std::sync::atomic::Ordering;

use super::ClientLane;
use super::claim::{Claim, ClaimState, Flight};
use super::handle_table::HandleTable;
use super::lingering::unlock_and_let_go;
use crate::reentrancy::is_inside;

/// No task has this sequence.
const NO_TASK: u64 = 0;

impl ClientLane {
    /// Detaches a task whose handle is dropped. Its buffer stays with its record until it has completed.
    #[cold]
    pub(crate) fn detach(&self, flight: Flight) {
        if is_inside() {
            self.note_detach(flight);
            return;
        }
        let mut handles = self.handles.lock();
        if !self.claim_for_handle(flight, ClaimState::Detached) {
            let task = handles.harvested.remove(&flight.sequence);
            unlock_and_let_go(handles);
            drop(task);
            return;
        }
        let waker = self.remove_waker(&mut handles, flight.record);
        self.flags.mark_detached(flight);
        self.reap(&mut handles, flight.record);
        unlock_and_let_go(handles);
        drop(waker);
    }

    /// Leaves a note of a task whose handle is dropped in a signal handler, which cannot have the lock of the handle
    /// table. The note is read before detached tasks are looked for ([`Self::read_detach_notes`]).
    #[cold]
    fn note_detach(&self, flight: Flight) {
        self.detach_notes[flight.record].store(flight.sequence, Ordering::Relaxed);
        // The lane may be gone once this is done. Release pairs with the acquire in `read_detach_notes`.
        self.flags.mark_detached(flight);
    }

    /// Frees the records and buffers of detached tasks that have completed.
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

    /// Frees the record of a detached task if that has completed. The claim of a detached task changes only here, under
    /// the lock of the handle table.
    pub(crate) fn reap(&self, _: &mut HandleTable, record: usize) {
        let (flight, state) = self.claim_of(record);
        if state == ClaimState::Detached && self.memory.is_complete(record, flight.wire()) {
            // SAFETY: the payload of a detached task is the handle table's, which is locked.
            let buffer = unsafe { self.payloads.of(record) }.buffer.take();
            if let Some(buffer) = buffer {
                buffer.give_back();
            }
            self.flags.unmark_detached(record);
            if self.detach_notes[record].load(Ordering::Relaxed) != NO_TASK {
                // A note of the record's task before, which was harvested.
                self.flags.mark_detached(flight);
            }
            self.end_claim(flight);
            self.release(flight);
        }
    }

    /// Detaches the tasks that signal handlers have left notes of.
    pub(crate) fn read_detach_notes(&self, handles: &mut HandleTable) {
        let mut noted = self.flags.detached();
        while noted != 0 {
            let record = noted.trailing_zeros() as usize;
            noted &= noted - 1;
            // The mark first: whoever leaves a note from now on sets it anew.
            self.flags.unmark_detached(record);
            let sequence = self.detach_notes[record].swap(NO_TASK, Ordering::Relaxed);
            if sequence != NO_TASK
                && !self.move_claim(Flight { record, sequence }, ClaimState::Detached)
            {
                let task = handles.harvested.remove(&sequence);
                if let Some(buffer) = task.and_then(|mut task| task.payload.buffer.take()) {
                    buffer.give_back();
                }
            }
            let (flight, state) = self.claim_of(record);
            if state == ClaimState::Detached {
                self.flags.mark_detached(flight);
            }
        }
    }

    /// Ends the claim of a detached task. The caller holds the lock of the handle table.
    pub(crate) fn end_claim(&self, flight: Flight) {
        self.claims[flight.record].store(Claim::new(flight.sequence, ClaimState::Done));
    }
}
