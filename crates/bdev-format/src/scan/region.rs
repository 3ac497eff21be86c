//! Reading one region's half of the journal: all sound records in it, and where records begin.

use std::io;

use crate::journal::{self, JournalRecord};
use crate::limits::MAX_RECORD_PAGES;
use crate::page::{Checksum, Disk, Page};
use crate::superblock::Superblock;
use crate::version::FormatVersion;

/// Pages in one read.
const CHUNK_PAGES: u64 = 256;

/// Reads a region's half from its first page to its last. Positions are pages of the half.
pub(super) struct RegionReader<'a, D> {
    disk: &'a D,
    version: FormatVersion,
    megabytes: u32,
    checksum: Checksum,
    /// Whether pages behind the device's end count as those that it cannot read.
    may_be_cut: bool,
    epoch: u64,
    first_page: u64,
    pages: u64,
    chunk: Vec<Page>,
    chunk_at: u64,
    /// The page to look at next.
    at: u64,
    /// The record that was found last and not taken yet.
    next: Option<(u64, JournalRecord)>,
    /// Pages in which a record of the epoch begins, sound or not.
    pub(super) begins: Vec<u64>,
    /// Pages that the device cannot read: they are looked at as if they were zero.
    unreadable: Vec<u64>,
    failure: Option<io::Error>,
}

impl<'a, D: Disk> RegionReader<'a, D> {
    pub(super) fn new(
        disk: &'a D,
        superblock: &Superblock,
        epoch: u64,
        first_page: u64,
        may_be_cut: bool,
    ) -> Self {
        let geometry = &superblock.geometry;
        Self {
            disk,
            version: geometry.version,
            megabytes: geometry.megabytes(),
            checksum: superblock.checksum(),
            may_be_cut,
            epoch,
            first_page,
            pages: geometry.journal.pages,
            chunk: Vec::new(),
            chunk_at: 0,
            at: 0,
            next: None,
            begins: Vec::new(),
            unreadable: Vec::new(),
            failure: None,
        }
    }

    /// The page of the next sound record of the epoch, or of a newer one; `None` if there is no more.
    pub(super) fn next_place(&mut self) -> io::Result<Option<u64>> {
        while self.next.is_none() && self.at < self.pages {
            let at = self.at;
            let stated = journal::stated_pages(&self.read(at, 1)?[0]).map(|pages| pages as u64);
            let record = match stated {
                Some(pages) if at + pages <= self.pages => {
                    let (version, megabytes, checksum) =
                        (self.version, self.megabytes, self.checksum);
                    journal::read(self.read(at, pages)?, megabytes, version, checksum)
                }
                _ => None,
            };
            let pages = record.as_ref().map_or(1, |record| record.pages as u64);
            let epoch = self.epoch;
            let chunk = self.read(at, pages)?;
            let begins = (at..)
                .zip(chunk)
                .filter(|(_, page)| journal::begins_record(page, epoch));
            let begins: Vec<_> = begins.map(|(at, _)| at).collect();
            self.begins.extend(begins);
            self.at += pages;
            self.next = record
                .filter(|record| record.position.epoch >= epoch)
                .map(|record| (at, record));
        }
        Ok(self.next.as_ref().map(|(at, _)| *at))
    }

    /// The record at [`Self::next_place`].
    pub(super) fn take(&mut self) -> Option<JournalRecord> {
        self.next.take().map(|(_, record)| record)
    }

    /// `count` pages from the page `at` on, all of which must lie in the half.
    fn read(&mut self, at: u64, count: u64) -> io::Result<&[Page]> {
        let end = self.chunk_at + self.chunk.len() as u64;
        if at < self.chunk_at || at + count > end {
            let len = CHUNK_PAGES.min(self.pages - at);
            self.chunk.resize(len as usize, Page::ZERO);
            self.chunk_at = at;
            match self.disk.read(self.first_page + at, &mut self.chunk) {
                Err(error) if self.may_be_cut || error.kind() != io::ErrorKind::UnexpectedEof => {
                    self.read_singly();
                }
                result => result?,
            }
        }
        let start = (at - self.chunk_at) as usize;
        Ok(&self.chunk[start..start + count as usize])
    }

    /// Reads the chunk page by page, and leaves out those that the device cannot read.
    fn read_singly(&mut self) {
        for (at, page) in (self.chunk_at..).zip(&mut self.chunk) {
            if let Err(error) = self
                .disk
                .read(self.first_page + at, std::slice::from_mut(page))
            {
                *page = Page::ZERO;
                self.unreadable.push(at);
                self.failure.get_or_insert(error);
            }
        }
    }
}

/// Fails if nobody can tell what some copy of a record had: where a page can be read in no region, or, if both copies
/// of a record lie behind each other in one, where two pages cannot be that may belong to one record. The pages of
/// commits that count, `taken_pages`, are not concerned then.
pub(super) fn check_readable<D>(
    regions: &mut [RegionReader<'_, D>],
    taken_pages: u64,
) -> io::Result<()> {
    let Some((first, others)) = regions.split_first_mut() else {
        return Ok(());
    };
    // A page can have been read twice.
    first.unreadable.sort_unstable();
    first.unreadable.dedup();
    let is_lost = match others {
        [] => {
            let is_behind = |at: &&u64| **at >= taken_pages;
            let behind: Vec<u64> = first.unreadable.iter().filter(is_behind).copied().collect();
            behind
                .windows(2)
                .any(|pair| pair[1] - pair[0] < 2 * MAX_RECORD_PAGES as u64)
        }
        _ => {
            let is_in_all = |at: &u64| others.iter().all(|other| other.unreadable.contains(at));
            first.unreadable.iter().any(is_in_all)
        }
    };
    match first.failure.take() {
        Some(error) if is_lost => Err(error),
        _ => Ok(()),
    }
}
