//! The owner tags: eight bytes per unit of 4 KiB, a block's at its first unit. `docs/ON_DISK_FORMAT.md` has
//! the bytes.
//!
//! A sector of 512 bytes is written whole or not at all and has its own checksum, so that a page of
//! eight sectors can be written in place: sectors that a crash has kept from being written are written again
//! from the journal. There is one copy in version 1 of the format, and two in version 2. A sector counts as soon as one
//! of the megabytes whose tags it has is *tagged*; before that its bytes mean nothing.
//!
//! Where every copy of a sector is damaged its tags are *unknown*, which is not *none*. When one of them is known
//! again, because its block was allocated anew, the sector is written with a flag, and [`UNKNOWN`] stands for the
//! others. Where the flag is set, a tag that is really this number counts as unknown, too.

use std::io;

use crate::geometry::Extent;
use crate::limits::{SECTOR_BYTES, SECTORS_PER_PAGE, TAGS_AT, TAGS_PER_SECTOR};
use crate::page::{Checksum, Disk, Page, put_u64, u64_at};
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

/// In the number of a sector: some of its tags are unknown.
const HAS_UNKNOWN: u32 = 1 << 31;

/// Stands for a tag that is unknown, in a sector that has such.
const UNKNOWN: u64 = u64::MAX;

/// The tags of a sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagSector {
    number: u64,
    has_unknown: bool,
    tags: [u64; TAGS_PER_SECTOR as usize],
}

/// Reads the copies of a page of an extent's tags. One that the device cannot read, or does not have any more, is zero:
/// its sectors are damaged then. Blocks.
///
/// # Errors
/// The device's, if no copy can be read.
pub(crate) fn copies_of_page<D: Disk>(
    disk: &D,
    extent: &Extent,
    page: u64,
) -> io::Result<Vec<Page>> {
    let mut copies = Vec::with_capacity(2);
    let (mut failure, mut was_read) = (None, false);
    for first_page in extent.tags.into_iter().flatten() {
        let mut pages = Page::zeroes(1);
        match disk.read(first_page + page, &mut pages) {
            Ok(()) => was_read = true,
            Err(error) => {
                pages[0] = Page::ZERO;
                // What was cut off is as good as damaged.
                was_read |= error.kind() == io::ErrorKind::UnexpectedEof;
                failure = Some(error);
            }
        }
        copies.append(&mut pages);
    }
    match failure {
        Some(error) if !was_read => Err(error),
        _ => Ok(copies),
    }
}

impl TagSector {
    /// A sector without tags.
    pub(crate) const fn empty(number: u64) -> Self {
        Self {
            number,
            has_unknown: false,
            tags: [0; TAGS_PER_SECTOR as usize],
        }
    }

    /// A sector of which no tag is known.
    pub(crate) const fn unknown(number: u64) -> Self {
        Self {
            number,
            has_unknown: true,
            tags: [UNKNOWN; TAGS_PER_SECTOR as usize],
        }
    }

    /// Reads a sector out of the first of these copies of its page in which it is sound; `None` if there is none.
    pub(crate) fn read_any(copies: &[Page], number: u64, checksum: Checksum) -> Option<Self> {
        copies
            .iter()
            .find_map(|page| Self::read(page, number, checksum))
    }

    /// The units whose tags it has.
    pub(crate) const fn units(&self) -> std::ops::Range<u64> {
        self.number * TAGS_PER_SECTOR..(self.number + 1) * TAGS_PER_SECTOR
    }

    /// The bytes of a sector in its page.
    pub(crate) fn bytes(page: &Page, number: u64) -> &[u8] {
        let at = (number % SECTORS_PER_PAGE) as usize * SECTOR_BYTES;
        &page.0[at..at + SECTOR_BYTES]
    }

    /// Reads a sector out of its page; `None` if it is damaged.
    pub(crate) fn read(page: &Page, number: u64, checksum: Checksum) -> Option<Self> {
        let bytes = Self::bytes(page, number);
        let magic = [number as u32 & !HAS_UNKNOWN, number as u32 | HAS_UNKNOWN];
        let found = magic.iter().position(|magic| checksum.holds(*magic, bytes));
        let found = found.or_else(|| weakened(CrashWeakness::TagsUnchecked).then_some(0))?;
        Some(Self {
            number,
            has_unknown: found == 1,
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
        let flag = match self.has_unknown && self.tags.contains(&UNKNOWN) {
            true => HAS_UNKNOWN,
            false => 0,
        };
        checksum.seal(self.number as u32 & !HAS_UNKNOWN | flag, bytes);
    }

    /// The tag at a place in this sector, if it is known.
    pub(crate) fn get(&self, place: TagPlace) -> Option<u64> {
        debug_assert_eq!(place.sector, self.number);
        let tag = self.tags[place.slot];
        (!self.has_unknown || tag != UNKNOWN).then_some(tag)
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
        let checksum = Checksum::begin_with(3);
        let place = TagPlace::of(63 * 11 + 62);
        assert_eq!((place.page, place.sector, place.slot), (1, 11, 62));
        let mut sector = TagSector::empty(11);
        assert!(sector.units().contains(&(63 * 11 + 62)));
        sector.set(place, u64::MAX);
        let mut page = Page::ZERO;
        sector.write(&mut page, checksum);
        let read = TagSector::read(&page, 11, checksum).expect("as written");
        assert_eq!(read.get(place), Some(u64::MAX));
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
        let checksum = Checksum::begin_with(3);
        for sector in 0..16 {
            assert_eq!(TagSector::read(&Page::ZERO, sector, checksum), None);
        }
    }

    #[test]
    fn what_is_written_into_an_unknown_sector_is_known_and_the_rest_is_not() {
        let checksum = Checksum::begin_with(3);
        let mut sector = TagSector::unknown(11);
        let place = |slot| TagPlace::of(63 * 11 + slot);
        sector.set(place(5), 17);
        sector.set(place(6), 0);
        let mut page = Page::ZERO;
        sector.write(&mut page, checksum);
        let copies = [Page::ZERO, page];
        let mut read = TagSector::read_any(&copies, 11, checksum).expect("as written");
        let tags = [4, 5, 6].map(|slot| read.get(place(slot)));
        assert_eq!(tags, [None, Some(17), Some(0)]);
        (0..63).for_each(|slot| read.set(place(slot), slot));
        let mut page = Page::ZERO;
        read.write(&mut page, checksum);
        let read = TagSector::read(&page, 11, checksum).expect("as written");
        assert!(!read.has_unknown);
    }
}
