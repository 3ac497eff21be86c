//! Where a pool's metadata lies on its device: pure arithmetic. `docs/ON_DISK_FORMAT.md` has a picture.
//!
//! An extent is a range of megabytes with metadata of its own. A pool that grows beyond its extents gets another one.
//!
//! Laws:
//! - Metadata takes space of the pool, which is never allocated then. So a block's offset in the pool is its offset on
//!   the device.
//! - In version 2 no megabyte has both copies of anything, if the pool had four megabytes when it was made. The far
//!   place never moves: files grow, partitions end elsewhere, and disks are copied to larger ones.
//! - In version 2 no block lies where a far superblock may be looked for, so that no client can forge one.

mod check;
mod extent;
mod resize;

use std::ops::Range;

use crate::block_map::{MegabyteMap, UNITS, units_of};
use crate::limits::{
    FAR_MARKS, FAR_SUPERBLOCKS, KEPT_PAGES, MAX_FAR_EXPONENT, MAX_JOURNAL_PAGES, MAX_RECORD_PAGES,
    MIN_FAR_EXPONENT, MIN_JOURNAL_PAGES, NEAR_MARKS, NEAR_SUPERBLOCKS, PAGE_BYTES,
    SUPERBLOCK_PAGES, TABLE_ENTRIES_PER_PAGE,
};
use crate::version::FormatVersion;
pub(crate) use extent::{Extent, table_pages_of, tag_pages_of};

/// Superblocks, mark pages, and what is reserved between them lie before this page.
pub(crate) const JOURNAL_FIRST_PAGE: u64 = NEAR_SUPERBLOCKS[1] + SUPERBLOCK_PAGES;

/// The table of a pool's first extent begins at this page at the latest, however large the pool was made.
pub(crate) const MAX_FIRST_TABLE_PAGE: u64 = JOURNAL_FIRST_PAGE + 2 * MAX_JOURNAL_PAGES;

/// Pages of a pool per page of one half of its journal. In version 1 a half has both copies of each record.
const fn pages_per_journal_page(version: FormatVersion) -> u64 {
    8192 / version.copies_in_region()
}

/// Pages of tags of the largest extent whose tags have space set aside: those of 32 GiB.
const MAX_TAG_PAGES_SET_ASIDE: u64 = 1 << 14;

/// A page of a pool's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TablePage {
    /// Position of its extent.
    pub(crate) extent: usize,
    /// Position in the extent's table.
    pub(crate) page: u32,
}

/// Where a pool's journal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalPlace {
    /// First page of each region. A region has both halves, one behind the other. Version 1 has one region, in which
    /// each record stands twice; version 2 has two, in which a record has the same place.
    pub(crate) regions: [Option<u64>; 2],
    /// Pages of a half.
    pub(crate) pages: u64,
}

impl JournalPlace {
    /// The first page of an epoch's half in each region.
    pub(crate) fn halves(&self, epoch: u64) -> impl Iterator<Item = u64> + use<> {
        let offset = (epoch % 2) * self.pages;
        self.regions
            .into_iter()
            .flatten()
            .map(move |first| first + offset)
    }

    /// The pages of each region.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let pages = self.pages.saturating_mul(2);
        let regions = self.regions.into_iter().flatten();
        regions.map(move |first| first..first.saturating_add(pages))
    }
}

/// A range of pages that a newer program has put to a use that this one does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

impl Area {
    fn range(&self) -> Range<u64> {
        self.first_page..self.first_page.saturating_add(self.pages)
    }
}

/// Where everything lies on a pool's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub(crate) version: FormatVersion,
    /// Pages of the pool, metadata included.
    pub(crate) total_pages: u64,
    pub(crate) journal: JournalPlace,
    pub(crate) extents: Vec<Extent>,
    /// First page of the far place, if the pool has one.
    pub(crate) far: Option<u64>,
    /// Bit k: the pages at 2^k MiB are kept free of blocks. All of them are, unless the pool came from version 1 with
    /// blocks there.
    pub(crate) kept: u32,
    /// What newer programs have put on the device.
    pub(crate) others: Vec<Area>,
}

/// All places at which a far superblock may lie.
pub(crate) const ALL_KEPT: u32 = (1 << (MAX_FAR_EXPONENT + 1)) - (1 << MIN_FAR_EXPONENT);

/// The first page of the place at 2^k MiB.
pub(crate) const fn far_page(exponent: u32) -> u64 {
    UNITS << exponent
}

/// Where metadata begins that would begin at this page: behind the kept pages, if it is a place for a far superblock.
pub(crate) fn behind_kept(page: u64) -> u64 {
    let is_kept = (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT).any(|exponent| far_page(exponent) == page);
    page + if is_kept { KEPT_PAGES } else { 0 }
}

impl Geometry {
    /// The geometry of a new pool of `total_pages`; `None` if it would have no room for a block, or more megabytes than
    /// numbers of 32 bits can count.
    pub fn new(total_pages: u64) -> Option<Self> {
        Self::of_version(FormatVersion::NEWEST, total_pages)
    }

