//! Chunks: what a buffer has of the shared memory.

use offset_allocator::Allocation;

/// A range of a segment that belongs to one buffer.
pub(crate) struct BufferChunk {
    pub(crate) segment: u8,
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
    pub(crate) origin: ChunkOrigin,
}

/// Where a chunk was allocated, and is freed.
pub(crate) enum ChunkOrigin {
    Arena {
        arena: u16,
        class: SizeClass,
        region: u32,
        allocation: Allocation<u16>,
    },
    Segment(Allocation<u32>),
}

/// The two kinds of regions in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeClass {
    /// For less than a page: aligned to cache lines.
    Lines,
    /// For a page and more: aligned to pages.
    Pages,
}

impl SizeClass {
    pub(crate) const fn unit_bytes(self) -> u64 {
        match self {
            Self::Lines => 64,
            Self::Pages => 4096,
        }
    }

    pub(crate) const fn region_bytes(self) -> u64 {
        match self {
            Self::Lines => 256 << 10,
            Self::Pages => 8 << 20,
        }
    }

    pub(crate) const fn region_units(self) -> u32 {
        (self.region_bytes() / self.unit_bytes()) as u32
    }
}
