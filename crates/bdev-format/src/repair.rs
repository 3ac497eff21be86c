//! What opening writes: the last commit, as it was read; copies that are damaged or missing, from those that
//! are not; and zeroes where a record begins that does not count. After a crash in the middle the next opening
//! has less to do.

use std::io;

use crate::geometry::TablePage;
use crate::limits::SUPERBLOCK_COPIES;
use crate::page::{Disk, Page};
use crate::scan::{self, Journal};
use crate::superblock::Superblock;
use crate::weakness::{CrashWeakness, weakened};

/// Writes the last commit again, as it was read. If the flush that should have made it durable had failed, the
/// commit could be read, but no later flush would make it durable.
pub(crate) fn write_last_commit_again<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    journal: &Journal,
) -> io::Result<()> {
    let (scan, epoch) = match journal.newer.payloads.is_empty() {
        true => (&journal.older, journal.epoch),
        false => (&journal.newer, journal.epoch + 1),
    };
    let commit = &scan.last_commit;
    // In a forged journal the commit may seem to reach beyond the half.
    let end = commit.end.min(superblock.geometry.journal_pages);
    if commit.start >= end {
        return Ok(());
    }
    let first_page = superblock.geometry.journal[(epoch % 2) as usize] + commit.start;
    let mut pages = Page::zeroes((end - commit.start) as usize);
    disk.read(first_page, &mut pages)?;
    disk.write(first_page, &pages)
}

/// Writes the missing copies of the journal's records, so that damage to one copy loses nothing.
pub(crate) fn restore_records<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    journal: &Journal,
) -> io::Result<()> {
    let mut is_written = false;
    for (scan, epoch) in [&journal.older, &journal.newer]
        .into_iter()
        .zip(journal.epoch..)
    {
        let half = superblock.geometry.journal[(epoch % 2) as usize];
        for lone in &scan.lone {
            let mut pages = Page::zeroes(lone.pages as usize);
            disk.read(half + lone.present_at, &mut pages)?;
            disk.write(half + lone.missing_at, &pages)?;
            is_written = true;
        }
    }
    if is_written {
        disk.flush()?;
    }
    Ok(())
}

/// Zeroes pages in which a record begins that does not count. Otherwise a later write to the same place that is
/// interrupted as well might supply just the sectors that the record lacks, and it would count.
pub(crate) fn erase_remains<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    journal: &Journal,
) -> io::Result<()> {
    if weakened(CrashWeakness::RemainsLeft) {
        return Ok(());
    }
    let mut is_written = false;
    for (scan, epoch) in [&journal.older, &journal.newer]
        .into_iter()
        .zip(journal.epoch..)
    {
        for page in scan::remains(disk, &superblock.geometry, epoch, scan.taken_pages)? {
            disk.write(page, &Page::zeroes(1))?;
            is_written = true;
        }
    }
    if is_written {
        disk.flush()?;
    }
    Ok(())
}

/// Writes these first copies of pages of the table, and these copies of the superblock, again.
pub(crate) fn rewrite<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    superblock_copies: &[usize],
    pages: &[(TablePage, Page)],
) -> io::Result<()> {
    for (at, page) in pages {
        let place = superblock.geometry.table_page(*at, 0);
        disk.write(place, std::slice::from_ref(page))?;
    }
    for copy in superblock_copies {
        disk.write(SUPERBLOCK_COPIES[*copy], &superblock.to_pages())?;
    }
    if !pages.is_empty() || !superblock_copies.is_empty() {
        disk.flush()?;
    }
    Ok(())
}