    /// As [`Self::new`], in this version of the format.
    pub fn of_version(version: FormatVersion, total_pages: u64) -> Option<Self> {
        let copies = version.copies_in_region();
        let journal_pages = total_pages / pages_per_journal_page(version);
        let journal_pages =
            journal_pages.clamp(MIN_JOURNAL_PAGES * copies, MAX_JOURNAL_PAGES / 2 * copies);
        Self::with_journal(version, total_pages, journal_pages)
    }

    /// As [`Self::of_version`], with `journal_pages` in each half of the journal.
    pub fn with_journal(
        version: FormatVersion,
        total_pages: u64,
        journal_pages: u64,
    ) -> Option<Self> {
        let megabytes = u32::try_from(total_pages.div_ceil(UNITS))
            .ok()
            .filter(|count| *count > 0)?;
        let near = JOURNAL_FIRST_PAGE;
        let region = 2 * journal_pages;
        let far = (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT)
            .map(far_page)
            .take_while(|far| 2 * far <= total_pages)
            .last()
            .filter(|_| version >= FormatVersion::Two);
        let (regions, extent) = match (version, far) {
            (FormatVersion::One, _) => (
                [Some(near), None],
                Extent::together(0, megabytes, near + region),
            ),
            (FormatVersion::Two, Some(far)) => {
                let far = far + KEPT_PAGES;
                let extent = Extent::apart(0, megabytes, [near + region, far + region]);
                ([Some(near), Some(far)], extent)
            }
            (FormatVersion::Two, None) => {
                let second = near + region;
                let extent = Extent::adjacent(0, megabytes, second + region);
                ([Some(near), Some(second)], extent)
            }
        };
        let geometry = Self {
            version,
            total_pages,
            journal: JournalPlace {
                regions,
                pages: journal_pages,
            },
            extents: vec![extent],
            far,
            kept: match version {
                FormatVersion::One => 0,
                FormatVersion::Two => ALL_KEPT,
            },
            others: Vec::new(),
        };
        let has_room =
            geometry.metadata_end() < total_pages && geometry.reserved_pages() < total_pages;
        (has_room && geometry.check().is_ok()).then_some(geometry)
    }

    /// Bytes of the smallest pool.
    pub fn min_pool_bytes() -> u64 {
        let pages = (1..=UNITS).find(|&pages| Self::new(pages).is_some());
        pages.unwrap_or(UNITS) * PAGE_BYTES as u64
    }

    /// The version of the format that it is in.
    pub fn version(&self) -> FormatVersion {
        self.version
    }

    /// Whether the loss of any megabyte leaves a copy of all metadata.
    pub fn is_protected(&self) -> bool {
        self.far.is_some()
    }

    /// Whether tags have a second copy.
    pub(crate) fn has_second_tags(&self) -> bool {
        self.extents.iter().any(|extent| extent.tags[1].is_some())
    }

    /// The first page of each copy of the superblock. The first half of them is written before the second half.
    pub fn superblocks(&self) -> Vec<u64> {
        let group = |at: usize| {
            let far = self.far.map(|far| far + FAR_SUPERBLOCKS[at]);
            std::iter::once(NEAR_SUPERBLOCKS[at]).chain(far)
        };
        group(0).chain(group(1)).collect()
    }

    /// The pages of each copy of the superblock, in that order.
    pub fn superblock_pages(&self) -> impl Iterator<Item = Range<u64>> {
        let places = self.superblocks().into_iter();
        places.map(|page| page..page + SUPERBLOCK_PAGES)
    }

    /// The mark pages: one beside each copy of the superblock.
    pub(crate) fn marks(&self) -> Vec<u64> {
        let near = NEAR_MARKS
            .into_iter()
            .filter(|_| self.version >= FormatVersion::Two);
        let far = self
            .far
            .into_iter()
            .flat_map(|far| FAR_MARKS.map(|mark| far + mark));
        near.chain(far).collect()
    }

