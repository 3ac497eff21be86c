//! An extent: a range of megabytes, and where the copies of its metadata lie.

use std::ops::Range;

use crate::block_map::UNITS;
use crate::limits::{TABLE_ENTRIES_PER_PAGE, TAGS_PER_PAGE};

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
    /// First page of each copy of the tags. In version 1 there is one copy.
    pub(crate) tags: [Option<u64>; 2],
    pub(crate) tag_pages: u64,
}

/// The pages of the table of so many megabytes.
pub(crate) const fn table_pages_of(megabytes: u32) -> u32 {
    megabytes.div_ceil(TABLE_ENTRIES_PER_PAGE as u32)
}

/// The pages of the tags of so many megabytes.
pub(crate) const fn tag_pages_of(megabytes: u32) -> u64 {
    (megabytes as u64 * UNITS).div_ceil(TAGS_PER_PAGE)
}

impl Extent {
    /// An extent for these megabytes, with its metadata in these places.
    pub(super) fn with_places(
        first_megabyte: u32,
        megabytes: u32,
        tables: [u64; 2],
        tags: [Option<u64>; 2],
    ) -> Self {
        Self {
            first_megabyte,
            megabytes,
            tables,
            table_pages: table_pages_of(megabytes),
            table_written: 0,
            tags,
            tag_pages: tag_pages_of(megabytes),
        }
    }

    /// An extent of version 1: both copies of its table, and its tags, lie one behind the other from this page on.
    pub(super) fn together(first_megabyte: u32, megabytes: u32, first_page: u64) -> Self {
        let table_pages = u64::from(table_pages_of(megabytes));
        let tables = [first_page, first_page.saturating_add(table_pages)];
        let tags = tables[1].saturating_add(table_pages);
        Self::with_places(first_megabyte, megabytes, tables, [Some(tags), None])
    }

    /// An extent of version 2: its table and its tags, one behind the other, from each of these pages on.
    pub(super) fn apart(first_megabyte: u32, megabytes: u32, first_pages: [u64; 2]) -> Self {
        let table_pages = u64::from(table_pages_of(megabytes));
        let tags = first_pages.map(|page| Some(page + table_pages));
        Self::with_places(first_megabyte, megabytes, first_pages, tags)
    }

    /// An extent of version 2 without a far place: all copies lie one behind the other from this page on.
    pub(super) fn adjacent(first_megabyte: u32, megabytes: u32, first_page: u64) -> Self {
        let table_pages = u64::from(table_pages_of(megabytes));
        let tables = [first_page, first_page + table_pages];
        let tags = tables[1] + table_pages;
        let copies = [Some(tags), Some(tags + tag_pages_of(megabytes))];
        Self::with_places(first_megabyte, megabytes, tables, copies)
    }

    /// The pages of each copy of the table.
    pub(crate) fn table_ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let pages = u64::from(self.table_pages);
        self.tables
            .into_iter()
            .map(move |first| first..first.saturating_add(pages))
    }

    /// The pages of each copy of the tags.
    pub(crate) fn tag_ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let pages = self.tag_pages;
        let copies = self.tags.into_iter().flatten();
        copies.map(move |first| first..first.saturating_add(pages))
    }

    /// The pages that its metadata takes, in no particular order.
    pub(crate) fn metadata_ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        self.table_ranges().chain(self.tag_ranges())
    }

    /// The page behind the last of its metadata.
    pub(crate) fn metadata_end(&self) -> u64 {
        self.metadata_ranges()
            .map(|range| range.end)
            .max()
            .unwrap_or(0)
    }

    /// The megabyte after its last.
    pub(crate) fn end_megabyte(&self) -> u32 {
        self.first_megabyte.saturating_add(self.megabytes)
    }

    /// The page of its first megabyte.
    pub(crate) fn first_page(&self) -> u64 {
        u64::from(self.first_megabyte) * UNITS
    }

    /// Whether its numbers fit each other, wherever its metadata lies.
    pub(super) fn is_consistent(&self) -> bool {
        self.megabytes > 0
            && self.first_megabyte.checked_add(self.megabytes).is_some()
            && self.table_pages == table_pages_of(self.megabytes)
            && self.tag_pages == tag_pages_of(self.megabytes)
            && self.table_written <= self.table_pages
    }
}
