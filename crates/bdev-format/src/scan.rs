//! Reading the journal: which records count, and what is damage.
//!
//! A commit counts if each of its records has a sound copy. Behind the last commit that counts there may be
//! anything: a part of a commit that a crash interrupted, and what earlier epochs left. But a record of a *later*
//! commit there is damage: a commit before it has counted and is gone.
//!
//! An epoch whose checkpoint was interrupted is read in whole ([`Journal::older`]); `Metadata::after_recovery` begins
//! the checkpoint again with it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use crate::geometry::Geometry;
use crate::journal::{self, Commit, JournalPayload, JournalRecord};
use crate::limits::{MAX_EPOCH_CHANGES, MAX_RECORD_PAGES};
use crate::page::{Checksum, Disk, Page};
use crate::superblock::Superblock;
use crate::table::TableEntry;
use crate::weakness::{CrashWeakness, weakened};

/// Pages behind the last record that are searched for another: more than both copies of the longest record have.
const LOOK_AHEAD_PAGES: u64 = 2 * MAX_RECORD_PAGES as u64 + 2;

/// Pages in one read.
const CHUNK_PAGES: u64 = 256;

/// The journal as it was read: an epoch that may be on its way into the table, and the one after it.
pub(crate) struct Journal {
    /// The older epoch.
    pub(crate) epoch: u64,
    pub(crate) older: Scan,
    pub(crate) newer: Scan,
}

impl Journal {
    /// Reads both halves. Blocks.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn read<D: Disk>(disk: &D, superblock: &Superblock) -> io::Result<Self> {
        let epoch = superblock.epoch + 1;
        let (geometry, checksum) = (&superblock.geometry, superblock.checksum());
        let older = scan(disk, geometry, checksum, (epoch, superblock.sequence + 1))?;
        let newer = scan(disk, geometry, checksum, (epoch + 1, older.next_sequence))?;
        Ok(Self {
            epoch,
            older,
            newer,
        })
    }

    /// The sequence that follows the last commit.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.newer.next_sequence
    }

    /// What is damaged in it.
    pub(crate) fn damage(&self) -> impl Iterator<Item = String> {
        let both = [&self.older, &self.newer];
        both.into_iter().filter_map(|scan| scan.damage.clone())
    }

    /// The last entry of each megabyte in it.
    pub(crate) fn last_entries(&self) -> BTreeMap<u32, TableEntry> {
        let mut last = BTreeMap::new();
        for payload in self.older.payloads.iter().chain(&self.newer.payloads) {
            last.extend(payload.entries.iter().copied());
        }
        last
    }
}

/// A half of the journal as it was read.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The payloads of the commits' records, in order.
    pub(crate) payloads: Vec<JournalPayload>,
    /// The sequence that follows the last commit.
    pub(crate) next_sequence: u64,
    /// Pages of the half that the commits take.
    pub(crate) taken_pages: u64,
    /// Updates of megabytes in all the commits.
    pub(crate) changes: usize,
    /// The pages of the half that the last commit takes.
    pub(crate) last_commit: Range<u64>,
    /// Records that count and have one sound copy. A crash came while the other was written, or it is damaged.
    pub(crate) lone: Vec<LoneRecord>,
    /// What is damaged, if something is.
    pub(crate) damage: Option<String>,
}

/// A record that has one sound copy. Positions are pages of its half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoneRecord {
    pub(crate) present_at: u64,
    pub(crate) missing_at: u64,
    pub(crate) pages: u64,
}

/// Reads the half of the journal that an epoch uses, whose first record has the sequence `first_sequence`.
fn scan<D: Disk>(
    disk: &D,
    geometry: &Geometry,
    checksum: Checksum,
    (epoch, first_sequence): (u64, u64),
) -> io::Result<Scan> {
    let mut reader = Reader::new(disk, geometry, epoch);
    let mut progress = ScanProgress::new(epoch, first_sequence);
    let mut at = 0;
    while at < geometry.journal_pages && at < progress.reached + LOOK_AHEAD_PAGES {
        let stated = journal::stated_pages(&reader.pages(at, 1)?[0]).map(|pages| pages as u64);
        let record = match stated {
            Some(pages) if at + pages <= geometry.journal_pages => {
                journal::read(reader.pages(at, pages)?, geometry.megabytes(), checksum)
            }
            _ => None,
        };
        at += record.as_ref().map_or(1, |record| record.pages as u64);
        if let Some(record) = record {
            progress.see(record, at);
        }
    }
    let mut scan = progress.scan;
    // In a forged journal the place of a missing copy may lie outside the half.
    let half = geometry.journal_pages;
    scan.lone
        .retain(|lone| lone.missing_at + lone.pages <= half);
    if weakened(CrashWeakness::LoneRecordLeft) || weakened(CrashWeakness::RecordWrittenOnce) {
        scan.lone.clear();
    }
    Ok(scan)
}

/// The pages of an epoch's half, from the page `from` on, in which a record of the epoch begins. The caller knows
/// that none of these records counts.
pub(crate) fn remains<D: Disk>(
    disk: &D,
    geometry: &Geometry,
    epoch: u64,
    from: u64,
) -> io::Result<Vec<u64>> {
    let mut reader = Reader::new(disk, geometry, epoch);
    let mut found = Vec::new();
    for at in from..geometry.journal_pages {
        if journal::begins_record(&reader.pages(at, 1)?[0], epoch) {
            found.push(reader.first_page + at);
        }
    }
    Ok(found)
}

