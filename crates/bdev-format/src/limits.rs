//! Constants of the format that several parts depend on, and the inequalities that must hold between them.

use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_proto::limits::MAX_POOL_NAME_BYTES;

use crate::block_map::{LIVE_WORDS, UNITS};

/// The version of the format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Bytes of a page. Also the unit of allocation, so that a page's number on the device is the number
/// of its unit in the pool.
pub const PAGE_BYTES: usize = 4096;

/// The largest epoch, sequence or generation. They grow one by one and never come this far, so a larger
/// number is damage.
pub(crate) const MAX_COUNTED: u64 = 1 << 62;

/// Pages of a superblock.
pub(crate) const SUPERBLOCK_PAGES: u64 = 2;

/// First page of each copy of the superblock.
pub(crate) const SUPERBLOCK_COPIES: [u64; 2] = [0, 16];

/// Where a superblock's extents begin, in its bytes, and how many bytes each takes.
pub(crate) const EXTENTS_AT: usize = 256;
pub(crate) const EXTENT_BYTES: usize = 48;

/// Extents that a superblock has room for.
pub(crate) const MAX_EXTENTS: usize = 64;

/// Where a superblock has the pool's name.
pub(crate) const NAME_AT: usize = PAGE_BYTES;

/// Pages of the smallest half of a journal: two copies of two records with changes of two pages each.
pub(crate) const MIN_JOURNAL_PAGES: u64 = 8;

/// Pages of the largest half of a journal.
pub(crate) const MAX_JOURNAL_PAGES: u64 = 8192;

/// Pages of the longest record of the journal. It bounds how far recovery looks for the next record behind
/// a damaged one.
pub(crate) const MAX_RECORD_PAGES: usize = 64;

/// Updates of megabytes in an epoch of the journal, at most. Opening goes through all of them, and a single
/// page of the journal can have any number.
pub(crate) const MAX_EPOCH_CHANGES: usize = 1 << 18;

/// Where the entries of a page of the table begin, in its bytes.
pub(crate) const TABLE_ENTRIES_AT: usize = 32;

/// Bytes of a megabyte's entry, in the table and in the journal.
pub(crate) const TABLE_ENTRY_BYTES: usize = 8 * LIVE_WORDS;

/// Entries of a page of the table, each of one megabyte.
pub(crate) const TABLE_ENTRIES_PER_PAGE: usize =
    (PAGE_BYTES - TABLE_ENTRIES_AT) / TABLE_ENTRY_BYTES;

/// Bytes of a sector of tags, which is written whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;

/// Sectors in a page of tags.
pub(crate) const SECTORS_PER_PAGE: u64 = (PAGE_BYTES / SECTOR_BYTES) as u64;

/// Where the tags of a sector begin, in its bytes.
pub(crate) const TAGS_AT: usize = 8;

/// Units whose tags a sector holds.
pub(crate) const TAGS_PER_SECTOR: u64 = ((SECTOR_BYTES - TAGS_AT) / 8) as u64;

/// Units whose tags a page holds.
pub(crate) const TAGS_PER_PAGE: u64 = SECTORS_PER_PAGE * TAGS_PER_SECTOR;

const _: () = {
    assert!(PAGE_BYTES as u64 == UNIT_BYTES);
    assert!(EXTENTS_AT + MAX_EXTENTS * EXTENT_BYTES <= NAME_AT);
    assert!(NAME_AT + MAX_POOL_NAME_BYTES <= SUPERBLOCK_PAGES as usize * PAGE_BYTES);
    // The copies of the superblock lie apart.
    assert!(SUPERBLOCK_COPIES[0] + SUPERBLOCK_PAGES <= SUPERBLOCK_COPIES[1]);
    // A half has room for both copies of two of the longest records of a journal of its size.
    assert!(MIN_JOURNAL_PAGES >= 4 && MAX_JOURNAL_PAGES >= 4 * MAX_RECORD_PAGES as u64);
    // A page of the table has entries, and a page of tags covers more than one megabyte.
    assert!(TABLE_ENTRIES_PER_PAGE > 0 && TAGS_PER_PAGE > UNITS);
};
