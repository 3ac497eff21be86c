//! A check of all of a pool's metadata, copies that opening does not look at included, and its repair.

mod choosing;
mod looks;
mod repairing;

use std::io;
use std::ops::Range;

use crate::block_map::{MegabyteMap, UNITS, units_of};
use crate::geometry::{Geometry, ReservedPages, TablePage};
use crate::limits::{NEAR_SUPERBLOCKS, PAGE_BYTES, SUPERBLOCK_PAGES};
use crate::mark::FailureMark;
use crate::metadata::Metadata;
use crate::open_error::OpenError;
use crate::page::{Disk, Page};
use crate::recovery::{OpenMode, OpenedPool, open_though_marked};
use crate::superblock::{Superblock, TwoPools};
use crate::table::{self, TableEntries};
use crate::tags::{TagPlace, TagSector, copies_of_page, sectors_of};
use choosing::superblock_to_check;
pub(crate) use looks::agreed;
use looks::{Evidence, describe_lone, seen_in};
use repairing::put_right;

/// What a check may repair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repair {
    /// 64 random bits, which the pool's opening for the repair is known by.
    pub history: u64,
    /// The time now, in seconds since 1970, for the mark of a failure.
    pub seconds: u64,
    /// The pool to repair, where there are superblocks of several; `None` for the only one.
    pub uuid: Option<[u8; 16]>,
}

/// The result of a check.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) superblock: Superblock,
    /// Damage that can be repaired: from a copy, or by saying of owner tags that they are unknown.
    pub(crate) repairable: Vec<String>,
    /// Damage that cannot be repaired.
    pub(crate) lost: Vec<String>,
    /// Whether blocks lie where there can be none, so that no opening admits them, for reading only neither.
    pub(crate) has_misplaced: bool,
    /// What damage was found in.
    evidence: Evidence,
    /// First page of the far superblock that was taken, where those at the beginning were gone, or another pool's.
    pub(crate) restored_from: Option<u64>,
    /// The two pools of which superblocks were there.
    pub(crate) two_pools: Option<TwoPools>,
    /// Pages at the pool's end that the disk lacks, and in which there is nothing.
    pub(crate) missing_pages: u64,
    /// The mark of an earlier failure. A repair removes it.
    pub(crate) mark: Option<FailureMark>,
    /// Records of the journal that are not in the table yet.
    pub(crate) journal_records: u64,
    /// Megabytes whose blocks have owner tags, or had.
    pub(crate) tagged_megabytes: u64,
    /// Whether what can be repaired was.
    pub(crate) repaired: bool,
}

/// Checks a pool on a disk of `held_pages`, and calls `found` for each megabyte that has blocks. With `repair`, repairs
/// what can be repaired; where something cannot, it restores the beginning, if that is gone, and nothing else. Blocks.
///
/// # Errors
/// See [`OpenError`]. Damage is no error, unless no superblock is left.
pub(crate) fn check<D: Disk + Clone>(
    disk: &D,
    held_pages: u64,
    repair: Option<Repair>,
    found: &mut dyn FnMut(u32, MegabyteMap),
) -> Result<Checked, OpenError> {
    let (chosen, far) = superblock_to_check(disk, repair)?;
    let two_pools = chosen.two_pools();
    let geometry = &chosen.superblock.geometry;
    let mark = FailureMark::find(disk, geometry, chosen.superblock.checksum());
    let reserved = ReservedPages::of(geometry);
    let mut misplaced = None;
    let mut end_of_blocks = 0;
    let mut note = |megabyte, map: MegabyteMap| {
        if misplaced.is_none() && !reserved.leave_room(megabyte, &map) {
            misplaced = Some(megabyte);
        }
        end_of_blocks = end_of_blocks.max(end_of(megabyte, &map));
        found(megabyte, map);
        true
    };
    let of_superblocks: Vec<_> = chosen.damage_by_page().collect();
    let OpenedPool {
        metadata,
        repaired,
        mut lost,
        journal_records,
        lone,
        ..
    } = open_though_marked(
        disk.clone(),
        chosen,
        OpenMode::ReadOnly,
        &mut note,
        &mut |_, _| {},
    )?;
    // A checkpoint that was interrupted has written some first copies and not yet the second ones. The next one
    // begins it again.
    let copies = DamagedCopies::find(&metadata, journal_records > 0)?;
    lost.extend(
        misplaced.map(|megabyte| format!("megabyte {megabyte} has blocks where there can be none")),
    );
    let missing_pages = missing_pages(metadata.geometry(), held_pages, end_of_blocks);
    lost.extend(missing_pages.clone().err());
    let mut evidence = Evidence::default();
    // A copy that a writer is changing looks older than another one that is read later.
    let of_superblocks = of_superblocks.into_iter();
    evidence.keep(of_superblocks.map(|(text, page)| (text, Some(seen_in(&metadata.disk, page)))));
    let mut repairable = repaired;
    repairable.extend(evidence.keep(describe_lone(&metadata, &lone)));
    repairable.extend(evidence.keep(copies.describe(&metadata)));
    let mut checked = Checked {
        superblock: metadata.superblock().clone(),
        tagged_megabytes: metadata.tagged.count(),
        repaired: false,
        restored_from: far.as_ref().map(|far| far.first_page),
        two_pools,
        missing_pages: missing_pages.unwrap_or(0),
        repairable,
        lost,
        has_misplaced: misplaced.is_some(),
        evidence,
        mark,
        journal_records,
    };
    if let Some(repair) = repair {
        put_right(disk, repair, far.as_ref(), &copies, &mut checked)?;
    }
    Ok(checked)
}

