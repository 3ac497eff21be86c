//! Making a pool: superblocks on a blank device, or on one that is wiped first.

use std::io;

use crate::geometry::{Geometry, far_page};
use crate::limits::{
    KEPT_PAGES, MAX_FAR_EXPONENT, MIN_FAR_EXPONENT, NEAR_SUPERBLOCKS, SUPERBLOCK_PAGES,
};
use crate::metadata::Metadata;
use crate::page::{Disk, Page, bytes_of};
use crate::superblock::{self, Birth, Identity, Superblock};

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
        birth: Birth,
        wipe: bool,
    ) -> io::Result<Self> {
        if wipe {
            wipe_signatures(&disk, geometry.total_pages())?;
        }
        let superblock = Superblock::of_new_pool(identity, geometry, birth);
        // One at the beginning comes first, so that none is ever found far away alone.
        let mut copies = superblock.geometry.superblocks();
        copies.retain(|place| *place != NEAR_SUPERBLOCKS[1]);
        for group in [&NEAR_SUPERBLOCKS[1..], &copies] {
            for &place in group {
                disk.write(place, &superblock.to_pages(place))?;
            }
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
    // The superblocks of a pool that was there go first, so that they are never found without the rest. Far ones go
    // before those at the beginning, since they would be offered for a repair once those are gone.
    wipe_far_superblocks(disk)?;
    let superblock = Page::zeroes(SUPERBLOCK_PAGES as usize);
    for first_page in NEAR_SUPERBLOCKS {
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

/// Zeroes each place at which a far superblock may lie and something does that looks like one, on all of the disk: it
/// may be larger than the new pool, and the old one may have had more of it.
fn wipe_far_superblocks(disk: &impl Disk) -> io::Result<()> {
    let mut is_written = false;
    for place in (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT).map(far_page) {
        let mut page = Page::zeroes(1);
        // Page by page, since the disk may end within the place.
        let (mut held, mut is_there) = (0, false);
        for at in place..place + KEPT_PAGES {
            match disk.read(at, &mut page) {
                Ok(()) => is_there |= superblock::has_magic(bytes_of(&page)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                // What cannot be read is written, which may mend it.
                Err(_) => is_there = true,
            }
            held += 1;
        }
        if is_there {
            disk.write(place, &Page::zeroes(held))?;
            is_written = true;
        }
    }
    if is_written {
        disk.flush()?;
    }
    Ok(())
}
