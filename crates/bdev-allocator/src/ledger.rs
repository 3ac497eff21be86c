//! The allocator of a persistent pool and the pool's metadata, in step.
//!
//! Laws:
//! - The allocator marks space as recorded before the device records it as allocated, and reuses it only after its
//!   free is durable.
//! - One thread commits. Others allocate and free meanwhile.

use std::io;

use chimaera_bdev_proto::{ListedTag, MAP_END, OwnedBlock, OwnerTag};

use crate::{Allocator, CommitLimits, FreeCompletion, block_at};
use chimaera_bdev_format::block_map::UNITS;
use chimaera_bdev_format::{Disk, Metadata};

/// Megabytes in one part of a commit, at most.
const MAX_COMMIT_MEGABYTES: usize = 1 << 16;

/// Owner tags in one part of a commit, at most, save those of its last megabyte. A tag stands in several lists at a
/// time until it is durable, which take some 200 bytes: 13 MB for so many.
const MAX_COMMIT_TAGS: usize = 1 << 16;

/// Megabytes that are looked at for one page of a listing, at most.
const MAX_LISTED_MEGABYTES: usize = 1 << 14;

/// Commits what an allocator has changed. One thread has it.
pub struct Ledger<D> {
    metadata: Metadata<D>,
}

impl<D: Disk> Ledger<D> {
    /// A ledger of this metadata, whose blocks the allocator has taken over.
    #[must_use]
    pub fn new(metadata: Metadata<D>) -> Self {
        Self { metadata }
    }

    /// Makes durable what was written, allocated and freed before this was called. Blocks.
    ///
    /// That is one flush, and one write before it if blocks were allocated or freed. More than 65,536 megabytes that
    /// have changed, or owner tags, take one each for so many, and so does a full journal.
    ///
    /// # Errors
    /// The device's. Then nothing can be committed any more.
    pub fn commit<C: FreeCompletion>(&mut self, allocator: &Allocator<C>) -> io::Result<()> {
        let limits = CommitLimits {
            max_megabytes: MAX_COMMIT_MEGABYTES,
            max_tags: MAX_COMMIT_TAGS,
        };
        let mut first = Some(0);
        while let Some(start) = first {
            let part = allocator.collect_changes(start, limits);
            self.metadata.commit(&part.changes)?;
            allocator.settle(&part.changes);
            // Megabytes behind which this part has come, and that have changed again, are left to the next commit.
            first = part.next;
        }
        Ok(())
    }

    /// The metadata, for reading.
    pub fn metadata(&self) -> &Metadata<D> {
        &self.metadata
    }

    /// The metadata, for changes that do not concern the allocator.
    pub fn metadata_mut(&mut self) -> &mut Metadata<D> {
        &mut self.metadata
    }

    /// As [`list`], with the committed tags from the metadata.
    ///
    /// # Errors
    /// The device's.
    pub fn list<C: FreeCompletion>(
        &self,
        allocator: &Allocator<C>,
        first_megabyte: u64,
        max_blocks: usize,
    ) -> io::Result<(Vec<OwnedBlock>, u64)> {
        list(allocator, first_megabyte, max_blocks, |units| {
            self.metadata.tags(units)
        })
    }
}

/// The blocks from `first_megabyte` on, and the megabyte at which the next page begins. The blocks are those of whole
/// megabytes, and `max_blocks` at most, which must be enough for one megabyte. `committed_tags` gives the tags of
/// blocks whose tags the allocator no longer has, by their first units, and `None` for one that is unknown.
///
/// # Errors
/// Those of `committed_tags`.
pub fn list<C: FreeCompletion>(
    allocator: &Allocator<C>,
    first_megabyte: u64,
    max_blocks: usize,
    committed_tags: impl Fn(&[u64]) -> io::Result<Vec<Option<OwnerTag>>>,
) -> io::Result<(Vec<OwnedBlock>, u64)> {
    debug_assert!(max_blocks as u64 >= UNITS, "room for one megabyte");
    let end = allocator.megabyte_count();
    let mut index = usize::try_from(first_megabyte).map_or(end, |first| first.min(end));
    let last = end.min(index.saturating_add(MAX_LISTED_MEGABYTES));
    let mut blocks = Vec::new();
    while index < last {
        let found = allocator.list(index);
        if blocks.len() + found.len() > max_blocks {
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
            owner: match tag.or_else(|| tags.next().flatten()) {
                Some(tag) => ListedTag::Known(tag),
                None => ListedTag::Unknown,
            },
        }));
        index += 1;
    }
    let next = if index < end { index as u64 } else { MAP_END };
    Ok((blocks, next))
}