/// The page behind the last block of a megabyte; 0 if it has none.
fn end_of(megabyte: u32, map: &MegabyteMap) -> u64 {
    let first = u64::from(megabyte) * UNITS;
    let ends = map
        .blocks()
        .map(|slot| first + slot.first_unit() as u64 + units_of(slot.block_type));
    ends.max().unwrap_or(0)
}

/// How many pages a disk of `held_pages` lacks of a pool, in which there is nothing.
///
/// # Errors
/// That something lay there, in words.
fn missing_pages(geometry: &Geometry, held_pages: u64, end_of_blocks: u64) -> Result<u64, String> {
    let missing = geometry.total_pages().saturating_sub(held_pages);
    let is_unused = end_of_blocks <= held_pages && geometry.shrunk(held_pages).is_some();
    if missing == 0 || is_unused {
        return Ok(missing);
    }
    let bytes = |pages| pages * PAGE_BYTES as u64;
    Err(format!(
        "it has {} bytes, and the pool has {}: it was cut off",
        bytes(held_pages),
        bytes(geometry.total_pages())
    ))
}

/// Damage to copies that opening does not look at.
struct DamagedCopies {
    /// Pages of the table whose second copy must be written again, and what to write.
    table: Vec<(TablePage, Page)>,
    tags: Vec<DamagedTags>,
    /// Runs of pages that cannot be read, of the journal and between the superblocks at the beginning.
    unreadable: Vec<Range<u64>>,
}

impl DamagedCopies {
    /// Reads all copies. Sound ones `may_differ` where a checkpoint is under way.
    fn find<D: Disk>(metadata: &Metadata<D>, may_differ: bool) -> io::Result<Self> {
        Ok(Self {
            table: stale_second_copies(metadata)?,
            tags: damaged_tags(metadata, may_differ)?,
            unreadable: unreadable_pages(metadata),
        })
    }

    /// Each piece of damage, with a checksum of what it was found in.
    fn describe<D: Disk>(
        &self,
        metadata: &Metadata<D>,
    ) -> impl Iterator<Item = (String, Option<u32>)> {
        let table = self.table.iter().map(|(page, _)| {
            let page = metadata.geometry().table_page(*page, 1);
            let seen = seen_in(&metadata.disk, page);
            (table::describe_second_copy(page), Some(seen))
        });
        let tags = self.tags.iter();
        let tags = tags.map(|damaged| (damaged.to_string(), Some(damaged.seen)));
        let unreadable = self.unreadable.iter().map(|pages| {
            let (count, first) = (pages.end - pages.start, pages.start);
            let text = format!(
                "{count} pages cannot be read, from page {first} on, of which nothing is lost"
            );
            (text, Some(0))
        });
        table.chain(tags).chain(unreadable)
    }

