//! The checkpoint: brings an epoch of the journal into the table, so that its half of the journal can
//! be used again.
//!
//! It runs in steps, so that commits, which go into the other half meanwhile, need not wait for it.
//!
//! ```text
//! tags, first copy ─flush─▶ second copy ─flush─▶ table as it is, first copy ─flush─▶ second copy ─flush─▶
//! table, first copy ─flush─▶ second copy ─flush─▶ first superblocks ─flush─▶ second ones
//! ```
//!
//! Tags have one copy in version 1.
//!
//! Laws:
//! - Table and superblock have copies, and are written in place. One copy is durable while the other is being
//!   written; of four superblocks two are, one of which lies far from the other.
//! - Whether a copy is durable is not seen by reading it: a drive may have failed to write it, and read it back from
//!   its cache. So the first checkpoint after an opening that is about a page writes the page's first copy again as it
//!   was, then the second one, before it changes the first one.
//! - A copy of the table that calls a megabyte tagged is written after the megabyte's tags are durable in every copy,
//!   since all of them count from then on.
//! - Until the first superblock is durable, the journal still has all that is being written here, and recovery
//!   begins again with the journal.

use std::collections::BTreeSet;
use std::io;

use crate::block_map::UNITS;
use crate::geometry::{Geometry, TablePage};
use crate::limits::TAGS_PER_PAGE;
use crate::overlay::{MegabyteSet, Overlay, TablePageSet};
use crate::page::{Checksum, Disk, Page, read_pages};
use crate::superblock::Superblock;
use crate::table::TableEntries;
use crate::tags::{TagPlace, TagSector, copies_of_page, sectors_of};
use crate::version::FormatVersion;
use crate::weakness::{CrashWeakness, weakened};

/// Pages that a step reads and writes, at most.
const MAX_STEP_PAGES: usize = 64;

/// A checkpoint under way.
pub(crate) struct Checkpoint {
    /// The updates that are being brought into the table.
    pub(crate) frozen: Overlay,
    epoch: u64,
    /// Sequence of the last record of the epoch.
    sequence: u64,
    /// Pages of the table that are written, in order.
    pages: Vec<TablePage>,
    /// Pages of tags that are written, in order: their extent, and their position in its tags.
    tag_pages: Vec<(usize, u64)>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Writes a copy of the tags: position of the next page.
    Tags {
        copy: usize,
        next: usize,
    },
    /// Writes a copy of pages of the table again as they are, before they change: position of the next page, and
    /// whether there was any to write.
    Mend {
        copy: usize,
        next: usize,
        has_written: bool,
    },
    /// Writes a copy of the table: position of the next page.
    Table {
        copy: usize,
        next: usize,
    },
    Superblock,
    Done,
}

impl Stage {
    const fn mend(copy: usize) -> Self {
        Self::Mend {
            copy,
            next: 0,
            has_written: false,
        }
    }
}

/// The pool that a checkpoint works on.
pub(crate) struct CheckpointContext<'a, D> {
    pub(crate) disk: &'a D,
    pub(crate) superblock: &'a mut Superblock,
    /// Pages of the table of which both copies are known to be durable, since a checkpoint has written them. Other
    /// second copies that look sound may not be.
    pub(crate) settled: &'a mut TablePageSet,
    /// Megabytes that are tagged, those of the frozen overlay and of later commits included.
    pub(crate) tagged: &'a MegabyteSet,
    /// Megabytes that only later commits tagged.
    pub(crate) tagged_later: &'a BTreeSet<u32>,
}

impl Checkpoint {
    /// Begins the checkpoint of an epoch whose last record has this sequence.
    pub(crate) fn new(frozen: Overlay, (epoch, sequence): (u64, u64), geometry: &Geometry) -> Self {
        let mut pages: BTreeSet<TablePage> = frozen
            .entries
            .keys()
            .filter_map(|&megabyte| geometry.entry_position(megabyte))
            .map(|(page, _)| page)
            .collect();
        // Pages of the table are written from its beginning on, without gaps.
        for (extent, last) in last_pages(&pages) {
            let written = geometry.extents[extent].table_written;
            pages.extend((written..last).map(|page| TablePage { extent, page }));
        }
        let tag_pages: BTreeSet<_> = frozen
            .tags
            .keys()
            .copied()
            .chain(frozen.newly_tagged.iter().flat_map(|&megabyte| {
                let first = u64::from(megabyte) * UNITS;
                // The pages of the first and the last unit's tags, and those between.
                (first..first + UNITS)
                    .step_by(TAGS_PER_PAGE as usize / 2)
                    .chain([first + UNITS - 1])
            }))
            .filter_map(|unit| tag_page(geometry, unit))
            .collect();
        Self {
            frozen,
            epoch,
            sequence,
            pages: pages.into_iter().collect(),
            tag_pages: tag_pages.into_iter().collect(),
            stage: Stage::Tags { copy: 0, next: 0 },
        }
    }

