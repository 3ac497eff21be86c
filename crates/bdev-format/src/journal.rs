//! The journal: records of what changed since the table was written. `docs/ON_DISK_FORMAT.md` has its
//! bytes.
//!
//! - An epoch's records lie one behind the other in one half of the journal: half 0 for even epochs, half 1 for
//!   odd ones. Each record has two copies, so that damage to one of them loses nothing: one behind the other in version
//!   1 of the format, in the same place of two regions that lie apart in version 2.
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
use crate::version::FormatVersion;
use crate::weakness::{CrashWeakness, weakened};

const MAGIC: u32 = u32::from_le_bytes(*b"CJRN");
const HEADER_BYTES: usize = 64;
const RUN_BYTES: usize = 12;
const MEGABYTE_BYTES: usize = 4 + TABLE_ENTRY_BYTES;
const TAG_BYTES: usize = 16;

/// In version 2 what a record has stands in sections: kind (2), flags (2), bytes behind this header (4).
const SECTION_HEADER_BYTES: usize = 8;
/// A program that does not know the section's kind may skip it.
const MAY_BE_SKIPPED: u16 = 1;

/// What a record has, in the order in which it stands there. In version 2 the position, from 1 on, is its section's
/// kind.
const PARTS: usize = 3;
const PART_BYTES: [usize; PARTS] = [RUN_BYTES, MEGABYTE_BYTES, TAG_BYTES];

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