    /// Writes them again, durably, in a pool that was opened for writing.
    fn write_again<D: Disk>(&self, metadata: &Metadata<D>) -> io::Result<()> {
        blank_unreadable(metadata, &self.unreadable)?;
        write_repairs(metadata, &self.table, &self.tags)
    }
}

/// Pages of the table whose second copy must be written again, with what to write: a copy that is damaged, or, unless
/// the checkpoint that wrote the first has not ended, one that differs from it.
fn stale_second_copies<D: Disk>(metadata: &Metadata<D>) -> io::Result<Vec<(TablePage, Page)>> {
    let (geometry, checksum) = (metadata.geometry(), metadata.superblock.checksum());
    let mut stale = Vec::new();
    for (position, extent) in geometry.extents.iter().enumerate() {
        for page in 0..extent.table_written {
            let at = TablePage {
                extent: position,
                page,
            };
            let read = |copy| {
                let mut pages = Page::zeroes(1);
                // What cannot be read is damaged.
                if metadata
                    .disk
                    .read(geometry.table_page(at, copy), &mut pages)
                    .is_err()
                {
                    pages[0] = Page::ZERO;
                }
                let entries = TableEntries::read(&pages[0], geometry.first_megabyte(at), checksum);
                (pages.swap_remove(0), entries)
            };
            let (first_page, first) = read(0);
            let (second_page, second) = read(1);
            let is_finished = table::epoch_of(&first_page) <= metadata.superblock.epoch;
            let differs = second != first && (is_finished || second.is_none());
            // Opening mends a first copy that is older.
            let is_newer = second.is_some() && table::is_newer(&second_page, &first_page);
            if first.is_some() && differs && !is_newer {
                stale.push((at, first_page));
            }
        }
    }
    Ok(stale)
}

/// Runs of pages that cannot be read, of the journal and between the superblocks at the beginning.
fn unreadable_pages<D: Disk>(metadata: &Metadata<D>) -> Vec<Range<u64>> {
    /// Pages in one read.
    const CHUNK_PAGES: usize = 256;

    let mut unreadable: Vec<Range<u64>> = Vec::new();
    let mut chunk = Page::zeroes(CHUNK_PAGES);
    let between = SUPERBLOCK_PAGES..NEAR_SUPERBLOCKS[1];
    for region in std::iter::once(between).chain(metadata.geometry().journal.ranges()) {
        for first_page in region.clone().step_by(CHUNK_PAGES) {
            let pages = first_page..region.end.min(first_page + CHUNK_PAGES as u64);
            let count = (pages.end - pages.start) as usize;
            if metadata.disk.read(first_page, &mut chunk[..count]).is_ok() {
                continue;
            }
            for page in pages.filter(|page| !can_read(&metadata.disk, *page)) {
                match unreadable.last_mut() {
                    Some(last) if last.end == page => last.end += 1,
                    _ => unreadable.push(page..page + 1),
                }
            }
        }
    }
    unreadable
}

fn can_read<D: Disk>(disk: &D, page: u64) -> bool {
    disk.read(page, &mut Page::zeroes(1)).is_ok()
}

/// Writes zeroes to these pages as far as they still cannot be read. Nothing in them is needed: opening has written
/// again those with records that count. Otherwise the pool could not be opened once another copy cannot be read either.
fn blank_unreadable<D: Disk>(metadata: &Metadata<D>, unreadable: &[Range<u64>]) -> io::Result<()> {
    for page in unreadable.iter().cloned().flatten() {
        if !can_read(&metadata.disk, page) {
            metadata.disk.write(page, &Page::zeroes(1))?;
        }
    }
    Ok(())
}

/// A sector of tags that is damaged in some copy.
#[derive(Debug)]
struct DamagedTags {
    /// Position of its extent.
    extent: usize,
    /// Its page in the tags of the extent.
    page: u64,
    /// Its page on the device, in the first copy.
    device_page: u64,
    /// What it holds, or that this is unknown.
    sector: TagSector,
    number: u64,
    is_known: bool,
    /// A checksum of the sector as all copies have it.
    seen: u32,
}