/// The state of a scan.
struct ScanProgress {
    epoch: u64,
    scan: Scan,
    /// The page behind the last record of this epoch, whether it counts or not.
    reached: u64,
    /// Updates of megabytes in all records that were taken up, whether they count or not.
    seen_changes: usize,
    /// The commit whose last record was not seen yet.
    partial: Option<PartialCommit>,
    /// The last commit that counts.
    last: Option<Commit>,
}

/// A commit of which some records were seen.
struct PartialCommit {
    commit: Commit,
    /// Sequence of its next record.
    next: u64,
    payloads: Vec<JournalPayload>,
    records: Vec<RecordCopies>,
}

/// The copies of a record that were seen.
struct RecordCopies {
    /// Pages of a copy.
    pages: u64,
    /// The page behind each copy.
    ends: Vec<u64>,
}

impl ScanProgress {
    fn new(epoch: u64, next_sequence: u64) -> Self {
        Self {
            epoch,
            scan: Scan {
                next_sequence,
                ..Scan::default()
            },
            reached: 0,
            seen_changes: 0,
            partial: None,
            last: None,
        }
    }

    /// Takes notice of a record that ends before the page `end`.
    fn see(&mut self, record: JournalRecord, end: u64) {
        let position = record.position;
        let committed = self.scan.next_sequence;
        if position.epoch > self.epoch {
            self.damage(format!(
                "the journal has a record of epoch {}, the superblock is of epoch {} at most",
                position.epoch,
                self.epoch - 1
            ));
        }
        if position.epoch != self.epoch {
            return;
        }
        self.reached = end;
        if position.sequence < committed {
            // The second copy of a record that counts, or a record that a crash has left behind that one.
            if position.sequence + 1 == committed && self.last == Some(position.commit) {
                self.scan
                    .lone
                    .retain(|lone| lone.missing_at + lone.pages != end);
            }
        } else if position.commit.first > committed {
            self.damage(format!(
                "the journal has record {} of epoch {}, and record {committed} is missing",
                position.sequence, self.epoch
            ));
        } else if position.commit.first == committed {
            self.add_to_partial(record, end);
        }
    }

    fn add_to_partial(&mut self, record: JournalRecord, end: u64) {
        let position = record.position;
        let is_current = |partial: &PartialCommit| partial.commit == position.commit;
        if position.sequence == position.commit.first
            && !self.partial.as_ref().is_some_and(is_current)
        {
            self.partial = Some(PartialCommit {
                commit: position.commit,
                next: position.sequence,
                payloads: Vec::new(),
                records: Vec::new(),
            });
        }
        let Some(partial) = self.partial.as_mut().filter(|partial| is_current(partial)) else {
            return;
        };
        if partial.next.checked_sub(1) == Some(position.sequence) {
            let last = partial.records.last_mut();
            last.into_iter().for_each(|seen| seen.ends.push(end));
        }
        if position.sequence != partial.next {
            return;
        }
        self.seen_changes += record.payload.entries.len();
        // Twice as many, since what a crash has left is among them.
        if self.seen_changes > 2 * MAX_EPOCH_CHANGES {
            return self.damage(format!(
                "the journal has more changes of epoch {} than an epoch can have",
                self.epoch
            ));
        }
        partial.payloads.push(record.payload);
        partial.records.push(RecordCopies {
            pages: record.pages as u64,
            ends: vec![end],
        });
        partial.next += 1;
        if position.sequence == position.commit.last {
            self.complete();
        }
    }

    /// Counts the commit, whose last record was seen.
    fn complete(&mut self) {
        let Some(mut partial) = self.partial.take() else {
            return;
        };
        self.last = Some(partial.commit);
        self.scan.next_sequence = partial.next;
        let changes = partial.payloads.iter().map(|payload| payload.entries.len());
        self.scan.changes += changes.sum::<usize>();
        self.scan.payloads.append(&mut partial.payloads);
        let begin = self.scan.taken_pages;
        for RecordCopies { pages, ends } in partial.records {
            // Commits lie one behind the other, also where copies are damaged.
            let places = [self.scan.taken_pages, self.scan.taken_pages + pages];
            let is_there = places.map(|place| ends.contains(&(place + pages)));
            if let [true, false] | [false, true] = is_there {
                let [present_at, missing_at] = if is_there[0] {
                    places
                } else {
                    [places[1], places[0]]
                };
                self.scan.lone.push(LoneRecord {
                    present_at,
                    missing_at,
                    pages,
                });
            }
            self.scan.taken_pages += journal::copies() * pages;
        }
        self.scan.last_commit = begin..self.scan.taken_pages;
    }

    fn damage(&mut self, what: String) {
        self.scan.damage.get_or_insert(what);
    }
}

/// Reads pages of a half in ascending order, many at once.
struct Reader<'a, D> {
    disk: &'a D,
    first_page: u64,
    pages: u64,
    chunk: Vec<Page>,
    chunk_at: u64,
}

impl<'a, D: Disk> Reader<'a, D> {
    fn new(disk: &'a D, geometry: &Geometry, epoch: u64) -> Self {
        Self {
            disk,
            first_page: geometry.journal[(epoch % 2) as usize],
            pages: geometry.journal_pages,
            chunk: Vec::new(),
            chunk_at: 0,
        }
    }

    /// `count` pages from the page `at` on, all of which must lie in the half.
    fn pages(&mut self, at: u64, count: u64) -> io::Result<&[Page]> {
        let end = self.chunk_at + self.chunk.len() as u64;
        if at < self.chunk_at || at + count > end {
            let len = CHUNK_PAGES.min(self.pages - at);
            self.chunk.resize(len as usize, Page::ZERO);
            self.chunk_at = at;
            self.disk.read(self.first_page + at, &mut self.chunk)?;
        }
        let start = (at - self.chunk_at) as usize;
        Ok(&self.chunk[start..start + count as usize])
    }
}
