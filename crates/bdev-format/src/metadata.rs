//! The metadata of a pool that is open: commits, checkpoints, owner tags, and changes of the superblock.
//!
//! A checkpoint that a crash interrupted begins again in [`Metadata::after_recovery`], from the journal, and is carried
//! out as any other by [`Metadata::advance_checkpoint`].

use std::io;

use chimaera_bdev_proto::OwnerTag;

use crate::block_map::{MegabyteChange, UNITS};
use crate::checkpoint::{Checkpoint, CheckpointContext, write_superblock};
use crate::geometry::Geometry;
use crate::journal::{self, JournalPayload, MegabyteUpdate, RecordLayout};
use crate::limits::{MAX_EPOCH_CHANGES, MAX_EPOCH_TAGS, MIN_LEFT_TO_COMMIT};
use crate::mark::FailureMark;
use crate::overlay::{MegabyteSet, Overlay, TablePageSet};
use crate::page::{Disk, Page};
use crate::scan::Journal;
use crate::superblock::{History, Superblock};
use crate::table::TableEntry;
use crate::tags::{TagPlace, TagSector, copies_of_page};
use crate::weakness::{CrashWeakness, weakened};

mod identity;
#[cfg(test)]
mod reopening_tests;

/// The copies of a page of tags, with the first megabyte of its extent and its position in the extent's tags.
type TagPageCopies = ((u32, u64), Vec<Page>);

/// The metadata of a pool that is open.
pub struct Metadata<D> {
    pub(crate) disk: D,
    pub(crate) superblock: Superblock,
    pub(crate) tagged: MegabyteSet,
    /// The epoch of the journal that commits go into.
    epoch: u64,
    /// Pages of its half that are taken.
    taken_pages: u64,
    /// Updates of megabytes in it.
    changes: usize,
    /// Tags in it.
    tags: usize,
    /// Sequence of the next record.
    pub(crate) next_sequence: u64,
    /// The updates of this epoch.
    pub(crate) overlay: Overlay,
    /// Brings the previous epoch into the table.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Pages of the table of which a checkpoint has made both copies durable since the pool was opened.
    settled: TablePageSet,
    /// Whether a write or flush has failed. Then nothing more is written.
    failed: bool,
    /// Whether the superblock says that the pool's use has ended in good order. Then nothing more is written.
    ended: bool,
}

impl<D: Disk> Metadata<D> {
    /// The metadata of a pool that was made just now: nothing is committed.
    pub(crate) fn empty(disk: D, superblock: Superblock) -> Self {
        let megabytes = superblock.geometry.megabytes();
        Self {
            disk,
            superblock,
            tagged: MegabyteSet::new(megabytes),
            epoch: 1,
            taken_pages: 0,
            changes: 0,
            tags: 0,
            next_sequence: 1,
            overlay: Overlay::default(),
            checkpoint: None,
            settled: TablePageSet::default(),
            failed: false,
            ended: false,
        }
    }

    /// The metadata of a pool that was opened. If commits had gone on to the newer epoch, the checkpoint of the older
    /// one was under way, and begins again. Otherwise commits go on in the older one.
    pub(crate) fn after_recovery(
        disk: D,
        superblock: Superblock,
        mut tagged: MegabyteSet,
        journal: Journal,
    ) -> Self {
        let Journal {
            epoch,
            older,
            newer,
        } = journal;
        let mut overlay = Overlay::default();
        for payload in older.payloads {
            overlay.apply(payload, &mut tagged);
        }
        let (mut checkpoint, mut taken_pages) = (None, older.taken_pages);
        let (mut changes, mut tags) = (older.changes, older.tags);
        let is_switched = !newer.payloads.is_empty();
        if is_switched {
            let frozen = std::mem::take(&mut overlay);
            let last = older.next_sequence - 1;
            let geometry = &superblock.geometry;
            checkpoint = Some(Checkpoint::new(frozen, (epoch, last), geometry));
            (taken_pages, changes, tags) = (newer.taken_pages, newer.changes, newer.tags);
            for payload in newer.payloads {
                overlay.apply(payload, &mut tagged);
            }
        }
        Self {
            disk,
            superblock,
            tagged,
            epoch: epoch + u64::from(is_switched),
            taken_pages,
            changes,
            tags,
            next_sequence: newer.next_sequence,
            overlay,
            settled: TablePageSet::default(),
            checkpoint,
            failed: false,
            ended: false,
        }
    }

