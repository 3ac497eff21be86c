//! Owner tags of live blocks, as long as the device does not have them.
//!
//! A tag is added before its block is live, and stays until a commit takes it, or until its block is freed. In memory
//! pools it stays as long as its block lives. Blocks without a tag take nothing here.
//!
//! # How much memory they take
//! - The tag of a block of a megabyte lies in an array of eight bytes per megabyte of the pool, which takes memory
//!   where there are such tags. It needs no bound, since the state of such a megabyte takes sixteen times as much.
//! - Tags of smaller blocks lie in tables, at 20 to 40 bytes each. Between two commits of a persistent pool there could
//!   be one for each of its units. So it holds [`MAX_HELD_TAGS`] of them at most, and at half of that asks for a
//!   commit.
//! - A table that has become much too large for its tags shrinks. So tables that were large one after another do not
//!   keep the memory of all of them.
//!
//! # The orderings
//! - [`OwnerTags::admit`] counts a tag before its block is looked for, by one atomic addition, and the count falls only
//!   after a tag was removed. So the count is never less than the tags in the tables, and as nobody is admitted at
//!   [`MAX_HELD_TAGS`], there are never more than that. It may be more for a moment: by a thread that is admitted and
//!   has not added its tag, or that was refused and has not taken back its addition. Such a thread may have another one
//!   wait for a commit that would have had room; none gets room that is not there.
//! - [`OwnerTags::wants_commit`] is a hint. Of all threads that find the bound reached it sends one to ask for a
//!   commit, by a flag that the beginning of a commit takes back *before* the commit looks at any megabyte. A thread
//!   that finds the flag set has added its tag, and noted that its megabyte has changed, before it writes the flag; the
//!   commit reads the flag (acquire, release) and then looks for notes. So the tags of all whom the flag kept from
//!   asking are taken by the commit that was asked for. If the flag were taken back at the end, tags that came
//!   meanwhile could stay with nobody to ask for them.
//! - Neither count nor flag is on the device. A crash loses the tags that no commit had taken, and their blocks with
//!   them: an allocation counts only with the commit that has block and tag.
use std::collections::HashMap;
use std::io;

use chimaera_bdev_proto::{BlockType, OwnerTag};

use crate::mapping::SparseArray;
use crate::sync::{AtomicBool, AtomicU64, CachePadded, Mutex, Ordering, Weakness, weakened};
use chimaera_bdev_format::block_map::{Slot, UNITS};

/// Tags of blocks of less than a megabyte at which a persistent pool asks for a commit.
///
/// A tag takes up to 40 bytes, so these take 10 MB. Fewer would save little, and would have pools commit more often
/// than their users flush: a commit and its flushes are little beside so many allocations.
pub const MAX_UNCOMMITTED_TAGS: u64 = 1 << 18;

/// Tags of blocks of less than a megabyte that a persistent pool holds at most: those that a commit was asked for, and
/// as many again that come before it takes them. Then allocations wait for it.
pub const MAX_HELD_TAGS: u64 = 2 * MAX_UNCOMMITTED_TAGS;

const _: () = assert!(MAX_UNCOMMITTED_TAGS > 0 && MAX_UNCOMMITTED_TAGS < MAX_HELD_TAGS);

pub(crate) const SHARDS: usize = if cfg!(loom) { 1 } else { 16 };

/// Tags for which a table that is empty keeps its memory.
pub(crate) const KEPT_CAPACITY: usize = 1 << 10;

/// A table shrinks when it has room for so many times its tags.
pub(crate) const SPARE_FACTOR: usize = 4;

/// How many tags an allocator may hold, those of whole megabytes not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TagBounds {
    /// From here on it asks for commits.
    pub(crate) asking: u64,
    /// Here nothing is admitted.
    pub(crate) full: u64,
}

impl TagBounds {
    /// Those of a pool that commits take tags from.
    pub(crate) const PERSISTENT: Self = Self {
        asking: MAX_UNCOMMITTED_TAGS,
        full: MAX_HELD_TAGS,
    };

    /// Those of a pool in memory, whose tags stay as long as their blocks.
    pub(crate) const NONE: Self = Self {
        asking: u64::MAX,
        full: u64::MAX,
    };
}

/// The tags of a pool. Those of a megabyte's blocks change under the megabyte's lock alone.
pub(crate) struct OwnerTags {
    /// Tags of blocks of less than a megabyte, by unit of the pool.
    shards: [CachePadded<Mutex<HashMap<u64, u64>>>; SHARDS],
    /// Tags of blocks of a megabyte, by megabyte of the pool, 0 for none.
    megabytes: SparseArray<AtomicU64>,
    /// The tags in the shards, and those that are about to be added.
    held: CachePadded<AtomicU64>,
    bounds: TagBounds,
    /// Whether a commit was asked for, and none has begun since.
    is_asked: AtomicBool,
    in_use: AtomicBool,
}

impl OwnerTags {
    /// No tags, for a pool of so many megabytes.
    ///
    /// # Errors
    /// If there is no address space for them.
    pub(crate) fn new(megabytes: usize, bounds: TagBounds) -> io::Result<Self> {
        Ok(Self {
            shards: std::array::from_fn(|_| CachePadded::new(Mutex::new(HashMap::new()))),
            megabytes: SparseArray::new(megabytes)?,
            held: CachePadded::default(),
            bounds,
            is_asked: AtomicBool::new(false),
            in_use: AtomicBool::new(false),
        })
    }

