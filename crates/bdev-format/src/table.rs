//! The table: a record per megabyte, in pages that carry a checksum each. There are two copies of it;
//! `docs/ON_DISK_FORMAT.md` has its bytes.

use crate::block_map::{LIVE_WORDS, MegabyteMap, UNIT_WORDS};

use crate::limits::{RECORD_BYTES, RECORDS_AT, RECORDS_PER_PAGE};
use crate::page::{Checksum, Page, put_u32, put_u64, u32_at, u64_at};
use crate::weakness::{CrashWeakness, weakened};

const MAGIC: u32 = u32::from_le_bytes(*b"CTBL");
const FIRST_MEGABYTE_AT: usize = 8;
const EPOCH_AT: usize = 16;

const TAGGED: u64 = 1 << 63;

/// What is known of a megabyte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) map: MegabyteMap,
    /// Whether its blocks have tags, of which some may be none.
    pub(crate) tagged: bool,
}

impl Record {
    /// The record in these bytes, or `None` if there can be no such record.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut words: [u64; LIVE_WORDS] = std::array::from_fn(|word| u64_at(bytes, 8 * word));
        let tagged = words[UNIT_WORDS] & TAGGED != 0;
        words[UNIT_WORDS] &= !TAGGED;
        let map = MegabyteMap(words);
        map.units()?;
        Some(Self { map, tagged })
    }

    /// Writes the record.
    pub(crate) fn write(self, bytes: &mut [u8]) {
        for (word, bits) in self.map.0.into_iter().enumerate() {
            put_u64(bytes, 8 * word, bits);
        }
        if self.tagged {
            bytes[RECORD_BYTES - 1] |= 0x80;
        }
    }
}

/// Whether this is a page of a table, of whatever pool.
pub(crate) fn is_one(page: &Page) -> bool {
    u32_at(&page.0, 0) == MAGIC
}

/// The records of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Records(pub(crate) [Record; RECORDS_PER_PAGE]);

impl Records {
    /// Those of a page that was never written.
    pub(crate) fn empty() -> Self {
        Self([Record::default(); RECORDS_PER_PAGE])
    }

    /// Reads a page that must be about the megabytes from this one on; `None` if it is damaged.
    pub(crate) fn read(page: &Page, first_megabyte: u32, checksum: Checksum) -> Option<Self> {
        let bytes = &page.0;
        let holds = checksum.holds(MAGIC, bytes) || weakened(CrashWeakness::TableUnchecked);
        if !holds || u32_at(bytes, FIRST_MEGABYTE_AT) != first_megabyte {
            return None;
        }
        let mut records = Self::empty();
        let (places, _) = bytes[RECORDS_AT..].as_chunks::<RECORD_BYTES>();
        for (record, place) in records.0.iter_mut().zip(places) {
            *record = Record::read(place)?;
        }
        Some(records)
    }

    /// The page with these records.
    pub(crate) fn to_page(&self, first_megabyte: u32, epoch: u64, checksum: Checksum) -> Page {
        let mut page = Page::ZERO;
        put_u32(&mut page.0, FIRST_MEGABYTE_AT, first_megabyte);
        put_u64(&mut page.0, EPOCH_AT, epoch);
        let (places, _) = page.0[RECORDS_AT..].as_chunks_mut::<RECORD_BYTES>();
        for (record, place) in self.0.iter().zip(places) {
            record.write(place);
        }
        checksum.seal(MAGIC, &mut page.0);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_map::Slot;
    use crate::limits::PAGE_BYTES;
    use chimaera_bdev_proto::BlockType;

    #[test]
    fn a_page_reads_as_it_is_written_and_no_bit_of_it_can_change() {
        let checksum = Checksum::of_pool(&[7; 16]);
        let mut records = Records::empty();
        let slot = |block_type, number| Slot { block_type, number };
        records.0[0].map = MegabyteMap::WHOLE;
        records.0[3] = Record {
            map: MegabyteMap::EMPTY
                .with(slot(BlockType::Kib4, 255))
                .with(slot(BlockType::Kib256, 1)),
            tagged: true,
        };
        let page = records.to_page(101, 9, checksum);
        assert_eq!(Records::read(&page, 101, checksum), Some(records));
        assert_eq!(Records::read(&page, 0, checksum), None, "of another place");
        let other = Checksum::of_pool(&[8; 16]);
        assert_eq!(Records::read(&page, 101, other), None, "of another pool");
        for bit in 0..PAGE_BYTES * 8 {
            let mut damaged = page.clone();
            damaged.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Records::read(&damaged, 101, checksum), None, "{bit}");
        }
        assert_eq!(Records::read(&Page::ZERO, 0, checksum), None);
    }
}