    /// What it lies on.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// What the pool is.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Where everything lies.
    pub fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    /// Makes these changes durable, and with them all data that was written before: one write and one
    /// flush, as long as the journal has room. Without changes, one flush. Blocks.
    ///
    /// # Errors
    /// The device's. What is durable then is not known, and nothing more can be committed.
    pub fn commit(&mut self, changes: &[MegabyteChange]) -> io::Result<()> {
        self.check_usable()?;
        let result = if changes.is_empty() {
            self.flush_unless(CrashWeakness::DataNotFlushed)
        } else {
            let updates: Vec<_> = changes
                .iter()
                .map(|change| self.update_of(change))
                .collect();
            let appended = self.append(&updates);
            if appended.is_err() {
                // For readers: nobody else has the tags any more. Nothing is written after this.
                self.overlay
                    .apply(JournalPayload::of(&updates), &mut self.tagged);
            }
            appended
        };
        self.failing(result)
    }

    /// Whether [`Self::advance_checkpoint`] should be called soon.
    pub fn wants_checkpoint(&self) -> bool {
        let is_half_full = self.taken_pages > self.geometry().journal.pages / 2
            || self.changes > MAX_EPOCH_CHANGES / 2
            || self.tags > MAX_EPOCH_TAGS / 2;
        !self.failed && (self.checkpoint.is_some() || is_half_full)
    }

