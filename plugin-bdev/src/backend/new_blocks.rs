//! Blocks on their way to whoever allocates them.

#![forbid(unsafe_code)]

use std::ops::Range;

use chimaera_bdev_allocator::UnbornBlocks;
use chimaera_chimod::Request;

/// An allocation whose space is found, and of which nobody has heard: its space is being zeroed.
#[derive(Debug)]
pub(crate) struct NewBlocks {
    /// The task that allocates.
    pub(crate) request: Request,
    pub(crate) unborn: UnbornBlocks,
}

impl NewBlocks {
    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.unborn.blocks().iter().map(|block| block.size).sum()
    }

    /// The ranges of the pool's bytes that the blocks take, in order; neighbours are one range.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        let blocks = self.unborn.blocks().iter();
        let mut ranges: Vec<_> = blocks
            .map(|block| block.offset..block.offset + block.size)
            .collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, range| {
            let joins = range.end == next.start;
            if joins {
                range.end = next.end;
            }
            joins
        });
        ranges
    }
}
