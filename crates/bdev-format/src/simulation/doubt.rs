//! What is never in doubt, whatever of it a crash would leave. A crash may leave it sound by chance, since sectors are
//! written whole or not at all here; a device may do worse to what is being written when its power fails.

use std::collections::BTreeSet;

use super::disk::{Leftover, SimulatedDisk, Write};
use crate::limits::{NEAR_SUPERBLOCKS, SUPERBLOCK_PAGES};
use crate::{FormatVersion, identify};

/// Sees that one of the superblocks at the beginning, and one of those far from it, is not being written, and is not in
/// doubt since a flush failed.
pub(super) fn see_that_superblocks_are_left(left: &Leftover) -> Result<(), String> {
    if left.in_flight().next().is_none() {
        return Ok(());
    }
    let identified = identify(&SimulatedDisk::new(left.durable.clone()));
    let copies = identified.map_err(|error| error.to_string())?;
    let copies = copies.geometry.superblocks();
    let is_near = |copy: &u64| NEAR_SUPERBLOCKS.contains(copy);
    let (near, far): (Vec<u64>, Vec<u64>) = copies.iter().partition(|copy| is_near(copy));
    let is_in_doubt = |first: &u64| left.is_in_doubt(&(*first..*first + SUPERBLOCK_PAGES));
    for (copies, place) in [(near, "at the beginning"), (far, "far from it")] {
        if !copies.is_empty() && copies.iter().all(is_in_doubt) {
            return Err(format!("both superblocks {place} are in doubt"));
        }
    }
    Ok(())
}

/// Sees that each of these copies of a superblock is durable.
pub(super) fn see_that_superblocks_are_durable(
    left: &Leftover,
    copies: &[u64],
) -> Result<(), String> {
    let mut copies = copies.iter();
    let in_doubt = copies.find(|first| left.is_in_doubt(&(**first..**first + SUPERBLOCK_PAGES)));
    match in_doubt {
        Some(first) => Err(format!(
            "the pool is ready, and its superblock in page {first} is in doubt"
        )),
        None => Ok(()),
    }
}

/// Sees that no page of the table is in doubt in both of its copies, and that no page of owner tags is being written in
/// both. Where a flush has failed, tags may be: they are written again from the journal.
pub(super) fn see_that_a_copy_is_durable(left: &Leftover) -> Result<(), String> {
    let written = left.in_flight().flat_map(Write::range);
    let in_doubt: BTreeSet<u64> = written
        .filter(|page| left.is_in_doubt(&(*page..*page + 1)))
        .collect();
    if in_doubt.is_empty() {
        return Ok(());
    }
    let Ok(superblock) = identify(&SimulatedDisk::new(left.durable.clone())) else {
        return Ok(());
    };
    if superblock.version() < FormatVersion::Two {
        return Ok(());
    }
    let both = |[first, second]: [u64; 2], pages: u64| {
        let mut of_first = in_doubt.range(first..first + pages);
        of_first
            .find(|page| in_doubt.contains(&(second + (**page - first))))
            .copied()
    };
    for extent in &superblock.geometry.extents {
        if let Some(page) = both(extent.tables, u64::from(extent.table_pages)) {
            return Err(format!(
                "both copies of page {page} of the table are in doubt"
            ));
        }
        let [Some(first), Some(second)] = extent.tags else {
            continue;
        };
        if !left.doubtful.is_empty() {
            continue;
        }
        if let Some(page) = both([first, second], extent.tag_pages) {
            return Err(format!(
                "both copies of page {page} of the tags are in doubt"
            ));
        }
    }
    Ok(())
}
