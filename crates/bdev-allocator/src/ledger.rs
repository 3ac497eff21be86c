//! The allocator of a persistent pool and its metadata, in step.
//!
//! Laws:
//! - Space is claimed before it is recorded as allocated, and reused only after its free is durable.
//! - One thread commits. Others allocate and free meanwhile.

use std::io;

use chimaera_bdev_proto::{MAP_END, OwnedBlock, OwnerTag};

use crate::{Allocator, FreeCompletion, block_at};
use chimaera_bdev_format::block_map::UNITS;
use chimaera_bdev_format::{Disk, Metadata};

/// Megabytes that one commit is about at most: a list of them is held in memory.
const COMMIT_MEGABYTES: usize = 1 << 16;

/// Megabytes that are looked at for one page of a listing.
const LISTED_MEGABYTES: usize = 1 << 14;

/// The one who commits.
pub struct Ledger<D> {
    metadata: Metadata<D>,
}

impl<D: Disk> Ledger<D> {
    /// Begins with metadata whose blocks the allocator has taken over.
    #[must_use]
    pub fn new(metadata: Metadata<D>) -> Self {
        Self { metadata }
    }

    /// Makes durable what was written, allocated and freed before this was called. Blocks.
    ///
    /// One flush; if allocations changed, one write before it. A million changes at a time need more,
    /// and so does a journal that is full.
    ///
    /// # Errors
    /// The device's. Nothing can be committed any more then.
    pub fn commit<C: FreeCompletion>(&mut self, allocator: &Allocator<C>) -> io::Result<()> {
        let mut first = 0;
        loop {
            let changes = allocator.collect_changes(first, COMMIT_MEGABYTES);
            self.metadata.commit(&changes)?;
            allocator.settle(&changes);
            match changes.last() {
                // Onward from there: what has changed again before it is for the next commit.
                Some(last) if changes.len() == COMMIT_MEGABYTES => {
                    first = last.megabyte as usize + 1;
                }
                _ => return Ok(()),
            }
        }
    }

    /// The metadata, for what concerns it alone.
    pub fn metadata(&self) -> &Metadata<D> {
        &self.metadata
    }

    /// The metadata, for what concerns it alone.
    pub fn metadata_mut(&mut self) -> &mut Metadata<D> {
        &mut self.metadata
    }

    /// As [`list`], with the tags that the device has.
    ///
    /// # Errors
    /// The device's; `InvalidData` if tags are damaged.
    pub fn list<C: FreeCompletion>(
        &self,
        allocator: &Allocator<C>,
        first_megabyte: u64,
        most: usize,
    ) -> io::Result<(Vec<OwnedBlock>, u64)> {
        list(allocator, first_megabyte, most, |units| {
            self.metadata.tags(units)
        })
    }
}

/// The blocks from this megabyte on, of whole megabytes, and where the next page begins. At most so many
/// blocks, which must have room for those of one megabyte. `committed_tags` gives the tags of blocks that
/// the allocator has no tags of any more.
///
/// # Errors
/// Those of `committed_tags`.
pub fn list<C: FreeCompletion>(
    allocator: &Allocator<C>,
    first_megabyte: u64,
    most: usize,
    committed_tags: impl Fn(&[u64]) -> io::Result<Vec<OwnerTag>>,
) -> io::Result<(Vec<OwnedBlock>, u64)> {
    debug_assert!(most as u64 >= UNITS, "room for one megabyte");
    let end = allocator.megabyte_count();
    let mut index = usize::try_from(first_megabyte).map_or(end, |first| first.min(end));
    let last = end.min(index.saturating_add(LISTED_MEGABYTES));
    let mut blocks = Vec::new();
    while index < last {
        let found = allocator.list(index);
        if blocks.len() + found.len() > most {
            break;
        }
        let unit = |slot: chimaera_bdev_format::block_map::Slot| {
            index as u64 * UNITS + slot.first_unit() as u64
        };
        let committed: Vec<u64> = found
            .iter()
            .filter(|(_, tag)| tag.is_none())
            .map(|(slot, _)| unit(*slot))
            .collect();
        let mut tags = if committed.is_empty() {
            Vec::new().into_iter()
        } else {
            committed_tags(&committed)?.into_iter()
        };
        blocks.extend(found.into_iter().map(|(slot, tag)| OwnedBlock {
            block: block_at(index, slot),
            owner: tag.unwrap_or_else(|| tags.next().unwrap_or_default()),
        }));
        index += 1;
    }
    let next = if index < end { index as u64 } else { MAP_END };
    Ok((blocks, next))
}
