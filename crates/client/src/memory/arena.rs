//! Arenas: the regions from which threads allocate small buffers.
//!
//! A region of `n` units never needs more than `n` nodes of its allocator, and one that the allocator keeps back. So a
//! region has no other limit than its space.

use offset_allocator::{Allocation, Allocator};

use super::chunk::{BufferChunk, ChunkOrigin, SizeClass};

/// Larger chunks come from the segments themselves.
pub(crate) const MAX_ARENA_CHUNK_BYTES: u64 = 1 << 20;

const _: () = {
    // Offsets and nodes are 16 bits wide in a region, and its size is a bin's.
    assert!(
        SizeClass::Lines.region_units() < 1 << 15
            && SizeClass::Lines.region_units().is_power_of_two()
    );
    assert!(
        SizeClass::Pages.region_units() < 1 << 15
            && SizeClass::Pages.region_units().is_power_of_two()
    );
    assert!(MAX_ARENA_CHUNK_BYTES * 4 <= SizeClass::Pages.region_bytes());
};

/// The regions of the threads whose number falls on this arena.
#[derive(Default)]
pub(crate) struct Arena {
    lines: Regions,
    pages: Regions,
}

/// The regions of one size class. An index in the list is used again after its region was given back.
#[derive(Default)]
pub(crate) struct Regions {
    list: Vec<Option<Region>>,
    /// The index of the region in which a chunk was last allocated or freed.
    likely: usize,
    /// A region that became empty and is kept. If it is still empty, the next one that becomes empty is given back.
    spare: Option<usize>,
}

/// A range of a segment that is divided into chunks.
pub(crate) struct Region {
    pub(crate) chunk: BufferChunk,
    allocator: Allocator<u16>,
    used: u32,
}

impl Arena {
    pub(crate) fn regions(&mut self, class: SizeClass) -> &mut Regions {
        match class {
            SizeClass::Lines => &mut self.lines,
            SizeClass::Pages => &mut self.pages,
        }
    }

    pub(crate) fn allocate(
        &mut self,
        arena: usize,
        class: SizeClass,
        units: u32,
    ) -> Option<BufferChunk> {
        let (index, allocation) = self.regions(class).allocate(units)?;
        let region = &self.regions(class).list[index].as_ref()?.chunk;
        Some(BufferChunk {
            segment: region.segment,
            offset_bytes: region.offset_bytes + u64::from(allocation.offset) * class.unit_bytes(),
            len_bytes: u64::from(units) * class.unit_bytes(),
            origin: ChunkOrigin::Arena {
                arena: arena as u16,
                class,
                region: index as u32,
                allocation,
            },
        })
    }
}

impl Regions {
    fn allocate(&mut self, units: u32) -> Option<(usize, Allocation<u16>)> {
        let count = self.list.len();
        let found = (self.likely..self.likely + count)
            .map(|step| step % count)
            .find_map(|index| {
                let region = self.list[index].as_mut()?;
                let allocation = region.allocator.allocate(units)?;
                region.used += 1;
                Some((index, allocation))
            })?;
        self.likely = found.0;
        Some(found)
    }

    pub(crate) fn add(&mut self, region: Region) {
        self.likely = match self.list.iter().position(Option::is_none) {
            Some(index) => {
                self.list[index] = Some(region);
                index
            }
            None => {
                self.list.push(Some(region));
                self.list.len() - 1
            }
        };
    }

    /// Frees a chunk. Returns the region if it is empty now and another empty one is kept: the caller gives it back to
    /// its segment.
    pub(crate) fn free(&mut self, index: usize, allocation: Allocation<u16>) -> Option<Region> {
        let region = self.list[index].as_mut().expect("a region in use stays");
        region.allocator.free(allocation);
        region.used -= 1;
        self.likely = index;
        if region.used != 0 {
            return None;
        }
        match self.spare {
            Some(spare) if spare != index && self.is_empty_region(spare) => self.list[index].take(),
            _ => {
                self.spare = Some(index);
                None
            }
        }
    }

    fn is_empty_region(&self, index: usize) -> bool {
        self.list[index]
            .as_ref()
            .is_some_and(|region| region.used == 0)
    }
}

impl Region {
    pub(crate) fn new(chunk: BufferChunk, class: SizeClass) -> Self {
        let units = class.region_units();
        Self {
            chunk,
            allocator: Allocator::with_max_allocs(units, units + 2),
            used: 0,
        }
    }
}
