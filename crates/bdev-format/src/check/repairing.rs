//! What a check writes that is to repair.

use std::io;

use super::{Checked, DamagedCopies, Repair};
use crate::limits::{NEAR_SUPERBLOCKS, SUPERBLOCK_PAGES};
use crate::mark::FailureMark;
use crate::open_error::OpenError;
use crate::page::{Disk, Page};
use crate::recovery::{OpenMode, open_though_marked, see_that_it_may_be_written};
use crate::superblock::{self, Superblock, SuperblockCopy};
use crate::weakness::{CrashWeakness, weakened};

/// Repairs what a check has found, as far as that may be: what refuses it does so before anything is written. Where a
/// write or a flush fails, it leaves a mark, so that nobody takes for durable what may be in the device's cache alone.
pub(super) fn put_right<D: Disk + Clone>(
    disk: &D,
    repair: Repair,
    far: Option<&SuperblockCopy>,
    copies: &DamagedCopies,
    checked: &mut Checked,
) -> Result<(), OpenError> {
    let has_work =
        !checked.repairable.is_empty() || checked.mark.is_some() || checked.two_pools.is_some();
    let is_repaired = has_work && checked.lost.is_empty();
    if far.is_some() || is_repaired {
        see_that_it_may_be_written(&checked.superblock)?;
    }
    let written = write(disk, repair, far, copies, checked, is_repaired);
    if let Err(OpenError::Device(error)) = &written {
        let superblock = &checked.superblock;
        let mark = FailureMark {
            seconds: repair.seconds,
            history: repair.history,
            text: format!("cannot repair the pool's metadata: {error}"),
        };
        mark.leave(disk, &superblock.geometry, superblock.checksum());
    }
    written
}

fn write<D: Disk + Clone>(
    disk: &D,
    repair: Repair,
    far: Option<&SuperblockCopy>,
    copies: &DamagedCopies,
    checked: &mut Checked,
    is_repaired: bool,
) -> Result<(), OpenError> {
    if let Some(far) = far {
        // Also where something is lost: without it, nobody could read what is left.
        restore_beginning(disk, &far.superblock)?;
    }
    if is_repaired {
        checked.superblock = self::repair(disk, repair, copies)?;
        if checked.superblock.history.is_some() {
            // The repair has ended its opening.
            checked.journal_records = 0;
        }
        checked.repaired = true;
    }
    Ok(())
}

/// Repairs a pool, and gives its superblock.
fn repair<D: Disk + Clone>(
    disk: &D,
    repair: Repair,
    copies: &DamagedCopies,
) -> Result<Superblock, OpenError> {
    // Opening repairs first copies, from which the second ones are made here, and writes records again where a copy
    // cannot be read.
    let mode = OpenMode::ReadWrite {
        history: repair.history,
    };
    let chosen = superblock::choose(disk)?;
    if weakened(CrashWeakness::MarkClearedEarly) {
        FailureMark::clear(disk, &chosen.superblock.geometry)?;
    }
    let opened = open_though_marked(disk.clone(), chosen, mode, &mut |_, _| true, &mut |_, _| {})?;
    let mut metadata = opened.metadata;
    copies.write_again(&metadata)?;
    if metadata.superblock().history.is_some() {
        metadata.end()?;
    }
    if !weakened(CrashWeakness::MarkLeft) {
        FailureMark::clear(disk, metadata.geometry())?;
    }
    Ok(metadata.superblock().clone())
}

/// Writes the superblocks at the beginning again, one after the other. Those there may be another pool's: the second
/// one is zeroed first, since one of each pool would be damage that no repair undoes.
fn restore_beginning<D: Disk>(disk: &D, superblock: &Superblock) -> io::Result<()> {
    disk.write(
        NEAR_SUPERBLOCKS[1],
        &Page::zeroes(SUPERBLOCK_PAGES as usize),
    )?;
    disk.flush()?;
    for place in NEAR_SUPERBLOCKS {
        disk.write(place, &superblock.to_pages(place))?;
        disk.flush()?;
    }
    Ok(())
}
