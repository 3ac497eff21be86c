//! What a pool's pages are taken by: blocks, and what is not to be moved.

use std::ops::Range;

use crate::block_map::{MegabyteMap, UNIT_WORDS, UNITS, UnitMap, units_of};
use crate::geometry::far_page;
use crate::limits::{KEPT_PAGES, MAX_FAR_EXPONENT, MIN_FAR_EXPONENT};

/// The pages of a pool, as an upgrade finds them.
#[derive(Clone)]
pub(super) struct Space {
    /// Pages that the pool has and its device too.
    pages: u64,
    /// Megabytes that have blocks, in order.
    maps: Vec<(u32, MegabyteMap)>,
    /// Its metadata, which stays readable to the end: in order and apart.
    metadata: Vec<Range<u64>>,
}

impl Space {
    pub(super) fn new(
        pages: u64,
        mut maps: Vec<(u32, MegabyteMap)>,
        metadata: impl Iterator<Item = Range<u64>>,
    ) -> Self {
        maps.sort_by_key(|(megabyte, _)| *megabyte);
        Self {
            pages,
            maps,
            metadata: metadata.collect(),
        }
    }

    /// The same blocks in a pool that has grown.
    pub(super) fn grown(&self, pages: u64, metadata: impl Iterator<Item = Range<u64>>) -> Self {
        Self {
            pages,
            maps: self.maps.clone(),
            metadata: metadata.collect(),
        }
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn metadata(&self) -> &[Range<u64>] {
        &self.metadata
    }

    fn maps_in(&self, pages: &Range<u64>) -> &[(u32, MegabyteMap)] {
        let after = |page: u64| {
            self.maps
                .partition_point(|(megabyte, _)| u64::from(*megabyte) * UNITS < page)
        };
        // A block lies in one megabyte.
        &self.maps[after(pages.start / UNITS * UNITS)..after(pages.end)]
    }

    /// The blocks that have any of these pages, in order.
    pub(super) fn blocks(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'_> {
        let all = self.maps_in(&pages).iter().flat_map(|(megabyte, map)| {
            let first = u64::from(*megabyte) * UNITS;
            let mut blocks: Vec<_> = map
                .blocks()
                .map(|slot| {
                    let start = first + slot.first_unit() as u64;
                    start..start + units_of(slot.block_type)
                })
                .collect();
            blocks.sort_by_key(|block| block.start);
            blocks
        });
        all.filter(move |block| block.end > pages.start && block.start < pages.end)
    }

    /// Gives up these blocks.
    pub(super) fn free(&mut self, blocks: &[Range<u64>]) {
        for (megabyte, map) in &mut self.maps {
            let first = u64::from(*megabyte) * UNITS;
            let from = blocks.partition_point(|block| block.end <= first);
            if blocks
                .get(from)
                .is_none_or(|block| block.start >= first + UNITS)
            {
                continue;
            }
            let kept = map.blocks().filter(|slot| {
                let start = first + slot.first_unit() as u64;
                blocks
                    .binary_search_by_key(&start, |block| block.start)
                    .is_err()
            });
            *map = kept.fold(MegabyteMap::EMPTY, MegabyteMap::with);
        }
    }

    /// Calls `found` for each run of pages of this part that no block has, in order.
    pub(super) fn free_runs(&self, part: &Range<u64>, found: &mut dyn FnMut(Range<u64>)) {
        let mut from = part.start;
        for (megabyte, map) in self.maps_in(part) {
            let first = u64::from(*megabyte) * UNITS;
            for run in runs(map.units().unwrap_or([u64::MAX; UNIT_WORDS])) {
                let (start, end) = (first + run.start, first + run.end);
                if start.min(part.end) > from {
                    found(from..start.min(part.end));
                }
                from = from.max(end);
            }
        }
        if from < part.end {
            found(from..part.end);
        }
    }

    /// Whether no block has any of these pages.
    pub(super) fn has_no_block(&self, pages: Range<u64>) -> bool {
        self.blocks(pages).next().is_none()
    }

    /// Whether there is metadata in any of these pages.
    pub(super) fn has_metadata(&self, pages: &Range<u64>) -> bool {
        let mut metadata = self.metadata.iter();
        metadata.any(|range| range.start < pages.end && pages.start < range.end)
    }

    /// Bit k: no block lies where a far superblock at 2^k MiB may be looked for.
    pub(super) fn kept(&self) -> u32 {
        (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT)
            .filter(|exponent| self.has_no_block(kept_place(*exponent)))
            .fold(0, |kept, exponent| kept | 1 << exponent)
    }
}

/// The pages that are kept free of blocks at 2^k MiB.
pub(super) fn kept_place(exponent: u32) -> Range<u64> {
    far_page(exponent)..far_page(exponent) + KEPT_PAGES
}

/// The runs of set bits.
fn runs(units: UnitMap) -> impl Iterator<Item = Range<u64>> {
    let next = move |from: u64, inverted: u64| {
        let mut at = from;
        while at < UNITS {
            let bits = (units[at as usize / 64] ^ inverted) >> (at % 64);
            if bits != 0 {
                return at + u64::from(bits.trailing_zeros());
            }
            at = (at / 64 + 1) * 64;
        }
        UNITS
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = next(at, 0);
        at = next(start, u64::MAX);
        (start < UNITS).then_some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_map::Slot;
    use chimaera_bdev_proto::BlockType;

    fn slot(block_type: BlockType, number: usize) -> Slot {
        Slot { block_type, number }
    }

    fn some_space() -> Space {
        let map = MegabyteMap::EMPTY
            .with(slot(BlockType::Kib4, 0))
            .with(slot(BlockType::Kib4, 63))
            .with(slot(BlockType::Kib64, 4))
            .with(slot(BlockType::Kib4, 255));
        let maps = vec![(3, MegabyteMap::WHOLE), (2, map)];
        Space::new(2000, maps, std::iter::once(0..40))
    }

    fn free_runs(space: &Space, part: Range<u64>) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        space.free_runs(&part, &mut |run| found.push(run));
        found
    }

    #[test]
    fn free_runs_are_what_blocks_leave() {
        let space = some_space();
        let all = [0..512, 513..575, 592..767, 1024..2000];
        assert_eq!(free_runs(&space, 0..2000), all);
        assert_eq!(free_runs(&space, 514..600), [514..575, 592..600]);
        assert_eq!(free_runs(&space, 576..592), []);
        assert_eq!(free_runs(&space, 800..900), []);
    }

    #[test]
    fn blocks_are_found_by_any_of_their_pages_and_can_be_given_up() {
        let mut space = some_space();
        let found: Vec<_> = space.blocks(580..1000).collect();
        assert_eq!(found, [576..592, 767..768, 768..1024]);
        // 2 MiB has a block, 4 MiB has none.
        assert_eq!(space.kept() & 0b110, 0b100);
        space.free(&[512..513, 576..592]);
        assert_eq!(free_runs(&space, 512..768), [512..575, 576..767]);
        assert_eq!(space.kept() & 0b110, 0b110);
    }
}
