//! How a transfer becomes operations that the device can do.
//!
//! ```text
//!               whole device blocks, buffer aligned      one operation on the client's buffer
//! read          anything else                            read the blocks around it, copy out
//! write         whole device blocks, buffer not aligned  copy in, write
//! write         anything else                            read the blocks around it, copy in, write
//! ```
//!
//! Laws:
//! - A client's buffer is copied into private memory once. Later changes to it do not count.
//! - A device that stops short is asked for the rest, from the last whole device block on.
//! - An operation that the device did not get to, since it was interrupted or had no room, is retried up to
//!   [`MAX_RETRIES`] times in a row.

#![forbid(unsafe_code)]

use chimaera_bdev_allocator::failpoint::{Failpoint, may_panic};
use chimaera_proto::{Failure, Status};

use super::bounce::Bounce;
use super::engine::{DeviceCommand, Opcode};
use super::write_exclusion::ExclusionMode;
use crate::backend::transfer::{Direction, Transfer};

/// How often in a row an operation is retried that the device did not get to.
const MAX_RETRIES: u8 = 100;

/// A transfer on its way to, on, and back from the device.
pub(super) struct Operation {
    pub(super) transfer: Transfer,
    /// The device's unit in bytes: 1 if it has none.
    unit_bytes: u32,
    span: Span,
    phase: OperationPhase,
    /// Bytes of the span that are done in this phase.
    done_bytes: u32,
    /// Retries in a row.
    retries: u8,
    bounce: Option<Bounce>,
}

/// The whole device blocks around a transfer, and how the transfer lies in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    offset_in_device: u64,
    len_bytes: u32,
    /// Bytes of the span before the transfer's first.
    skip_bytes: u32,
    /// Whether the span has bytes that the transfer does not have.
    partial: bool,
    /// Whether the device cannot work in the client's buffer.
    bounced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OperationPhase {
    /// Nothing was submitted yet.
    New,
    /// Reads for the client.
    Read,
    /// Reads the blocks that a write will change in part.
    ReadAround,
    /// Writes.
    Write,
}

/// What comes after a result of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OperationStep {
    /// The device is needed again.
    Continue,
    /// The transfer is done, or failed.
    Finished(Result<(), Failure>),
    /// The device ended before the pool does.
    EndedEarly,
}

impl Span {
    fn new(offset: u64, len_bytes: u32, address: usize, unit_bytes: u32) -> Self {
        let unit = u64::from(unit_bytes);
        let start = offset - offset % unit;
        let end = (offset + u64::from(len_bytes)).next_multiple_of(unit);
        // A block is a whole number of units, so the span lies within the transfer's block and
        // is at most as long.
        let span_bytes = (end - start) as u32;
        let partial = span_bytes != len_bytes;
        Self {
            offset_in_device: start,
            len_bytes: span_bytes,
            skip_bytes: (offset - start) as u32,
            partial,
            bounced: partial || !address.is_multiple_of(unit_bytes as usize),
        }
    }
}

impl Operation {
    /// Plans a transfer of at least one byte for a device with this unit.
    pub(super) fn new(transfer: Transfer, unit_bytes: u32) -> Self {
        let address = transfer
            .request
            .buffer()
            .map_or(0, |buffer| buffer.as_ptr() as usize);
        let span = Span::new(
            transfer.offset_in_pool,
            transfer.len_bytes,
            address,
            unit_bytes,
        );
        Self {
            transfer,
            unit_bytes,
            span,
            phase: OperationPhase::New,
            done_bytes: 0,
            retries: 0,
            bounce: None,
        }
    }

    /// Whether offset, length or memory is not aligned as the device needs.
    pub(super) fn is_unaligned(&self) -> bool {
        self.span.bounced
    }

    /// What the operation excludes on its block, if anything.
    pub(super) fn exclusion(&self) -> Option<ExclusionMode> {
        match self.transfer.direction {
            // A device without a unit gets exactly the transfer's bytes: no write can lose another's.
            _ if self.unit_bytes == 1 => None,
            Direction::Read => None,
            Direction::Write if self.span.partial => Some(ExclusionMode::Exclusive),
            Direction::Write => Some(ExclusionMode::Shared),
        }
    }

