//! Which blocks of a pool are allocated, and which I/O may touch them.
//!
//! Several workers use one [`Allocator`] at the same time ([`Threads::Many`]). There is no lock over
//! the whole of it.
//!
//! # Laws
//! - Only a live block can be pinned, and only a pinned block is read or written. A block is live
//!   from its allocation to its free, with its offset, its size and its type.
//! - A pin that was given before a block was freed keeps the block's space from being allocated
//!   again (law 11). The free completes when the space is released, not before.
//! - A call that is refused changes nothing. An allocation is all or nothing, and so is a free.
//! - A megabyte whose blocks are all released can be allocated as a megabyte, and a whole megabyte is broken into
//!   smaller slots only when no partly used one has a fitting slot (law 12).
//! - [`Allocator::remaining_bytes`] is one word. Space is subtracted before it is handed out, and added before
//!   its free completes: when it can be allocated again, or will be after a commit.
//! - The allocator uses memory for what is allocated, not for what could be; and for owner tags that wait for a commit
//!   a bounded amount ([`MAX_HELD_TAGS`]).
//!
//! # Parts
//! - `megabyte`: the state of one megabyte, as two bitmaps: what is *live*, and what is *reserved*. Free
//!   neighbours are neighbouring zeros, so there is nothing to merge. `fit`: which free slot an allocation takes.
//! - `pins`, `drains`: I/O in flight, and the frees that wait for it.
//! - `index`: where to find free space. A megabyte is in the set of whole megabytes, or in the class of its
//!   largest free slot, or, if it is full, in neither. It moves only while its lock is held, and enters the
//!   new set before it leaves the old one, so that a search of all of them finds it.
//! - `free_space`: how much is free.
//! - `owner_tags`: the tags of live blocks.
//! - `durability`: what the device of a persistent pool may say of its space, and freed space that waits for a
//!   commit.
//! - `allocate`: the beginning of a block's life: where its space comes from.
//! - `undecided`: lists of blocks whose free may yet be refused, which nobody sees.
//! - `unborn`: space that is prepared before the block's life begins.
//! - `release`: pins, and the end of a block's life. `completion`: how the caller of a free hears of it.
//! - [`ledger`]: the allocator and its pool's metadata, in step.
//! - `mapping`: memory. The only unsafe code, except for a hint to caches ([`prefetch`]).
//! - `sync`: atomics and locks, which loom replaces. [`failpoint`]: where tests let the module panic.
#![deny(unsafe_code)]

mod allocate;
mod completion;
mod drains;
mod durability;
pub mod failpoint;
mod fit;
mod free_space;
mod index;
pub mod ledger;
mod mapping;
mod megabyte;
mod owner_tags;
mod pins;
pub mod prefetch;
mod release;
mod sync;
mod unborn;
mod undecided;

#[cfg(all(test, loom))]
mod loom_durability_tests;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, loom))]
mod loom_unborn_tests;
#[cfg(all(test, loom))]
mod loom_undecided_tests;
#[cfg(all(test, not(loom)))]
mod measure;
#[cfg(all(test, not(loom)))]
mod model_tests;
#[cfg(all(test, not(loom)))]
mod owner_tag_tests;
#[cfg(all(test, not(loom)))]
mod simulation;
#[cfg(all(test, not(loom)))]
mod stress_tests;
#[cfg(test)]
mod test_support;
#[cfg(all(test, not(loom)))]
mod tests;

use std::io;
use std::ops::Range;

use chimaera_bdev_proto::{Block, MEGABYTE, MegabyteState, UNIT_BYTES};
use chimaera_proto::status::Status;

use chimaera_bdev_format::block_map::{MegabyteMap, Slot, UNITS, UnitMap};
pub use completion::FreeCompletion;
use drains::Drains;
use durability::Durability;
pub use durability::{CommitLimits, CommitPart, Restoring};
use fit::{CLASSES, Fill};
use free_space::FreeSpace;
use index::{FillClass, Index};
use mapping::SparseArray;
use megabyte::Megabyte;
pub use owner_tags::{MAX_HELD_TAGS, MAX_UNCOMMITTED_TAGS};
use owner_tags::{OwnerTags, TagBounds};
pub use release::{FreeError, Pin, Pinned};
pub use sync::Threads;
use sync::{AtomicBool, AtomicU64, CachePadded, Weakness, weakened};
pub use unborn::UnbornBlocks;
use undecided::Undecided;

