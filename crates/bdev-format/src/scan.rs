//! Reading the journal: which records count, and what is damage.
//!
//! A commit counts if each of its records has a sound copy. Behind the last commit that counts there may be
//! anything: a part of a commit that a crash interrupted, and what earlier epochs left. But a record of a *later*
//! commit there is damage: a commit before it has counted and is gone. So each half is read to its end, in each region,
//! however much of it is damaged.
//!
//! An epoch whose checkpoint was interrupted is read in whole ([`Journal::older`]); `Metadata::after_recovery` begins
//! the checkpoint again with it.

mod progress;
mod region;
mod rivals;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use crate::journal::{JournalPayload, JournalRecord};
use crate::page::Disk;
use crate::superblock::Superblock;
use crate::table::TableEntry;
use progress::ScanProgress;
use region::RegionReader;
use rivals::Rivals;

/// The journal as it was read: an epoch that may be on its way into the table, and the one after it.
pub(crate) struct Journal {
    /// The older epoch.
    pub(crate) epoch: u64,
    pub(crate) older: Scan,
    pub(crate) newer: Scan,
}

impl Journal {
    /// Reads both halves. Blocks. `may_be_cut` says whether a device will do that ends within one region, as long as
    /// the other one is there: nothing can be written then.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn read<D: Disk>(
        disk: &D,
        superblock: &Superblock,
        may_be_cut: bool,
    ) -> io::Result<Self> {
        let epoch = superblock.epoch + 1;
        let scan = |epoch, first| scan(disk, superblock, (epoch, first), may_be_cut);
        let older = scan(epoch, superblock.sequence + 1)?;
        let newer = scan(epoch + 1, older.next_sequence)?;
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

    /// Records that have one sound copy.
    pub(crate) fn lone(&self) -> impl Iterator<Item = &LoneRecord> {
        self.older.lone.iter().chain(&self.newer.lone)
    }

    /// Pages of the device in which a record begins that does not count.
    pub(crate) fn remains(&self) -> impl Iterator<Item = u64> {
        self.older
            .remains
            .iter()
            .chain(&self.newer.remains)
            .copied()
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
    /// Tags in all the commits.
    pub(crate) tags: usize,
    /// The pages of the half that the last commit takes.
    pub(crate) last_commit: Range<u64>,
    /// Records that count and have one sound copy. A crash came while the other was written, or it is damaged.
    pub(crate) lone: Vec<LoneRecord>,
    /// Pages of the device in which a record of the epoch begins that does not count.
    pub(crate) remains: Vec<u64>,
    /// What is damaged, if something is.
    pub(crate) damage: Option<String>,
}

/// A record that has one sound copy. Positions are pages of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoneRecord {
    pub(crate) sequence: u64,
    /// Sequence of the last record of its commit.
    pub(crate) commit_last: u64,
    pub(crate) present_at: u64,
    pub(crate) missing_at: u64,
    pub(crate) pages: u64,
}

/// Reads the half of the journal that an epoch uses, whose first record has the sequence `first_sequence`. Where two
/// commits contradict each other, the one before them is the last that counts.
fn scan<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    first: (u64, u64),
    may_be_cut: bool,
) -> io::Result<Scan> {
    let end = superblock.geometry.journal.pages;
    let (scan, rivals) = scan_to(disk, superblock, first, end, may_be_cut)?;
    let Some(rivals) = rivals else {
        return Ok(scan);
    };
    let (mut before, _) = scan_to(disk, superblock, first, rivals.at, may_be_cut)?;
    before.damage = scan.damage;
    Ok(before)
}

/// Reads the records of an epoch that begin before the page `end` of its half, up to two that contradict each other.
fn scan_to<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    (epoch, first_sequence): (u64, u64),
    end: u64,
    may_be_cut: bool,
) -> io::Result<(Scan, Option<Rivals>)> {
    let geometry = &superblock.geometry;
    let halves: Vec<u64> = geometry.journal.halves(epoch).collect();
    let mut regions: Vec<_> = halves
        .iter()
        .map(|&first_page| RegionReader::new(disk, superblock, epoch, first_page, may_be_cut))
        .collect();
    let mut progress = ScanProgress::new(geometry.version, epoch, first_sequence);
    loop {
        let mut places = Vec::with_capacity(regions.len());
        for region in &mut regions {
            places.extend(region.next_place()?);
        }
        let Some(at) = places.into_iter().min().filter(|at| *at < end) else {
            break;
        };
        let records = records_at(&mut regions, at)?;
        if let [(first, _), (second, _)] = &records[..] {
            progress.see_rivals(Rivals::of([first, second], at));
        }
        for (record, is_in_region) in records {
            if let Some(rivals) = progress.see(record, at, is_in_region) {
                let damage = Some(rivals.describe(&halves));
                return Ok((
                    Scan {
                        damage,
                        ..Scan::default()
                    },
                    Some(rivals),
                ));
            }
        }
    }
    let begins = regions.iter().zip(&halves).flat_map(|(region, half)| {
        let begins = region.begins.iter();
        begins.map(move |at| (*at, half + at))
    });
    let begins: Vec<_> = begins.collect();
    let scan = progress.finish(&halves, geometry.journal.pages, &begins);
    region::check_readable(&mut regions, scan.taken_pages)?;
    Ok((scan, None))
}

/// The records at this place of the half, each with the regions in which it lies: copies of a record are alike.
fn records_at<D: Disk>(
    regions: &mut [RegionReader<'_, D>],
    at: u64,
) -> io::Result<Vec<(JournalRecord, [bool; 2])>> {
    let mut found: Vec<(JournalRecord, [bool; 2])> = Vec::new();
    for (number, region) in regions.iter_mut().enumerate() {
        if region.next_place()? != Some(at) {
            continue;
        }
        let Some(record) = region.take() else {
            continue;
        };
        match found.iter_mut().find(|(other, _)| *other == record) {
            Some((_, is_in_region)) => is_in_region[number] = true,
            None => {
                let mut is_in_region = [false; 2];
                is_in_region[number] = true;
                found.push((record, is_in_region));
            }
        }
    }
    Ok(found)
}
