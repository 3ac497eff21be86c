//! The table: an entry per megabyte, in pages that carry a checksum each. There are two copies of it;
//! `docs/ON_DISK_FORMAT.md` has its bytes.

use crate::block_map::{LIVE_WORDS, MegabyteMap, UNIT_WORDS};
use crate::limits::{TABLE_ENTRIES_AT, TABLE_ENTRIES_PER_PAGE, TABLE_ENTRY_BYTES};
use crate::page::{Checksum, Page, put_u32, put_u64, u32_at, u64_at};
use crate::weakness::{CrashWeakness, weakened};

const MAGIC: u32 = u32::from_le_bytes(*b"CTBL");
const FIRST_MEGABYTE_AT: usize = 8;
const EPOCH_AT: usize = 16;
const SEQUENCE_AT: usize = 24;

const TAGGED: u64 = 1 << 63;

/// The table's entry of a megabyte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) map: MegabyteMap,
    /// Whether tags are kept for its blocks. Some of those may be 0, for no tag.
    pub(crate) tagged: bool,
}

impl TableEntry {
    /// The entry in these bytes, or `None` if they are no valid entry.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut words: [u64; LIVE_WORDS] = std::array::from_fn(|word| u64_at(bytes, 8 * word));
        let tagged = words[UNIT_WORDS] & TAGGED != 0;
        words[UNIT_WORDS] &= !TAGGED;
        let map = MegabyteMap(words);
        map.units()?;
        Some(Self { map, tagged })
    }

    /// Writes the entry.
    pub(crate) fn write(self, bytes: &mut [u8]) {
        for (word, bits) in self.map.0.into_iter().enumerate() {
            put_u64(bytes, 8 * word, bits);
        }
        if self.tagged {
            bytes[TABLE_ENTRY_BYTES - 1] |= 0x80;
        }
    }
}

/// Whether the page begins as one of a table does, of whichever pool.
pub(crate) fn has_magic(page: &Page) -> bool {
    u32_at(&page.0, 0) == MAGIC
}

/// The epoch of the journal that the page was written for.
pub(crate) fn epoch_of(page: &Page) -> u64 {
    u64_at(&page.0, EPOCH_AT)
}

/// Whether a copy of a page says that a later checkpoint wrote it than the other.
pub(crate) fn is_newer(copy: &Page, other: &Page) -> bool {
    let age = |page: &Page| (epoch_of(page), u64_at(&page.0, SEQUENCE_AT));
    age(copy) > age(other)
}

/// Says that the second copy of a page, in this page of the device, has to be written again.
pub(crate) fn describe_second_copy(page: u64) -> String {
    format!(
        "page {page} of the table, a second copy, is damaged or older than the first, which is sound"
    )
}

/// The entries of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableEntries(pub(crate) [TableEntry; TABLE_ENTRIES_PER_PAGE]);

impl TableEntries {
    /// The entries of a page that was never written.
    pub(crate) fn empty() -> Self {
        Self([TableEntry::default(); TABLE_ENTRIES_PER_PAGE])
    }

    /// Reads the page whose first entry is of this megabyte; `None` if it is damaged or another page.
    pub(crate) fn read(page: &Page, first_megabyte: u32, checksum: Checksum) -> Option<Self> {
        let bytes = &page.0;
        let holds = checksum.holds(MAGIC, bytes) || weakened(CrashWeakness::TableUnchecked);
        if !holds || u32_at(bytes, FIRST_MEGABYTE_AT) != first_megabyte {
            return None;
        }
        let mut entries = Self::empty();
        let (places, _) = bytes[TABLE_ENTRIES_AT..].as_chunks::<TABLE_ENTRY_BYTES>();
        for (entry, place) in entries.0.iter_mut().zip(places) {
            *entry = TableEntry::read(place)?;
        }
        Some(entries)
    }

    /// The page with these entries, which a checkpoint of this epoch writes, up to the record with this sequence.
    pub(crate) fn to_page(
        &self,
        first_megabyte: u32,
        (epoch, sequence): (u64, u64),
        checksum: Checksum,
    ) -> Page {
        let mut page = Page::ZERO;
        put_u32(&mut page.0, FIRST_MEGABYTE_AT, first_megabyte);
        put_u64(&mut page.0, EPOCH_AT, epoch);
        put_u64(&mut page.0, SEQUENCE_AT, sequence);
        let (places, _) = page.0[TABLE_ENTRIES_AT..].as_chunks_mut::<TABLE_ENTRY_BYTES>();
        for (entry, place) in self.0.iter().zip(places) {
            entry.write(place);
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
        let checksum = Checksum::begin_with(7);
        let mut entries = TableEntries::empty();
        let slot = |block_type, number| Slot { block_type, number };
        entries.0[0].map = MegabyteMap::WHOLE;
        entries.0[3] = TableEntry {
            map: MegabyteMap::EMPTY
                .with(slot(BlockType::Kib4, 255))
                .with(slot(BlockType::Kib256, 1)),
            tagged: true,
        };
        let page = entries.to_page(101, (9, 40), checksum);
        assert_eq!(TableEntries::read(&page, 101, checksum), Some(entries));
        assert_eq!(
            TableEntries::read(&page, 0, checksum),
            None,
            "of another place"
        );
        let other = Checksum::begin_with(8);
        assert_eq!(
            TableEntries::read(&page, 101, other),
            None,
            "of another pool"
        );
        for bit in 0..PAGE_BYTES * 8 {
            let mut damaged = page.clone();
            damaged.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(TableEntries::read(&damaged, 101, checksum), None, "{bit}");
        }
        assert_eq!(TableEntries::read(&Page::ZERO, 0, checksum), None);
    }
}
