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

use std::io;

use crate::block_map::MegabyteMap;
use crate::checkpoint::write_superblock;
use crate::geometry::{Geometry, TablePage};
use crate::limits::MIN_LEFT_TO_COUNT;
use crate::mark::FailureMark;
use crate::metadata::Metadata;
use crate::open_error::OpenError;
use crate::overlay::MegabyteSet;
use crate::page::{Disk, Page, read_pages};
use crate::repair;
use crate::scan::{Journal, LoneRecord};
use crate::superblock::{self, ChosenSuperblock, Superblock};
use crate::table::{self, TableEntries};
use crate::version::FormatVersion;
use crate::weakness::{CrashWeakness, weakened};

/// Pages of the table in one read.
const CHUNK_PAGES: u32 = 256;

/// How a pool is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Repair what can be repaired, and refuse a pool with other damage.
    ReadWrite {
        /// 64 random bits, which the opening is known by.
        history: u64,
    },
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
    /// Records of the journal that have one copy, or had before the pool was opened for writing.
    pub(crate) lone: Vec<LoneRecord>,
    /// The mark of an earlier failure: only in [`OpenMode::ReadOnly`].
    pub mark: Option<FailureMark>,
}

/// Reads the superblock of the pool on a device: what the pool is, and how large. Writes nothing. Blocks.
///
/// # Errors
/// See [`OpenError`].
pub fn identify<D: Disk>(disk: &D) -> Result<Superblock, OpenError> {
    Ok(superblock::choose(disk)?.superblock)
}

/// As [`identify`], of a pool that is to be opened for writing.
///
/// # Errors
/// As [`identify`]; [`OpenError::TwoPools`].
pub fn identify_to_write<D: Disk>(disk: &D) -> Result<Superblock, OpenError> {
    let chosen = superblock::choose(disk)?;
    match chosen.two_pools() {
        Some(pools) => Err(OpenError::TwoPools(Box::new(pools))),
        None => Ok(chosen.superblock),
    }
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
    let mut admit = |megabyte, map| {
        found(megabyte, map);
        true
    };
    open_admitting(disk, mode, &mut admit, progress)
}