    /// Takes the next step. `true` when nothing is left to do. Blocks.
    ///
    /// # Errors
    /// The device's, or that the table is damaged. The checkpoint must not go on after one.
    pub(crate) fn step<D: Disk>(
        &mut self,
        context: &mut CheckpointContext<'_, D>,
    ) -> io::Result<bool> {
        match self.stage {
            Stage::Tags { copy, next } if next < self.tag_pages.len() => {
                let (extent, page) = self.tag_pages[next];
                self.write_tags(context, extent, page, copy)?;
                if copy == 0 && weakened(CrashWeakness::TagCopiesTogether) {
                    self.write_tags(context, extent, page, 1)?;
                }
                let next = next + 1;
                self.stage = Stage::Tags { copy, next };
            }
            Stage::Tags { copy, .. } => {
                self.flush_tags(context, copy)?;
                let has_another = copy == 0 && context.superblock.geometry.has_second_tags();
                self.stage = match has_another {
                    true => Stage::Tags { copy: 1, next: 0 },
                    false => Stage::mend(0),
                };
            }
            Stage::Mend {
                copy,
                next,
                has_written,
            } if next < self.pages.len() => {
                let run = self.run(next);
                let has_written = mend_copies(context, run, copy)? || has_written;
                let next = next + run.len();
                self.stage = Stage::Mend {
                    copy,
                    next,
                    has_written,
                };
            }
            Stage::Mend {
                copy, has_written, ..
            } => {
                if has_written {
                    context.disk.flush()?;
                }
                self.stage = match copy {
                    0 => Stage::mend(1),
                    _ => Stage::Table { copy: 0, next: 0 },
                };
            }
            Stage::Table { copy, next } if next < self.pages.len() => {
                let count = self.write_table(context, copy, next)?;
                let next = next + count;
                self.stage = Stage::Table { copy, next };
            }
            Stage::Table { copy: 0, .. } => {
                if !weakened(CrashWeakness::TableCopiesTogether) {
                    context.disk.flush()?;
                }
                self.stage = Stage::Table { copy: 1, next: 0 };
            }
            Stage::Table { .. } => {
                if !weakened(CrashWeakness::SecondCopyNotFlushed) {
                    context.disk.flush()?;
                }
                self.pages
                    .iter()
                    .for_each(|page| context.settled.insert(*page));
                self.stage = Stage::Superblock;
            }
            Stage::Superblock => {
                self.write_superblock(context)?;
                self.stage = Stage::Done;
            }
            Stage::Done => {}
        }
        Ok(self.stage == Stage::Done)
    }

    fn flush_tags<D: Disk>(
        &self,
        context: &CheckpointContext<'_, D>,
        copy: usize,
    ) -> io::Result<()> {
        let is_in_doubt = weakened(CrashWeakness::TagsNotFlushed)
            || copy == 1 && weakened(CrashWeakness::SecondTagsNotFlushed);
        if self.tag_pages.is_empty() || is_in_doubt {
            return Ok(());
        }
        context.disk.flush()
    }

    /// The pages of the table from this position on, as far as they lie one behind the other, and not more than a step
    /// writes.
    fn run(&self, next: usize) -> &[TablePage] {
        let first = self.pages[next];
        let follows = |&(offset, page): &(usize, &TablePage)| {
            page.extent == first.extent && page.page as usize == first.page as usize + offset
        };
        let run = self.pages[next..].iter().enumerate().take(MAX_STEP_PAGES);
        &self.pages[next..next + run.take_while(follows).count()]
    }

