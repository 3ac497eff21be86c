//! A check of all of a pool's metadata, copies that opening does not look at included.

use std::io;

use crate::block_map::{MegabyteMap, UNITS};
use crate::geometry::TablePage;
use crate::metadata::Metadata;
use crate::page::{Disk, Page};
use crate::recovery::{OpenError, OpenMode, OpenedPool, identify, open};
use crate::superblock::Superblock;
use crate::table::TableEntries;
use crate::tags::{TagPlace, TagSector, sectors_of};

/// The result of a check.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) superblock: Superblock,
    /// Damage that can be repaired: from a copy, or by forgetting owner tags.
    pub(crate) repairable: Vec<String>,
    /// Damage that cannot be repaired.
    pub(crate) lost: Vec<String>,
    /// Records of the journal that are not in the table yet.
    pub(crate) journal_records: u64,
    /// Megabytes whose blocks have owner tags, or had.
    pub(crate) tagged_megabytes: u64,
    /// Whether what can be repaired was.
    pub(crate) repaired: bool,
}

/// Checks a pool, and calls `found` for each megabyte that has blocks. With `repair`, repairs what can be
/// repaired, unless something cannot. Blocks.
///
/// # Errors
/// See [`OpenError`]. Damage is no error, unless no superblock is left.
pub(crate) fn check<D: Disk + Clone>(
    disk: &D,
    repair: bool,
    found: &mut dyn FnMut(u32, MegabyteMap),
) -> Result<Checked, OpenError> {
    let geometry = identify(disk)?.geometry;
    let mut misplaced = None;
    let mut note = |megabyte, map| {
        if misplaced.is_none() && !geometry.has_room(megabyte, &map) {
            misplaced = Some(megabyte);
        }
        found(megabyte, map);
    };
    let OpenedPool {
        metadata,
        repaired,
        mut lost,
        journal_records,
    } = open(disk.clone(), OpenMode::ReadOnly, &mut note, &mut |_, _| {})?;
    // A checkpoint that was interrupted has written some first copies and not yet the second ones. The next one
    // begins it again.
    let may_differ = journal_records > 0;
    let stale_pages = stale_second_copies(&metadata, may_differ)?;
    let damaged_tags = damaged_tags(&metadata)?;
    lost.extend(
        misplaced.map(|megabyte| format!("megabyte {megabyte} has blocks where there can be none")),
    );
    let mut repairable = repaired;
    repairable.extend(stale_pages.iter().map(|(page, _)| {
        let page = metadata.geometry().table_page(*page, 1);
        format!("page {page} of the table, a second copy, is damaged, the first is sound")
    }));
    repairable.extend(damaged_tags.iter().map(|(page, sector)| {
        format!(
            "owner tags in page {page}, sector {sector}, are damaged, and can only be forgotten"
        )
    }));
    let mut checked = Checked {
        superblock: metadata.superblock().clone(),
        tagged_megabytes: metadata.tagged.count(),
        repaired: repair && lost.is_empty() && !repairable.is_empty(),
        repairable,
        lost,
        journal_records,
    };
    if checked.repaired {
        // Opening repairs first copies, from which the second ones are made here.
        let opened = open(
            disk.clone(),
            OpenMode::ReadWrite,
            &mut |_, _| {},
            &mut |_, _| {},
        )?;
        checked.superblock = opened.metadata.superblock().clone();
        write_repairs(&opened.metadata, &stale_pages, &damaged_tags)?;
    }
    Ok(checked)
}

/// Gives the pool another name. Blocks.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn rename<D: Disk>(disk: D, name: String) -> Result<(), OpenError> {
    let mut metadata = open(disk, OpenMode::ReadWrite, &mut |_, _| {}, &mut |_, _| {})?.metadata;
    metadata.rename(name)?;
    Ok(())
}

/// Pages of the table whose second copy must be written again, with what to write: a copy that is damaged, or,
/// unless copies `may_differ`, one that differs from the first.
fn stale_second_copies<D: Disk>(
    metadata: &Metadata<D>,
    may_differ: bool,
) -> io::Result<Vec<(TablePage, Page)>> {
    let (geometry, checksum) = (metadata.geometry(), metadata.superblock.checksum());
    let mut stale = Vec::new();
    for (position, extent) in geometry.extents.iter().enumerate() {
        for page in 0..extent.table_written {
            let at = TablePage {
                extent: position,
                page,
            };
            let read = |copy| -> io::Result<_> {
                let mut pages = Page::zeroes(1);
                metadata
                    .disk
                    .read(geometry.table_page(at, copy), &mut pages)?;
                let entries = TableEntries::read(&pages[0], geometry.first_megabyte(at), checksum);
                Ok((pages.swap_remove(0), entries))
            };
            let (first_page, first) = read(0)?;
            let (_, second) = read(1)?;
            let differs = second != first && !(may_differ && second.is_some());
            if first.is_some() && differs {
                stale.push((at, first_page));
            }
        }
    }
    Ok(stale)
}

/// Damaged sectors of tags: page on the device, and number in the extent.
fn damaged_tags<D: Disk>(metadata: &Metadata<D>) -> io::Result<Vec<(u64, u64)>> {
    let checksum = metadata.superblock.checksum();
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
    for extent in &metadata.geometry().extents {
        let mut last_page = None;
        for megabyte in (extent.first_megabyte..extent.end_megabyte()).filter(|at| on_device(*at)) {
            let first = u64::from(megabyte - extent.first_megabyte) * UNITS;
            let (from, to) = (TagPlace::of(first), TagPlace::of(first + UNITS - 1));
            for page in from.page..=to.page {
                let mut pages = Page::zeroes(1);
                metadata.disk.read(extent.tags + page, &mut pages)?;
                let mut sectors = sectors_of(page);
                let relevant = sectors
                    .by_ref()
                    .filter(|sector| (from.sector..=to.sector).contains(sector));
                for sector in relevant {
                    let is_new = last_page.is_none_or(|last| sector > last);
                    if is_new && TagSector::read(&pages[0], sector, checksum).is_none() {
                        damaged.push((extent.tags + page, sector));
                    }
                    last_page = last_page.max(Some(sector));
                }
            }
        }
    }
    Ok(damaged)
}

fn write_repairs<D: Disk>(
    metadata: &Metadata<D>,
    stale_pages: &[(TablePage, Page)],
    damaged_tags: &[(u64, u64)],
) -> io::Result<()> {
    for (at, page) in stale_pages {
        let place = metadata.geometry().table_page(*at, 1);
        metadata.disk.write(place, std::slice::from_ref(page))?;
    }
    for &(page, sector) in damaged_tags {
        let mut pages = Page::zeroes(1);
        metadata.disk.read(page, &mut pages)?;
        TagSector::empty(sector).write(&mut pages[0], metadata.superblock.checksum());
        metadata.disk.write(page, &pages)?;
    }
    metadata.disk.flush()
}