/// As [`open`], where `admit` says whether a megabyte can have these blocks. If it cannot, the pool is not opened for
/// writing.
///
/// # Errors
/// As [`open`]; [`OpenError::NotAdmitted`].
pub fn open_admitting<D: Disk>(
    disk: D,
    mode: OpenMode,
    admit: &mut dyn FnMut(u32, MegabyteMap) -> bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<OpenedPool<D>, OpenError> {
    let chosen = superblock::choose(&disk)?;
    let two_pools = chosen.two_pools();
    if let Some(pools) = two_pools.clone().filter(|_| mode != OpenMode::ReadOnly) {
        return Err(OpenError::TwoPools(Box::new(pools)));
    }
    let superblock = &chosen.superblock;
    let mark = FailureMark::find(&disk, &superblock.geometry, superblock.checksum());
    if let Some(mark) = mark.as_ref().filter(|_| mode != OpenMode::ReadOnly) {
        return Err(OpenError::Marked(mark.clone()));
    }
    let mut opened = open_though_marked(disk, chosen, mode, admit, progress)?;
    opened.mark = mark;
    let two_pools = two_pools.map(|pools| pools.to_string());
    opened.repaired.splice(0..0, two_pools);
    Ok(opened)
}

/// As [`open`], of a pool whose superblock is chosen, and whether it has a mark or not.
pub(crate) fn open_though_marked<D: Disk>(
    disk: D,
    mut chosen: ChosenSuperblock,
    mode: OpenMode,
    admit: &mut dyn FnMut(u32, MegabyteMap) -> bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<OpenedPool<D>, OpenError> {
    let superblock = &chosen.superblock;
    let is_read_only = mode == OpenMode::ReadOnly;
    if !is_read_only {
        see_that_it_may_be_written(superblock)?;
    }
    let mut repaired: Vec<_> = chosen.describe_damage().collect();
    let mut lost = Vec::new();

    let journal = Journal::read(&disk, superblock, is_read_only)?;
    lost.extend(journal.damage());
    let mut tagged = MegabyteSet::new(superblock.geometry.megabytes());
    let mut refused = None;
    let mut found = |megabyte, map| {
        if !admit(megabyte, map) {
            refused.get_or_insert(megabyte);
        }
    };
    let table_damage = read_table(
        &disk,
        superblock,
        &journal,
        &mut tagged,
        &mut found,
        progress,
    );
    lost.extend(table_damage.lost);
    if !lost.is_empty() && !is_read_only {
        return Err(OpenError::Damaged(summary(&lost)));
    }
    if let Some(megabyte) = refused.filter(|_| !is_read_only) {
        return Err(OpenError::NotAdmitted(megabyte));
    }
    repaired.extend(table_damage.repairs.iter().map(|(page, _)| {
        let page = superblock.geometry.table_page(*page, 0);
        format!("page {page} of the table is damaged or older than its copy, which is sound")
    }));
    let journal_records = journal.next_sequence() - superblock.sequence - 1;
    if let OpenMode::ReadWrite { history } = mode {
        repair::write_last_commit_again(&disk, superblock, &journal)?;
        if !weakened(CrashWeakness::RecoveryNotFlushed) {
            disk.flush()?;
        }
        repair::restore_records(&disk, &journal)?;
        repair::erase_remains(&disk, &journal)?;
        repair::rewrite_table(&disk, superblock, &table_damage.repairs)?;
        repair::rewrite_second_copies(&disk, superblock, &table_damage.second_copies)?;
        let second_copies = table_damage.second_copies.iter();
        let second_copies = second_copies.map(|page| superblock.geometry.table_page(*page, 1));
        repaired.extend(second_copies.map(table::describe_second_copy));
        begin_history(&disk, &mut chosen, history)?;
    }
    let lone = journal.lone().copied().collect();
    Ok(OpenedPool {
        metadata: Metadata::after_recovery(disk, chosen.superblock, tagged, journal),
        repaired,
        lost,
        journal_records,
        lone,
        mark: None,
    })
}

/// # Errors
/// [`OpenError::OnlyReadable`] if the pool has features that this program does not know and that forbid it to write, or
/// numbers that it could not go on counting.
pub(crate) fn see_that_it_may_be_written(superblock: &Superblock) -> Result<(), OpenError> {
    if superblock.features().forbid_writing() {
        return Err(OpenError::OnlyReadable(
            "it has features that only a newer program may write: open it for reading only".into(),
        ));
    }
    if !superblock.can_count(MIN_LEFT_TO_COUNT, superblock.sequence) {
        return Err(OpenError::OnlyReadable(format!(
            "its generation {}, epoch {} or sequence {} is larger than any that a pool comes to: something else has \
             written it; open it for reading only, and copy what it holds to a new pool",
            superblock.generation, superblock.epoch, superblock.sequence
        )));
    }
    Ok(())
}

/// Writes the superblocks: first all of them again as the one that counts, then in all of them that an opening has
/// begun. It is durable when this returns. In version 1 only copies that are damaged or older are written. Blocks.
fn begin_history<D: Disk>(
    disk: &D,
    chosen: &mut ChosenSuperblock,
    history: u64,
) -> Result<(), OpenError> {
    let Some(before) = chosen.superblock.history else {
        return Ok(repair::rewrite_superblocks(
            disk,
            &chosen.superblock,
            &chosen.stale,
        )?);
    };
    // Also where all copies look sound, and where the opening before seems to have ended in good order: a drive may
    // read back from its cache what it failed to make durable, that it has ended included.
    if !superblocks_count_as_durable(disk, chosen) {
        repair::restore_superblocks(disk, &chosen.superblock)?;
    }
    chosen.superblock.history = Some(before.next(history));
    if weakened(CrashWeakness::HistoryNotWritten) {
        return Ok(());
    }
    write_superblock(disk, &mut chosen.superblock)?;
    if !weakened(CrashWeakness::HistoryNotFlushed) {
        disk.flush()?;
    }
    Ok(())
}

/// Whether opening takes superblocks that look sound to be durable: never, unless a test leaves out a step.
fn superblocks_count_as_durable<D: Disk>(disk: &D, chosen: &ChosenSuperblock) -> bool {
    let superblock = &chosen.superblock;
    let is_marked =
        || FailureMark::find(disk, &superblock.geometry, superblock.checksum()).is_some();
    let has_ended =
        || chosen.stale.is_empty() && superblock.history.is_some_and(|it| it.ended_well);
    weakened(CrashWeakness::SuperblocksTrusted)
        || (weakened(CrashWeakness::AbsenceOfMarkTrusted) && !is_marked())
        || (weakened(CrashWeakness::EndTrusted) && has_ended())
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

#[derive(Default)]
struct TableDamage {
    /// Pages of the first copy to write again, and what to write.
    repairs: Vec<(TablePage, Page)>,
    /// Pages whose second copy to write again from the first.
    second_copies: Vec<TablePage>,
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
) -> TableDamage {
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
    let mut copies = [(); 2].map(|()| Page::zeroes(CHUNK_PAGES.min(longest.unwrap_or(0)) as usize));
    for (position, extent) in geometry.extents.iter().enumerate() {
        let mut next = 0;
        while next < extent.table_written {
            let count = CHUNK_PAGES.min(extent.table_written - next);
            for (pages, first_page) in copies.iter_mut().zip(extent.tables) {
                read_pages(
                    disk,
                    first_page + u64::from(next),
                    &mut pages[..count as usize],
                );
            }
            let [first_copies, second_copies] = &copies;
            let pages = first_copies.iter().zip(second_copies);
            for (page, (first, second)) in (next..next + count).zip(pages) {
                let at = TablePage {
                    extent: position,
                    page,
                };
                let Some(entries) = read_page(disk, superblock, at, [first, second], &mut damage)
                else {
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
    damage
}

/// The entries of a page, from the newer of its copies. `None` if both are damaged, or none can be told to be right.
///
/// A checkpoint writes the second copy when the first is durable, and the superblock when both are. So a second copy
/// that is newer shows that an older state of the first one was put back, with all that lies around it; and copies of
/// an epoch that the superblock has are alike.
fn read_page<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    at: TablePage,
    [first, second]: [&Page; 2],
    damage: &mut TableDamage,
) -> Option<TableEntries> {
    let (first_megabyte, checksum) = (
        superblock.geometry.first_megabyte(at),
        superblock.checksum(),
    );
    let read = |page| TableEntries::read(page, first_megabyte, checksum);
    let is_finished = table::epoch_of(first) <= superblock.epoch;
    let from_first = read(first);
    if first.0 == second.0 && from_first.is_some() {
        return from_first;
    }
    match (from_first, read(second)) {
        (Some(_), Some(entries)) if table::is_newer(second, first) => {
            damage.repairs.push((at, second.clone()));
            Some(entries)
        }
        (Some(entries), Some(_)) if !is_finished => Some(entries),
        // Pages of version 1 have no sequence, and entries that mean nothing, in which copies may differ.
        (Some(entries), Some(_)) if superblock.version() == FormatVersion::One => Some(entries),
        (Some(entries), Some(_)) if table::is_newer(first, second) => {
            damage.second_copies.push(at);
            Some(entries)
        }
        (Some(entries), None) => {
            damage.second_copies.push(at);
            Some(entries)
        }
        (None, Some(entries)) => {
            damage.repairs.push((at, second.clone()));
            Some(entries)
        }
        (None, None) => {
            damage
                .lost
                .push(describe_lost_page(disk, &superblock.geometry, at));
            None
        }
        (Some(_), Some(_)) => {
            damage.lost.push(format!(
                "the copies of the table's page for the megabytes from {first_megabyte} on contradict each other: a \
                 part of the device holds an older state"
            ));
            None
        }
    }
}

/// Says that a page of the table has no sound copy, and what the device says of those that it cannot read.
fn describe_lost_page<D: Disk>(disk: &D, geometry: &Geometry, at: TablePage) -> String {
    let first_megabyte = geometry.first_megabyte(at);
    let page = format!("the table's page for the megabytes from {first_megabyte} on");
    let mut contents = Page::zeroes(1);
    let failure = (0..2).find_map(|copy| {
        let read = disk.read(geometry.table_page(at, copy), &mut contents);
        read.err()
            .filter(|error| error.kind() != io::ErrorKind::UnexpectedEof)
    });
    match failure {
        Some(error) => format!("no copy of {page} is sound and can be read ({error})"),
        None => format!("both copies of {page} are damaged, or cut off"),
    }
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
