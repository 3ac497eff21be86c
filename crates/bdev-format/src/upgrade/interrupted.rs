//! Going on where an upgrade was interrupted.
//!
//! Until the first superblock of version 2 is written, an upgrade that is interrupted leaves a pool of version 1, which
//! is upgraded from the start. From then on only the other superblocks are left to write.

use super::{UpgradeError, write_superblocks};
use crate::check;
use crate::limits::{NEAR_SUPERBLOCKS, SUPERBLOCK_PAGES};
use crate::page::{Disk, Page};
use crate::superblock::{self, ChosenSuperblock, Superblock};
use crate::version::FormatVersion;

/// Writes the superblocks that an interrupted upgrade has not come to. `false` if the pool is in any other state: then
/// nothing was written. Blocks.
///
/// # Errors
/// The device's.
pub(crate) fn finish<D: Disk + Clone>(disk: &D, device_pages: u64) -> Result<bool, UpgradeError> {
    // Why a pool cannot be upgraded is for the plan to say.
    let Ok(chosen) = superblock::choose(disk) else {
        return Ok(false);
    };
    if !is_interrupted(disk, &chosen) {
        return Ok(false);
    }
    let checked = check::check(disk, device_pages, None, &mut |_, _| {})?;
    let missing: Vec<_> = chosen.describe_damage().collect();
    let is_else_sound = checked.lost.is_empty()
        && checked.repairable == missing
        && checked.mark.is_none()
        && checked.two_pools.is_none();
    if is_else_sound {
        write_superblocks(disk, &chosen.superblock)?;
    }
    Ok(is_else_sound)
}

/// Whether the copies of the superblock are just those of a pool that was upgraded and never opened since, some of
/// which are not written yet: the second one is of version 1 still, and far ones are not there.
fn is_interrupted<D: Disk>(disk: &D, chosen: &ChosenSuperblock) -> bool {
    let newest = &chosen.superblock;
    let is_new = newest.version() == FormatVersion::Two
        && newest
            .history
            .is_some_and(|history| history.openings == 1 && history.ended_well);
    let is_unwritten = |page: &u64| match NEAR_SUPERBLOCKS.iter().position(|near| near == page) {
        Some(0) => false,
        Some(_) => is_of_version_before(disk, newest),
        None => chosen.damaged.contains(page),
    };
    is_new && !chosen.stale.is_empty() && chosen.stale.iter().all(is_unwritten)
}

/// Whether the second superblock is the last one of this pool from before its upgrade.
fn is_of_version_before<D: Disk>(disk: &D, newest: &Superblock) -> bool {
    let place = NEAR_SUPERBLOCKS[1];
    let mut pages = Page::zeroes(SUPERBLOCK_PAGES as usize);
    let is_read = disk.read(place, &mut pages).is_ok();
    is_read
        && Superblock::read(&pages, place).is_ok_and(|old| {
            old.version() == FormatVersion::One
                && old.uuid == newest.uuid
                && old.generation + 1 == newest.generation
        })
}
