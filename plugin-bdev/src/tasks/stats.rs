//! A pool's statistics.

#![forbid(unsafe_code)]

use chimaera_bdev_proto::{STATS_BUFFER_BYTES, Stats};
use chimaera_chimod::Request;
use chimaera_proto::{Status, codec};

use crate::backend::Backend;
use crate::pool::counters::WorkerCounters;
use crate::pool::failure::refuse;
use crate::pool::state::BlockPool;

/// Writes the statistics to the task's buffer, and completes it.
pub(crate) fn answer_stats(pool: &BlockPool, counters: &WorkerCounters, request: Request) {
    let written = request
        .writable_buffer()
        .filter(|buffer| buffer.len() >= STATS_BUFFER_BYTES as usize)
        .ok_or(Status::InvalidBuffer)
        .and_then(|buffer| {
            let bytes = codec::encode(&stats_of(pool)).map_err(|_| Status::InvalidArgument)?;
            buffer.copy_from(0, &bytes);
            Ok(bytes.len() as u64)
        });
    match written {
        Ok(len_bytes) => request.complete(&[len_bytes]),
        Err(status) => refuse(counters, request, status),
    }
}

fn stats_of(pool: &BlockPool) -> Stats {
    let counts = pool.state.counters.sum();
    Stats {
        metrics: pool.state.declared.metrics(),
        remaining_size: pool.state.allocator.remaining_bytes(),
        total_size: pool.state.allocator.total_bytes(),
        metadata_size: pool.metadata_size,
        allocated_blocks: pool.state.counters.allocated_blocks(&counts),
        has_unknown_blocks: pool.has_unknown_blocks,
        persistent: pool.is_persistent(),
        read_only: pool.parameters.read_only,
        bdev_type: pool.parameters.bdev_type,
        scrub: pool.state.scrub.policy(),
        direct_io: match &pool.backend {
            Backend::Ram(_) => false,
            Backend::File(device) => device.is_direct(),
        },
        // As a request for the pool is compared with them; through the page cache there is no
        // alignment to keep.
        io_depth: pool.usage.io_depth,
        alignment: pool.usage.alignment,
        io_engine: match &pool.backend {
            Backend::Ram(_) => None,
            Backend::File(_) => Some(pool.usage.io_engine),
        },
        file: match &pool.backend {
            Backend::Ram(_) => None,
            Backend::File(device) => Some(device.named_file().state()),
        },
        activity: counts,
    }
}
