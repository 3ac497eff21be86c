//! Where a pool's metadata lies on its device: pure arithmetic.
//!
//! Superblocks, journal and the first extent lie one behind the other; `docs/ON_DISK_FORMAT.md` has a
//! picture.
//!
//! An extent is a range of megabytes with the range's metadata at its beginning; in the first extent that
//! lies behind the journal. A pool that grows beyond its extents gets another one.
//!
//! Metadata takes space of the pool, which is never allocated then. So a block's offset in the pool is its
//! offset on the device.

use std::ops::Range;

use crate::block_map::{MegabyteMap, UNITS, units_of};
use crate::limits::{
    MAX_EXTENTS, MAX_JOURNAL_PAGES, MAX_RECORD_PAGES, MIN_JOURNAL_PAGES, PAGE_BYTES,
    SUPERBLOCK_COPIES, SUPERBLOCK_PAGES, TABLE_ENTRIES_PER_PAGE, TAGS_PER_PAGE,
};

const JOURNAL_FIRST_PAGE: u64 = SUPERBLOCK_COPIES[1] + SUPERBLOCK_PAGES;
/// The table of a pool's first extent begins at this page at the latest, however large the pool was made.
pub(crate) const MAX_FIRST_TABLE_PAGE: u64 = JOURNAL_FIRST_PAGE + 2 * MAX_JOURNAL_PAGES;

/// Pages of a pool per page of one half of its journal.
const PAGES_PER_JOURNAL_PAGE: u64 = 4096;

/// Pages of tags of the largest extent whose tags have space set aside: those of 32 GiB.
const MAX_TAG_PAGES_SET_ASIDE: u64 = 1 << 14;

/// A range of megabytes, and where its metadata lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first_megabyte: u32,
    /// Megabytes that its metadata has room for. The pool may end before.
    pub(crate) megabytes: u32,
    /// First page of each copy of the table.
    pub(crate) tables: [u64; 2],
    pub(crate) table_pages: u32,
    /// Pages of the table that were ever written, from its first on. The others stand for megabytes without
    /// blocks.
    pub(crate) table_written: u32,
    /// First page of the tags.
    pub(crate) tags: u64,
    pub(crate) tag_pages: u64,
}

impl Extent {
    /// An extent for these megabytes whose metadata begins at this page.
    fn new(first_megabyte: u32, megabytes: u32, first_page: u64) -> Self {
        let table_pages = megabytes.div_ceil(TABLE_ENTRIES_PER_PAGE as u32);
        let tables = [first_page, first_page + u64::from(table_pages)];
        Self {
            first_megabyte,
            megabytes,
            tables,
            table_pages,
            table_written: 0,
            tags: tables[1] + u64::from(table_pages),
            tag_pages: (u64::from(megabytes) * UNITS).div_ceil(TAGS_PER_PAGE),
        }
    }

    /// The pages that its metadata takes.
    fn metadata_pages(&self) -> Range<u64> {
        self.tables[0]..self.tags.saturating_add(self.tag_pages)
    }

    /// The megabyte after its last.
    pub(crate) fn end_megabyte(&self) -> u32 {
        self.first_megabyte.saturating_add(self.megabytes)
    }

    /// Whether the parts of its metadata lie one after another and have room for the megabytes.
    fn is_consistent(&self) -> bool {
        let wanted = Self {
            table_written: self.table_written,
            ..Self::new(self.first_megabyte, self.megabytes, self.tables[0])
        };
        self.megabytes > 0
            && self.first_megabyte.checked_add(self.megabytes).is_some()
            && *self == wanted
            && self.table_written <= self.table_pages
    }
}

/// A page of a pool's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TablePage {
    /// Position of its extent.
    pub(crate) extent: usize,
    /// Position in the extent's table.
    pub(crate) page: u32,
}

/// Where everything lies on a pool's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pages of the pool, metadata included.
    pub(crate) total_pages: u64,
    /// First page of each half of the journal.
    pub(crate) journal: [u64; 2],
    /// Pages of a half.
    pub(crate) journal_pages: u64,
    pub(crate) extents: Vec<Extent>,
}

impl Geometry {
    /// The geometry of a new pool of `total_pages`, or `None` if the pool would have no room for a block.
    pub fn new(total_pages: u64) -> Option<Self> {
        let journal_pages = total_pages / PAGES_PER_JOURNAL_PAGE;
        let journal_pages = journal_pages.clamp(MIN_JOURNAL_PAGES, MAX_JOURNAL_PAGES);
        Self::with_journal(total_pages, journal_pages)
    }

