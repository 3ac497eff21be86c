//! Owner tags of live blocks, as long as the device does not have them.
//!
//! A tag is added before its block is live, and stays until a commit takes it or, in memory pools, until the
//! block's space is released. Blocks without a tag take nothing here.
use std::collections::HashMap;

use chimaera_bdev_proto::OwnerTag;

use crate::sync::{AtomicBool, AtomicU64, CachePadded, Mutex, Ordering};

const SHARDS: usize = if cfg!(loom) { 1 } else { 16 };
/// Neighbouring units whose tags lie in the same shard.
const UNITS_PER_STRIPE: u64 = 256;

/// The tags, by unit of the pool.
pub(crate) struct OwnerTags {
    shards: [CachePadded<Mutex<HashMap<u64, u64>>>; SHARDS],
    count: AtomicU64,
    in_use: AtomicBool,
}

impl OwnerTags {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| CachePadded::new(Mutex::new(HashMap::new()))),
            count: AtomicU64::new(0),
            in_use: AtomicBool::new(false),
        }
    }

    /// Whether any block of the pool has, or ever had, a tag.
    // Relaxed: a caller that has to know of a block's tag holds the lock under which the block's life began.
    pub(crate) fn are_in_use(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Says that blocks on the device have tags.
    pub(crate) fn set_in_use(&self) {
        self.in_use.store(true, Ordering::Relaxed);
    }

    /// Adds the tag of a block that begins at this unit and is about to become live.
    #[inline]
    pub(crate) fn insert(&self, unit: u64, tag: OwnerTag) {
        if !tag.is_none() {
            self.set_in_use();
            // Counted before it is added: while the count is 0 there is nothing to look for.
            self.count.fetch_add(1, Ordering::Relaxed);
            self.shard(unit).lock().insert(unit, tag.0);
        }
    }

    /// The tag of a block, [`OwnerTag::NONE`] if it is not here.
    pub(crate) fn get(&self, unit: u64) -> OwnerTag {
        OwnerTag(self.shard(unit).lock().get(&unit).copied().unwrap_or(0))
    }

    /// Removes the tag of a block and returns it, [`OwnerTag::NONE`] if it is not here.
    #[inline]
    pub(crate) fn take(&self, unit: u64) -> OwnerTag {
        // Relaxed: the thread that takes a block's tag got the block from the thread that inserted the tag.
        if self.count.load(Ordering::Relaxed) == 0 {
            return OwnerTag::NONE;
        }
        let tag = self.shard(unit).lock().remove(&unit);
        if tag.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        OwnerTag(tag.unwrap_or(0))
    }

    fn shard(&self, unit: u64) -> &Mutex<HashMap<u64, u64>> {
        &self.shards[(unit / UNITS_PER_STRIPE) as usize % SHARDS]
    }
}
