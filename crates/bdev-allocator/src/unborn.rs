//! Blocks whose space is reserved before their lives begin: what has to be done to the space is done in between.
//!
//! Laws:
//! - Space of an unborn block is nobody else's, and no task reaches it: tasks reach live blocks alone.
//! - No commit records an unborn block. So what was done to its space before its birth comes before its record.
use chimaera_bdev_proto::{AllocationPlan, Block, MEGABYTE, OwnerTag};
use chimaera_proto::status::Status;

use crate::allocate::Beginning;
use crate::{Allocator, FreeCompletion};
use chimaera_bdev_format::block_map::Slot;

/// Blocks that are not live yet, whose space is reserved. Dropping them leaves it so: begin their lives, or give it
/// back.
#[derive(Debug)]
#[must_use = "the space is reserved until the blocks are born or given up"]
pub struct UnbornBlocks {
    blocks: Vec<Block>,
    owner: OwnerTag,
}

impl UnbornBlocks {
    /// The blocks, in no particular order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

/// It begins when somebody says so.
#[derive(Clone, Copy)]
struct Later;

impl Beginning for Later {
    fn begin<C>(self, _: &Allocator<C>, _: usize, _: Slot) {}
}

impl<C: FreeCompletion> Allocator<C> {
    /// As [`Self::allocate`], of blocks that are not live before [`Self::begin_lives`].
    ///
    /// # Errors
    /// As [`Self::allocate`], and [`Status::OutOfMemory`] if there is no room for a list of the blocks.
    pub fn reserve(
        &self,
        plan: AllocationPlan,
        owner: OwnerTag,
        worker: usize,
    ) -> Result<UnbornBlocks, Status> {
        if plan
            .total_bytes()
            .is_none_or(|bytes| bytes > self.total_bytes())
        {
            return Err(Status::NoSpace);
        }
        let mut blocks = Vec::new();
        blocks
            .try_reserve_exact(plan.count as usize)
            .map_err(|_| Status::OutOfMemory)?;
        self.find(plan, (owner, Later), worker, &mut |block| {
            blocks.push(block);
        })?;
        Ok(UnbornBlocks { blocks, owner })
    }

    /// Makes the blocks live, and gives them. What was done to their space before is seen by whoever finds them live.
    pub fn begin_lives(&self, unborn: UnbornBlocks) -> Vec<Block> {
        let UnbornBlocks { blocks, owner } = unborn;
        for block in &blocks {
            let (index, slot) = self.locate(*block).expect("a block of this pool");
            // Commits look under the lock.
            let _locked = self.megabytes[index].lock(self.threads);
            self.start_life(index, slot, owner);
        }
        blocks
    }

    /// Gives the space of the blocks back.
    pub fn give_up(&self, unborn: UnbornBlocks) {
        if !unborn.owner.is_none() && unborn.blocks.iter().any(|block| block.size < MEGABYTE) {
            self.owner_tags.take_back();
        }
        for block in &unborn.blocks {
            let (index, slot) = self.locate(*block).expect("a block of this pool");
            self.release(index, slot);
        }
    }
}
