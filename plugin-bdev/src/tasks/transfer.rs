//! Reads and writes.
//!
//! Laws:
//! - A transfer's block is pinned from before its first byte moves until after its last. While
//!   it is, a free of the block does not complete, so what was accepted before a free never
//!   lands in the block's next life. A panic in between gives the pin back as well.
//! - At the end comes first the unpinning, then the counting, then the completion: a client that
//!   frees a block because it saw its write complete finds the block without pins, and its
//!   operation in the statistics.

#![forbid(unsafe_code)]

use chimaera_bdev_proto::TransferArguments;
use chimaera_chimod::{Activity, Request, Worker};
use chimaera_proto::{Failure, Status};

use crate::backend::Backend;
use crate::backend::file::FileDevice;
use crate::backend::transfer::{Direction, Transfer};
use crate::pool::state::BlockPool;

/// Takes a read or write: checks it, pins its block, and copies it or hands it to the device.
pub(crate) fn start(
    pool: &BlockPool,
    worker: &mut Worker<'_>,
    request: Request,
    direction: Direction,
) -> Activity {
    // A buffer's length is a 32-bit number in every task. Without a buffer nothing moves,
    // but the block has to be right all the same.
    let len_bytes = request.buffer().map_or(0, |buffer| buffer.len() as u32);
    if direction == Direction::Write && pool.parameters.read_only {
        pool.refuse(worker, request, Status::ReadOnly);
        return Activity::IDLE;
    }
    let arguments = request.arguments();
    let pinned = TransferArguments::parse(arguments, len_bytes).and_then(|parsed| {
        if direction == Direction::Read && len_bytes > 0 && request.writable_buffer().is_none() {
            return Err(Status::InvalidBuffer);
        }
        Ok((parsed, pool.state.allocator.hold(parsed.block)?))
    });
    let (parsed, pinned) = match pinned {
        Ok(pinned) => pinned,
        Err(status) => {
            pool.refuse(worker, request, status);
            return Activity::IDLE;
        }
    };
    let transfer = Transfer {
        request,
        direction,
        block: parsed.block,
        offset_in_pool: parsed.block.offset + parsed.offset_in_block,
        len_bytes,
    };
    // Bound after `transfer`, so that a panic drops it first: the block is unpinned before its request ends.
    let pinned = pinned;
    match &pool.backend {
        Backend::File(device) if len_bytes > 0 => {
            let counters = pool.state.counters.of(worker.index());
            if device.accept(worker, transfer, pinned) {
                counters.unaligned_operations.add(1);
            }
            return Activity::PENDING;
        }
        Backend::Ram(device) => {
            device.copy(&transfer);
        }
        Backend::File(_) => {}
    }
    drop(pinned);
    finish(pool, worker.index(), transfer, Ok(()));
    Activity::IDLE
}

/// Moves the worker's transfers on the pool's device forward, and ends those that are over.
pub(crate) fn advance(pool: &BlockPool, device: &FileDevice, worker: &mut Worker<'_>) -> Activity {
    let worker_index = worker.index();
    device.poll(worker, |transfer, pin, result| {
        pool.state.allocator.unpin(pin);
        finish(pool, worker_index, transfer, result);
    })
}

/// Ends a transfer whose block is not pinned any more.
fn finish(pool: &BlockPool, worker_index: usize, transfer: Transfer, result: Result<(), Failure>) {
    let Transfer {
        request,
        direction,
        len_bytes,
        ..
    } = transfer;
    let counters = pool.state.counters.of(worker_index);
    let len_bytes = u64::from(len_bytes);
    match (result, direction) {
        (Ok(()), Direction::Read) => {
            counters.read_operations.add(1);
            counters.read_bytes.add(len_bytes);
            request.complete(&[len_bytes]);
        }
        (Ok(()), Direction::Write) => {
            counters.write_operations.add(1);
            counters.write_bytes.add(len_bytes);
            request.complete(&[len_bytes]);
        }
        (Err(failure), _) => {
            counters.errors.add(1);
            request.fail(failure);
        }
    }
}