    /// What the device is to do next. Private memory is taken here rather than on arrival, so
    /// that only as much is in use as operations are in flight.
    ///
    /// # Errors
    /// [`Status::OutOfMemory`].
    pub(super) fn next(&mut self, tag: u64) -> Result<DeviceCommand, Status> {
        if self.phase == OperationPhase::New {
            self.begin()?;
        }
        let start = match (&mut self.bounce, self.transfer.request.buffer()) {
            (Some(bounce), _) => bounce.address(),
            // That a read's buffer is writable was checked when the transfer was accepted.
            (None, Some(buffer)) => buffer.as_ptr().cast_mut(),
            (None, None) => return Err(Status::InvalidBuffer),
        };
        Ok(DeviceCommand {
            tag,
            opcode: match self.phase {
                OperationPhase::Write => Opcode::Write,
                OperationPhase::New | OperationPhase::Read | OperationPhase::ReadAround => {
                    Opcode::Read
                }
            },
            address: start.wrapping_add(self.done_bytes as usize),
            len_bytes: self.span.len_bytes - self.done_bytes,
            offset_in_device: self.span.offset_in_device + u64::from(self.done_bytes),
        })
    }

    fn begin(&mut self) -> Result<(), Status> {
        may_panic(Failpoint::Begun);
        if self.span.bounced {
            self.bounce = Some(Bounce::new(self.span.len_bytes)?);
        }
        self.phase = match self.transfer.direction {
            Direction::Read => OperationPhase::Read,
            Direction::Write if self.span.partial => OperationPhase::ReadAround,
            Direction::Write => {
                self.fill_bounce();
                OperationPhase::Write
            }
        };
        Ok(())
    }

    /// Takes the device's answer to the last command: bytes transferred, or a negative errno.
    pub(super) fn advance(&mut self, result: i64) -> OperationStep {
        may_panic(Failpoint::Answered);
        let Ok(bytes) = u64::try_from(result) else {
            let errno = i32::try_from(result.unsigned_abs()).unwrap_or(0);
            let is_passing = matches!(errno, libc::EAGAIN | libc::EINTR);
            if is_passing && self.retries < MAX_RETRIES {
                self.retries += 1;
                return OperationStep::Continue;
            }
            return OperationStep::Finished(Err(Failure::io(errno)));
        };
        self.retries = 0;
        let missing_bytes = self.span.len_bytes - self.done_bytes;
        if bytes < u64::from(missing_bytes) {
            let bytes = bytes as u32;
            let whole_bytes = bytes - bytes % self.unit_bytes;
            if whole_bytes == 0 {
                return OperationStep::EndedEarly;
            }
            self.done_bytes += whole_bytes;
            return OperationStep::Continue;
        }
        match self.phase {
            OperationPhase::ReadAround => {
                self.fill_bounce();
                self.phase = OperationPhase::Write;
                self.done_bytes = 0;
                OperationStep::Continue
            }
            OperationPhase::New | OperationPhase::Read => {
                if let (Some(bounce), Some(buffer)) =
                    (&mut self.bounce, self.transfer.request.writable_buffer())
                {
                    bounce.copy_out(self.span.skip_bytes, &buffer);
                }
                OperationStep::Finished(Ok(()))
            }
            OperationPhase::Write => OperationStep::Finished(Ok(())),
        }
    }

    fn fill_bounce(&mut self) {
        if let (Some(bounce), Some(buffer)) = (&mut self.bounce, self.transfer.request.buffer()) {
            bounce.fill(self.span.skip_bytes, &buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_covers_the_whole_blocks_around_a_transfer_and_no_more() {
        let span = |offset, len, address| Span::new(offset, len, address, 512);
        let aligned = span(1024, 512, 0x1000);
        assert!(!aligned.partial && !aligned.bounced);
        assert_eq!((aligned.offset_in_device, aligned.len_bytes), (1024, 512));

        let shifted_memory = span(1024, 512, 0x1001);
        assert!(!shifted_memory.partial && shifted_memory.bounced);

        let one_byte = span(1023, 1, 0x1000);
        assert_eq!((one_byte.offset_in_device, one_byte.len_bytes), (512, 512));
        assert_eq!(one_byte.skip_bytes, 511);
        assert!(one_byte.partial && one_byte.bounced);

        let across = span(1023, 2, 0x1000);
        assert_eq!((across.offset_in_device, across.len_bytes), (512, 1024));

        let no_unit = Span::new(1023, 7, 0x1001, 1);
        assert!(!no_unit.partial && !no_unit.bounced);
        assert_eq!((no_unit.offset_in_device, no_unit.len_bytes), (1023, 7));
    }
}