    /// As [`Self::new`], with `journal_pages` in each half of the journal.
    pub fn with_journal(total_pages: u64, journal_pages: u64) -> Option<Self> {
        let journal = [JOURNAL_FIRST_PAGE, JOURNAL_FIRST_PAGE + journal_pages];
        let megabytes = u32::try_from(total_pages.div_ceil(UNITS)).ok()?;
        let extent = Extent::new(0, megabytes, journal[1] + journal_pages);
        (megabytes > 0 && extent.metadata_pages().end < total_pages).then(|| Self {
            total_pages,
            journal,
            journal_pages,
            extents: vec![extent],
        })
    }

    /// Bytes of the smallest pool.
    pub fn min_pool_bytes() -> u64 {
        let pages = (1..=UNITS).find(|&pages| Self::new(pages).is_some());
        pages.unwrap_or(UNITS) * PAGE_BYTES as u64
    }

    /// The geometry after the pool has grown to `total_pages`. The pool grows by less, or not at all, where the
    /// new space has no room for its own metadata, or the superblock has none for another extent.
    pub fn grown(&self, total_pages: u64) -> Self {
        let mut grown = self.clone();
        let covered = self.covered_megabytes();
        let covered_pages = u64::from(covered) * UNITS;
        grown.total_pages = total_pages.min(covered_pages).max(self.total_pages);
        let more = u32::try_from(total_pages.div_ceil(UNITS)).unwrap_or(u32::MAX);
        if more > covered && self.extents.len() < MAX_EXTENTS {
            let extent = Extent::new(covered, more - covered, covered_pages);
            if extent.metadata_pages().end < total_pages {
                grown.extents.push(extent);
                grown.total_pages = total_pages;
            }
        }
        grown
    }

    /// The geometry after the pool has shrunk to `total_pages`, or `None` if its metadata does not lie within
    /// them. Extents that lie wholly beyond are given up.
    pub fn shrunk(&self, total_pages: u64) -> Option<Self> {
        let mut shrunk = self.clone();
        shrunk.total_pages = total_pages;
        // Without the first extent there is no pool.
        let kept = |extent: &Extent| {
            let first_page = u64::from(extent.first_megabyte) * UNITS;
            first_page == 0 || first_page < total_pages
        };
        shrunk.extents.retain(kept);
        let inside = |extent: &Extent| extent.metadata_pages().end < total_pages;
        shrunk.extents.iter().all(inside).then_some(shrunk)
    }

    /// The pages that metadata takes, in order.
    pub fn reserved(&self) -> impl Iterator<Item = Range<u64>> {
        let (first, others) = self.extents.split_first().map_or((0, &[][..]), |split| {
            (split.0.metadata_pages().end, split.1)
        });
        std::iter::once(0..first).chain(others.iter().map(Extent::metadata_pages))
    }

    /// Whether these blocks of a megabyte lie inside the pool, and none in metadata.
    pub(crate) fn has_room(&self, megabyte: u32, map: &MegabyteMap) -> bool {
        let first = u64::from(megabyte) * UNITS;
        let blocks = map.blocks().map(|slot| {
            let start = first + slot.first_unit() as u64;
            start..start + units_of(slot.block_type)
        });
        let is_inside = |block: Range<u64>| {
            let mut reserved = self.reserved();
            block.end <= self.total_pages
                && !reserved.any(|taken| taken.start < block.end && block.start < taken.end)
        };
        blocks.into_iter().all(is_inside)
    }

    /// How many pages metadata takes.
    pub fn reserved_pages(&self) -> u64 {
        self.reserved().map(|pages| pages.end - pages.start).sum()
    }