impl std::fmt::Display for DamagedTags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            device_page,
            number,
            ..
        } = self;
        let what = match self.is_known {
            true => "in one copy, the other is sound",
            false => "in every copy, and their blocks' tags stay unknown",
        };
        write!(
            f,
            "owner tags in page {device_page}, sector {number}, are damaged {what}"
        )
    }
}

/// Sectors of tags that are damaged in some copy, or, unless copies `may_differ`, have copies that differ.
fn damaged_tags<D: Disk>(metadata: &Metadata<D>, may_differ: bool) -> io::Result<Vec<DamagedTags>> {
    let frozen = metadata
        .checkpoint
        .as_ref()
        .map(|checkpoint| &checkpoint.frozen);
    let overlays = [Some(&metadata.overlay), frozen];
    let on_device = |megabyte| {
        let mut overlays = overlays.iter().flatten();
        metadata.tagged.contains(megabyte)
            && !overlays.any(|overlay| overlay.newly_tagged.contains(&megabyte))
    };
    let mut damaged = Vec::new();
    for (position, extent) in metadata.geometry().extents.iter().enumerate() {
        let mut next_sector = 0;
        for megabyte in (extent.first_megabyte..extent.end_megabyte()).filter(|at| on_device(*at)) {
            let first = u64::from(megabyte - extent.first_megabyte) * UNITS;
            let (from, to) = (TagPlace::of(first), TagPlace::of(first + UNITS - 1));
            for page in from.page..=to.page {
                let sectors =
                    sectors_of(page).filter(|sector| (from.sector..=to.sector).contains(sector));
                let sectors = sectors.filter(|sector| *sector >= next_sector);
                let checked = check_sectors(metadata, (position, page), sectors, may_differ)?;
                damaged.extend(checked);
            }
            next_sector = to.sector + 1;
        }
    }
    Ok(damaged)
}

/// Those of these sectors of a page of tags that are damaged. The page is that of an extent's tags.
fn check_sectors<D: Disk>(
    metadata: &Metadata<D>,
    (position, page): (usize, u64),
    sectors: impl Iterator<Item = u64>,
    may_differ: bool,
) -> io::Result<Vec<DamagedTags>> {
    let checksum = metadata.superblock.checksum();
    let extent = &metadata.geometry().extents[position];
    let copies = copies_of_page(&metadata.disk, extent, page)?;
    let check = |number: u64| {
        let read = |copy: &Page| TagSector::read(copy, number, checksum);
        let found: Vec<_> = copies.iter().map(read).collect();
        let first = found.iter().flatten().next();
        let all_sound = found.iter().all(Option::is_some);
        let all_alike = found.iter().flatten().all(|sector| Some(sector) == first);
        let is_sound = all_sound && (all_alike || may_differ);
        (!is_sound).then(|| DamagedTags {
            extent: position,
            page,
            device_page: extent.tags[0].unwrap_or(0) + page,
            sector: first.cloned().unwrap_or_else(|| TagSector::unknown(number)),
            number,
            is_known: first.is_some(),
            seen: copies.iter().fold(0, |seen, copy| {
                crc32c::crc32c_append(seen, TagSector::bytes(copy, number))
            }),
        })
    };
    Ok(sectors.filter_map(check).collect())
}

fn write_repairs<D: Disk>(
    metadata: &Metadata<D>,
    stale_pages: &[(TablePage, Page)],
    damaged_tags: &[DamagedTags],
) -> io::Result<()> {
    for (at, page) in stale_pages {
        let place = metadata.geometry().table_page(*at, 1);
        metadata.disk.write(place, std::slice::from_ref(page))?;
    }
    for damaged in damaged_tags {
        let extent = &metadata.geometry().extents[damaged.extent];
        let copies = copies_of_page(&metadata.disk, extent, damaged.page)?;
        for (first_page, mut page) in extent.tags.iter().flatten().zip(copies) {
            damaged
                .sector
                .write(&mut page, metadata.superblock.checksum());
            metadata
                .disk
                .write(first_page + damaged.page, std::slice::from_ref(&page))?;
        }
    }
    metadata.disk.flush()
}