/// The allocator of one pool. `C` is told when a free is complete.
pub struct Allocator<C> {
    threads: Threads,
    total_units: u64,
    megabytes: SparseArray<Megabyte>,
    /// The megabytes that are wholly free.
    wholes: Index,
    /// Partly used megabytes, by their largest free slot, the smallest first.
    classes: [FillClass; CLASSES],
    free_space: FreeSpace,
    /// A lock for breaking a whole megabyte for a smaller block, and for finding that there is none.
    breaking: CachePadded<AtomicBool>,
    /// Where each worker found its last small block.
    cursors: [CachePadded<AtomicU64>; CURSORS],
    drains: Drains<C>,
    /// Frees of lists that may yet be refused.
    undecided: Undecided,
    owner_tags: OwnerTags,
    /// Of a persistent pool: its blocks outlive the allocator.
    durability: Option<Durability>,
}

const CURSORS: usize = if cfg!(loom) { 1 } else { 32 };

impl<C> Allocator<C> {
    /// Largest size of a pool in bytes: 256 TiB less one megabyte.
    pub const MAX_TOTAL_BYTES: u64 = free_space::MAX_MEGABYTES * MEGABYTE;

    /// An allocator of `total_bytes`, rounded down to whole units of 4 KiB, all free.
    ///
    /// Takes address space of some 140 bytes per megabyte; memory only as blocks are allocated.
    ///
    /// # Errors
    /// `InvalidInput` for less than a unit or more than [`Self::MAX_TOTAL_BYTES`]; the system's error if it has
    /// no address space.
    pub fn new(total_bytes: u64, threads: Threads) -> io::Result<Self> {
        Self::with_durability(total_bytes, threads, TagBounds::NONE, |_| Ok(None))
    }

