//! The space of one segment, from which arenas and large buffers are allocated.
//!
//! `offset-allocator` sorts free ranges into bins by size. A free range lies in the bin below its size, and a request
//! is looked for from the bin above its own size. So a range can serve a request of exactly its size only if that is
//! the size of a bin, which is why segments and regions have such sizes.

use chimaera_proto::limits::{DATA_OFFSET_BYTES, MAX_SEGMENT_BYTES};
use chimaera_shm::Segment;
use offset_allocator::{Allocation, Allocator};

use super::chunk::{BufferChunk, ChunkOrigin};

/// Unit in which segments are divided: 64 KiB.
pub(crate) const SEGMENT_UNIT_BYTES: u64 = 64 << 10;

/// Ranges of a segment that may be allocated at the same time. A segment that has as many counts as full.
const MAX_NODES: u64 = 1 << 16;

const _: () = {
    assert!((DATA_OFFSET_BYTES as u64).is_multiple_of(SEGMENT_UNIT_BYTES));
    assert!(MAX_SEGMENT_BYTES / SEGMENT_UNIT_BYTES < u32::MAX as u64);
};

/// The free and allocated ranges of a segment.
pub(crate) struct SegmentSpace {
    base_bytes: u64,
    allocator: Allocator<u32>,
}

impl SegmentSpace {
    pub(crate) fn new(segment: &Segment, base_bytes: u64) -> Self {
        let units = (segment.len() - base_bytes) / SEGMENT_UNIT_BYTES;
        let nodes = units.min(MAX_NODES) as u32 + 2;
        Self {
            base_bytes,
            allocator: Allocator::with_max_allocs(units as u32, nodes),
        }
    }

    /// Allocates so many units of this space, which is that of the segment with this index.
    pub(crate) fn allocate(&mut self, index: usize, units: u32) -> Option<BufferChunk> {
        let allocation = self.allocator.allocate(units)?;
        Some(BufferChunk {
            segment: index as u8,
            offset_bytes: self.base_bytes + u64::from(allocation.offset) * SEGMENT_UNIT_BYTES,
            len_bytes: u64::from(units) * SEGMENT_UNIT_BYTES,
            origin: ChunkOrigin::Segment(allocation),
        })
    }

    pub(crate) fn free(&mut self, allocation: Allocation<u32>) {
        self.allocator.free(allocation);
    }
}

/// Allocates so many units of any of these spaces.
pub(crate) fn find_room(spaces: &mut [SegmentSpace], units: u32) -> Option<BufferChunk> {
    // The newest segment has most space.
    let mut spaces = spaces.iter_mut().enumerate().rev();
    spaces.find_map(|(index, space)| space.allocate(index, units))
}

/// The smallest size of a bin that holds this many units. The sizes of bins have three bits of mantissa.
pub(crate) fn round_up_to_bin(units: u32) -> u64 {
    let step = 1u64 << units.checked_ilog2().unwrap_or(0).saturating_sub(3);
    u64::from(units).next_multiple_of(step)
}
