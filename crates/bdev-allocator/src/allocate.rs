//! The beginning of blocks' lives: where their space comes from.
//!
//! Whole megabytes are subtracted from the count first, and then taken out of the index. Smaller blocks come from
//! partly used megabytes, those with the smallest fitting slots first. Only where there are none, a whole megabyte
//! is broken.
use chimaera_bdev_proto::{AllocationPlan, Block, BlockType, OwnerTag};
use chimaera_proto::status::Status;

use crate::fit::{CLASSES, Fill};
use crate::index::FillClass;
use crate::megabyte::Locked;
use crate::sync::{Backoff, Ordering, Weakness, weakened};
use crate::{Allocator, CURSORS, block_at};
use chimaera_bdev_format::block_map::{Slot, UNITS, units_of};

/// When the life of a block begins for which space was found.
pub(crate) trait Beginning: Copy {
    /// Is told of the space, with the lock of its megabyte held.
    fn begin<C>(self, allocator: &Allocator<C>, index: usize, slot: Slot);
}

/// It begins at once, with this owner tag.
#[derive(Clone, Copy)]
struct AtOnce(OwnerTag);

impl Beginning for AtOnce {
    #[inline(always)]
    fn begin<C>(self, allocator: &Allocator<C>, index: usize, slot: Slot) {
        allocator.start_life(index, slot, self.0);
    }
}

/// Partly used megabytes whose locks are tried before their holders get time to release one.
const MAX_BUSY_MEGABYTES: usize = 8;

impl<C> Allocator<C> {
    /// Allocates the blocks of the plan, with this owner tag, and hands each block to `sink`, in no particular
    /// order.
    ///
    /// `worker` is the caller's number. Each worker searches on from where it found space last, so that workers
    /// contend less. Takes no memory for the list, and waits only for others' short critical sections.
    ///
    /// # Errors
    /// Nothing has changed, and `sink` was not called:
    /// - [`Status::NoSpace`]: at some moment during the call there was not enough.
    /// - [`Status::Busy`]: the pool holds as many owner tags as it may, [`MAX_HELD_TAGS`](super::MAX_HELD_TAGS). A
    ///   commit takes them. Only blocks of less than a megabyte that are to have a tag are refused so, in a persistent
    ///   pool.
    /// - [`Status::InvalidArgument`]: several blocks of less than a megabyte, which
    ///   [`AllocationPlan::for_size`] never asks for.
    pub fn allocate(
        &self,
        plan: AllocationPlan,
        owner: OwnerTag,
        worker: usize,
        mut sink: impl FnMut(Block),
    ) -> Result<(), Status> {
        self.find(plan, (owner, AtOnce(owner)), worker, &mut sink)
    }

    /// Finds space for the blocks of the plan, whose lives begin as `beginning` says, for this owner tag.
    #[inline(always)]
    pub(crate) fn find(
        &self,
        plan: AllocationPlan,
        (owner, beginning): (OwnerTag, impl Beginning),
        worker: usize,
        sink: &mut impl FnMut(Block),
    ) -> Result<(), Status> {
        match (plan.block_type, plan.count) {
            (_, 0) => {}
            (BlockType::Mib1, count) => self.allocate_megabytes(count, beginning, sink)?,
            (block_type, 1) if owner.is_none() => {
                sink(self.allocate_small(block_type, beginning, worker)?);
            }
            (block_type, 1) => sink(self.allocate_tagged(block_type, beginning, worker)?),
            _ => return Err(Status::InvalidArgument),
        }
        Ok(())
    }

    fn allocate_megabytes(
        &self,
        count: u64,
        beginning: impl Beginning,
        sink: &mut impl FnMut(Block),
    ) -> Result<(), Status> {
        if !self.free_space.reserve(count, count.saturating_mul(UNITS)) {
            return Err(Status::NoSpace);
        }
        let mut start = 0;
        for _ in 0..count {
            let (index, mut locked) = self.lock_reserved_whole(start);
            let slot = locked
                .reserve(BlockType::Mib1)
                .expect("an empty megabyte has room");
            self.change_class(index, Fill::Empty, locked.fill());
            beginning.begin(self, index, slot);
            drop(locked);
            start = index + 1;
            sink(block_at(index, slot));
        }
        Ok(())
    }

    /// As [`Self::allocate_small`], with a tag, for which there must be room.
    #[inline(never)]
    fn allocate_tagged(
        &self,
        block_type: BlockType,
        beginning: impl Beginning,
        worker: usize,
    ) -> Result<Block, Status> {
        if !self.owner_tags.admit() {
            return Err(Status::Busy);
        }
        let allocated = self.allocate_small(block_type, beginning, worker);
        if allocated.is_err() {
            self.owner_tags.take_back();
        }
        allocated
    }

