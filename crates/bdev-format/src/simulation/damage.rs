//! Damage to what is durable: flipped bits, zeroed sectors and pages, and devices that end too early.

use std::ops::Range;

use super::Numbers;
use super::disk::{DiskImage, SECTOR_BYTES, SimulatedDisk};
use super::model::{Expected, FoundPool, TagComparison, WRITING};
use crate::limits::SUPERBLOCK_PAGES;
use crate::{FormatVersion, OpenError, OpenMode, PAGE_BYTES};

/// What a superblock says of the pool, before it says where the parts lie.
const SUPERBLOCK_HEADER_BYTES: usize = 320;

/// One piece of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    FlippedBit { page: u64, bit: usize },
    ZeroedSector { page: u64, sector: usize },
    ZeroedPage { page: u64 },
    CutOff { pages: u64 },
}

impl Damage {
    /// Some damage to the metadata of a pool.
    pub(super) fn draw(found: &FoundPool, numbers: &mut Numbers) -> Self {
        let page = some_page(found, numbers);
        // Most of a superblock is not in use, so that damage there has no effect.
        let superblocks = found.metadata.geometry().superblocks();
        let bytes = if superblocks.contains(&page) && numbers.below(4) != 0 {
            SUPERBLOCK_HEADER_BYTES
        } else {
            PAGE_BYTES
        };
        match numbers.below(8) {
            0..4 => Self::FlippedBit {
                page,
                bit: numbers.below(8 * bytes),
            },
            4..6 => Self::ZeroedSector {
                page,
                sector: numbers.below(PAGE_BYTES / SECTOR_BYTES),
            },
            6 => Self::ZeroedPage { page },
            _ => Self::CutOff { pages: page },
        }
    }

    pub(super) fn apply(self, image: &mut DiskImage) {
        match self {
            Self::FlippedBit { page, bit } => {
                image.change(page, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            }
            Self::ZeroedSector { page, sector } => {
                let at = sector * SECTOR_BYTES;
                image.change(page, |bytes| bytes[at..at + SECTOR_BYTES].fill(0));
            }
            Self::ZeroedPage { page } => image.change(page, |bytes| bytes.fill(0)),
            Self::CutOff { pages } => image.resize(pages),
        }
    }

    /// Checks that what is expected is found on this image, or that an error says that it is not; and
    /// that nothing is written where nothing may be.
    pub(super) fn check(self, image: &DiskImage, expected: &Expected) -> Result<(), String> {
        // Opening cannot know how long the device should be. Its caller does, and checks that.
        let is_cut = image.total_pages() < expected.before.total_pages;
        for mode in [OpenMode::ReadOnly, WRITING] {
            if is_cut && mode == WRITING {
                continue;
            }
            let disk = SimulatedDisk::new(image.clone());
            let outcome = FoundPool::open(&disk, mode);
            let wrote = disk.recording().has_writes();
            if wrote && (mode == OpenMode::ReadOnly || outcome.is_err()) {
                return Err(format!("{mode:?}: wrote"));
            }
            let found = match outcome {
                Ok(found) if found.lost.is_empty() => found,
                // Opening has reported the damage.
                Ok(found) if mode == OpenMode::ReadOnly => {
                    drop(found);
                    continue;
                }
                Ok(_) => return Err("opened for writing with something lost".to_owned()),
                // The device is too short for a superblock.
                Err(OpenError::NoPool) if image.total_pages() < 2 => continue,
                Err(OpenError::NoPool) => return Err(format!("{mode:?}: there is no pool")),
                Err(_) => continue,
            };
            // In version 2 tags have a second copy.
            let tags = match found.metadata.superblock().version() {
                FormatVersion::Two if !is_cut => TagComparison::Exact,
                _ => TagComparison::OrUnknown,
            };
            expected
                .admit(&found, tags)
                .map_err(|text| format!("{mode:?}: {text}"))?;
        }
        Ok(())
    }
}

/// A page of metadata, one that is often in use.
fn some_page(found: &FoundPool, numbers: &mut Numbers) -> u64 {
    let geometry = found.metadata.geometry();
    let extent = &geometry.extents[numbers.below(geometry.extents.len())];
    let regions: Vec<_> = geometry.journal.ranges().collect();
    let region = regions[numbers.below(regions.len())].clone();
    let half = geometry.journal.pages * numbers.below(2) as u64;
    let journal = region.start + half..region.start + half + geometry.journal.pages;
    let superblocks = geometry.superblocks();
    let superblock = superblocks[numbers.below(superblocks.len())];
    let tags: Vec<_> = extent.tag_ranges().collect();
    let copy = numbers.below(2);
    let of = |pages: Range<u64>, numbers: &mut Numbers| {
        pages.start + numbers.below((pages.end - pages.start) as usize) as u64
    };
    match numbers.below(8) {
        0 => of(superblock..superblock + SUPERBLOCK_PAGES, numbers),
        1..5 => of(journal, numbers),
        5 | 6 => {
            let table = extent.tables[copy];
            of(table..table + u64::from(extent.table_pages), numbers)
        }
        _ => of(tags[copy % tags.len()].clone(), numbers),
    }
}
