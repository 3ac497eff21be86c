//! Calls of an allocator that only tests make.
#[cfg(not(loom))]
use std::ops::Range;

use chimaera_bdev_proto::{Block, OwnerTag};
use chimaera_proto::status::Status;

#[cfg(not(loom))]
use crate::block_at;
use crate::fit::Fill;
use crate::{Allocator, CommitLimits, FreeCompletion};
use chimaera_bdev_format::block_map::units_of;

/// Limits of a commit of so many megabytes, whatever tags they have.
pub(crate) fn limits(max_megabytes: usize) -> CommitLimits {
    CommitLimits {
        max_megabytes,
        max_tags: usize::MAX,
    }
}

impl<C: FreeCompletion> Allocator<C> {
    /// Allocates this very block.
    ///
    /// # Errors
    /// [`Status::WrongSize`] and [`Status::OutOfRange`] for a block that the pool cannot have;
    /// [`Status::Busy`] if some of its space is allocated. Then nothing has changed.
    pub(crate) fn adopt(&self, block: Block) -> Result<(), Status> {
        let (index, slot) = self.locate(block)?;
        let mut locked = self.megabytes[index].lock(self.threads);
        let before = locked.fill();
        let (wholes, units) = (u64::from(before == Fill::Empty), units_of(slot.block_type));
        if !locked.reserve_units(&slot.units()) {
            return Err(Status::Busy);
        }
        // The count may be reserved for a thread that has not found its megabyte yet.
        if wholes == 1 && !self.free_space.reserve(wholes, units) {
            locked.release(&slot.units());
            return Err(Status::Busy);
        }
        if wholes == 0 {
            self.free_space.take(units);
        }
        self.change_class(index, before, locked.fill());
        self.start_life(index, slot, OwnerTag::NONE);
        Ok(())
    }

    /// Calls `visit` with every live block in these megabytes.
    #[cfg(not(loom))]
    pub(crate) fn for_each_live(&self, megabytes: Range<usize>, mut visit: impl FnMut(Block)) {
        for index in megabytes.start..megabytes.end.min(self.megabyte_count()) {
            for (slot, _) in self.list(index) {
                visit(block_at(index, slot));
            }
        }
    }
}
