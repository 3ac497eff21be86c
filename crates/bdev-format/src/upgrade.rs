//! Making a pool of version 1 one of version 2, in place: no block moves.
//!
//! What lies at the beginning of the pool and of its extents stays: two superblocks, one region of the journal, and the
//! first copy of each table and of tags. Second copies are laid where no block lies, and the space of the table's
//! second copy of version 1 becomes free.
//!
//! Laws:
//! - A plan is made before anything is written. Where there is no room nothing is written.
//! - All that a superblock of version 2 names is durable before the first one is written. Until that one is durable,
//!   all that the superblocks of version 1 name is as it was; what is written lies in free space.
//! - So a crash leaves a sound pool: of version 1 if no superblock of version 2 at the beginning is whole, of version 2
//!   otherwise, since that is the newer one. Opening writes the others again before anything is allocated, and so does
//!   the next upgrade, where nothing was torn.

mod interrupted;
#[cfg(test)]
pub(crate) mod old_pool;
mod placing;
mod space;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;

use crate::block_map::UNITS;
use crate::check;
use crate::geometry::{Geometry, TablePage};
use crate::limits::{KEPT_PAGES, MAX_FAR_EXPONENT, MIN_FAR_EXPONENT, PAGE_BYTES};
use crate::mark::FailureMark;
use crate::metadata::Metadata;
use crate::open_error::OpenError;
use crate::page::{Disk, Page};
use crate::recovery::{OpenMode, open};
use crate::superblock::{History, Superblock};
use crate::tags::TagPlace;
use crate::version::FormatVersion;
use crate::weakness::{CrashWeakness, weakened};
pub(crate) use interrupted::finish;
use placing::{Layout, Missing, Part, PartKind, blocks_in_the_way};
use space::{Space, kept_place};

/// Pages in one read or write.
const CHUNK_PAGES: u64 = 256;

/// Why a pool is not upgraded. Nothing was written then, unless it was a write or a flush that failed.
#[derive(Debug)]
pub(crate) enum UpgradeError {
    /// The pool cannot be opened.
    Pool(OpenError),
    /// It is damaged in these ways, or has the mark of a failure.
    Damaged {
        /// What a repair puts right, unless something is lost.
        repairable: Vec<String>,
        /// What nothing repairs.
        lost: Vec<String>,
    },
    /// There is no room for what is new.
    NoRoom(MissingRoom),
}

impl From<OpenError> for UpgradeError {
    fn from(error: OpenError) -> Self {
        Self::Pool(error)
    }
}

impl From<io::Error> for UpgradeError {
    fn from(error: io::Error) -> Self {
        Self::Pool(error.into())
    }
}

/// What an upgrade lacks, and what would give it room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRoom {
    /// What has no place.
    pub what: String,
    /// Bytes that it needs in one piece.
    pub bytes: u64,
    /// Where it needs them.
    pub place: String,
    /// Offset and bytes of the blocks whose freeing gives everything a place, in order. Empty if no freeing does.
    pub blocks: Vec<(u64, u64)>,
    /// Bytes by which the pool can grow to have room, if growing can give it.
    pub growth: Option<u64>,
}

impl fmt::Display for MissingRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what, bytes, place, ..
        } = self;
        write!(f, "{what} needs {bytes} free bytes in one piece, {place}")
    }
}

/// How a pool is to be upgraded.
#[derive(Debug)]
pub(crate) struct UpgradePlan {
    layout: Layout,
    /// Where everything will lie.
    geometry: Geometry,
    /// Pages that the device has.
    pages: u64,
}

