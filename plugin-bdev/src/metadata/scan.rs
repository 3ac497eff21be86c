//! Reading the journal: which records count, and which traces mean damage.
//!
//! A commit counts if each of its records is there in one of its two copies. Behind the last one that
//! counts there may be anything: the rest of a commit that a crash interrupted, and what earlier epochs
//! left. A record of a *later* commit there means that one which counted is gone: damage.

use std::io;

use super::geometry::Geometry;
use super::journal::{self, Contents, JournalRecord, RECORD_PAGES_MAXIMUM};
use super::page::{Checksum, Disk, Page};

/// Pages behind the last commit that are looked at: more than both copies of the longest record have.
const LOOK_AHEAD_PAGES: u64 = 2 * RECORD_PAGES_MAXIMUM as u64 + 2;

/// Pages that are read at once.
const CHUNK_PAGES: u64 = 256;

/// What was found in a half of the journal.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What the commits say, in order.
    pub(super) contents: Vec<Contents>,
    /// The sequence behind the last commit.
    pub(super) next_sequence: u64,
    /// Pages of the half that are taken.
    pub(super) taken_pages: u64,
    /// What is wrong, if something is.
    pub(super) damage: Option<String>,
}

/// Reads the half of the journal that this epoch uses, whose first record has this sequence.
pub(super) fn scan<D: Disk>(
    disk: &D,
    geometry: &Geometry,
    checksum: Checksum,
    (epoch, first_sequence): (u64, u64),
) -> io::Result<Scan> {
    let mut reader = Reader {
        disk,
        first_page: geometry.journal[(epoch % 2) as usize],
        pages: geometry.journal_pages,
        chunk: Vec::new(),
        chunk_at: 0,
    };
    let mut progress = Progress::new(epoch, first_sequence);
    let mut at = 0;
    while at < geometry.journal_pages && at < progress.scan.taken_pages + LOOK_AHEAD_PAGES {
        let claimed = journal::claimed_pages(&reader.pages(at, 1)?[0]).map(|pages| pages as u64);
        let record = match claimed {
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
    Ok(progress.scan)
}

struct Progress {
    epoch: u64,
    scan: Scan,
    /// The commit that is not complete yet.
    open: Option<Open>,
}

struct Open {
    first: u64,
    last: u64,
    next: u64,
    contents: Vec<Contents>,
}

impl Progress {
    fn new(epoch: u64, next_sequence: u64) -> Self {
        Self {
            epoch,
            scan: Scan {
                next_sequence,
                ..Scan::default()
            },
            open: None,
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
        if position.sequence < committed {
            // The second copy of a record that counts; or of one that a crash left behind it.
            if position.sequence + 1 == committed {
                self.scan.taken_pages = self.scan.taken_pages.max(end);
            }
            return;
        }
        if position.commit_first > committed {
            self.damage(format!(
                "the journal has record {} of epoch {}, and record {committed} is missing",
                position.sequence, self.epoch
            ));
            return;
        }
        if position.commit_first == committed {
            self.add_to_open(record, end);
        }
    }

    fn add_to_open(&mut self, record: JournalRecord, end: u64) {
        let position = record.position;
        let starts = position.sequence == position.commit_first;
        if starts && self.open.is_none() {
            self.open = Some(Open {
                first: position.commit_first,
                last: position.commit_last,
                next: position.sequence,
                contents: Vec::new(),
            });
        }
        let Some(open) = &mut self.open else { return };
        let commit = (position.commit_first, position.commit_last);
        if position.sequence != open.next || commit != (open.first, open.last) {
            return;
        }
        open.contents.push(record.contents);
        open.next += 1;
        if position.sequence == open.last {
            self.scan.next_sequence = open.next;
            self.scan.taken_pages = end;
            self.scan.contents.append(&mut open.contents);
            self.open = None;
        }
    }

    fn damage(&mut self, what: String) {
        self.scan.damage.get_or_insert(what);
    }
}

/// Reads pages one after another, many at once.
struct Reader<'a, D> {
    disk: &'a D,
    first_page: u64,
    pages: u64,
    chunk: Vec<Page>,
    chunk_at: u64,
}

impl<D: Disk> Reader<'_, D> {
    /// So many pages from this one on, all of which must be there.
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
