//! Growing and shrinking a pool's geometry.

use super::{Extent, Geometry, behind_kept};
use crate::block_map::UNITS;
use crate::limits::MAX_EXTENTS;
use crate::version::FormatVersion;

/// Megabytes of the smallest extent of version 2 that growth adds: with less, both copies of its metadata would lie in
/// neighbouring megabytes.
const MIN_GROWTH_MEGABYTES: u32 = 4;

impl Geometry {
    /// The geometry after the pool has grown to `total_pages`. The pool grows by less, or not at all, where the
    /// new space has no room for its own metadata, or the superblock has none for another extent.
    pub fn grown(&self, total_pages: u64) -> Self {
        let mut grown = self.clone();
        let covered = self.covered_megabytes();
        let covered_pages = u64::from(covered) * UNITS;
        grown.total_pages = total_pages.min(covered_pages).max(self.total_pages);
        let more = u32::try_from(total_pages.div_ceil(UNITS)).unwrap_or(u32::MAX);
        if more > covered && self.extents.len() < MAX_EXTENTS {
            let extent = self.next_extent(covered, more - covered);
            if let Some(extent) = extent.filter(|extent| extent.metadata_end() < total_pages) {
                grown.extents.push(extent);
                grown.total_pages = total_pages;
            }
        }
        grown
    }

    /// The least number of pages behind its last extent with which the pool grows beyond that; `None` if it has grown
    /// as often as it can.
    pub fn next_growth(&self) -> Option<u64> {
        let covered = self.covered_megabytes();
        let has_room = self.extents.len() < MAX_EXTENTS;
        let least = (1..=MIN_GROWTH_MEGABYTES).find_map(|megabytes| {
            let extent = self.next_extent(covered, megabytes)?;
            let whole = u64::from(covered + megabytes) * UNITS;
            let before = whole - UNITS + 1;
            (extent.metadata_end() < whole).then(|| before.max(extent.metadata_end() + 1))
        });
        least.filter(|_| has_room)
    }

    /// The extent for these megabytes behind the pool's; `None` if they are too few.
    fn next_extent(&self, first_megabyte: u32, megabytes: u32) -> Option<Extent> {
        let start = u64::from(first_megabyte) * UNITS;
        match self.version {
            FormatVersion::One => Some(Extent::together(first_megabyte, megabytes, start)),
            FormatVersion::Two if megabytes < MIN_GROWTH_MEGABYTES => None,
            FormatVersion::Two => {
                let middle = start + u64::from(megabytes / 2) * UNITS;
                let places = [behind_kept(start), behind_kept(middle)];
                Some(Extent::apart(first_megabyte, megabytes, places))
            }
        }
    }

    /// The geometry after the pool has shrunk to `total_pages`, or `None` if its metadata does not lie within
    /// them. Extents that lie wholly beyond are given up.
    pub fn shrunk(&self, total_pages: u64) -> Option<Self> {
        let mut shrunk = self.clone();
        shrunk.total_pages = total_pages;
        // Without the first extent there is no pool.
        let kept =
            |extent: &Extent| extent.first_megabyte == 0 || extent.first_page() < total_pages;
        shrunk.extents.retain(kept);
        (shrunk.metadata_end() < total_pages).then_some(shrunk)
    }
}
