//! Which writes may be on the device at the same time.
//!
//! A write that does not cover whole device blocks reads its surroundings, changes its part and
//! writes everything back. Whatever another write changed in between would be lost. So such a
//! write excludes every other write on its block of the pool; whole ones only exclude such
//! writes, and never each other.
//!
//! Laws:
//! - A block has one queue. A write that comes while another waits is queued behind it, so none starves.
//! - A write that waits holds nothing that others wait for: it takes a place on the device only after its
//!   grant, so there is no deadlock.
//! - A grant goes to the worker that asked. Its write never moves to another worker: its memory,
//!   its place and its AIO context are that worker's.
//! - A block is known by its offset alone, which is enough as long as it is pinned: every write
//!   is pinned from before it asks until after it gave its grant back.

#![forbid(unsafe_code)]

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, VecDeque};

use chimaera_bdev_proto::UNIT_BYTES;
use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

/// What a write excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExclusionMode {
    /// Covers whole device blocks: excludes only [`ExclusionMode::Exclusive`] writes.
    Shared,
    /// Reads, changes and writes back: excludes every other write.
    Exclusive,
}

/// A write that waits for its grant, by where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    /// Index of the worker whose write it is.
    pub(super) worker_index: usize,
    /// Index of the write among that worker's.
    pub(super) transfer_index: u32,
}

/// The writes of a pool, by block.
#[derive(Debug)]
pub(super) struct BlockExclusion {
    shards: Box<[CachePadded<BlockShard>]>,
}

/// Blocks, by offset, that some write holds a grant on.
type BlockShard = Mutex<HashMap<u64, Holders>>;

#[derive(Debug)]
struct Holders {
    /// Writes that hold a grant; exactly one if `mode` is exclusive.
    count: u32,
    mode: ExclusionMode,
    waiting: VecDeque<(ExclusionMode, Waiter)>,
}

/// A power of two, large enough that workers rarely meet.
const SHARDS: usize = 64;

impl BlockExclusion {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Asks for a grant. Returns whether it was given; if not, the waiter joins the block's queue, and a
    /// later [`Self::release`] returns it.
    pub(super) fn acquire(&self, block_offset: u64, mode: ExclusionMode, waiter: Waiter) -> bool {
        match self.shard(block_offset).lock().entry(block_offset) {
            MapEntry::Vacant(place) => {
                place.insert(Holders {
                    count: 1,
                    mode,
                    waiting: VecDeque::new(),
                });
                true
            }
            MapEntry::Occupied(mut holders) => {
                let holders = holders.get_mut();
                let together =
                    (holders.mode, mode) == (ExclusionMode::Shared, ExclusionMode::Shared);
                if together && holders.waiting.is_empty() {
                    holders.count += 1;
                    return true;
                }
                holders.waiting.push_back((mode, waiter));
                false
            }
        }
    }

    /// Gives a grant back, and appends the writes that got one in its place.
    ///
    /// # Panics
    /// If nobody holds a grant on the block: a mistake of the caller.
    pub(super) fn release(&self, block_offset: u64, granted: &mut Vec<Waiter>) {
        let mut shard = self.shard(block_offset).lock();
        let MapEntry::Occupied(mut place) = shard.entry(block_offset) else {
            panic!("a grant on the block at {block_offset} was given back twice");
        };
        let holders = place.get_mut();
        holders.count -= 1;
        if holders.count > 0 {
            return;
        }
        let Some((mode, waiter)) = holders.waiting.pop_front() else {
            place.remove();
            return;
        };
        holders.mode = mode;
        holders.count = 1;
        granted.push(waiter);
        while mode == ExclusionMode::Shared
            && let Some(&(ExclusionMode::Shared, waiter)) = holders.waiting.front()
        {
            holders.waiting.pop_front();
            holders.count += 1;
            granted.push(waiter);
        }
    }

    fn shard(&self, block_offset: u64) -> &BlockShard {
        // Multiplying spreads the multiples of 1 MiB, which would share a shard otherwise.
        let hash = (block_offset / UNIT_BYTES).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(hash >> 58) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(transfer_index: u32) -> Waiter {
        Waiter {
            worker_index: 0,
            transfer_index,
        }
    }

    #[test]
    fn grants_go_in_order_and_whole_writes_together() {
        let exclusion = BlockExclusion::new();
        let ask = |index, mode| exclusion.acquire(4096, mode, waiter(index));
        assert!(ask(0, ExclusionMode::Shared));
        assert!(ask(1, ExclusionMode::Shared));
        assert!(!ask(2, ExclusionMode::Exclusive));
        assert!(
            !ask(3, ExclusionMode::Shared),
            "it must not overtake a write that waits"
        );
        assert!(!ask(4, ExclusionMode::Shared));
        assert!(!ask(5, ExclusionMode::Exclusive));
        assert!(
            exclusion.acquire(8192, ExclusionMode::Exclusive, waiter(9)),
            "other blocks are not concerned"
        );

        let give_back = || {
            let mut granted = Vec::new();
            exclusion.release(4096, &mut granted);
            granted.iter().map(|w| w.transfer_index).collect::<Vec<_>>()
        };
        assert_eq!(give_back(), []);
        assert_eq!(give_back(), [2]);
        assert_eq!(give_back(), [3, 4]);
        assert_eq!(give_back(), []);
        assert_eq!(give_back(), [5]);
        assert_eq!(give_back(), []);
        assert!(ask(6, ExclusionMode::Exclusive), "nothing is left behind");
    }
}
