//! Harvesting: freeing the records of tasks that have completed and were not collected yet.
//!
//! A harvested task moves into the handle table, with its completion and its payload, until its handle collects it.

use chimaera_proto::limits::LANE_DEPTH;

use super::ClientLane;
use super::claim::ClaimState;
use super::handle_table::HarvestedTask;
use super::payload::Payload;
use crate::wakers::Wakers;

impl ClientLane {
    /// Moves all attached tasks that have completed into the handle table, and frees their records and those of
    /// detached tasks.
    pub(crate) fn harvest(&self, wakers: &mut Wakers) {
        let mut handles = self.handles.lock();
        for record in 0..LANE_DEPTH {
            let (flight, state) = self.claim_of(record);
            match state {
                ClaimState::Detached => self.reap(&mut handles, record),
                ClaimState::Attached
                    if self.memory.is_complete(record, flight.wire())
                    // Its handle may collect it at this moment, and frees the record then.
                    && self.move_claim(flight, ClaimState::Done) =>
                {
                    // SAFETY: this thread moved the claim, which makes the payload its own.
                    let payload = unsafe { self.payloads.of(record) };
                    let task = HarvestedTask {
                        record: self.memory.record(record).copy(),
                        payload: Payload {
                            call: payload.call,
                            buffer: payload.buffer.take(),
                        },
                    };
                    handles.harvested.insert(flight.sequence, Box::new(task));
                    wakers.extend(self.remove_waker(&mut handles, record));
                    self.release(flight);
                }
                _ => {}
            }
        }
    }

    /// Whether a harvest would free any record.
    pub(crate) fn harvestable(&self) -> bool {
        (0..LANE_DEPTH).any(|record| self.is_harvestable(record))
    }

    /// Whether a harvest would free this record.
    pub(crate) fn is_harvestable(&self, record: usize) -> bool {
        let (flight, state) = self.claim_of(record);
        matches!(state, ClaimState::Attached | ClaimState::Detached)
            && self.memory.is_complete(record, flight.wire())
    }

    /// How many records are free, or would be after a harvest.
    pub(crate) fn available(&self) -> usize {
        let free = self.submitter.free_records();
        let mut available = free;
        let mut taken = !free;
        while taken != 0 {
            let record = taken.trailing_zeros() as usize;
            taken &= taken - 1;
            available |= u64::from(self.is_harvestable(record)) << record;
        }
        available.count_ones() as usize
    }
}
