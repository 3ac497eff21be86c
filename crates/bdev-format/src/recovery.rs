//! Opening a pool: finding what was committed in what a crash left.
//!
//! Laws:
//! - Opening reads all before it writes anything, and flushes what it has read before the pool builds on it: what
//!   a process wrote before it died may still be lost in a power cut.
//! - A crash can interrupt opening at any point and does no harm: the journal is read, not replayed. Opening
//!   writes only copies that are damaged or missing, from those that are not, and erases what is left of commits
//!   that do not count.
//! - Damage that no copy repairs is an error, and then nothing was written.
//!
//! Opening finishes no checkpoint: [`Metadata::after_recovery`] begins one that was interrupted again, and its steps
//! are taken while the pool is in use.

use std::fmt;
use std::io;

use crate::block_map::MegabyteMap;
use crate::contents::{self, DeviceContents};
use crate::geometry::TablePage;
use crate::journal;
use crate::limits::{PAGE_BYTES, SUPERBLOCK_COPIES, SUPERBLOCK_PAGES};
use crate::metadata::Metadata;
use crate::overlay::MegabyteSet;
use crate::page::{Disk, Page};
use crate::repair;
use crate::scan::Journal;
use crate::superblock::{NoSuperblock, Superblock};
use crate::table::{self, TableEntries};
use crate::weakness::{CrashWeakness, weakened};

/// Pages of the table in one read.
const CHUNK_PAGES: u32 = 256;

/// How a pool is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Repair what can be repaired, and refuse a pool with other damage.
    ReadWrite,
    /// Write nothing, and leave out what is damaged.
    ReadOnly,
}

/// A pool that was opened.
pub struct OpenedPool<D> {
    /// The pool, ready for commits unless it was opened for reading only.
    pub metadata: Metadata<D>,
    /// Damage that was repaired, or could have been.
    pub repaired: Vec<String>,
    /// Damage that cannot be repaired: only in [`OpenMode::ReadOnly`].
    pub lost: Vec<String>,
    /// Records of the journal whose updates are not in the table yet.
    pub journal_records: u64,
}

/// Why a pool cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is no pool: the device may be blank, or hold something else.
    NoPool,
    /// There was a pool, and something else was written over its beginning.
    Overwritten(DeviceContents),
    /// The device failed.
    Device(io::Error),
    /// The metadata is damaged, in this way.
    Damaged(String),
    /// This program cannot use this pool, for this reason.
    Unsupported(String),
    /// The pool may only be read, for this reason.
    OnlyReadable(String),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Self::Damaged("it ends within the pool's metadata: it was cut off".to_owned())
            }
            _ => Self::Device(error),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("there is no pool"),
            Self::Overwritten(contents) => write!(f, "{contents} was written over it"),
            Self::Device(error) => error.fmt(f),
            Self::Damaged(text) | Self::Unsupported(text) | Self::OnlyReadable(text) => {
                f.write_str(text)
            }
        }
    }
}

/// Reads the superblock of the pool on a device: what the pool is, and how large. Writes nothing. Blocks.
///
/// # Errors
/// See [`OpenError`].
pub fn identify<D: Disk>(disk: &D) -> Result<Superblock, OpenError> {
    Ok(choose_superblock(disk)?.superblock)
}

