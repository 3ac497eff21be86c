//! The journal: records of what changed since the table was written. `docs/ON_DISK_FORMAT.md` has its
//! bytes.
//!
//! - An epoch's records lie one behind the other in one half of the journal: half 0 for even epochs, half 1 for
//!   odd ones. Each record has two copies, so that damage to one of them loses nothing.
//! - Sequences grow by one from record to record, through all epochs. A commit is one or more records,
//!   written at once. An incomplete commit does not count, and what is left of it is erased before its
//!   place is used again, so that no later write completes it.
//! - A record has all blocks of each megabyte in it, so that records can be replayed any number of times.

use crate::block_map::{MegabyteMap, UNITS};
use crate::limits::{
    MAX_COUNTED, MAX_EPOCH_CHANGES, MAX_RECORD_PAGES, PAGE_BYTES, TABLE_ENTRY_BYTES,
};
use crate::page::{Checksum, Page, bytes_of, put_u32, put_u64, u32_at, u64_at};
use crate::table::TableEntry;
use crate::weakness::{CrashWeakness, weakened};

const MAGIC: u32 = u32::from_le_bytes(*b"CJRN");
const HEADER_BYTES: usize = 64;
const RUN_BYTES: usize = 12;
const MEGABYTE_BYTES: usize = 4 + TABLE_ENTRY_BYTES;
const TAG_BYTES: usize = 16;

/// A megabyte as a commit leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MegabyteUpdate {
    pub(crate) megabyte: u32,
    pub(crate) entry: TableEntry,
    /// Tags of the blocks that were allocated since the last commit, by unit of the pool.
    pub(crate) tags: Vec<(u64, u64)>,
}

/// Where in the sequence a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) commit: Commit,
}

