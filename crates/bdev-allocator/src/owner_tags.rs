//! Owner tags of live blocks, as long as the device does not have them.
//!
//! A tag is here before its block is live, and until a commit takes it or, in memory pools, until the
//! block's space is released. Blocks without a tag cost nothing.
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
    // Relaxed: who has to know of a block's tag holds the lock under which the block was born.
    pub(crate) fn are_in_use(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Says that blocks on the device have tags.
    pub(crate) fn set_in_use(&self) {
        self.in_use.store(true, Ordering::Relaxed);
    }

    /// Keeps the tag of a block that begins at this unit, and is about to go live.
    #[inline]
    pub(crate) fn insert(&self, unit: u64, tag: OwnerTag) {
        if !tag.is_none() {
            self.set_in_use();
            // Counted before it is there: who finds none has nothing to look for.
            self.count.fetch_add(1, Ordering::Relaxed);
            self.shard(unit).lock().insert(unit, tag.0);
        }
    }

    /// The tag of a block, if it is here.
    pub(crate) fn get(&self, unit: u64) -> OwnerTag {
        OwnerTag(self.shard(unit).lock().get(&unit).copied().unwrap_or(0))
    }

    /// The tag of a block, which is no longer here then.
    #[inline]
    pub(crate) fn take(&self, unit: u64) -> OwnerTag {
        // Relaxed: who takes a block's tag got the block from whoever inserted the tag.
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
