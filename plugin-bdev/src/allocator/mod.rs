//! Which blocks of a pool are allocated, and which I/O may touch them.
//!
//! Several workers use one [`Allocator`] at the same time ([`Threads::Many`]). There is no lock over
//! all of it.
//!
//! # Laws
//! - Only a live block can be pinned, and only a pinned block is read or written. A block is live
//!   from its allocation to its free, with its offset, its size and its type.
//! - A pin that was given before a block was freed keeps the block's space from being allocated
//!   again (law 11). The free completes when the space is released, not before.
//! - What is refused changes nothing. An allocation is all or nothing, and so is a free.
//! - A megabyte whose blocks are all released can be allocated as a megabyte, and a megabyte that
//!   nobody has broken is broken only when no partly used one has a fitting slot (law 12).
//! - [`Allocator::remaining_bytes`] is one word: space leaves it before it is handed out, and
//!   enters it when it can be had again, before the free completes.
//! - Memory is used for what is allocated, not for what could be.
//!
//! # Parts
//! - [`megabyte`]: a record per megabyte. Two bitmaps: what is *live*, and what is *reserved*. Free
//!   neighbours are neighbouring zeros, so there is nothing to merge.
//! - [`pins`], [`drains`]: I/O in flight, and the frees that wait for it.
//! - [`index`]: where to find free space. A megabyte is in the set of the whole ones, or in the
//!   class of its largest free slot, or, if it is full, nowhere. It changes its place only while its
//!   lock is held, and enters the new place before it leaves the old one, so that who looks at all
//!   places sees it.
//! - [`space`]: how much is free.
//! - [`allocate`]: the beginning of a block: where its space comes from.
//! - [`release`]: the end of a block: pins and frees.
//! - [`mapping`]: memory. The only unsafe code.
//! - [`sync`]: what loom replaces.
#![deny(unsafe_code)]

mod allocate;
mod drains;
mod index;
mod mapping;
mod megabyte;
mod pins;
mod release;
mod space;
mod sync;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod measure;
#[cfg(all(test, not(loom)))]
mod model_tests;
#[cfg(all(test, not(loom)))]
mod stress_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use std::io;
use std::ops::Range;

use chimaera_proto::bdev::{Block, MEGABYTE, UNIT_BYTES};
use chimaera_proto::status::Status;

use crate::slots::{CLASSES, Fill, Slot, UNITS};
use drains::Drains;
use index::{Class, Index};
use mapping::SparseArray;
use megabyte::Megabyte;
pub(crate) use release::{FreeCompletion, FreeError, Pin};
use space::Space;
pub(crate) use sync::Threads;
use sync::{AtomicBool, AtomicU64, CachePadded, Weakness, weakened};

/// The allocator of one pool. `C` is told when a free is complete.
pub(crate) struct Allocator<C> {
    threads: Threads,
    total_units: u64,
    megabytes: SparseArray<Megabyte>,
    wholes: Index,
    /// Partly used megabytes, by their largest free slot, the smallest first.
    classes: [Class; CLASSES],
    space: Space,
    /// Held by who breaks a whole megabyte for a smaller block, or finds that there is none.
    breaking: CachePadded<AtomicBool>,
    /// Where each worker found its last small block.
    cursors: [CachePadded<AtomicU64>; CURSORS],
    drains: Drains<C>,
}

const CURSORS: usize = if cfg!(loom) { 1 } else { 32 };

impl<C> Allocator<C> {
    /// Largest size of a pool in bytes: 256 TiB less one megabyte.
    pub(crate) const TOTAL_BYTES_MAXIMUM: u64 = space::MEGABYTES_MAXIMUM * MEGABYTE;

    /// An allocator of `total_bytes`, rounded down to whole units of 4 KiB, all free.
    ///
    /// Takes address space of some 130 bytes per megabyte; memory only as blocks are allocated.
    ///
    /// # Errors
    /// `InvalidInput` for less than a unit or more than [`Self::TOTAL_BYTES_MAXIMUM`]; what the
    /// system says if it has no address space to give.
    pub(crate) fn new(total_bytes: u64, threads: Threads) -> io::Result<Self> {
        let total_units = total_bytes / UNIT_BYTES;
        if total_units == 0 || total_bytes > Self::TOTAL_BYTES_MAXIMUM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let count = usize::try_from(total_units.div_ceil(UNITS)).map_err(io::Error::other)?;
        let allocator = Self {
            threads,
            total_units,
            megabytes: SparseArray::new(count)?,
            wholes: Index::full(count)?,
            classes: [Class::new(count)?, Class::new(count)?, Class::new(count)?],
            space: Space::new(total_units, total_units / UNITS, threads),
            breaking: CachePadded::default(),
            cursors: std::array::from_fn(|_| CachePadded::default()),
            drains: Drains::new(),
        };
        let tail_units = (total_units % UNITS) as usize;
        if tail_units != 0 {
            let mut locked = allocator.megabytes[count - 1].lock(threads);
            locked.cut_off(tail_units);
            allocator.enter_class(count - 1, locked.fill());
            allocator.wholes.remove(count - 1);
        }
        Ok(allocator)
    }

    /// Bytes of the pool, in whole units.
    pub(crate) const fn total_bytes(&self) -> u64 {
        self.total_units * UNIT_BYTES
    }

    /// Bytes that are free, at one moment. Not necessarily in one piece.
    pub(crate) fn remaining_bytes(&self) -> u64 {
        self.space.units() * UNIT_BYTES
    }

    /// Calls `visit` with every live block in these megabytes. While others allocate and free, a
    /// block that does so meanwhile may be seen or not. Passes over wholly free megabytes without
    /// touching their records, so that looking costs no memory.
    pub(crate) fn for_each_live(&self, megabytes: Range<usize>, mut visit: impl FnMut(Block)) {
        for index in megabytes.start..megabytes.end.min(self.megabytes.len()) {
            // A megabyte leaves the whole ones before a block in it goes live.
            if !self.wholes.contains(index) {
                let slots = self.megabytes[index].live_slots();
                slots.for_each(|slot| visit(block_at(index, slot)));
            }
        }
    }

    /// Moves a megabyte, whose lock is held, to where it is found now.
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

    /// Megabyte and slot of a block as a client names it.
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

fn block_at(index: usize, slot: Slot) -> Block {
    let offset = index as u64 * MEGABYTE + slot.first_unit() as u64 * UNIT_BYTES;
    Block::new(offset, slot.block_type)
}
