//! Taking a free record, and publishing a task in it.

use chimaera_proto::{BufferRange, Descriptor};

use super::claim::{Claim, ClaimState, Flight};
use super::payload::Payload;
use super::submitter::SubmitPermit;
use super::{ClientLane, ConnectionLost};
use crate::call::Call;

impl ClientLane {
    /// Publishes a task in a record that was taken for it, and rings the worker if it has parked the lane. Gives the
    /// record back if the connection is lost.
    #[inline]
    pub(crate) fn publish(
        &self,
        mut permit: SubmitPermit<'_>,
        record: usize,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        fill: impl FnOnce(&mut Payload),
    ) -> Result<Flight, ConnectionLost> {
        // Relaxed: whoever freed this record after a loss had seen the loss, and freeing is ordered before taking; see
        // `disconnect`.
        if self.flags.is_lost() {
            permit.put_back(record);
            return Err(ConnectionLost);
        }
        // SAFETY: the record is free, and this is its submitter.
        fill(unsafe { self.payloads.of(record) });
        let sequence = permit.next_sequence();
        let flight = Flight { record, sequence };
        let last = self.claims[record].load().sequence();
        if sequence - last > 1 << 31 {
            self.clear_old_flag(flight, state);
        }
        self.claims[record].store(Claim::new(sequence, state));
        let descriptor = Descriptor {
            method: call.method,
            pool: call.pool,
            instance: call.instance,
            query: call.query,
            record: record as u8,
            buffer,
            arguments: call.arguments,
        };
        self.memory
            .publish(flight.wire(), &descriptor.to_words(flight.wire()));
        // Inside until the worker was rung: a signal handler that submitted meanwhile would find that somebody rings,
        // and wait for its own thread, which it has interrupted.
        let _inside = permit.end();
        if self.memory.must_ring(self.connection.publish_order()) {
            self.doorbell.ring();
        }
        // Comes after what orders `must_ring`, which pairs with that in `complete_all_as_lost`.
        if self.flags.is_lost() {
            self.complete_as_lost();
        }
        Ok(flight)
    }

    /// Clears the flag of a task long ago, lest it be taken for the completion of this one, which is about to be
    /// published.
    #[cold]
    #[inline(never)]
    fn clear_old_flag(&self, flight: Flight, state: ClaimState) {
        // Under the lock, lest the record be completed as lost under its old claim meanwhile.
        let _handles = self.handles.lock();
        self.claims[flight.record].store(Claim::new(flight.sequence, state));
        self.memory.clear_flag(flight.record, flight.wire());
    }

    /// Takes a free record. Frees those of detached tasks first, so that the buffers of dropped handles do not stay
    /// with a lane that is never full.
    #[inline]
    pub(crate) fn free_record(&self, permit: &mut SubmitPermit<'_>) -> Option<usize> {
        if self.flags.has_detached() {
            self.reap_detached();
        }
        permit.take_record()
    }
}