    fn allocate_small(
        &self,
        block_type: BlockType,
        beginning: impl Beginning,
        worker: usize,
    ) -> Result<Block, Status> {
        let cursor = &self.cursors[worker % CURSORS];
        let backoff = Backoff::new();
        loop {
            let start = cursor.load(Ordering::Relaxed) as usize;
            let mut classes = block_type as usize..CLASSES;
            let found =
                classes.find_map(|class| self.allocate_in(class, block_type, beginning, start));
            let outcome = match found {
                Some(place) => Some(Ok(place)),
                None => self.break_whole(block_type, beginning),
            };
            match outcome {
                Some(Ok((index, slot))) => {
                    if index != start {
                        cursor.store(index as u64, Ordering::Relaxed);
                    }
                    return Ok(block_at(index, slot));
                }
                Some(Err(status)) => return Err(status),
                None => backoff.snooze(),
            }
        }
    }

    /// Allocates in a partly used megabyte of the class, unless there is none or all are busy.
    #[inline]
    fn allocate_in(
        &self,
        class: usize,
        block_type: BlockType,
        beginning: impl Beginning,
        start: usize,
    ) -> Option<(usize, Slot)> {
        let members = &self.classes[class];
        if members.census().is_zero() {
            return None;
        }
        let mut start = start;
        // Where the last block was found, there is often room for the next one.
        let at_hand = self.megabytes[start].fill().class() == Some(class);
        let mut at_hand = at_hand.then_some(start);
        for _ in 0..MAX_BUSY_MEGABYTES {
            let index = match at_hand.take() {
                Some(index) => index,
                None => members.index.find(start)?,
            };
            start = index + 1;
            let Some(mut locked) = self.megabytes[index].try_lock(self.threads) else {
                continue;
            };
            let before = locked.fill();
            // It may have become whole since it was found. A whole megabyte must be reserved in the count first.
            if before == Fill::Empty {
                continue;
            }
            let Some(slot) = locked.reserve(block_type) else {
                continue;
            };
            self.free_space.take(units_of(block_type));
            self.change_class(index, before, locked.fill());
            beginning.begin(self, index, slot);
            return Some((index, slot));
        }
        None
    }

    /// Breaks a whole megabyte if no partly used one fits; `None` if one may fit after all.
    ///
    /// One thread at a time: the rest of a broken megabyte is in its class before the next thread looks. So while
    /// a thread holds the flag, space that fits is in the classes or among the whole megabytes. Where it finds
    /// neither, and nothing has changed while it looked, there was no space.
    fn break_whole(
        &self,
        block_type: BlockType,
        beginning: impl Beginning,
    ) -> Option<Result<(usize, Slot), Status>> {
        let exclusive = !weakened(Weakness::BreakNotExclusive);
        if exclusive && self.breaking.swap(true, Ordering::Acquire) {
            return None;
        }
        let outcome = self.break_whole_exclusively(block_type, beginning);
        // Release pairs with the acquire above: the next holder of the flag finds the rest of a broken megabyte.
        self.breaking.store(false, Ordering::Release);
        outcome
    }

    fn break_whole_exclusively(
        &self,
        block_type: BlockType,
        beginning: impl Beginning,
    ) -> Option<Result<(usize, Slot), Status>> {
        let censuses = || self.classes.each_ref().map(FillClass::census);
        let fitting = block_type as usize..;
        let before = censuses();
        if before[fitting.clone()]
            .iter()
            .any(|census| !census.is_zero())
        {
            return None;
        }
        if !self.free_space.reserve(1, units_of(block_type)) {
            // If no class got a member while the whole megabytes were looked at, all classes were
            // empty throughout. A megabyte that became whole counted as whole before it left its
            // class, so it was not overlooked.
            let unchanged = weakened(Weakness::CensusNotRepeated)
                || censuses()[fitting.clone()] == before[fitting];
            return unchanged.then_some(Err(Status::NoSpace));
        }
        let (index, mut locked) = self.lock_reserved_whole(0);
        let slot = locked
            .reserve(block_type)
            .expect("an empty megabyte has room");
        self.change_class(index, Fill::Empty, locked.fill());
        beginning.begin(self, index, slot);
        Some(Ok((index, slot)))
    }

    /// Lets a block be used whose space is reserved. The megabyte's lock is held.
    #[inline]
    pub(crate) fn start_life(&self, index: usize, slot: Slot, owner: OwnerTag) {
        self.owner_tags.insert(index, slot, owner);
        self.megabytes[index].make_live(slot, self.threads);
        if let Some(durability) = &self.durability {
            durability.note_change(index);
        }
    }

    /// Finds a whole megabyte and locks it. The caller has reserved one in the count, so there is one.
    #[inline]
    fn lock_reserved_whole(&self, start: usize) -> (usize, Locked<'_>) {
        let backoff = Backoff::new();
        let mut start = start;
        loop {
            let found = self.wholes.find(start);
            let locked = found
                .and_then(|index| Some((index, self.megabytes[index].try_lock(self.threads)?)));
            match locked {
                Some((index, locked)) if locked.fill() == Fill::Empty => return (index, locked),
                _ => {
                    start = found.map_or(0, |index| index + 1);
                    backoff.snooze();
                }
            }
        }
    }
}