    /// Takes a small step of the checkpoint, and begins one if none is under way. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn advance_checkpoint(&mut self) -> io::Result<()> {
        self.check_usable()?;
        if self.checkpoint.is_none() {
            self.switch_halves();
        }
        let result = self.step();
        self.failing(result)
    }

    /// Brings all that was committed into the table. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn checkpoint(&mut self) -> io::Result<()> {
        self.check_usable()?;
        let result = self.finish_checkpoint().and_then(|()| {
            if self.overlay.is_empty() {
                return Ok(());
            }
            self.switch_halves();
            self.finish_checkpoint()?;
            // Makes the second superblock durable too, so that nothing is left to do.
            self.disk.flush()
        });
        self.failing(result)
    }

    /// Brings all that was committed into the table, and says in the superblocks that the pool's use has ended in good
    /// order: what its clients know of it then holds when it is opened next. Nothing can be written afterwards. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn end(&mut self) -> io::Result<()> {
        if weakened(CrashWeakness::EndedEarly) {
            self.say_that_it_has_ended()?;
        }
        self.checkpoint()?;
        self.say_that_it_has_ended()?;
        self.ended = true;
        Ok(())
    }

    fn say_that_it_has_ended(&mut self) -> io::Result<()> {
        let Some(history) = self.superblock.history else {
            return Ok(());
        };
        self.change_superblock(|superblock| {
            superblock.history = Some(History {
                ended_well: true,
                ..history
            });
        })
    }

    /// Leaves a mark in the pool that says what has failed, `seconds` after 1970 began, as far as its device still
    /// works. It is the only thing that may be written after a failure. Blocks.
    pub fn mark_failure(&mut self, text: &str, seconds: u64) {
        self.failed = true;
        let mark = FailureMark {
            seconds,
            history: self.superblock.history.map_or(0, |history| history.current),
            text: text.to_owned(),
        };
        mark.leave(
            &self.disk,
            &self.superblock.geometry,
            self.superblock.checksum(),
        );
    }

    /// Whether any block of the pool has, or ever had, a tag.
    pub fn has_tags(&self) -> bool {
        !self.tagged.is_empty()
    }

    /// The tags that these blocks were committed with, by their first units; `None` where they are damaged in every
    /// copy, so that nobody knows. Blocks.
    ///
    /// # Errors
    /// The device's.
    pub fn tags(&self, units: &[u64]) -> io::Result<Vec<Option<OwnerTag>>> {
        let mut cache = None;
        let tags = units.iter().map(|&unit| self.tag(unit, &mut cache));
        tags.collect()
    }

    /// Grows the pool to `total_pages`, or less: [`Self::geometry`] says how many pages it has then. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn grow(&mut self, total_pages: u64) -> io::Result<()> {
        self.change_geometry(self.geometry().grown(total_pages))
    }

    /// Gives up the space behind `total_pages`, in which there are no blocks, as the caller knows. `false`, and
    /// nothing is given up, if some of the pool's metadata lies there. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn shrink(&mut self, total_pages: u64) -> io::Result<bool> {
        if self.geometry().shrunk(total_pages).is_none() {
            return Ok(false);
        }
        // The journal may have updates of megabytes that the pool will not have any more.
        self.checkpoint()?;
        // Computed again, since the checkpoint may have written more pages of the table.
        let Some(geometry) = self.geometry().shrunk(total_pages) else {
            return Ok(false);
        };
        self.tagged.truncate(geometry.covered_megabytes());
        self.change_geometry(geometry)?;
        Ok(true)
    }

    fn change_geometry(&mut self, geometry: Geometry) -> io::Result<()> {
        self.check_usable()?;
        if geometry == *self.geometry() {
            return Ok(());
        }
        self.change_superblock(|superblock| superblock.geometry = geometry)
    }

    /// Writes a superblock that differs in this change alone, and not in its epoch. So it does not matter how far a
    /// checkpoint is: whichever of the two superblocks is found, the journal goes on from there.
    pub(crate) fn change_superblock(
        &mut self,
        change: impl FnOnce(&mut Superblock),
    ) -> io::Result<()> {
        self.check_usable()?;
        let mut superblock = self.superblock.clone();
        change(&mut superblock);
        // A checkpoint leaves one half of the superblocks to the next flush. It must be durable before the other half
        // is written.
        let result = self
            .disk
            .flush()
            .and_then(|()| write_superblock(&self.disk, &mut superblock))
            .and_then(|()| self.disk.flush());
        self.superblock = superblock;
        self.failing(result)
    }

    pub(crate) fn update_of(&self, change: &MegabyteChange) -> MegabyteUpdate {
        let tagged = self.tagged.contains(change.megabyte)
            || change.allocated.iter().any(|(_, tag)| !tag.is_none());
        let tags = match tagged {
            true => change
                .allocated
                .iter()
                .map(|&(unit, tag)| (unit, tag.0))
                .collect(),
            false => Vec::new(),
        };
        MegabyteUpdate {
            megabyte: change.megabyte,
            entry: TableEntry {
                map: change.map,
                tagged,
            },
            tags,
        }
    }

    /// How the records of its journal are laid out.
    pub(crate) fn record_layout(&self) -> RecordLayout {
        RecordLayout {
            version: self.superblock.version(),
            max_pages: self.geometry().max_record_pages(),
            checksum: self.superblock.checksum(),
        }
    }

    fn append(&mut self, updates: &[MegabyteUpdate]) -> io::Result<()> {
        let layout = self.record_layout();
        let journal_pages = self.geometry().journal.pages;
        let mut place = (self.epoch, self.next_sequence);
        let (mut pages, count) = journal::lay_out(updates, place, layout);
        let tags: usize = updates.iter().map(|update| update.tags.len()).sum();
        let is_too_much = pages.len() as u64 > journal_pages
            || updates.len() > MAX_EPOCH_CHANGES
            || tags > MAX_EPOCH_TAGS;
        if is_too_much && updates.len() > 1 {
            // More than an epoch has room for becomes several commits.
            let (first, second) = updates.split_at(updates.len() / 2);
            self.append(first)?;
            return self.append(second);
        }
        if self.taken_pages + pages.len() as u64 > journal_pages
            || self.changes + updates.len() > MAX_EPOCH_CHANGES
            || self.tags + tags > MAX_EPOCH_TAGS
        {
            self.finish_checkpoint()?;
            self.switch_halves();
            place = (self.epoch, self.next_sequence);
            (pages, _) = journal::lay_out(updates, place, layout);
        }
        let halves = self.geometry().journal.halves(self.epoch);
        let mut places: Vec<u64> = halves.map(|half| half + self.taken_pages).collect();
        if weakened(CrashWeakness::RecordWrittenOnce) {
            places.truncate(1);
        }
        self.disk.write_copies(&places, &pages)?;
        self.flush_unless(CrashWeakness::CommitNotFlushed)?;
        self.taken_pages += pages.len() as u64;
        self.changes += updates.len();
        self.tags += tags;
        self.next_sequence += count;
        self.overlay
            .apply(JournalPayload::of(updates), &mut self.tagged);
        Ok(())
    }

    /// Directs commits into the other half of the journal, and begins the checkpoint of this one. No checkpoint may
    /// be under way.
    fn switch_halves(&mut self) {
        debug_assert!(self.checkpoint.is_none(), "the other half is still in use");
        let frozen = std::mem::take(&mut self.overlay);
        let last = self.next_sequence - 1;
        let geometry = &self.superblock.geometry;
        self.checkpoint = Some(Checkpoint::new(frozen, (self.epoch, last), geometry));
        self.epoch += 1;
        self.taken_pages = 0;
        self.changes = 0;
        self.tags = 0;
    }

    fn finish_checkpoint(&mut self) -> io::Result<()> {
        while self.checkpoint.is_some() {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> io::Result<()> {
        let Some(mut checkpoint) = self.checkpoint.take() else {
            return Ok(());
        };
        let mut context = CheckpointContext {
            disk: &self.disk,
            superblock: &mut self.superblock,
            settled: &mut self.settled,
            tagged: &self.tagged,
            tagged_later: &self.overlay.newly_tagged,
        };
        let result = checkpoint.step(&mut context);
        if !matches!(result, Ok(true)) {
            self.checkpoint = Some(checkpoint);
        }
        result.map(|_| ())
    }

    fn tag(&self, unit: u64, cache: &mut Option<TagPageCopies>) -> io::Result<Option<OwnerTag>> {
        let megabyte = (unit / UNITS) as u32;
        if !self.tagged.contains(megabyte) {
            return Ok(Some(OwnerTag::NONE));
        }
        let frozen = self
            .checkpoint
            .as_ref()
            .map(|checkpoint| &checkpoint.frozen);
        for overlay in [Some(&self.overlay), frozen].into_iter().flatten() {
            if let Some(tag) = overlay.tags.get(&unit) {
                return Ok(Some(OwnerTag(*tag)));
            }
            if overlay.newly_tagged.contains(&megabyte) {
                return Ok(Some(OwnerTag::NONE));
            }
        }
        let geometry = self.geometry();
        let extent = geometry.extent_of(megabyte).map(|at| geometry.extents[at]);
        let extent = extent.ok_or(io::ErrorKind::InvalidInput)?;
        let place = TagPlace::of(unit - u64::from(extent.first_megabyte) * UNITS);
        let key = (extent.first_megabyte, place.page);
        if !matches!(cache, Some((at, _)) if *at == key) {
            *cache = Some((key, copies_of_page(&self.disk, &extent, place.page)?));
        }
        let copies = cache.as_ref().map_or(&[][..], |(_, copies)| copies);
        let sector = TagSector::read_any(copies, place.sector, self.superblock.checksum());
        Ok(sector.and_then(|sector| sector.get(place)).map(OwnerTag))
    }

    fn flush_unless(&self, weakness: CrashWeakness) -> io::Result<()> {
        if weakened(weakness) {
            return Ok(());
        }
        self.disk.flush()
    }

    fn check_usable(&self) -> io::Result<()> {
        if self.ended {
            return Err(io::Error::other("the pool's use has ended"));
        }
        if self.failed && !weakened(CrashWeakness::WrittenAfterFailure) {
            return Err(io::Error::other(
                "an earlier write of the pool's metadata failed, and nothing more is written: destroy \
                 the pool, have it checked and repaired, and create it again to open it anew",
            ));
        }
        let last = self.next_sequence.max(self.epoch);
        if !self.superblock.can_count(MIN_LEFT_TO_COMMIT, last) {
            return Err(io::Error::other(
                "the pool cannot count any further: copy what it holds to a new pool",
            ));
        }
        Ok(())
    }

    /// Notes whether a write or flush has failed.
    fn failing<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.failed |= result.is_err();
        result
    }
}