/// Makes a plan for the pool on a disk that has `device_pages`; `None` if it has the newest version. Writes nothing.
/// Blocks.
///
/// # Errors
/// See [`UpgradeError`].
pub(crate) fn plan<D: Disk + Clone>(
    disk: &D,
    device_pages: u64,
) -> Result<Option<UpgradePlan>, UpgradeError> {
    let mut maps = Vec::new();
    let checked = check::check(disk, device_pages, None, &mut |megabyte, map| {
        maps.push((megabyte, map));
    })?;
    if let Some(pools) = checked.two_pools {
        return Err(OpenError::TwoPools(Box::new(pools)).into());
    }
    let geometry = &checked.superblock.geometry;
    let pages = geometry.total_pages().min(device_pages);
    let space = Space::new(pages, maps, geometry.reserved());
    let mut repairable = checked.repairable;
    let mark = checked.mark;
    repairable.extend(mark.map(|mark| format!("its device failed: {mark}")));
    if !checked.lost.is_empty() || !repairable.is_empty() {
        let lost = checked.lost;
        return Err(UpgradeError::Damaged { repairable, lost });
    }
    if geometry.version() == FormatVersion::NEWEST {
        return Ok(None);
    }
    match Layout::find(&space, geometry) {
        Ok(layout) => Ok(Some(UpgradePlan {
            geometry: layout.geometry(geometry),
            layout,
            pages,
        })),
        Err(missing) => Err(UpgradeError::NoRoom(describe(&missing, &space, geometry))),
    }
}

fn describe(missing: &Missing, space: &Space, geometry: &Geometry) -> MissingRoom {
    let bytes = |pages: u64| pages * PAGE_BYTES as u64;
    let blocks = blocks_in_the_way(space, geometry).unwrap_or_default();
    let (what, pages, place) = match missing {
        Missing::FarPlace => (
            "the far superblock".to_owned(),
            KEPT_PAGES,
            "at a power of two in MiB, from 2 MiB to half of the pool".to_owned(),
        ),
        Missing::Part { part, .. } => (name_of(part), part.pages(), {
            let first = part.first_copy.start / UNITS;
            let last = (part.first_copy.end - 1) / UNITS;
            format!("outside of its first copy's megabytes, which are {first} to {last}")
        }),
    };
    MissingRoom {
        what,
        bytes: bytes(pages),
        place,
        blocks: blocks
            .iter()
            .map(|block| (bytes(block.start), bytes(block.end - block.start)))
            .collect(),
        growth: growth(space, geometry).map(bytes),
    }
}

fn name_of(part: &Part) -> String {
    match part.kind {
        PartKind::Journal => "the second copy of the journal".to_owned(),
        PartKind::Table(0) => "the second copy of the table".to_owned(),
        PartKind::Tags(0) => "the second copy of the owner tags".to_owned(),
        PartKind::Table(extent) => format!("the second copy of the table of extent {extent}"),
        PartKind::Tags(extent) => format!("the second copy of the owner tags of extent {extent}"),
    }
}

/// Pages by which the pool can grow so that there is room, a power of two of megabytes: the least such.
fn growth(space: &Space, geometry: &Geometry) -> Option<u64> {
    let enough = |more: &u64| {
        let wanted = geometry.total_pages() + more;
        let grown = geometry.grown(wanted);
        grown.total_pages() == wanted
            && Layout::find(&space.grown(wanted, grown.reserved()), &grown).is_ok()
    };
    let most = 4 * geometry.total_pages();
    let steps = std::iter::successors(Some(UNITS), |more| more.checked_mul(2));
    steps
        .take_while(|more| *more <= most)
        .find(|more| enough(more))
}

impl UpgradePlan {
    /// The pages of the upgraded pool for which space is set aside.
    pub(crate) fn set_aside(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.geometry.set_aside()
    }

    /// Upgrades the pool, which nobody has changed since the plan was made. `history` has 64 random bits, which the
    /// upgraded pool's history begins with. Gives its superblock. Blocks.
    ///
    /// # Errors
    /// The device's. The pool is sound then, of version 1 or 2.
    pub(crate) fn carry_out<D: Disk + Clone>(
        &self,
        disk: &D,
        history: u64,
    ) -> Result<Superblock, UpgradeError> {
        let mode = OpenMode::ReadWrite { history };
        let mut metadata = open(disk.clone(), mode, &mut |_, _| {}, &mut |_, _| {})?.metadata;
        metadata.checkpoint()?;
        let mut superblock = metadata.superblock().clone();
        superblock.geometry = self.layout.geometry(&superblock.geometry);
        let possible = superblock.geometry.check();
        possible.map_err(|text| OpenError::Unsupported(format!("cannot be upgraded: {text}")))?;
        superblock.generation += 1;
        superblock.history = Some(History {
            ended_well: true,
            ..History::default().next(history)
        });
        self.clear_kept(disk, &metadata)?;
        FailureMark::clear(disk, &superblock.geometry)?;
        self.write_second_copies(disk, &metadata)?;
        if !weakened(CrashWeakness::UpgradeNotFlushed) {
            disk.flush()?;
        }
        write_superblocks(disk, &superblock)?;
        Ok(superblock)
    }