    /// Writes the next pages of a copy of the table, as far as they lie one behind the other. Gives their number.
    fn write_table<D: Disk>(
        &self,
        context: &CheckpointContext<'_, D>,
        copy: usize,
        next: usize,
    ) -> io::Result<usize> {
        let geometry = &context.superblock.geometry;
        let checksum = context.superblock.checksum();
        let run = self.run(next);
        let first = run[0];
        // In version 1 the bytes are zero.
        let sequence = match geometry.version {
            FormatVersion::One => 0,
            FormatVersion::Two => self.sequence,
        };
        // The second copy is made from the first, which is durable by now.
        let mut pages = Page::zeroes(run.len());
        let first_copies = geometry.table_page(first, 0);
        if copy == 0 {
            // What cannot be read there was never written, or is read from the second copy.
            read_pages(context.disk, first_copies, &mut pages);
        } else {
            context.disk.read(first_copies, &mut pages)?;
        }
        for (&at, page) in run.iter().zip(&mut pages) {
            let first_megabyte = geometry.first_megabyte(at);
            let was_written = copy == 1 || at.page < geometry.extents[at.extent].table_written;
            let mut entries = if was_written {
                self.read_entries(context, at, page, checksum)?
            } else {
                TableEntries::empty()
            };
            let end = geometry.extents[at.extent].end_megabyte();
            for (entry, megabyte) in entries.0.iter_mut().zip(first_megabyte..end) {
                if let Some(changed) = self.frozen.entries.get(&megabyte) {
                    *entry = *changed;
                }
            }
            *page = entries.to_page(first_megabyte, (self.epoch, sequence), checksum);
        }
        context
            .disk
            .write(geometry.table_page(first, copy), &pages)?;
        Ok(run.len())
    }

    /// The entries of a page of the first copy, or, if that is damaged, of the second.
    fn read_entries<D: Disk>(
        &self,
        context: &CheckpointContext<'_, D>,
        at: TablePage,
        first_copy: &Page,
        checksum: Checksum,
    ) -> io::Result<TableEntries> {
        let geometry = &context.superblock.geometry;
        let first_megabyte = geometry.first_megabyte(at);
        if let Some(entries) = TableEntries::read(first_copy, first_megabyte, checksum) {
            return Ok(entries);
        }
        let mut second_copy = Page::zeroes(1);
        context
            .disk
            .read(geometry.table_page(at, 1), &mut second_copy)?;
        TableEntries::read(&second_copy[0], first_megabyte, checksum).ok_or_else(|| {
            let page = geometry.table_page(at, 0);
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("both copies of page {page} of the table are damaged"),
            )
        })
    }

    /// Writes a copy of a page of tags, if tags have that copy.
    fn write_tags<D: Disk>(
        &self,
        context: &CheckpointContext<'_, D>,
        extent: usize,
        page: u64,
        copy: usize,
    ) -> io::Result<()> {
        let checksum = context.superblock.checksum();
        let base = &context.superblock.geometry.extents[extent];
        let Some(first_page) = base.tags[copy] else {
            return Ok(());
        };
        if copy == 1 && weakened(CrashWeakness::TagsWrittenOnce) {
            return Ok(());
        }
        let first_unit = base.first_page();
        let mut copies = copies_of_page(context.disk, base, page)?;
        let before = copies[copy].clone();
        for number in sectors_of(page) {
            let units = TagSector::empty(number).units();
            // The last sector has room for the next extent's first megabyte.
            let end_unit = u64::from(base.end_megabyte()) * UNITS;
            let start = first_unit + units.start;
            let end = end_unit.min(first_unit + units.end);
            if start >= end {
                break;
            }
            let megabytes = (start / UNITS) as u32..=((end - 1) / UNITS) as u32;
            let is_new = |megabyte| self.frozen.newly_tagged.contains(&megabyte);
            let was_there = megabytes.clone().any(|megabyte| {
                context.tagged.contains(megabyte)
                    && !is_new(megabyte)
                    && !context.tagged_later.contains(&megabyte)
            });
            let mut changed = self.frozen.tags.range(start..end).peekable();
            if changed.peek().is_none() && !megabytes.clone().any(is_new) {
                continue;
            }
            let mut sector = match TagSector::read_any(&copies, number, checksum) {
                _ if !was_there => TagSector::empty(number),
                Some(sector) => sector,
                // What is written here now is known, the rest is not.
                None => TagSector::unknown(number),
            };
            for unit in (start..end).filter(|unit| is_new((unit / UNITS) as u32)) {
                sector.set(TagPlace::of(unit - first_unit), 0);
            }
            for (unit, tag) in changed {
                sector.set(TagPlace::of(unit - first_unit), *tag);
            }
            sector.write(&mut copies[copy], checksum);
        }
        if copies[copy].0 == before.0 && weakened(CrashWeakness::TagsTrusted) {
            return Ok(());
        }
        context.disk.write(first_page + page, &copies[copy..=copy])
    }

    fn write_superblock<D: Disk>(&self, context: &mut CheckpointContext<'_, D>) -> io::Result<()> {
        let mut superblock = context.superblock.clone();
        superblock.epoch = self.epoch;
        superblock.sequence = self.sequence;
        for (extent, last) in last_pages(&self.pages.iter().copied().collect()) {
            let written = &mut superblock.geometry.extents[extent].table_written;
            *written = (*written).max(last + 1);
        }
        write_superblock(context.disk, &mut superblock)?;
        *context.superblock = superblock;
        Ok(())
    }
}

