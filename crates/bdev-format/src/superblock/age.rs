//! Which copies of a superblock a crash can leave beside the newest one.
//!
//! A change writes one half of the copies, flushes, and writes the other half, which is durable before the next change
//! begins. So a crash leaves copies that are older by one generation: in the second half, or in the first half while no
//! copy of the second is new.

use super::Superblock;

/// First pages of the copies that no crash has left so, each with what is wrong with it. `copies` are the sound ones of
/// one pool, of which `newest` has the highest generation.
pub(super) fn outdated<'a>(
    copies: impl Iterator<Item = (u64, &'a Superblock)> + Clone,
    newest: &Superblock,
) -> Vec<(u64, &'static str)> {
    let places = newest.geometry.superblocks();
    let first_half = &places[..places.len() / 2];
    let age = |copy: &Superblock| newest.generation - copy.generation;
    let has_second = copies
        .clone()
        .any(|(page, copy)| !first_half.contains(&page) && age(copy) == 0);
    let problem = |page: u64, copy: &Superblock| match age(copy) {
        _ if copy.is_same(newest) => None,
        0 => Some("differs from another of the same generation"),
        1 if !(has_second && first_half.contains(&page)) => None,
        _ => Some("is older than a crash can leave it, another is newer"),
    };
    copies
        .filter_map(|(page, copy)| Some((page, problem(page, copy)?)))
        .collect()
}
