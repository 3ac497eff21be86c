//! The owner tags: eight bytes per unit of 4 KiB, a block's at its first unit. `docs/ON_DISK_FORMAT.md` has
//! the bytes.
//!
//! A sector of 512 bytes is written whole or not at all and has its own checksum, so that a page of
//! eight sectors can be written in place: sectors that a crash has kept from being written are written again
//! from the journal. There is one copy. A sector counts as soon as one of the megabytes whose tags it has is
//! *tagged*; before that its bytes mean nothing.

use crate::limits::{SECTOR_BYTES, SECTORS_PER_PAGE, TAGS_AT, TAGS_PER_SECTOR};
use crate::page::{Checksum, Page, put_u64, u64_at};
use crate::weakness::{CrashWeakness, weakened};

/// Where a unit's tag lies in the tags of its extent. Units count from the extent's first megabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TagPlace {
    pub(crate) page: u64,
    /// The sector, counted from the first page.
    pub(crate) sector: u64,
    slot: usize,
}

impl TagPlace {
    pub(crate) const fn of(unit: u64) -> Self {
        let sector = unit / TAGS_PER_SECTOR;
        Self {
            page: sector / SECTORS_PER_PAGE,
            sector,
            slot: (unit % TAGS_PER_SECTOR) as usize,
        }
    }
}

/// The tags of a sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagSector {
    number: u64,
    tags: [u64; TAGS_PER_SECTOR as usize],
}

impl TagSector {
    /// A sector without tags.
    pub(crate) const fn empty(number: u64) -> Self {
        Self {
            number,
            tags: [0; TAGS_PER_SECTOR as usize],
        }
    }

    /// The units whose tags it has.
    pub(crate) const fn units(&self) -> std::ops::Range<u64> {
        self.number * TAGS_PER_SECTOR..(self.number + 1) * TAGS_PER_SECTOR
    }

    /// Reads a sector out of its page; `None` if it is damaged.
    pub(crate) fn read(page: &Page, number: u64, checksum: Checksum) -> Option<Self> {
        let at = (number % SECTORS_PER_PAGE) as usize * SECTOR_BYTES;
        let bytes = &page.0[at..at + SECTOR_BYTES];
        if !checksum.holds(number as u32, bytes) && !weakened(CrashWeakness::TagsUnchecked) {
            return None;
        }
        Some(Self {
            number,
            tags: std::array::from_fn(|slot| u64_at(bytes, TAGS_AT + 8 * slot)),
        })
    }

    /// Writes the sector into its page.
    pub(crate) fn write(&self, page: &mut Page, checksum: Checksum) {
        let at = (self.number % SECTORS_PER_PAGE) as usize * SECTOR_BYTES;
        let bytes = &mut page.0[at..at + SECTOR_BYTES];
        for (slot, tag) in self.tags.into_iter().enumerate() {
            put_u64(bytes, TAGS_AT + 8 * slot, tag);
        }
        checksum.seal(self.number as u32, bytes);
    }

    /// The tag at a place in this sector.
    pub(crate) fn get(&self, place: TagPlace) -> u64 {
        debug_assert_eq!(place.sector, self.number);
        self.tags[place.slot]
    }

    /// Changes the tag at a place in this sector.
    pub(crate) fn set(&mut self, place: TagPlace, tag: u64) {
        debug_assert_eq!(place.sector, self.number);
        self.tags[place.slot] = tag;
    }
}

/// The sectors that a page holds.
pub(crate) fn sectors_of(page: u64) -> std::ops::Range<u64> {
    page * SECTORS_PER_PAGE..(page + 1) * SECTORS_PER_PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_reads_as_it_is_written_and_no_bit_of_it_can_change() {
        let checksum = Checksum::of_pool(&[3; 16]);
        let place = TagPlace::of(63 * 11 + 62);
        assert_eq!((place.page, place.sector, place.slot), (1, 11, 62));
        let mut sector = TagSector::empty(11);
        assert!(sector.units().contains(&(63 * 11 + 62)));
        sector.set(place, u64::MAX);
        let mut page = Page::ZERO;
        sector.write(&mut page, checksum);
        let read = TagSector::read(&page, 11, checksum).expect("as written");
        assert_eq!(read.get(place), u64::MAX);
        assert_eq!(TagSector::read(&page, 10, checksum), None, "never written");
        let at = 3 * SECTOR_BYTES;
        for bit in 0..SECTOR_BYTES * 8 {
            let mut damaged = page.clone();
            damaged.0[at + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(TagSector::read(&damaged, 11, checksum), None, "{bit}");
        }
    }

    #[test]
    fn a_sector_that_was_never_written_does_not_read() {
        let checksum = Checksum::of_pool(&[3; 16]);
        for sector in 0..16 {
            assert_eq!(TagSector::read(&Page::ZERO, sector, checksum), None);
        }
    }
}
