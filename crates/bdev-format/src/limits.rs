//! Constants of the format that several parts depend on, and the inequalities that must hold between them.

use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_proto::limits::MAX_POOL_NAME_BYTES;

use crate::block_map::{LIVE_WORDS, UNITS};

/// Bytes of a page. Also the unit of allocation, so that a page's number on the device is the number
/// of its unit in the pool.
pub const PAGE_BYTES: usize = 4096;

/// Pages of the largest pool: its megabytes have numbers of 32 bits.
pub(crate) const MAX_PAGES: u64 = (u32::MAX as u64 - 1) * UNITS;

/// The largest epoch, sequence, generation or number of openings. They grow one by one: a pool that counts a thousand a
/// second comes this far in 8,900 years. So a larger number is damage.
pub(crate) const MAX_COUNTED: u64 = 1 << 48;

/// How far from that a pool must be that is opened for writing, so that it does not come there while it is open.
pub(crate) const MIN_LEFT_TO_COUNT: u64 = 1 << 40;

/// How far from that a pool must stay that is open: a commit or checkpoint counts fewer at once.
pub(crate) const MIN_LEFT_TO_COMMIT: u64 = 1 << 32;

/// Pages of a superblock.
pub(crate) const SUPERBLOCK_PAGES: u64 = 2;

/// First page of each copy of the superblock that lies at the beginning of the device.
pub(crate) const NEAR_SUPERBLOCKS: [u64; 2] = [0, 16];

/// The mark pages beside them: behind the first and before the second, since behind that lies the journal.
pub(crate) const NEAR_MARKS: [u64; 2] = [2, 15];

/// Pages that are kept free of blocks at each place where a far superblock may lie: two superblocks, each with a mark
/// page behind it.
pub(crate) const KEPT_PAGES: u64 = 6;

/// First page of each far superblock, from the beginning of the far place on.
pub(crate) const FAR_SUPERBLOCKS: [u64; 2] = [0, 3];

/// The mark pages beside them.
pub(crate) const FAR_MARKS: [u64; 2] = [2, 5];

/// A far place is at 2^k MiB. These are the least and the largest k.
pub(crate) const MIN_FAR_EXPONENT: u32 = 1;
pub(crate) const MAX_FAR_EXPONENT: u32 = 28;

/// Where a superblock's extents begin, in its bytes, and how many bytes each takes.
pub(crate) const EXTENTS_AT: usize = 256;
pub(crate) const EXTENT_BYTES: usize = 48;

/// Extents that a superblock has room for.
pub(crate) const MAX_EXTENTS: usize = 64;

/// Where a superblock has the pool's name.
pub(crate) const NAME_AT: usize = PAGE_BYTES;

/// Pages of the smallest half of a journal: two records of two pages each, all of it twice where both copies of a
/// record lie in the same half.
pub(crate) const MIN_JOURNAL_PAGES: u64 = 4;

/// Pages of the largest half of a journal.
pub(crate) const MAX_JOURNAL_PAGES: u64 = 8192;

/// Pages of the longest record of the journal.
pub(crate) const MAX_RECORD_PAGES: usize = 64;

/// Updates of megabytes in an epoch of the journal, at most. Opening goes through all of them, and a single
/// page of the journal can have any number.
pub(crate) const MAX_EPOCH_CHANGES: usize = 1 << 18;

/// Megabytes that an epoch of the journal may be about where it is read, at most: the first programs did not bound the
/// updates in an epoch, so that one may be about each megabyte of a pool of 1 TiB, any number of times.
pub(crate) const MAX_READ_MEGABYTES: usize = 1 << 20;

/// Changes of an epoch that opening goes through, so that a forged journal does not take minutes.
pub(crate) const MAX_READ_CHANGES: usize = 1 << 24;

/// Owner tags in an epoch of the journal, at most: all of them are held in memory until they are in their place. A
/// commit that has more than this many is an epoch of its own, or several.
pub(crate) const MAX_EPOCH_TAGS: usize = 1 << 18;

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
    assert!(MIN_LEFT_TO_COMMIT < MIN_LEFT_TO_COUNT && MIN_LEFT_TO_COUNT < MAX_COUNTED);
    assert!(PAGE_BYTES as u64 == UNIT_BYTES);
    assert!(EXTENTS_AT + MAX_EXTENTS * EXTENT_BYTES <= NAME_AT);
    assert!(NAME_AT + MAX_POOL_NAME_BYTES <= SUPERBLOCK_PAGES as usize * PAGE_BYTES);
    // Superblocks and mark pages lie apart.
    assert!(
        NEAR_SUPERBLOCKS[0] + SUPERBLOCK_PAGES <= NEAR_MARKS[0] && NEAR_MARKS[0] < NEAR_MARKS[1]
    );
    assert!(NEAR_MARKS[1] < NEAR_SUPERBLOCKS[1]);
    assert!(
        FAR_SUPERBLOCKS[0] + SUPERBLOCK_PAGES <= FAR_MARKS[0] && FAR_MARKS[0] < FAR_SUPERBLOCKS[1]
    );
    assert!(FAR_SUPERBLOCKS[1] + SUPERBLOCK_PAGES <= FAR_MARKS[1] && FAR_MARKS[1] < KEPT_PAGES);
    // A half has room for two of the longest records of a journal of its size, in both copies.
    assert!(MIN_JOURNAL_PAGES >= 4 && MAX_JOURNAL_PAGES >= 4 * MAX_RECORD_PAGES as u64);
    // A page of the table has entries, and a page of tags covers more than one megabyte.
    assert!(TABLE_ENTRIES_PER_PAGE > 0 && TAGS_PER_PAGE > UNITS);
};
