//! What opening writes: the last commit, as it was read; copies that are damaged or missing, from those that
//! are not; and zeroes where a record begins that does not count. After a crash in the middle the next opening
//! has less to do.

use std::io;

use crate::geometry::TablePage;
use crate::page::{Disk, Page};
use crate::scan::Journal;
use crate::superblock::Superblock;
use crate::table::TableEntries;
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
    let end = commit.end.min(superblock.geometry.journal.pages);
    if commit.start >= end {
        return Ok(());
    }
    let halves: Vec<u64> = superblock.geometry.journal.halves(epoch).collect();
    let mut pages = Page::zeroes((end - commit.start) as usize);
    for half in &halves {
        let first_page = half + commit.start;
        match disk.read(first_page, &mut pages) {
            Ok(()) => disk.write(first_page, &pages)?,
            // What cannot be read there is written from the other region.
            Err(_) if halves.len() > 1 => {}
            // Or from the copy behind or before it.
            Err(_) => write_readable_again(disk, first_page, &mut pages)?,
        }
    }
    Ok(())
}

/// Writes those of these pages again, from `first_page` on, that can be read.
fn write_readable_again<D: Disk>(disk: &D, first_page: u64, pages: &mut [Page]) -> io::Result<()> {
    for (at, page) in (first_page..).zip(pages) {
        let page = std::slice::from_mut(page);
        if disk.read(at, page).is_ok() {
            disk.write(at, page)?;
        }
    }
    Ok(())
}

/// Writes the missing copies of the journal's records, so that damage to one copy loses nothing.
pub(crate) fn restore_records<D: Disk>(disk: &D, journal: &Journal) -> io::Result<()> {
    let mut is_written = false;
    for lone in journal.lone() {
        let mut pages = Page::zeroes(lone.pages as usize);
        disk.read(lone.present_at, &mut pages)?;
        disk.write(lone.missing_at, &pages)?;
        is_written = true;
    }
    if is_written {
        disk.flush()?;
    }
    Ok(())
}

/// Zeroes pages in which a record begins that does not count. Otherwise a later write to the same place that is
/// interrupted as well might supply just the sectors that the record lacks, and it would count.
pub(crate) fn erase_remains<D: Disk>(disk: &D, journal: &Journal) -> io::Result<()> {
    if weakened(CrashWeakness::RemainsLeft) {
        return Ok(());
    }
    let mut is_written = false;
    for page in journal.remains() {
        disk.write(page, &Page::zeroes(1))?;
        is_written = true;
    }
    if is_written {
        disk.flush()?;
    }
    Ok(())
}

/// Writes these first copies of pages of the table again.
pub(crate) fn rewrite_table<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    pages: &[(TablePage, Page)],
) -> io::Result<()> {
    for (at, page) in pages {
        let place = superblock.geometry.table_page(*at, 0);
        disk.write(place, std::slice::from_ref(page))?;
    }
    if !pages.is_empty() {
        disk.flush()?;
    }
    Ok(())
}

/// Writes second copies of these pages of the table that are damaged or older, from the first ones: otherwise the loss
/// of a first copy would lose blocks until the next checkpoint has written both.
pub(crate) fn rewrite_second_copies<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    pages: &[TablePage],
) -> io::Result<()> {
    if weakened(CrashWeakness::TornSecondCopyLeft) {
        return Ok(());
    }
    let (geometry, checksum) = (&superblock.geometry, superblock.checksum());
    let mut is_written = false;
    for at in pages {
        let first_megabyte = geometry.first_megabyte(*at);
        let mut page = Page::zeroes(1);
        disk.read(geometry.table_page(*at, 0), &mut page)?;
        // What cannot be read the same twice is no source.
        if TableEntries::read(&page[0], first_megabyte, checksum).is_some() {
            disk.write(geometry.table_page(*at, 1), &page)?;
            is_written = true;
        }
    }
    if is_written {
        disk.flush()?;
    }
    Ok(())
}

/// Writes these copies of the superblock again.
pub(crate) fn rewrite_superblocks<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    stale: &[u64],
) -> io::Result<()> {
    for &place in stale {
        disk.write(place, &superblock.to_pages(place))?;
    }
    if !stale.is_empty() {
        disk.flush()?;
    }
    Ok(())
}

/// Writes all copies of the superblock again: one half of them while the other is durable.
pub(crate) fn restore_superblocks<D: Disk>(disk: &D, superblock: &Superblock) -> io::Result<()> {
    let copies = superblock.geometry.superblocks();
    let mut halves: Vec<&[u64]> = copies.chunks(copies.len() / 2).collect();
    if weakened(CrashWeakness::SuperblocksRestoredTogether) {
        halves = vec![&copies];
    }
    if weakened(CrashWeakness::SuperblocksRestoredInWrongOrder) {
        halves.reverse();
    }
    let mut halves = halves.into_iter();
    halves.try_for_each(|half| rewrite_superblocks(disk, superblock, half))
}
