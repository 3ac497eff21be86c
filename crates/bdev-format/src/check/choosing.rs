//! Which superblock a check or a repair is of.

use super::Repair;
use crate::open_error::OpenError;
use crate::page::Disk;
use crate::superblock::{self, ChosenSuperblock, SuperblockCopy};

/// The superblock to check, and the far copy that it is if a repair is to write the beginning again from that.
pub(super) fn superblock_to_check<D: Disk>(
    disk: &D,
    repair: Option<Repair>,
) -> Result<(ChosenSuperblock, Option<SuperblockCopy>), OpenError> {
    let wanted = repair.and_then(|repair| repair.uuid);
    let chosen = match (superblock::choose(disk), repair) {
        (Err(OpenError::OnlyFarCopies(copies)), Some(_)) => {
            let copy = copies.pick(wanted)?;
            return Ok((ChosenSuperblock::far(&copy, false), Some(copy)));
        }
        (chosen, _) => chosen?,
    };
    let here = chosen.superblock.uuid;
    match (chosen.two_pools(), wanted) {
        (Some(pools), None) if repair.is_some() => Err(OpenError::TwoPools(Box::new(pools))),
        (Some(pools), Some(uuid)) if uuid != here && pools.uuids().contains(&uuid) => {
            let copy = pools.far.pick(wanted)?;
            Ok((ChosenSuperblock::far(&copy, true), Some(copy)))
        }
        (_, Some(uuid)) if uuid != here => Err(OpenError::AnotherUuid(here)),
        _ => Ok((chosen, None)),
    }
}
