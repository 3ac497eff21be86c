//! Listings and maps: pages of what is allocated, in a client's buffer.
//!
//! A page is bounded by the buffer and by how much is looked at, so that making one does not keep other tasks
//! waiting.

#![forbid(unsafe_code)]

use std::io;

use chimaera_bdev_allocator::ledger;
use chimaera_bdev_proto::{MAP_END, MIN_LISTING_BUFFER_BYTES, OWNED_BLOCK_WIRE_BYTES, OwnedBlock};
use chimaera_chimod::Request;
use chimaera_proto::Status;

use crate::pool::counters::WorkerCounters;
use crate::pool::failure::{failure_of, refuse};
use crate::pool::state::{BlockPool, PoolState};

/// The most megabytes that one page of a map is about.
const MAX_MAP_MEGABYTES: usize = 1 << 14;

/// The most blocks on one page of a list.
const MAX_LISTED_BLOCKS: usize = 1 << 14;

/// States that are copied at a time.
const CHUNK_MEGABYTES: usize = 1024;

/// Lists blocks as the task asks, and completes it. `list` is called with a megabyte and a count; it gives at
/// most so many blocks from that megabyte on, and the megabyte at which the next page begins.
pub(crate) fn answer_list(
    counters: &WorkerCounters,
    request: Request,
    list: impl FnOnce(u64, usize) -> io::Result<(Vec<OwnedBlock>, u64)>,
) {
    let [first, ..] = request.arguments();
    let listed = match request.writable_buffer() {
        Some(buffer) if buffer.len() >= MIN_LISTING_BUFFER_BYTES => list(
            first,
            MAX_LISTED_BLOCKS.min(buffer.len() / OWNED_BLOCK_WIRE_BYTES),
        )
        .map(|(blocks, next)| {
            for (place, block) in blocks.iter().enumerate() {
                buffer.copy_from(place * OWNED_BLOCK_WIRE_BYTES, &block.to_bytes());
            }
            [blocks.len() as u64, next]
        })
        .map_err(|error| failure_of(&error)),
        _ => Err(Status::InvalidBuffer.into()),
    };
    match listed {
        Ok(values) => request.complete(&values),
        Err(failure) => refuse(counters, request, failure),
    }
}

/// As [`answer_list`], of a pool of which nothing is committed, since it lies in memory.
pub(crate) fn answer_list_in_memory(
    state: &PoolState,
    counters: &WorkerCounters,
    request: Request,
) {
    let nothing_committed = |_: &[u64]| Ok(Vec::new());
    let list = |first, most| ledger::list(&state.allocator, first, most, nothing_committed);
    answer_list(counters, request, list);
}

/// Maps megabytes as the task asks, and completes it.
pub(crate) fn answer_map(pool: &BlockPool, counters: &WorkerCounters, request: Request) {
    let [first, ..] = request.arguments();
    let megabytes = pool.state.allocator.megabyte_count();
    let values = match request.writable_buffer() {
        Some(buffer) if !buffer.is_empty() => {
            let first = usize::try_from(first).map_or(megabytes, |first| first.min(megabytes));
            let end = megabytes.min(first + buffer.len().min(MAX_MAP_MEGABYTES));
            let mut chunk = [0; CHUNK_MEGABYTES];
            for start in (first..end).step_by(CHUNK_MEGABYTES) {
                let chunk = &mut chunk[..CHUNK_MEGABYTES.min(end - start)];
                for (byte, index) in chunk.iter_mut().zip(start..) {
                    *byte = pool.megabyte_state(index) as u8;
                }
                buffer.copy_from(start - first, chunk);
            }
            let next = if end < megabytes { end as u64 } else { MAP_END };
            Ok([(end - first) as u64, next])
        }
        _ => Err(Status::InvalidBuffer),
    };
    match values {
        Ok(values) => request.complete(&values),
        Err(status) => refuse(counters, request, status),
    }
}