/// Writes a copy of these pages again as the first copies are, before those are overwritten: second copies that are
/// damaged, since a crash may have torn them, and both copies of pages that are not settled. Says whether there are
/// any.
///
/// Of copies that are doubted either may be the one that is not durable. If it is the first, the second is durable
/// while the first is written as it was read; if not, that changes nothing on the medium.
fn mend_copies<D: Disk>(
    context: &CheckpointContext<'_, D>,
    run: &[TablePage],
    copy: usize,
) -> io::Result<bool> {
    let has_doubted = run.iter().any(|&at| is_doubted(context.settled, at));
    let has_none = copy == 0 && (!has_doubted || weakened(CrashWeakness::FirstCopiesTrusted));
    if has_none || weakened(CrashWeakness::SecondCopyNotLookedAt) {
        return Ok(false);
    }
    let geometry = &context.superblock.geometry;
    let checksum = context.superblock.checksum();
    let is_sound = |page: &Page, at: TablePage| {
        TableEntries::read(page, geometry.first_megabyte(at), checksum).is_some()
    };
    let copies = [0, 1].map(|copy| {
        let mut pages = Page::zeroes(run.len());
        // What cannot be read is damaged, and is written, which may mend it.
        read_pages(context.disk, geometry.table_page(run[0], copy), &mut pages);
        pages
    });
    let [first_copies, second_copies] = &copies;
    let mut has_written = false;
    for ((&at, first), second) in run.iter().zip(first_copies).zip(second_copies) {
        let was_written = at.page < geometry.extents[at.extent].table_written;
        let is_wanted = is_doubted(context.settled, at) || copy == 1 && !is_sound(second, at);
        if was_written && is_wanted && is_sound(first, at) {
            let place = geometry.table_page(at, copy);
            context.disk.write(place, std::slice::from_ref(first))?;
            has_written = true;
        }
    }
    Ok(has_written)
}

/// Whether copies of a page that look sound may not be durable.
fn is_doubted(settled: &TablePageSet, at: TablePage) -> bool {
    if weakened(CrashWeakness::SecondCopiesTrusted) {
        return false;
    }
    if weakened(CrashWeakness::SecondCopiesTrustedSoon) {
        return settled.is_empty();
    }
    !settled.contains(at)
}

/// Writes all copies of a superblock, with the next generation: one half of them, then the other, which the next flush
/// makes durable. Each half has one far copy, if there are such.
pub(crate) fn write_superblock<D: Disk>(disk: &D, superblock: &mut Superblock) -> io::Result<()> {
    superblock.generation += 1;
    let mut copies = superblock.geometry.superblocks();
    let mut half = copies.len() / 2;
    if weakened(CrashWeakness::FarSuperblocksTogether) && half == 2 {
        copies.swap(2, 3);
        half = 3;
    }
    let (first, second) = copies.split_at(half);
    for &place in first {
        disk.write(place, &superblock.to_pages(place))?;
    }
    if !weakened(CrashWeakness::SuperblockNotFlushed) {
        disk.flush()?;
    }
    for &place in second {
        disk.write(place, &superblock.to_pages(place))?;
    }
    Ok(())
}

/// The extents that these pages belong to, each with the last of its pages.
fn last_pages(pages: &BTreeSet<TablePage>) -> Vec<(usize, u32)> {
    let mut last: Vec<(usize, u32)> = Vec::new();
    for page in pages {
        match last.last_mut() {
            Some((extent, last)) if *extent == page.extent => *last = page.page,
            _ => last.push((page.extent, page.page)),
        }
    }
    last
}

/// Where a unit's tag lies: the extent, and the page in its tags.
fn tag_page(geometry: &Geometry, unit: u64) -> Option<(usize, u64)> {
    let extent = geometry.extent_of(u32::try_from(unit / UNITS).ok()?)?;
    let first = u64::from(geometry.extents[extent].first_megabyte) * UNITS;
    Some((extent, TagPlace::of(unit - first).page))
}