/// How many copies of each record lie one behind the other.
pub(crate) fn copies_in_region(version: FormatVersion) -> u64 {
    if weakened(CrashWeakness::RecordWrittenOnce) {
        1
    } else {
        version.copies_in_region()
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalRecord {
    pub(crate) position: Position,
    pub(crate) pages: usize,
    pub(crate) payload: JournalPayload,
    /// The kind of a section that this program would have to know, and does not.
    pub(crate) unknown_section: Option<u16>,
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

/// How the records of a pool's journal are laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordLayout {
    pub(crate) version: FormatVersion,
    /// Pages of the longest record.
    pub(crate) max_pages: usize,
    pub(crate) checksum: Checksum,
}

/// Lays out a commit as it stands in each region of the journal, with sequences from `first` on. Gives the pages and
/// the number of records.
pub(crate) fn lay_out(
    updates: &[MegabyteUpdate],
    (epoch, first): (u64, u64),
    layout: RecordLayout,
) -> (Vec<Page>, u64) {
    let RecordLayout {
        version,
        max_pages,
        checksum,
    } = layout;
    let mut records = Vec::new();
    let mut draft = Draft::new(version, max_pages);
    for update in updates {
        if !draft.add(update) {
            records.push(std::mem::replace(
                &mut draft,
                Draft::new(version, max_pages),
            ));
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
        let mut bytes = draft.to_bytes(version);
        let position = Position {
            epoch,
            sequence,
            commit,
        };
        position.write(&mut bytes);
        checksum.seal(MAGIC, &mut bytes);
        for _ in 0..copies_in_region(version) {
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
    fn new(version: FormatVersion, max_pages: usize) -> Self {
        let headers = match version {
            FormatVersion::One => HEADER_BYTES,
            FormatVersion::Two => HEADER_BYTES + PARTS * SECTION_HEADER_BYTES,
        };
        Self {
            bytes_left: max_pages * PAGE_BYTES - headers,
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
    fn to_bytes(&self, version: FormatVersion) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let counts = [self.runs.len(), self.megabytes.len(), self.tags.len()];
        match version {
            FormatVersion::One => {
                for (place, count) in counts.into_iter().enumerate() {
                    put_u32(&mut bytes, 44 + 4 * place, count as u32);
                }
                (0..PARTS).for_each(|part| self.write_part(part, &mut bytes));
            }
            FormatVersion::Two => {
                let parts = (0..PARTS).filter(|part| counts[*part] > 0);
                put_u32(&mut bytes, 44, parts.clone().count() as u32);
                for part in parts {
                    let len = counts[part] * PART_BYTES[part];
                    bytes.extend((part as u16 + 1).to_le_bytes());
                    bytes.extend(0_u16.to_le_bytes());
                    bytes.extend((len as u32).to_le_bytes());
                    self.write_part(part, &mut bytes);
                }
            }
        }
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        let page_count = (bytes.len() / PAGE_BYTES) as u32;
        put_u32(&mut bytes, 40, page_count);
        bytes
    }

    /// Appends one of the parts of the record.
    fn write_part(&self, part: usize, bytes: &mut Vec<u8>) {
        match part {
            0 => {
                for &(first, count, map) in &self.runs {
                    for word in [first, count, u32::from(map == MegabyteMap::WHOLE)] {
                        bytes.extend(word.to_le_bytes());
                    }
                }
            }
            1 => {
                for &(megabyte, entry) in &self.megabytes {
                    bytes.extend(megabyte.to_le_bytes());
                    let at = bytes.len();
                    bytes.resize(at + TABLE_ENTRY_BYTES, 0);
                    entry.write(&mut bytes[at..]);
                }
            }
            _ => {
                for &(unit, tag) in &self.tags {
                    bytes.extend(unit.to_le_bytes());
                    bytes.extend(tag.to_le_bytes());
                }
            }
        }
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
pub(crate) fn read(
    pages: &[Page],
    megabytes: u32,
    version: FormatVersion,
    checksum: Checksum,
) -> Option<JournalRecord> {
    let bytes = bytes_of(pages);
    if stated_pages(pages.first()?)? != pages.len() {
        return None;
    }
    if !checksum.holds(MAGIC, bytes) && !weakened(CrashWeakness::JournalUnchecked) {
        return None;
    }
    let position = Position::read(bytes);
    let last = position.sequence.max(position.commit.last);
    if position.epoch.max(last) > MAX_COUNTED {
        return None;
    }
    let (parts, unknown_section) = match version {
        FormatVersion::One => (counted_parts(bytes)?, None),
        FormatVersion::Two => sections(bytes)?,
    };
    Some(JournalRecord {
        position,
        pages: pages.len(),
        payload: read_payload(parts, megabytes)?,
        unknown_section,
    })
}

/// The bytes of each part of a record.
type Parts<'a> = [&'a [u8]; PARTS];

/// The parts of a record of version 1, which counts them in its header.
fn counted_parts(bytes: &[u8]) -> Option<Parts<'_>> {
    let mut rest = &bytes[HEADER_BYTES..];
    let mut parts: Parts<'_> = [&[]; PARTS];
    for (place, part) in parts.iter_mut().enumerate() {
        let count = u32_at(bytes, 44 + 4 * place) as usize;
        let (taken, left) = rest.split_at_checked(count.checked_mul(PART_BYTES[place])?)?;
        rest = left;
        *part = taken;
    }
    Some(parts)
}

/// The parts of a record of version 2, which come in sections, and the kind of a section that this program would have
/// to know.
fn sections(bytes: &[u8]) -> Option<(Parts<'_>, Option<u16>)> {
    let mut rest = &bytes[HEADER_BYTES..];
    let mut parts: Parts<'_> = [&[]; PARTS];
    let mut unknown = None;
    for _ in 0..u32_at(bytes, 44) {
        let (header, behind) = rest.split_at_checked(SECTION_HEADER_BYTES)?;
        let kind = u16::from_le_bytes([header[0], header[1]]);
        let flags = u16::from_le_bytes([header[2], header[3]]);
        let (section, left) = behind.split_at_checked(u32_at(header, 4) as usize)?;
        rest = left;
        match usize::from(kind)
            .checked_sub(1)
            .filter(|part| *part < PARTS)
        {
            Some(part)
                if section.len().is_multiple_of(PART_BYTES[part]) && parts[part].is_empty() =>
            {
                parts[part] = section;
            }
            Some(_) => return None,
            None if flags & MAY_BE_SKIPPED != 0 => {}
            None => unknown = Some(kind),
        }
    }
    Some((parts, unknown))
}

fn read_payload([runs, places, tags]: Parts<'_>, megabytes: u32) -> Option<JournalPayload> {
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
mod tests;