    /// As [`Self::new`], for a persistent pool, whose blocks outlive the allocator: see `durability`. Takes some 64
    /// bytes more per megabyte.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn persistent(total_bytes: u64, threads: Threads) -> io::Result<Self> {
        Self::persistent_with(total_bytes, threads, TagBounds::PERSISTENT)
    }

    fn persistent_with(total_bytes: u64, threads: Threads, bounds: TagBounds) -> io::Result<Self> {
        Self::with_durability(total_bytes, threads, bounds, |count| {
            Durability::new(count).map(Some)
        })
    }

    fn with_durability(
        total_bytes: u64,
        threads: Threads,
        tag_bounds: TagBounds,
        durability: impl FnOnce(usize) -> io::Result<Option<Durability>>,
    ) -> io::Result<Self> {
        let total_units = total_bytes / UNIT_BYTES;
        if total_units == 0 || total_bytes > Self::MAX_TOTAL_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let count = usize::try_from(total_units.div_ceil(UNITS)).map_err(io::Error::other)?;
        let allocator = Self {
            threads,
            total_units,
            megabytes: SparseArray::new(count)?,
            wholes: Index::full(count)?,
            classes: [
                FillClass::new(count)?,
                FillClass::new(count)?,
                FillClass::new(count)?,
            ],
            free_space: FreeSpace::new(total_units, total_units / UNITS, threads),
            breaking: CachePadded::default(),
            cursors: std::array::from_fn(|_| CachePadded::default()),
            drains: Drains::new(),
            undecided: Undecided::default(),
            owner_tags: OwnerTags::new(count, tag_bounds)?,
            durability: durability(count)?,
        };
        // If the last megabyte is not whole, it was not counted as such, and leaves their set here.
        let tail_units = (total_units % UNITS) as usize;
        if tail_units != 0 {
            let last = count - 1;
            let mut locked = allocator.megabytes[last].lock(threads);
            locked.reserve_units(&units_between(tail_units, UNITS as usize));
            allocator.change_class(last, Fill::Empty, locked.fill());
        }
        Ok(allocator)
    }

    /// Withholds these units of the pool for good: no block is allocated in them. Call it before the first allocation.
    pub fn withhold(&self, units: Range<u64>) {
        let units = units.start..units.end.min(self.total_units);
        let mut start = units.start;
        while start < units.end {
            let index = (start / UNITS) as usize;
            let end = units.end.min((index as u64 + 1) * UNITS);
            let taken = end - start;
            let is_whole = self.wholes.contains(index);
            if is_whole {
                let reserved = self.free_space.reserve(1, taken);
                debug_assert!(reserved, "a whole megabyte is counted as one");
            } else {
                self.free_space.take(taken);
            }
            if is_whole && taken == UNITS {
                // No search finds the megabyte any more. Its state is not touched, so that it takes no memory.
                self.wholes.remove(index);
            } else {
                let mut locked = self.megabytes[index].lock(self.threads);
                let before = locked.fill();
                let first = (start % UNITS) as usize;
                let free = locked.reserve_units(&units_between(first, first + taken as usize));
                debug_assert!(free, "nothing is allocated yet");
                self.change_class(index, before, locked.fill());
            }
            start = end;
        }
    }

    /// Says that blocks on the device have owner tags. From then on a commit has a tag for each new block, 0 for none.
    pub fn expect_tags(&self) {
        self.owner_tags.set_in_use();
    }

    /// Whether the caller should ask for a commit, because the pool holds [`MAX_UNCOMMITTED_TAGS`] owner tags: call it
    /// after an allocation with a tag. One caller is told so, until a commit begins. Waits for nobody.
    pub fn wants_commit(&self) -> bool {
        self.owner_tags.wants_commit()
    }

    /// Owner tags that the pool holds in memory until a commit takes them, those of blocks of a megabyte not counted;
    /// or, where no commit does, as long as their blocks live.
    pub fn held_tags(&self) -> u64 {
        self.owner_tags.held()
    }

    /// Bytes of the pool, in whole units.
    pub const fn total_bytes(&self) -> u64 {
        self.total_units * UNIT_BYTES
    }

    /// Bytes that can be allocated, as of one moment: what is free, not necessarily in one piece, and what will be free
    /// as soon as a commit has made its free durable.
    pub fn remaining_bytes(&self) -> u64 {
        self.free_space.units() * UNIT_BYTES
    }

    /// Megabytes of the pool, the last of which may not be whole.
    pub fn megabyte_count(&self) -> usize {
        self.megabytes.len()
    }

    /// How much of a megabyte is in use now. With `has_metadata` some of it was withheld for the pool's metadata: it
    /// counts as metadata if there are no blocks besides.
    pub fn state(&self, index: usize, has_metadata: bool) -> MegabyteState {
        if self.wholes.contains(index) {
            return MegabyteState::Free;
        }
        let megabyte = &self.megabytes[index];
        let is_empty = || megabyte.live_map() == MegabyteMap::EMPTY;
        // A second look, if there seem to be no blocks: see `undecided`.
        let is_empty = is_empty() && {
            let _decided = self.undecided.for_second_look(self.threads);
            is_empty()
        };
        match (megabyte.fill(), is_empty) {
            (_, true) if has_metadata => MegabyteState::Metadata,
            (_, true) => MegabyteState::Free,
            (Fill::Full, false) => MegabyteState::Used,
            (_, false) => MegabyteState::Split,
        }
    }

    /// Moves a megabyte, whose lock is held, to the set in which its new fill is found.
    #[inline]
    fn change_class(&self, index: usize, before: Fill, after: Fill) {
        if before == after {
            return;
        }
        if weakened(Weakness::ClassLeftFirst) {
            self.leave_class(index, before);
            self.enter_class(index, after);
            return;
        }
        self.enter_class(index, after);
        self.leave_class(index, before);
    }

    #[inline]
    fn enter_class(&self, index: usize, fill: Fill) {
        if let Some(class) = fill.class() {
            self.classes[class].insert(index);
        } else if fill == Fill::Empty {
            self.wholes.insert(index);
        }
    }

    #[inline]
    fn leave_class(&self, index: usize, fill: Fill) {
        if let Some(class) = fill.class() {
            self.classes[class].remove(index);
        } else if fill == Fill::Empty {
            self.wholes.remove(index);
        }
    }

    /// Megabyte and slot of a block that a client names.
    #[inline]
    fn locate(&self, block: Block) -> Result<(usize, Slot), Status> {
        let size = block.block_type.size();
        if block.size != size || !block.offset.is_multiple_of(size) {
            return Err(Status::WrongSize);
        }
        if block
            .offset
            .checked_add(size)
            .is_none_or(|end| end > self.total_bytes())
        {
            return Err(Status::OutOfRange);
        }
        let number = (block.offset % MEGABYTE / size) as usize;
        Ok((
            (block.offset / MEGABYTE) as usize,
            Slot {
                block_type: block.block_type,
                number,
            },
        ))
    }
}

/// The units of a megabyte from `first` on, up to `end`.
fn units_between(first: usize, end: usize) -> UnitMap {
    let below = |end: usize, word: usize| match end.saturating_sub(64 * word) {
        64.. => u64::MAX,
        bits => (1 << bits) - 1,
    };
    std::array::from_fn(|word| below(end, word) & !below(first, word))
}

/// The block that lies in this slot of the megabyte with this index.
#[must_use]
pub fn block_at(index: usize, slot: Slot) -> Block {
    let offset = index as u64 * MEGABYTE + slot.first_unit() as u64 * UNIT_BYTES;
    Block::new(offset, slot.block_type)
}
