//! What a simulated medium holds, and what of it cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use crate::PAGE_BYTES;

/// Bytes that the medium writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// The bytes of a page.
pub(super) type PageBytes = [u8; PAGE_BYTES];

/// The contents of a medium. Copies share their pages.
#[derive(Clone)]
pub struct DiskImage {
    pages: BTreeMap<u64, Rc<PageBytes>>,
    /// Pages of the device.
    total_pages: u64,
    /// Pages that cannot be read until all of them is written. What they hold does not matter.
    unreadable: BTreeSet<u64>,
}

impl DiskImage {
    /// A device of so many pages, all of them zero.
    pub fn blank(total_pages: u64) -> Self {
        Self {
            pages: BTreeMap::new(),
            total_pages,
            unreadable: BTreeSet::new(),
        }
    }

    /// Pages of the device.
    pub fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Makes the medium longer, or cuts it off.
    pub(super) fn resize(&mut self, total_pages: u64) {
        self.total_pages = total_pages;
        self.pages.retain(|page, _| *page < total_pages);
    }

    /// The bytes of a page.
    pub fn page(&self, page: u64) -> PageBytes {
        self.pages
            .get(&page)
            .map_or([0; PAGE_BYTES], |bytes| **bytes)
    }

    /// The bytes of a sector of a page.
    pub fn sector(&self, page: u64, sector: usize) -> [u8; SECTOR_BYTES] {
        let at = sector * SECTOR_BYTES;
        self.pages.get(&page).map_or([0; SECTOR_BYTES], |bytes| {
            std::array::from_fn(|byte| bytes[at + byte])
        })
    }

    /// Changes a page as no write did.
    pub(super) fn change(&mut self, page: u64, change: impl FnOnce(&mut PageBytes)) {
        let entry = self.pages.entry(page);
        change(Rc::make_mut(
            entry.or_insert_with(|| Rc::new([0; PAGE_BYTES])),
        ));
    }

    /// Makes a page zero, as no write did. It can be read then.
    pub(super) fn clear(&mut self, page: u64) {
        self.pages.remove(&page);
        self.unreadable.remove(&page);
    }

    /// Lets reads of these pages fail until they are written. A write that a crash has torn does not help.
    pub(super) fn make_unreadable(&mut self, pages: Range<u64>) {
        self.unreadable.extend(pages);
    }

    /// Whether all of these pages can be read.
    pub(super) fn can_read(&self, mut pages: Range<u64>) -> bool {
        self.unreadable.is_empty() || !pages.any(|page| self.unreadable.contains(&page))
    }

    /// Writes pages from this one on.
    pub(super) fn apply(&mut self, first_page: u64, pages: &[Rc<PageBytes>]) {
        for (page, bytes) in (first_page..).zip(pages) {
            self.pages.insert(page, Rc::clone(bytes));
            self.unreadable.remove(&page);
        }
    }
}