/// Opens the pool on a device, and calls `found` for each megabyte that has blocks. Blocks.
///
/// Calls `progress` from time to time: how many pages of the table were read, and how many there are.
///
/// # Errors
/// See [`OpenError`]. Nothing was written, unless it was a write or a flush that failed.
pub fn open<D: Disk>(
    disk: D,
    mode: OpenMode,
    found: &mut dyn FnMut(u32, MegabyteMap),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<OpenedPool<D>, OpenError> {
    let chosen = choose_superblock(&disk)?;
    let superblock = chosen.superblock;
    if superblock.features.forbid_writing() && mode == OpenMode::ReadWrite {
        return Err(OpenError::OnlyReadable(
            "it has features that only a newer program may write: open it for reading only".into(),
        ));
    }
    let mut repaired: Vec<_> = chosen
        .damaged
        .iter()
        .map(|copy| damaged_superblock(*copy))
        .collect();
    let mut lost = Vec::new();

    let journal = Journal::read(&disk, &superblock)?;
    lost.extend(journal.damage());
    let mut tagged = MegabyteSet::new(superblock.geometry.megabytes());
    let table_damage = read_table(&disk, &superblock, &journal, &mut tagged, found, progress)?;
    lost.extend(table_damage.lost);
    if !lost.is_empty() && mode == OpenMode::ReadWrite {
        return Err(OpenError::Damaged(summary(&lost)));
    }
    repaired.extend(table_damage.repairs.iter().map(|(page, _)| {
        let page = superblock.geometry.table_page(*page, 0);
        format!("page {page} of the table is damaged, its copy is sound")
    }));

    if mode == OpenMode::ReadWrite {
        repair::write_last_commit_again(&disk, &superblock, &journal)?;
        if !weakened(CrashWeakness::RecoveryNotFlushed) {
            disk.flush()?;
        }
        repair::restore_records(&disk, &superblock, &journal)?;
        repair::erase_remains(&disk, &superblock, &journal)?;
        repair::rewrite(&disk, &superblock, &chosen.stale, &table_damage.repairs)?;
    }
    let journal_records = journal.next_sequence() - superblock.sequence - 1;
    Ok(OpenedPool {
        metadata: Metadata::after_recovery(disk, superblock, tagged, journal),
        repaired,
        lost,
        journal_records,
    })
}

/// Names the first pieces of damage: a large table may be damaged in thousands of places.
fn summary(damage: &[String]) -> String {
    const SHOWN: usize = 3;

    let (shown, more) = damage.split_at(damage.len().min(SHOWN));
    let mut text = shown.join("; ");
    if !more.is_empty() {
        text.push_str(&format!("; and {} more", more.len()));
    }
    text
}

/// The superblock that counts.
struct ChosenSuperblock {
    superblock: Superblock,
    /// Copies that are damaged.
    damaged: Vec<usize>,
    /// Copies to write again: damaged, or older.
    stale: Vec<usize>,
}

fn damaged_superblock(copy: usize) -> String {
    let (name, other) = if copy == 0 {
        ("first", "second")
    } else {
        ("second", "first")
    };
    format!("the {name} superblock is damaged, the {other} is sound")
}

fn choose_superblock<D: Disk>(disk: &D) -> Result<ChosenSuperblock, OpenError> {
    let mut copies = Vec::new();
    for first_page in SUPERBLOCK_COPIES {
        let mut pages = Page::zeroes(SUPERBLOCK_PAGES as usize);
        copies.push(match disk.read(first_page, &mut pages) {
            Ok(()) => Superblock::read(&pages),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(NoSuperblock::Absent),
            Err(error) => return Err(error.into()),
        });
    }
    let unsupported = copies.iter().find_map(|copy| match copy {
        Err(NoSuperblock::Unsupported(reason)) => Some(reason.clone()),
        _ => None,
    });
    let newest = copies.iter().filter_map(|copy| copy.as_ref().ok());
    let newest = newest
        .max_by_key(|superblock| superblock.generation)
        .cloned();
    let superblock = match (newest, unsupported) {
        (_, Some(reason)) => return Err(OpenError::Unsupported(reason)),
        (Some(superblock), None) => superblock,
        (None, None) if copies.contains(&Err(NoSuperblock::Damaged)) => {
            return Err(OpenError::Damaged(
                "both copies of the superblock are damaged".to_owned(),
            ));
        }
        (None, None) if has_traces(disk)? => {
            return Err(OpenError::Damaged(
                "both copies of the superblock are gone, and a journal or a table is there"
                    .to_owned(),
            ));
        }
        (None, None) => return Err(OpenError::NoPool),
    };
    if copies.contains(&Err(NoSuperblock::Absent))
        && let contents @ DeviceContents::Known(_) = probe_start(disk)?
    {
        return Err(OpenError::Overwritten(contents));
    }
    if copies
        .iter()
        .flatten()
        .any(|copy| copy.uuid != superblock.uuid)
    {
        return Err(OpenError::Damaged(
            "its two superblocks are of different pools".to_owned(),
        ));
    }
    let which = |is: &dyn Fn(&Result<Superblock, NoSuperblock>) -> bool| {
        let copies = copies.iter().enumerate();
        copies
            .filter(|(_, copy)| is(copy))
            .map(|(at, _)| at)
            .collect()
    };
    Ok(ChosenSuperblock {
        damaged: which(&Result::is_err),
        stale: which(&|copy| copy.as_ref() != Ok(&superblock)),
        superblock,
    })
}

/// Pages at the beginning that are searched for a journal or a table, which show that there was a pool.
const TRACED_PAGES: u64 = 256;

/// Whether parts of a pool are there whose superblocks are not.
fn has_traces<D: Disk>(disk: &D) -> io::Result<bool> {
    let mut pages = Page::zeroes(1);
    for page in SUPERBLOCK_PAGES..TRACED_PAGES {
        match disk.read(page, &mut pages) {
            Ok(()) if journal::has_magic(&pages[0]) || table::has_magic(&pages[0]) => {
                return Ok(true);
            }
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Finds out what is there instead, in the pages of the superblocks and between them.
fn probe_start<D: Disk>(disk: &D) -> io::Result<DeviceContents> {
    let bytes = (SUPERBLOCK_COPIES[1] + SUPERBLOCK_PAGES) * PAGE_BYTES as u64;
    contents::probe(disk, bytes, &[])
}

#[derive(Default)]
struct TableDamage {
    /// Pages of the first copy to write again, and what to write.
    repairs: Vec<(TablePage, Page)>,
    /// Damage that cannot be repaired.
    lost: Vec<String>,
}

/// Reads all of the table. Calls `found` for each megabyte that has blocks, as the table and the journal have it.
fn read_table<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    journal: &Journal,
    tagged: &mut MegabyteSet,
    found: &mut dyn FnMut(u32, MegabyteMap),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<TableDamage, OpenError> {
    let geometry = &superblock.geometry;
    let written = geometry
        .extents
        .iter()
        .map(|extent| u64::from(extent.table_written));
    let (mut done, of) = (0, written.sum());
    let mut damage = TableDamage::default();
    let mut changed = journal.last_entries();
    let longest = geometry
        .extents
        .iter()
        .map(|extent| extent.table_written)
        .max();
    let mut pages = Page::zeroes(CHUNK_PAGES.min(longest.unwrap_or(0)) as usize);
    for (position, extent) in geometry.extents.iter().enumerate() {
        let mut next = 0;
        while next < extent.table_written {
            let count = CHUNK_PAGES.min(extent.table_written - next);
            let chunk = &mut pages[..count as usize];
            disk.read(extent.tables[0] + u64::from(next), chunk)?;
            for (page, contents) in (next..).zip(chunk.iter()) {
                let at = TablePage {
                    extent: position,
                    page,
                };
                let Some(entries) = read_page(disk, superblock, at, contents, &mut damage)? else {
                    continue;
                };
                // The last page of an extent has room for megabytes of the next one.
                let megabytes = geometry.first_megabyte(at)..extent.end_megabyte();
                for (entry, megabyte) in entries.0.iter().zip(megabytes) {
                    if entry.tagged {
                        tagged.insert(megabyte);
                    }
                    let now = changed.remove(&megabyte).unwrap_or(*entry);
                    if !now.map.is_empty() {
                        found(megabyte, now.map);
                    }
                }
            }
            next += count;
            done += u64::from(count);
            progress(done, of);
        }
    }
    for (megabyte, entry) in changed {
        if !entry.map.is_empty() {
            found(megabyte, entry.map);
        }
    }
    Ok(damage)
}

/// The entries of a page, from the first copy or else the second. `None` if both are damaged.
fn read_page<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    at: TablePage,
    first_copy: &Page,
    damage: &mut TableDamage,
) -> Result<Option<TableEntries>, OpenError> {
    let geometry = &superblock.geometry;
    let (first_megabyte, checksum) = (geometry.first_megabyte(at), superblock.checksum());
    if let Some(entries) = TableEntries::read(first_copy, first_megabyte, checksum) {
        return Ok(Some(entries));
    }
    let mut second_copy = Page::zeroes(1);
    disk.read(geometry.table_page(at, 1), &mut second_copy)?;
    let entries = TableEntries::read(&second_copy[0], first_megabyte, checksum);
    match second_copy.pop() {
        Some(page) if entries.is_some() => damage.repairs.push((at, page)),
        _ => damage.lost.push(format!(
            "both copies of the table's page for the megabytes from {first_megabyte} on are damaged",
        )),
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_short_however_much_is_damaged() {
        let damage: Vec<_> = (1..=9000).map(|page| format!("page {page}")).collect();
        assert_eq!(summary(&damage[..1]), "page 1");
        assert_eq!(summary(&damage[..3]), "page 1; page 2; page 3");
        assert_eq!(summary(&damage), "page 1; page 2; page 3; and 8997 more");
    }
}
