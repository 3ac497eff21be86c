//! What is never in doubt, whatever of it a crash would leave. A crash may leave it sound by chance, since sectors are
//! written whole or not at all here; a device may do worse to what is being written when its power fails.

use super::disk::Leftover;
use crate::limits::{NEAR_SUPERBLOCKS, SUPERBLOCK_PAGES};

/// Sees that one of the superblocks at the beginning is not being written, and is not in doubt since a flush failed.
pub(super) fn see_that_a_superblock_is_durable(left: &Leftover) -> Result<(), String> {
    let is_in_doubt = |first| left.is_in_doubt(&(first..first + SUPERBLOCK_PAGES));
    match NEAR_SUPERBLOCKS.into_iter().all(is_in_doubt) {
        true => Err("both superblocks at the beginning are in doubt".to_owned()),
        false => Ok(()),
    }
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