/// Which commit a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// How many copies of each record the journal has.
pub(crate) fn copies() -> u64 {
    if weakened(CrashWeakness::RecordWrittenOnce) {
        1
    } else {
        2
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalRecord {
    pub(crate) position: Position,
    pub(crate) pages: usize,
    pub(crate) payload: JournalPayload,
}

/// The updates in a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JournalPayload {
    pub(crate) entries: Vec<(u32, TableEntry)>,
    pub(crate) tags: Vec<(u64, u64)>,
}

impl JournalPayload {
    /// The payload of a record with these updates.
    pub(crate) fn of(updates: &[MegabyteUpdate]) -> Self {
        let tags = updates
            .iter()
            .flat_map(|update| update.tags.iter().copied());
        Self {
            entries: updates
                .iter()
                .map(|update| (update.megabyte, update.entry))
                .collect(),
            tags: tags.collect(),
        }
    }
}

/// Lays out a commit: two copies of each of its records, which have at most `max_pages` pages and sequences from
/// `first` on. Gives the pages and the number of records.
pub(crate) fn lay_out(
    updates: &[MegabyteUpdate],
    (epoch, first): (u64, u64),
    max_pages: usize,
    checksum: Checksum,
) -> (Vec<Page>, u64) {
    let mut records = Vec::new();
    let mut draft = Draft::new(max_pages);
    for update in updates {
        if !draft.add(update) {
            records.push(std::mem::replace(&mut draft, Draft::new(max_pages)));
            let fits = draft.add(update);
            debug_assert!(fits, "one megabyte fits the smallest record");
        }
    }
    records.push(draft);
    let count = records.len() as u64;
    let commit = Commit {
        first,
        last: first + count - 1,
    };
    let mut pages = Vec::new();
    for (draft, sequence) in records.iter().zip(first..) {
        let mut bytes = draft.to_bytes();
        let position = Position {
            epoch,
            sequence,
            commit,
        };
        position.write(&mut bytes);
        checksum.seal(MAGIC, &mut bytes);
        for _ in 0..copies() {
            let (record, _) = bytes.as_chunks::<PAGE_BYTES>();
            pages.extend(record.iter().map(|&page| Page(page)));
        }
    }
    (pages, count)
}

/// A record that is being put together.
struct Draft {
    bytes_left: usize,
    runs: Vec<(u32, u32, MegabyteMap)>,
    megabytes: Vec<(u32, TableEntry)>,
    tags: Vec<(u64, u64)>,
}

impl Draft {
    fn new(max_pages: usize) -> Self {
        Self {
            bytes_left: max_pages * PAGE_BYTES - HEADER_BYTES,
            runs: Vec::new(),
            megabytes: Vec::new(),
            tags: Vec::new(),
        }
    }

    /// Adds a megabyte. `false` if there is no room for it, and nothing was added.
    fn add(&mut self, update: &MegabyteUpdate) -> bool {
        let TableEntry { map, tagged } = update.entry;
        let is_uniform = !tagged && (map == MegabyteMap::EMPTY || map == MegabyteMap::WHOLE);
        let continues = is_uniform
            && self.runs.last().is_some_and(|&(first, count, of)| {
                of == map && first.checked_add(count) == Some(update.megabyte)
            });
        let needed = match (continues, is_uniform) {
            (true, _) => 0,
            (false, true) => RUN_BYTES,
            (false, false) => MEGABYTE_BYTES + TAG_BYTES * update.tags.len(),
        };
        if needed > self.bytes_left {
            return false;
        }
        self.bytes_left -= needed;
        match self.runs.last_mut() {
            Some((_, count, _)) if continues => *count += 1,
            _ if is_uniform => self.runs.push((update.megabyte, 1, map)),
            _ => {
                self.megabytes.push((update.megabyte, update.entry));
                self.tags.extend_from_slice(&update.tags);
            }
        }
        true
    }

    /// The bytes of the record's pages, without its position.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let counts = [self.runs.len(), self.megabytes.len(), self.tags.len()];
        for (place, count) in counts.into_iter().enumerate() {
            put_u32(&mut bytes, 44 + 4 * place, count as u32);
        }
        for &(first, count, map) in &self.runs {
            for word in [first, count, u32::from(map == MegabyteMap::WHOLE)] {
                bytes.extend(word.to_le_bytes());
            }
        }
        for &(megabyte, entry) in &self.megabytes {
            bytes.extend(megabyte.to_le_bytes());
            let at = bytes.len();
            bytes.resize(at + TABLE_ENTRY_BYTES, 0);
            entry.write(&mut bytes[at..]);
        }
        for &(unit, tag) in &self.tags {
            bytes.extend(unit.to_le_bytes());
            bytes.extend(tag.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        let page_count = (bytes.len() / PAGE_BYTES) as u32;
        put_u32(&mut bytes, 40, page_count);
        bytes
    }
}

impl Position {
    fn write(&self, bytes: &mut [u8]) {
        put_u64(bytes, 8, self.epoch);
        put_u64(bytes, 16, self.sequence);
        put_u64(bytes, 24, self.commit.first);
        put_u64(bytes, 32, self.commit.last);
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            epoch: u64_at(bytes, 8),
            sequence: u64_at(bytes, 16),
            commit: Commit {
                first: u64_at(bytes, 24),
                last: u64_at(bytes, 32),
            },
        }
    }
}

/// Whether the page begins as a record does, of whichever pool.
pub(crate) fn has_magic(first: &Page) -> bool {
    u32_at(&first.0, 0) == MAGIC
}

/// How many pages the record that begins here says it has, if one begins here.
pub(crate) fn stated_pages(first: &Page) -> Option<usize> {
    let pages = u32_at(&first.0, 40) as usize;
    (u32_at(&first.0, 0) == MAGIC && (1..=MAX_RECORD_PAGES).contains(&pages)).then_some(pages)
}

/// Whether the page begins as a record of this epoch does, damaged or not.
pub(crate) fn begins_record(page: &Page, epoch: u64) -> bool {
    u32_at(&page.0, 0) == MAGIC && u64_at(&page.0, 8) == epoch
}

/// Reads the record in these pages, from the journal of a pool of `megabytes`; `None` if they are no record,
/// or a damaged one.
pub(crate) fn read(pages: &[Page], megabytes: u32, checksum: Checksum) -> Option<JournalRecord> {
    let bytes = bytes_of(pages);
    if stated_pages(pages.first()?)? != pages.len() {
        return None;
    }
    if !checksum.holds(MAGIC, bytes) && !weakened(CrashWeakness::JournalUnchecked) {
        return None;
    }
    let position = Position::read(bytes);
    if position.epoch.max(position.sequence) > MAX_COUNTED {
        return None;
    }
    Some(JournalRecord {
        position,
        pages: pages.len(),
        payload: read_payload(bytes, megabytes)?,
    })
}

fn read_payload(bytes: &[u8], megabytes: u32) -> Option<JournalPayload> {
    let count = |place: usize| u32_at(bytes, 44 + 4 * place) as usize;
    let mut rest = &bytes[HEADER_BYTES..];
    let mut take = |count: usize, size: usize| {
        let (taken, left) = rest.split_at_checked(count.checked_mul(size)?)?;
        rest = left;
        Some(taken)
    };
    let runs = take(count(0), RUN_BYTES)?;
    let places = take(count(1), MEGABYTE_BYTES)?;
    let tags = take(count(2), TAG_BYTES)?;
    let mut payload = JournalPayload::default();
    for run in runs.as_chunks::<RUN_BYTES>().0 {
        let map = match u32_at(run, 8) {
            0 => MegabyteMap::EMPTY,
            1 => MegabyteMap::WHOLE,
            _ => return None,
        };
        let first = u32_at(run, 0);
        let end = first.checked_add(u32_at(run, 4))?;
        // A record has no megabyte twice, and an epoch only so many updates. This bounds the memory that a
        // forged run can take.
        let after = payload.entries.len() + (end.saturating_sub(first)) as usize;
        if end > megabytes || after > MAX_EPOCH_CHANGES.min(megabytes as usize) {
            return None;
        }
        let entry = TableEntry { map, tagged: false };
        payload
            .entries
            .extend((first..end).map(|megabyte| (megabyte, entry)));
    }
    for place in places.as_chunks::<MEGABYTE_BYTES>().0 {
        let entry = TableEntry::read(&place[4..])?;
        payload.entries.push((u32_at(place, 0), entry));
    }
    let units = u64::from(megabytes) * UNITS;
    let (places, _) = tags.as_chunks::<TAG_BYTES>();
    payload.tags = places
        .iter()
        .map(|place| (u64_at(place, 0), u64_at(place, 8)))
        .collect();
    let inside = payload
        .entries
        .iter()
        .all(|(megabyte, _)| *megabyte < megabytes)
        && payload.tags.iter().all(|(unit, _)| *unit < units);
    inside.then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_map::Slot;
    use chimaera_bdev_proto::BlockType;

    fn updates() -> Vec<MegabyteUpdate> {
        let slot = Slot {
            block_type: BlockType::Kib4,
            number: 3,
        };
        let plain = |megabyte, map| MegabyteUpdate {
            megabyte,
            entry: TableEntry { map, tagged: false },
            tags: Vec::new(),
        };
        let mut updates: Vec<_> = (5..2000).map(|at| plain(at, MegabyteMap::WHOLE)).collect();
        updates.extend((2000..2300).map(|at| plain(at, MegabyteMap::EMPTY.with(slot))));
        updates.push(plain(2300, MegabyteMap::EMPTY));
        updates.push(MegabyteUpdate {
            megabyte: 2301,
            entry: TableEntry {
                map: MegabyteMap::EMPTY.with(slot),
                tagged: true,
            },
            tags: vec![(2301 * 256 + 3, 0xABCD)],
        });
        updates
    }

    #[test]
    fn a_commit_reads_as_it_is_laid_out_with_each_record_twice() {
        let checksum = Checksum::of_pool(&[5; 16]);
        let updates = updates();
        let (pages, count) = lay_out(&updates, (3, 40), 2, checksum);
        assert!(count > 1, "it does not fit one record");
        let (mut at, mut found) = (0, Vec::new());
        let mut payload = JournalPayload::default();
        while at < pages.len() {
            let len = stated_pages(&pages[at]).expect("a record");
            let record = read(&pages[at..at + len], 2302, checksum).expect("a record");
            assert_eq!(record.position.epoch, 3);
            let commit = record.position.commit;
            assert_eq!((commit.first, commit.last), (40, 40 + count - 1));
            let is_second = found.last() == Some(&record.position.sequence);
            found.push(record.position.sequence);
            if !is_second {
                payload.entries.extend(record.payload.entries);
                payload.tags.extend(record.payload.tags);
            }
            at += len;
        }
        let twice: Vec<_> = (40..40 + count)
            .flat_map(|sequence| [sequence; 2])
            .collect();
        assert_eq!(found, twice);
        payload.entries.sort_by_key(|(megabyte, _)| *megabyte);
        let expected: Vec<_> = updates
            .iter()
            .map(|update| (update.megabyte, update.entry))
            .collect();
        assert_eq!(payload.entries, expected);
        assert_eq!(payload.tags, [(2301 * 256 + 3, 0xABCD)]);
    }

    #[test]
    fn no_bit_of_a_record_can_change() {
        let checksum = Checksum::of_pool(&[5; 16]);
        let (pages, _) = lay_out(&updates()[1995..2000], (3, 40), 2, checksum);
        let record = &pages[..1];
        assert!(read(record, 2302, checksum).is_some());
        assert!(read(record, 2302, Checksum::of_pool(&[6; 16])).is_none());
        assert!(read(record, 2004, checksum).is_none(), "beyond the pool");
        for bit in 0..PAGE_BYTES * 8 {
            let mut damaged = record.to_vec();
            damaged[0].0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged, 2302, checksum), None, "{bit}");
        }
    }

    #[test]
    fn many_megabytes_alike_take_little_room() {
        let checksum = Checksum::of_pool(&[5; 16]);
        let whole = |megabyte| MegabyteUpdate {
            megabyte,
            entry: TableEntry {
                map: MegabyteMap::WHOLE,
                tagged: false,
            },
            tags: Vec::new(),
        };
        let updates: Vec<_> = (0..1 << 20).map(whole).collect();
        let (pages, count) = lay_out(&updates, (1, 1), MAX_RECORD_PAGES, checksum);
        assert_eq!((pages.len(), count), (2, 1));
    }
}