    /// Whether any block of the pool has, or ever had, a tag.
    // Relaxed: a caller that has to know of a block's tag holds the lock under which the block's life began.
    #[inline]
    pub(crate) fn are_in_use(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Says that blocks on the device have tags.
    pub(crate) fn set_in_use(&self) {
        self.in_use.store(true, Ordering::Relaxed);
    }

    /// Counts the tag of a block of less than a megabyte, which the caller then adds, or takes back by
    /// [`Self::take_back`]. `false`, and nothing is counted, if there is no room for it before a commit.
    pub(crate) fn admit(&self) -> bool {
        if weakened(Weakness::TagCountedLate) {
            return self.held.load(Ordering::Acquire) < self.bounds.full;
        }
        // Acquire pairs with the release in `take_back`: what made room was removed before.
        let before = self.held.fetch_add(1, Ordering::Acquire);
        if before < self.bounds.full {
            return true;
        }
        self.take_back();
        false
    }

    /// Counts one tag less: one that was admitted and not added, or one that was removed.
    pub(crate) fn take_back(&self) {
        self.held.fetch_sub(1, Ordering::Release);
    }

    /// Adds the tag of a block that is about to become live. That of a block of less than a megabyte was admitted.
    #[inline]
    pub(crate) fn insert(&self, index: usize, slot: Slot, tag: OwnerTag) {
        if !tag.is_none() {
            self.add(index, slot, tag);
        }
    }

    fn add(&self, index: usize, slot: Slot, tag: OwnerTag) {
        self.set_in_use();
        if slot.block_type == BlockType::Mib1 {
            // Relaxed here and below: the megabyte's lock orders all accesses.
            self.megabytes[index].store(tag.0, Ordering::Relaxed);
            return;
        }
        if weakened(Weakness::TagCountedLate) {
            self.held.fetch_add(1, Ordering::Acquire);
        }
        let mut shard = self.shard(index).lock();
        shard.insert(unit_of(index, slot), tag.0);
        debug_assert!(shard.len() as u64 <= self.bounds.full, "too many tags");
    }

    /// The tag of a block, [`OwnerTag::NONE`] if it is not here.
    pub(crate) fn get(&self, index: usize, slot: Slot) -> OwnerTag {
        let tag = match slot.block_type {
            BlockType::Mib1 => self.megabytes[index].load(Ordering::Relaxed),
            _ => {
                let shard = self.shard(index).lock();
                shard.get(&unit_of(index, slot)).copied().unwrap_or(0)
            }
        };
        OwnerTag(tag)
    }

    /// Removes the tag of a block and returns it, [`OwnerTag::NONE`] if it is not here.
    #[inline]
    pub(crate) fn take(&self, index: usize, slot: Slot) -> OwnerTag {
        match self.are_in_use() {
            false => OwnerTag::NONE,
            true => self.remove(index, slot),
        }
    }

    fn remove(&self, index: usize, slot: Slot) -> OwnerTag {
        if slot.block_type == BlockType::Mib1 {
            let tag = self.megabytes[index].load(Ordering::Relaxed);
            if tag != 0 {
                self.megabytes[index].store(0, Ordering::Relaxed);
            }
            return OwnerTag(tag);
        }
        // Relaxed: whoever takes a block's tag got the block from the thread that counted and added the tag.
        if self.held.load(Ordering::Relaxed) == 0 {
            return OwnerTag::NONE;
        }
        let mut shard = self.shard(index).lock();
        let Some(tag) = shard.remove(&unit_of(index, slot)) else {
            return OwnerTag::NONE;
        };
        // Half of the tags are removed before it shrinks for the third time, so that removals pay for moving tags.
        if shard.capacity() > KEPT_CAPACITY && shard.len() < shard.capacity() / SPARE_FACTOR {
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
        drop(shard);
        self.take_back();
        OwnerTag(tag)
    }

    /// Whether the caller should ask for a commit, since many tags wait for one. Of several callers one is told so
    /// until a commit begins. Called after the tag's block has become live.
    pub(crate) fn wants_commit(&self) -> bool {
        // Relaxed: the caller's own tag is counted.
        self.held.load(Ordering::Relaxed) >= self.bounds.asking
            && !self.is_asked.swap(true, Ordering::AcqRel)
    }

    /// A commit begins that takes all tags whose blocks are live by now: from now on, another one may be asked for.
    pub(crate) fn begin_commit(&self) {
        // Not a store, which would not acquire what those have done who found the flag set.
        self.is_asked.swap(false, Ordering::AcqRel);
    }

    /// Tags of blocks of less than a megabyte that are counted now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Neighbouring megabytes lie in different shards, and the tags of one megabyte in the same.
    fn shard(&self, index: usize) -> &Mutex<HashMap<u64, u64>> {
        &self.shards[index % SHARDS]
    }

    /// Tags that there is room for in the tables.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn capacity(&self) -> usize {
        let capacities = self.shards.iter().map(|shard| shard.lock().capacity());
        capacities.sum()
    }
}

fn unit_of(index: usize, slot: Slot) -> u64 {
    index as u64 * UNITS + slot.first_unit() as u64
}