    /// The pages that metadata and its superblocks take, in no particular order, kept places apart.
    fn metadata_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let far = self.far.map(|far| far..far.saturating_add(KEPT_PAGES));
        let extents = self.extents.iter().flat_map(Extent::metadata_ranges);
        std::iter::once(0..JOURNAL_FIRST_PAGE)
            .chain(far)
            .chain(self.journal.ranges())
            .chain(extents)
            .chain(self.others.iter().map(Area::range))
    }

    /// The page behind the last of its metadata.
    fn metadata_end(&self) -> u64 {
        self.metadata_ranges()
            .map(|range| range.end)
            .max()
            .unwrap_or(0)
    }

    /// The pages that are never allocated, in order and apart: metadata, and places kept for far superblocks.
    pub fn reserved(&self) -> impl Iterator<Item = Range<u64>> {
        let kept = (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT)
            .filter(|exponent| self.kept >> exponent & 1 == 1)
            .map(|exponent| far_page(exponent)..far_page(exponent) + KEPT_PAGES);
        let inside = |range: Range<u64>| range.start..range.end.min(self.total_pages);
        let mut ranges: Vec<_> = self.metadata_ranges().chain(kept).map(inside).collect();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged.into_iter()
    }

    /// How many pages are never allocated.
    pub fn reserved_pages(&self) -> u64 {
        self.reserved().map(|pages| pages.end - pages.start).sum()
    }

    /// The pages for which space is set aside: superblocks, journal, tables, and the tags of extents where they take
    /// little. Most tags of a large extent are never written.
    pub fn set_aside(&self) -> impl Iterator<Item = Range<u64>> {
        let far = self.far.map(|far| far..far + KEPT_PAGES);
        let tables = self.extents.iter().flat_map(Extent::table_ranges);
        let few = self
            .extents
            .iter()
            .filter(|extent| extent.tag_pages <= MAX_TAG_PAGES_SET_ASIDE);
        std::iter::once(0..JOURNAL_FIRST_PAGE)
            .chain(far)
            .chain(self.journal.ranges())
            .chain(tables)
            .chain(few.flat_map(Extent::tag_ranges))
    }

    /// The first page of each copy of the first extent's table.
    pub fn tables(&self) -> [u64; 2] {
        self.extents[0].tables
    }

    /// How many extents there are.
    pub fn extent_count(&self) -> usize {
        self.extents.len()
    }

    /// Pages of the longest record in its journal. Several such records fit a half. Even the smallest journal
    /// allows two pages, which are enough for a megabyte with all its tags.
    pub(crate) fn max_record_pages(&self) -> usize {
        let share = 2 * self.version.copies_in_region();
        MAX_RECORD_PAGES.min((self.journal.pages / share) as usize)
    }

    /// Pages of the pool.
    pub fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Megabytes that the extents have room for.
    pub fn covered_megabytes(&self) -> u32 {
        self.extents.last().map_or(0, Extent::end_megabyte)
    }

    /// Megabytes of the pool, the last of which may not be whole.
    pub fn megabytes(&self) -> u32 {
        u32::try_from(self.total_pages.div_ceil(UNITS)).unwrap_or(u32::MAX)
    }

    /// The page of the table that has a megabyte's entry, and the entry's position in that page.
    pub(crate) fn entry_position(&self, megabyte: u32) -> Option<(TablePage, usize)> {
        let extent = self.extent_of(megabyte)?;
        let entry = (megabyte - self.extents[extent].first_megabyte) as usize;
        let page = TablePage {
            extent,
            page: (entry / TABLE_ENTRIES_PER_PAGE) as u32,
        };
        Some((page, entry % TABLE_ENTRIES_PER_PAGE))
    }

    /// The megabyte of the first entry in a page of the table.
    pub(crate) fn first_megabyte(&self, page: TablePage) -> u32 {
        self.extents[page.extent].first_megabyte + page.page * TABLE_ENTRIES_PER_PAGE as u32
    }

    /// The page on the device of a copy of a page of the table.
    pub(crate) fn table_page(&self, page: TablePage, copy: usize) -> u64 {
        self.extents[page.extent].tables[copy] + u64::from(page.page)
    }

    /// Position of the extent that a megabyte belongs to.
    pub(crate) fn extent_of(&self, megabyte: u32) -> Option<usize> {
        let after = self
            .extents
            .partition_point(|extent| extent.first_megabyte <= megabyte);
        let extent = after.checked_sub(1)?;
        (megabyte < self.extents[extent].end_megabyte()).then_some(extent)
    }
}

/// The pages of a pool that are never allocated, to look blocks up in.
pub(crate) struct ReservedPages {
    total_pages: u64,
    ranges: Vec<Range<u64>>,
}

impl ReservedPages {
    pub(crate) fn of(geometry: &Geometry) -> Self {
        Self {
            total_pages: geometry.total_pages,
            ranges: geometry.reserved().collect(),
        }
    }

    /// Whether any of these pages is never allocated, or lies behind the pool's end.
    pub(crate) fn touches(&self, pages: &Range<u64>) -> bool {
        let after = self
            .ranges
            .partition_point(|range| range.end <= pages.start);
        let next = self.ranges.get(after);
        pages.end > self.total_pages || next.is_some_and(|range| range.start < pages.end)
    }

    /// Whether these blocks of a megabyte lie inside the pool, and none in what is never allocated.
    pub(crate) fn leave_room(&self, megabyte: u32, map: &MegabyteMap) -> bool {
        let first = u64::from(megabyte) * UNITS;
        map.blocks().all(|slot| {
            let start = first + slot.first_unit() as u64;
            !self.touches(&(start..start + units_of(slot.block_type)))
        })
    }
}

#[cfg(test)]
mod tests;
