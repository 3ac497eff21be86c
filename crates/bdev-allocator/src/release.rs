//! The use of blocks, and the end of their lives: pins and frees.
//!
//! A free makes the block dead first, so that no new I/O is accepted. It releases the block's space when the pins
//! show that no I/O accepted before can be running: at once, or later, out of the `unpin` of the last such I/O.
//! [`super::pins`] says why this is safe, [`super::drains`] why it ends.
use chimaera_bdev_proto::{Block, MEGABYTE};
use chimaera_proto::status::Status;

use crate::Allocator;
use crate::completion::FreeCompletion;
use crate::drains::{Notice, WaitingFree};
use crate::failpoint::{Failpoint, may_panic};
use crate::fit::Fill;
use crate::megabyte::Locked;
use crate::pins::PinPhase;
use crate::sync::{Weakness, weakened};
use chimaera_bdev_format::block_map::{Slot, UnitMap, units_of};

/// Why a list of blocks was not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeError {
    /// Position in the list of the block that was refused.
    pub position: usize,
    /// Why.
    pub status: Status,
}

/// The right to read and write one block until it is given back with [`Allocator::unpin`].
///
/// It may be sent to another thread. A pin that is dropped is not given back, and then frees in its megabyte never
/// complete. Where a panic could drop it, [`Pinned`] holds it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pin that is not given back holds up frees for ever"]
pub struct Pin {
    megabyte: u32,
    phase: PinPhase,
}

/// A pin that is given back when this is dropped, also by a panic.
#[must_use = "it is given back when this is dropped"]
pub struct Pinned<'a, C: FreeCompletion> {
    allocator: &'a Allocator<C>,
    pin: Option<Pin>,
}

impl<C: FreeCompletion> Pinned<'_, C> {
    /// The pin, for a caller that gives it back with [`Allocator::unpin`].
    pub fn into_pin(mut self) -> Pin {
        self.pin.take().expect("it is taken at its end only")
    }
}

impl<C: FreeCompletion> Drop for Pinned<'_, C> {
    #[inline]
    fn drop(&mut self) {
        if let Some(pin) = self.pin.take() {
            self.allocator.unpin(pin);
        }
    }
}

impl<C: FreeCompletion> Allocator<C> {
    /// Accepts an I/O on the block: until the pin is given back, nobody else gets the block's space.
    ///
    /// Never waits for other I/O. May complete frees that waited, see [`FreeCompletion::freed`].
    ///
    /// # Errors
    /// [`Status::OutOfRange`]; [`Status::WrongSize`] if a block of another type is at its offset; else
    /// [`Status::NotAllocated`].
    #[inline]
    pub fn pin(&self, block: Block) -> Result<Pin, Status> {
        let (index, slot) = self.locate(block)?;
        let megabyte = &self.megabytes[index];
        let early = weakened(Weakness::PinChecksLiveFirst).then(|| megabyte.is_live(slot));
        let pin = Pin {
            megabyte: index as u32,
            phase: megabyte.pins().enter(self.threads),
        };
        // After the I/O is counted, not before: see the module `pins`.
        if early.unwrap_or_else(|| megabyte.is_live(slot)) {
            return Ok(pin);
        }
        match self.look_again(block, Status::NotAllocated) {
            Ok(()) => Ok(pin),
            Err(status) => {
                self.unpin(pin);
                Err(status)
            }
        }
    }

