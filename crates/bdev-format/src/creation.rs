//! Making a pool: superblocks on a blank device, or on one that is wiped first.

use std::io;

use crate::geometry::Geometry;
use crate::limits::{SUPERBLOCK_COPIES, SUPERBLOCK_PAGES};
use crate::metadata::Metadata;
use crate::page::{Disk, Page};
use crate::superblock::{FormatFeatures, Identity, Superblock};

impl<D: Disk> Metadata<D> {
    /// Makes a new, empty pool on a blank device or, if `wipe` is set, on any. Blocks.
    ///
    /// After a crash before this returns, the device has the new pool, or none, or superblocks that are found
    /// damaged. If `wipe` is set it may also have what was there before: a pool is found whole, or none is.
    ///
    /// # Errors
    /// The device's.
    pub fn format(
        disk: D,
        identity: Identity,
        geometry: Geometry,
        (uuid, created): ([u8; 16], u64),
        wipe: bool,
    ) -> io::Result<Self> {
        if wipe {
            wipe_signatures(&disk, geometry.total_pages())?;
        }
        let superblock = Superblock {
            features: FormatFeatures::default(),
            uuid,
            generation: 1,
            identity,
            created,
            epoch: 0,
            sequence: 0,
            geometry,
        };
        let pages = superblock.to_pages();
        for first_page in SUPERBLOCK_COPIES.into_iter().rev() {
            disk.write(first_page, &pages)?;
            disk.flush()?;
        }
        Ok(Self::empty(disk, superblock))
    }
}

/// Pages at the beginning and at the end that are zeroed before a new pool takes the place of something else: a
/// signature could lie there.
const WIPED_AT_START: u64 = 256;
const WIPED_AT_END: u64 = 32;

fn wipe_signatures<D: Disk>(disk: &D, total_pages: u64) -> io::Result<()> {
    // The superblocks of a pool that was there go first, so that they are never found without the rest.
    let superblock = Page::zeroes(SUPERBLOCK_PAGES as usize);
    for first_page in SUPERBLOCK_COPIES {
        disk.write(first_page, &superblock)?;
    }
    disk.flush()?;
    let start = WIPED_AT_START.min(total_pages);
    let end = WIPED_AT_END.min(total_pages - start);
    disk.write(0, &Page::zeroes(start as usize))?;
    if end > 0 {
        disk.write(total_pages - end, &Page::zeroes(end as usize))?;
    }
    disk.flush()
}