    /// Zeroes the places that are kept from now on, so that no superblock is found there that a block had as its data.
    fn clear_kept<D: Disk>(&self, disk: &D, metadata: &Metadata<D>) -> io::Result<()> {
        let space = Space::new(self.pages, Vec::new(), metadata.geometry().reserved());
        let kept = (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT)
            .filter(|exponent| self.layout.kept >> exponent & 1 == 1)
            .map(kept_place);
        for place in kept.filter(|place| !space.has_metadata(place)) {
            for page in place.start..place.end.min(self.pages) {
                let mut pages = Page::zeroes(1);
                disk.read(page, &mut pages)?;
                // A hole in a file stays one.
                if pages[0].0 != Page::ZERO.0 {
                    disk.write(page, &[Page::ZERO])?;
                }
            }
        }
        Ok(())
    }

    fn write_second_copies<D: Disk>(&self, disk: &D, metadata: &Metadata<D>) -> io::Result<()> {
        let geometry = metadata.geometry();
        for (part, start) in &self.layout.places {
            match part.kind {
                PartKind::Journal => zero(disk, *start..start + part.pages())?,
                PartKind::Table(at) => {
                    let first = geometry.table_page(
                        TablePage {
                            extent: at,
                            page: 0,
                        },
                        0,
                    );
                    let written = u64::from(geometry.extents[at].table_written);
                    copy(disk, first..first + written, *start)?;
                }
                PartKind::Tags(at) => copy_tags(disk, metadata, at, *start)?,
            }
        }
        Ok(())
    }
}

fn zero<D: Disk>(disk: &D, pages: Range<u64>) -> io::Result<()> {
    let mut next = pages.start;
    while next < pages.end {
        let count = CHUNK_PAGES.min(pages.end - next);
        disk.write(next, &Page::zeroes(count as usize))?;
        next += count;
    }
    Ok(())
}

fn copy<D: Disk>(disk: &D, from: Range<u64>, to: u64) -> io::Result<()> {
    let mut next = from.start;
    while next < from.end {
        let mut pages = Page::zeroes(CHUNK_PAGES.min(from.end - next) as usize);
        disk.read(next, &mut pages)?;
        disk.write(to + (next - from.start), &pages)?;
        next += pages.len() as u64;
    }
    Ok(())
}

/// Copies those pages of an extent's tags that have tags of tagged megabytes.
fn copy_tags<D: Disk>(disk: &D, metadata: &Metadata<D>, extent: usize, to: u64) -> io::Result<()> {
    let extent = &metadata.geometry().extents[extent];
    let from = extent.tags[0].unwrap_or(0);
    let copy_pages =
        |pages: &Range<u64>| copy(disk, from + pages.start..from + pages.end, to + pages.start);
    let mut run = 0..0;
    for megabyte in extent.first_megabyte..extent.end_megabyte() {
        if !metadata.tagged.contains(megabyte) {
            continue;
        }
        let first = u64::from(megabyte - extent.first_megabyte) * UNITS;
        let pages = TagPlace::of(first).page..TagPlace::of(first + UNITS - 1).page + 1;
        if pages.start > run.end {
            copy_pages(&run)?;
            run = pages;
        } else {
            run.end = run.end.max(pages.end);
        }
    }
    copy_pages(&run)
}

/// Writes the first superblock alone, then the others.
fn write_superblocks<D: Disk>(disk: &D, superblock: &Superblock) -> io::Result<()> {
    let places = superblock.geometry.superblocks();
    let (first, others) = places.split_at(1);
    for &place in first {
        disk.write(place, &superblock.to_pages(place))?;
    }
    if !weakened(CrashWeakness::UpgradeSuperblocksTogether) {
        disk.flush()?;
    }
    for &place in others {
        disk.write(place, &superblock.to_pages(place))?;
    }
    disk.flush()
}