    /// The pages for which space is set aside, in order: superblocks, journal, tables, and the tags of extents
    /// where they take little. Most tags of a large extent are never written.
    pub fn set_aside(&self) -> impl Iterator<Item = Range<u64>> {
        let parts = self.reserved().zip(&self.extents);
        parts.map(|(pages, extent)| {
            let has_few_tags = extent.tag_pages <= MAX_TAG_PAGES_SET_ASIDE;
            pages.start..if has_few_tags { pages.end } else { extent.tags }
        })
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
        MAX_RECORD_PAGES.min(self.journal_pages as usize / 4)
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

    /// Checks a geometry that was read from a device. The error says what does not hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        let fail = |text: &str| Err(text.to_owned());
        if self.total_pages > (u64::from(u32::MAX) - 1) * UNITS {
            return fail("the pool's size is impossible");
        }
        let is_possible = (MIN_JOURNAL_PAGES..=MAX_JOURNAL_PAGES).contains(&self.journal_pages);
        if !is_possible
            || self.journal != [JOURNAL_FIRST_PAGE, JOURNAL_FIRST_PAGE + self.journal_pages]
        {
            return fail("the journal's place is impossible");
        }
        let mut next_megabyte = 0;
        for (position, extent) in self.extents.iter().enumerate() {
            let first_page = match position {
                0 => self.journal[1] + self.journal_pages,
                _ => u64::from(extent.first_megabyte) * UNITS,
            };
            if extent.first_megabyte != next_megabyte
                || extent.tables[0] != first_page
                || !extent.is_consistent()
                || extent.metadata_pages().end >= self.total_pages
            {
                return Err(format!("the place of extent {position} is impossible"));
            }
            next_megabyte = extent.end_megabyte();
        }
        if self.extents.is_empty() || self.megabytes() > next_megabyte {
            return fail("its extents do not cover the pool");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = UNITS;

    #[test]
    fn metadata_takes_a_small_part_of_a_pool() {
        for (pages, most) in [(MIB, 50), (64 * MIB, 200), (1024 * MIB, 1200)] {
            let geometry = Geometry::new(pages).expect("room");
            assert_eq!(geometry.check(), Ok(()));
            assert!(
                geometry.reserved_pages() <= most,
                "{}",
                geometry.reserved_pages()
            );
        }
        let tebibyte = Geometry::new(1 << 28).expect("room");
        assert!(tebibyte.reserved_pages() * 400 < tebibyte.total_pages);
    }

    #[test]
    fn the_smallest_pool_has_room_for_a_block() {
        let pages = Geometry::min_pool_bytes() / PAGE_BYTES as u64;
        let geometry = Geometry::new(pages).expect("room");
        assert!(geometry.reserved_pages() < pages);
        assert_eq!(Geometry::new(pages - 1), None);
    }

    #[test]
    fn growth_adds_extents_and_shrinking_gives_them_up() {
        let small = Geometry::new(10 * MIB + 7).expect("room");
        assert_eq!(small.grown(10 * MIB + 9).extents.len(), 1);
        assert_eq!(small.grown(10 * MIB + 9).total_pages, 10 * MIB + 9);
        let clamped = small.grown(11 * MIB + 2);
        assert_eq!(clamped.total_pages, 11 * MIB, "no room for an extent");
        let grown = small.grown(40 * MIB);
        assert_eq!(grown.check(), Ok(()));
        assert_eq!(grown.extents.len(), 2);
        assert_eq!(grown.extents[1].tables[0], 11 * MIB);
        let places: Vec<_> = [0, 10, 11, 39, 40]
            .map(|megabyte| grown.extent_of(megabyte))
            .to_vec();
        assert_eq!(places, [Some(0), Some(0), Some(1), Some(1), None]);
        let shrunk = grown.shrunk(11 * MIB).expect("room");
        assert_eq!(shrunk.extents.len(), 1);
        assert_eq!(shrunk.check(), Ok(()));
        assert_eq!(grown.shrunk(11 * MIB + 1), None, "an extent would be cut");
        assert_eq!(grown.shrunk(12), None);
        assert_eq!(grown.shrunk(0), None);
        let mut most = small;
        for step in 1..100 {
            most = most.grown((20 + 10 * step) * MIB);
            assert_eq!(most.check(), Ok(()));
        }
        assert_eq!(most.extents.len(), MAX_EXTENTS);
    }

    #[test]
    fn an_impossible_geometry_is_refused() {
        let good = Geometry::new(40 * MIB).expect("room").grown(80 * MIB);
        let mut bad = Vec::new();
        let mut change = |change: &dyn Fn(&mut Geometry)| {
            let mut geometry = good.clone();
            change(&mut geometry);
            bad.push(geometry);
        };
        change(&|geometry| geometry.total_pages += 10 * MIB);
        change(&|geometry| geometry.total_pages = 30);
        change(&|geometry| geometry.journal[1] += 1);
        change(&|geometry| geometry.journal_pages = u64::MAX / 2);
        change(&|geometry| geometry.extents.clear());
        change(&|geometry| geometry.extents[1].first_megabyte += 1);
        change(&|geometry| geometry.extents[0].tags += 1);
        change(&|geometry| geometry.extents[1].table_written = u32::MAX);
        change(&|geometry| geometry.extents[0].megabytes = 0);
        for geometry in bad {
            assert!(geometry.check().is_err(), "{geometry:?}");
        }
    }
}