    /// As [`Self::pin`], with a guard that gives the pin back when it is dropped.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn hold(&self, block: Block) -> Result<Pinned<'_, C>, Status> {
        Ok(Pinned {
            pin: Some(self.pin(block)?),
            allocator: self,
        })
    }

    /// Prefetches what [`Self::pin`] of a block at this offset will read. A hint, and no more.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        if offset < self.total_bytes() {
            let index = (offset / MEGABYTE) as usize;
            crate::prefetch::line(&raw const self.megabytes[index]);
        }
    }

    /// Ends an I/O: the storage has finished with its block.
    ///
    /// May complete frees that waited for it, see [`FreeCompletion::freed`].
    #[inline]
    pub fn unpin(&self, pin: Pin) {
        let index = pin.megabyte as usize;
        let pins = self.megabytes[index].pins();
        if pins.leave(pin.phase, self.threads) {
            self.end_waiting(index, self.drains.advance(index, pins));
        }
    }

    /// Frees the blocks, all or none. Calls `died` when they are dead, and `completion` when their space is released:
    /// before this returns if no I/O on their megabytes is in flight, else when that I/O has ended. If the
    /// allocator is dropped before, `completion` is dropped.
    ///
    /// # Errors
    /// All blocks are as they were, and the completion comes back, with the first block found that
    /// cannot be freed: [`Status::OutOfRange`]; [`Status::WrongSize`] if a block of another type is at its
    /// offset; else [`Status::DoubleFree`]. No other thread sees that they were not, see `undecided`.
    #[inline]
    pub fn free_and_tell(
        &self,
        blocks: &[Block],
        completion: C,
        died: impl FnOnce(),
    ) -> Result<(), (FreeError, C)> {
        if let Err(error) = self.end_lives(blocks) {
            return Err((error, completion));
        }
        died();
        let mut notice = Notice::Whole(completion);
        for block in blocks {
            let (index, slot) = self.locate(*block).expect("checked when its life ended");
            let pins = self.megabytes[index].pins();
            if pins.is_idle(self.threads) {
                self.release(index, slot);
            } else {
                let (rest, share) = notice.split();
                notice = rest;
                self.forget_tag(index, slot);
                self.end_waiting(index, self.drains.wait(index, pins, slot, share));
            }
        }
        notice.fulfil();
        Ok(())
    }

    /// As [`Self::free_and_tell`], for callers that need not know when the blocks die.
    ///
    /// # Errors
    /// As there.
    pub fn free(&self, blocks: &[Block], completion: C) -> Result<(), (FreeError, C)> {
        self.free_and_tell(blocks, completion, || {})
    }

    /// Makes all blocks dead, or none, and notes what has changed. The caller has to release their space.
    #[inline]
    fn end_lives(&self, blocks: &[Block]) -> Result<(), FreeError> {
        let noted_first = weakened(Weakness::ChangeNotedFirst);
        if noted_first {
            self.note_changes(blocks);
        }
        match blocks {
            [block] => {
                let ended = self.make_dead(*block);
                ended.map_err(|status| FreeError {
                    position: 0,
                    status,
                })?;
            }
            // Of several, all are looked at before the first one is touched.
            _ => {
                for (position, block) in blocks.iter().enumerate() {
                    self.check_live(*block, Status::DoubleFree)
                        .map_err(|status| FreeError { position, status })?;
                }
                self.make_all_dead(blocks)?;
            }
        }
        if !noted_first {
            self.note_changes(blocks);
        }
        Ok(())
    }

    /// Makes a single block dead, or refuses that, and then nothing has changed.
    #[inline]
    fn make_dead(&self, block: Block) -> Result<(), Status> {
        let (index, slot) = self.locate(block)?;
        if self.megabytes[index].make_dead(slot, self.threads) {
            return Ok(());
        }
        let _decided = self.undecided.for_second_look(self.threads);
        match self.megabytes[index].make_dead(slot, self.threads) {
            true => Ok(()),
            false => Err(self.why_dead(block, Status::DoubleFree)),
        }
    }

    /// Makes all blocks dead, or none. Nobody is told in between that one is dead: see `undecided`.
    pub(crate) fn make_all_dead(&self, blocks: &[Block]) -> Result<(), FreeError> {
        let first = {
            let _undecided = self.undecided.begin(self.threads);
            self.try_make_all_dead(blocks)
        };
        if first.is_ok() || weakened(Weakness::ListsDecidedTogether) {
            return first;
        }
        let _alone = self.undecided.decided(self.threads);
        self.try_make_all_dead(blocks)
    }

    /// Makes all blocks dead, or none; the caller holds the lock of the lists.
    fn try_make_all_dead(&self, blocks: &[Block]) -> Result<(), FreeError> {
        for (position, block) in blocks.iter().enumerate() {
            let (index, slot) = self.locate(*block).expect("checked before");
            if !self.megabytes[index].make_dead(slot, self.threads) {
                // Their space was reserved all the while, so nobody else's block is there.
                for block in &blocks[..position] {
                    let (index, slot) = self.locate(*block).expect("checked before");
                    self.megabytes[index].make_live(slot, self.threads);
                }
                let status = self.why_dead(*block, Status::DoubleFree);
                return Err(FreeError { position, status });
            }
        }
        Ok(())
    }

    #[inline]
    fn note_changes(&self, blocks: &[Block]) {
        if let Some(durability) = &self.durability {
            for block in blocks {
                durability.note_change((block.offset / MEGABYTE) as usize);
            }
        }
    }

    fn end_waiting(&self, index: usize, frees: Vec<WaitingFree<C>>) {
        for free in frees {
            self.release(index, free.slot);
            free.notice.fulfil();
        }
    }

    /// Removes the tag of a dead block whose space has to wait for I/O: no commit will take it, and the I/O may take
    /// long.
    fn forget_tag(&self, index: usize, slot: Slot) {
        if self.owner_tags.are_in_use() {
            // Under the lock, so that a commit that still finds the block alive finds its tag.
            let is_locked = !weakened(Weakness::TagForgottenUnlocked);
            let _locked = is_locked.then(|| self.megabytes[index].lock(self.threads));
            self.owner_tags.take(index, slot);
        }
    }

    /// Makes the space of a dead block available, now that no I/O can touch it.
    #[inline]
    pub(crate) fn release(&self, index: usize, slot: Slot) {
        let mut locked = self.megabytes[index].lock(self.threads);
        // Its next owner's tag comes after this, since the space is still reserved.
        self.owner_tags.take(index, slot);
        let count = units_of(slot.block_type);
        let durability = self.durability.as_ref();
        if !durability.is_some_and(|durability| durability.defer(index, slot)) {
            self.release_units(index, &mut locked, (&slot.units(), count));
        } else if !weakened(Weakness::DeferredCountedLate) {
            self.free_space.give(count, false);
        }
    }

    /// Makes reserved units available that nobody uses any more and that the device no longer records as
    /// allocated. `uncounted` of them were not counted as free before.
    #[inline]
    pub(crate) fn release_units(
        &self,
        index: usize,
        locked: &mut Locked<'_>,
        (units, uncounted): (&UnitMap, u64),
    ) {
        let before = locked.fill();
        locked.release(units);
        let after = locked.fill();
        // A whole megabyte enters the index before the count, because a thread that gets it from the count must
        // find it. It enters the count before it leaves its class: see `break_whole_exclusively`.
        if before != after {
            self.enter_class(index, after);
        }
        let late = weakened(Weakness::WholeCountedLate);
        if before != after && late {
            self.leave_class(index, before);
        }
        may_panic(Failpoint::SpaceReleased);
        self.free_space.give(uncounted, after == Fill::Empty);
        if before != after && !late {
            self.leave_class(index, before);
        }
    }

    /// An error if the block is not live: `otherwise`, or [`Status::WrongSize`] if a block of another type is there.
    #[inline]
    fn check_live(&self, block: Block, otherwise: Status) -> Result<(), Status> {
        let (index, slot) = self.locate(block)?;
        match self.megabytes[index].is_live(slot) {
            true => Ok(()),
            false => self.look_again(block, otherwise),
        }
    }

    /// As [`Self::check_live`], of a block that was found dead: once all lists are decided, so that this is final.
    #[cold]
    fn look_again(&self, block: Block, otherwise: Status) -> Result<(), Status> {
        let (index, slot) = self.locate(block)?;
        let _decided = self.undecided.for_second_look(self.threads);
        match self.megabytes[index].is_live(slot) {
            true => Ok(()),
            false => Err(self.why_dead(block, otherwise)),
        }
    }

    /// What is wrong with a block that is not live: [`Status::WrongSize`] if one of another type is there, or
    /// `otherwise`.
    fn why_dead(&self, block: Block, otherwise: Status) -> Status {
        match self.locate(block) {
            Ok((index, slot)) if self.megabytes[index].is_live_otherwise(slot) => Status::WrongSize,
            Ok(_) => otherwise,
            Err(status) => status,
        }
    }
}
