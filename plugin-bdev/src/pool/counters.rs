//! Counts of what was done, one set per worker and one for the pool's keeper.
//!
//! Laws:
//! - Only the worker whose set it is adds to it, with a plain load and store: no worker ever waits for
//!   another one's cache line. A reader sums over all sets.
//! - Something is counted before its task completes, so that a client that has seen its task
//!   complete finds it in the statistics.
//! - A reader that finds a free counted finds its allocation counted too, since a block was counted before
//!   anybody could free it. So there never seem to be more blocks freed than there were.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use chimaera_bdev_proto::OperationCounts;
use crossbeam::utils::CachePadded;

/// The counts of every worker.
#[derive(Debug)]
pub(crate) struct Counters {
    /// The last set is the keeper's.
    workers: Box<[CachePadded<WorkerCounters>]>,
    /// Blocks that were there when the pool was opened.
    blocks_before: u64,
}

/// The counts of one worker. Only that worker may add.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    pub(crate) read_operations: Count,
    pub(crate) write_operations: Count,
    pub(crate) read_bytes: Count,
    pub(crate) write_bytes: Count,
    pub(crate) allocations: Count,
    pub(crate) frees: Count,
    pub(crate) unaligned_operations: Count,
    pub(crate) errors: Count,
}

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds, on the only thread that changes this count.
    pub(crate) fn add(&self, more: u64) {
        let before = self.0.load(Ordering::Relaxed);
        // Release pairs with the acquire in `read`: a reader that finds this counted finds all that was
        // counted before it, on this thread and, as far as this one knows of it, on others.
        self.0.store(before.wrapping_add(more), Ordering::Release);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Counters {
    /// The counters of a pool that has `blocks_before` blocks already.
    pub(crate) fn new(worker_count: usize, blocks_before: u64) -> Self {
        Self {
            workers: (0..=worker_count).map(|_| CachePadded::default()).collect(),
            blocks_before,
        }
    }

    /// The counts of the worker with this index.
    pub(crate) fn of(&self, worker_index: usize) -> &WorkerCounters {
        &self.workers[worker_index]
    }

    /// The counts of the pool's keeper, which is a thread of its own.
    pub(crate) fn of_keeper(&self) -> &WorkerCounters {
        &self.workers[self.workers.len() - 1]
    }

    /// Blocks that are allocated now: those that were there when the pool was opened, and what the sums say
    /// of the time since.
    pub(crate) fn allocated_blocks(&self, sums: &OperationCounts) -> u64 {
        self.blocks_before
            .wrapping_add(sums.allocations)
            .wrapping_sub(sums.frees)
    }

    /// The sums over all workers.
    pub(crate) fn sum(&self) -> OperationCounts {
        let sum = |count: fn(&WorkerCounters) -> &Count| {
            self.workers
                .iter()
                .map(|worker| count(worker).read())
                .fold(0, u64::wrapping_add)
        };
        // First, by the law above.
        let frees = sum(|worker| &worker.frees);
        OperationCounts {
            read_operations: sum(|worker| &worker.read_operations),
            write_operations: sum(|worker| &worker.write_operations),
            read_bytes: sum(|worker| &worker.read_bytes),
            write_bytes: sum(|worker| &worker.write_bytes),
            allocations: sum(|worker| &worker.allocations),
            frees,
            unaligned_operations: sum(|worker| &worker.unaligned_operations),
            errors: sum(|worker| &worker.errors),
        }
    }
}
