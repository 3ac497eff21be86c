//! Random work on the metadata alone: any change of any megabyte, with checkpoints in single steps between.

mod ending;

use std::rc::Rc;

use chimaera_bdev_proto::{BlockType, OwnerTag};

use super::Numbers;
use super::creation::format;
use super::disk::SimulatedDisk;
use super::model::{
    BlockOwner, Expected, FoundPool, ModelMegabyte, ModelState, TagComparison, declaration_of,
};
use super::system::{SystemUnderTest, Timeline};
use crate::block_map::{MegabyteChange, MegabyteMap, Slot, UNITS};
use crate::geometry::ReservedPages;
use crate::journal;
use crate::{FormatVersion, Metadata, OpenError};

const STEPS: usize = 14;

/// The megabytes of the last large commit, and their blocks. A life after a crash tries the commit again, so that it
/// comes to lie in the same place as what the crash has left of it.
pub(super) type Retried = Vec<(u32, MegabyteMap)>;

/// What a life consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Random steps.
    Random,
    /// Commits and whole checkpoints.
    Checkpoints,
    /// A commit or two, and a checkpoint.
    Short,
    /// A few commits, and a checkpoint or the pool's end, of whose flushes one fails, while the device goes on.
    Lying,
}

/// How a life is led.
#[derive(Clone, Copy, Debug)]
pub(super) struct LifePlan {
    pub(super) version: FormatVersion,
    pub(super) pace: Pace,
    /// Whether the pool often grows by another extent.
    pub(super) grows: bool,
}

/// The metadata of a pool of this version of the format, without allocator and data. One that `GROWS` has many extents
/// in the end.
#[derive(Default)]
pub struct MetadataAlone<const VERSION: u32 = 2, const GROWS: bool = false> {
    retried: Retried,
}

/// As [`MetadataAlone`], of a pool of version 1.
pub type MetadataOfVersion1 = MetadataAlone<1>;

/// As [`MetadataAlone`], of a pool that grows by small extents.
pub type MetadataOfManyExtents = MetadataAlone<2, true>;

impl<const VERSION: u32, const GROWS: bool> SystemUnderTest for MetadataAlone<VERSION, GROWS> {
    const NAME: &'static str = "metadata";
    const VERSION: FormatVersion = match VERSION {
        1 => FormatVersion::One,
        _ => FormatVersion::NEWEST,
    };

    /// Few pages, since recovery takes most of the time; the table has one page or several.
    fn device_pages(numbers: &mut Numbers) -> u64 {
        if GROWS {
            return UNITS * (4 + numbers.below(12) as u64);
        }
        let most = match numbers.below(4) {
            0 => 350,
            1 => 8,
            _ => 100,
        };
        UNITS + numbers.below(most * UNITS as usize) as u64
    }

    fn live(
        &mut self,
        numbers: &mut Numbers,
        disk: &SimulatedDisk,
        timeline: &mut Timeline,
        expected: &Expected,
    ) -> Result<(), String> {
        let plan = LifePlan {
            version: Self::VERSION,
            pace: Pace::Random,
            grows: GROWS,
        };
        live(numbers, disk, timeline, expected, &mut self.retried, plan)
    }

    fn check(
        _: &mut Numbers,
        _: &SimulatedDisk,
        _: FoundPool,
        _: (&Expected, &ModelState),
        _: usize,
    ) -> Result<(), String> {
        Ok(())
    }
}

/// A life of a pool: opens it, or makes it if there is none, and works with it.
pub(super) fn live(
    numbers: &mut Numbers,
    disk: &SimulatedDisk,
    timeline: &mut Timeline,
    expected: &Expected,
    retried: &mut Retried,
    plan: LifePlan,
) -> Result<(), String> {
    let (metadata, state, records) = match timeline.open(disk, numbers) {
        Err(OpenError::NoPool | OpenError::Damaged(_)) if expected.may_be_absent => {
            let state = Rc::clone(&expected.before);
            let made = format(numbers, disk, plan.version, state.total_pages)?;
            (made, state, 0)
        }
        opened => {
            let found = opened.map_err(|error| format!("opening: {error}"))?;
            let state = expected.admit(&found, TagComparison::Exact)?;
            (found.metadata, state, found.journal_records)
        }
    };
    timeline.ready(disk, &metadata, records)?;
    let mut work = MetadataWorkload {
        numbers,
        disk,
        timeline,
        metadata,
        state: (*state).clone(),
        retried,
        grows: plan.grows,
    };
    work.settle();
    match plan.pace {
        Pace::Short => work
            .do_little()
            .map_err(|error| format!("working: {error}")),
        Pace::Lying => work.be_lied_to(),
        Pace::Random | Pace::Checkpoints => work.lead(plan),
    }
}

/// Whether the changes become one commit, which is found wholly or not at all.
fn fits_the_journal(metadata: &Metadata<SimulatedDisk>, changes: &[MegabyteChange]) -> bool {
    let updates: Vec<_> = changes
        .iter()
        .map(|change| metadata.update_of(change))
        .collect();
    let (pages, _) = journal::lay_out(&updates, (1, 1), metadata.record_layout());
    pages.len() as u64 <= metadata.geometry().journal.pages
}

struct MetadataWorkload<'a> {
    numbers: &'a mut Numbers,
    disk: &'a SimulatedDisk,
    timeline: &'a mut Timeline,
    metadata: Metadata<SimulatedDisk>,
    state: ModelState,
    retried: &'a mut Retried,
    grows: bool,
}

impl MetadataWorkload<'_> {
    /// Random work, until the device fails or the pool's use is ended.
    fn lead(&mut self, plan: LifePlan) -> Result<(), String> {
        let events = self.numbers.below(3 * STEPS) as u64;
        let (mut pace, mut lying_step) = (plan.pace, None);
        match self.numbers.below(8) {
            // Opening a pool of version 1 does not write its superblocks again.
            2 | 3 if plan.version == FormatVersion::One => {}
            0 | 1 => self.disk.fail_after(events),
            2 => self.disk.lie_after(events),
            kind @ (3 | 4) => {
                pace = Pace::Checkpoints;
                // In a checkpoint.
                lying_step = (kind == 3).then(|| 3 * self.numbers.below(STEPS / 3) + 2);
            }
            _ => {}
        }
        for step in 0..STEPS {
            if lying_step == Some(step) {
                self.disk.lie_after(self.numbers.below(8) as u64);
            }
            let outcome = match step {
                0 if self.numbers.below(2) == 0 => self.retry(),
                _ if pace == Pace::Checkpoints && step % 3 == 2 => self.metadata.checkpoint(),
                _ if pace == Pace::Checkpoints => self.commit(),
                _ => self.step(),
            };
            if let Err(error) = outcome {
                return self.fail(&error);
            }
            self.settle();
        }
        match self.numbers.below(4) {
            0 => self.end(),
            _ => Ok(()),
        }
    }

    /// Expects exactly the state from now on.
    fn settle(&mut self) {
        let expected = Expected::exactly(Rc::new(self.state.clone()), Rc::default());
        self.timeline.push(self.disk.position(), expected);
    }

    /// Expects the new state or the old one from now on.
    fn expect(&mut self, after: ModelState, is_atomic: bool) {
        let expected = Expected {
            before: Rc::new(self.state.clone()),
            after: Some(Rc::new(after)),
            is_atomic,
            ..Expected::default()
        };
        self.timeline.push(self.disk.position(), expected);
    }

    fn step(&mut self) -> std::io::Result<()> {
        if self.grows && self.numbers.below(6) == 0 {
            return self.grow();
        }
        match self.numbers.below(12) {
            0..5 => self.commit(),
            5 => self.commit_much(),
            6 => self.metadata.commit(&[]),
            7..10 => self.metadata.advance_checkpoint(),
            10 if self.numbers.below(3) == 0 => self.metadata.checkpoint(),
            10 => self.shrink(),
            _ if self.numbers.below(2) == 0 => self.declare(),
            _ => self.grow(),
        }
    }

    fn do_little(&mut self) -> std::io::Result<()> {
        match self.numbers.below(8) {
            _ if self.retried.is_empty() => self.commit_much()?,
            0 => self.commit()?,
            1 => self.commit_much()?,
            _ => self.retry()?,
        }
        self.settle();
        if self.numbers.below(2) == 0 {
            return Ok(());
        }
        if self.numbers.below(2) == 0 {
            self.commit()?;
            self.settle();
        }
        self.metadata.checkpoint()
    }

    fn commit(&mut self) -> std::io::Result<()> {
        let count = match self.numbers.below(4) {
            0 => 1 + self.numbers.below(12),
            _ => 1 + self.numbers.below(3),
        };
        let mut after = self.state.clone();
        let mut changes: Vec<MegabyteChange> = Vec::new();
        for _ in 0..count {
            let change = self.change();
            if changes
                .iter()
                .all(|other| other.megabyte != change.megabyte)
            {
                after.set(change.megabyte, self.changed(&change));
                changes.push(change);
            }
        }
        self.commit_these(changes, after)
    }

    /// Many blocks in several megabytes, all of them new and tagged.
    fn commit_much(&mut self) -> std::io::Result<()> {
        self.retried.clear();
        for _ in 0..2 + self.numbers.below(5) {
            let megabyte = self.some_megabyte();
            if self.retried.iter().all(|(other, _)| *other != megabyte) {
                let map = self.add_blocks(megabyte, MegabyteMap::EMPTY, 300);
                self.retried.push((megabyte, map));
            }
        }
        self.retry()
    }

    fn retry(&mut self) -> std::io::Result<()> {
        let megabytes = self.metadata.geometry().megabytes();
        // Where the pool has shrunk and grown since, metadata may lie.
        let reserved = ReservedPages::of(self.metadata.geometry());
        let has_room = |megabyte: u32, map: &MegabyteMap| {
            megabyte < megabytes && reserved.leave_room(megabyte, map)
        };
        self.retried
            .retain(|(megabyte, map)| has_room(*megabyte, map));
        let mut after = self.state.clone();
        let mut changes = Vec::new();
        for (megabyte, map) in self.retried.clone() {
            let unit = |slot: Slot| u64::from(megabyte) * UNITS + slot.first_unit() as u64;
            let slots = map.blocks();
            let change = MegabyteChange {
                megabyte,
                map,
                allocated: slots
                    .map(|slot| (unit(slot), OwnerTag(self.numbers.draw())))
                    .collect(),
            };
            after.set(megabyte, self.changed(&change));
            changes.push(change);
        }
        self.commit_these(changes, after)
    }

    fn commit_these(
        &mut self,
        mut changes: Vec<MegabyteChange>,
        after: ModelState,
    ) -> std::io::Result<()> {
        changes.sort_by_key(|change| change.megabyte);
        let is_atomic = fits_the_journal(&self.metadata, &changes);
        let done = after.clone();
        self.expect(after, is_atomic);
        self.metadata.commit(&changes)?;
        self.state = done;
        Ok(())
    }

    /// Prefers a few megabytes, so that they change again and again; and those without metadata, if there are such.
    fn some_megabyte(&mut self) -> u32 {
        let geometry = self.metadata.geometry();
        let megabytes = geometry.megabytes() as usize;
        let reserved = ReservedPages::of(geometry);
        let drawn = match self.numbers.below(4) {
            0 => self.numbers.below(megabytes),
            _ => self.numbers.below(5) * (megabytes / 5).max(1) % megabytes,
        };
        let mut from_there = (drawn..megabytes).chain(0..drawn);
        let free = from_there.find(|megabyte| {
            let first = *megabyte as u64 * UNITS;
            !reserved.touches(&(first..first + UNITS))
        });
        free.unwrap_or(drawn) as u32
    }

    /// Some change of some megabyte.
    fn change(&mut self) -> MegabyteChange {
        let megabyte = self.some_megabyte();
        let first_unit = u64::from(megabyte) * UNITS;
        let before = self.state.map(megabyte);
        let mut map = MegabyteMap::EMPTY;
        let density = 1 + self.numbers.below(4);
        match self.numbers.below(8) {
            0 => {}
            1 if self.has_room(megabyte) => map = MegabyteMap::WHOLE,
            kind => {
                // Some of the old blocks stay.
                for slot in before.blocks().filter(|_| kind < 6) {
                    if self.numbers.below(4) != 0 {
                        map = map.with(slot);
                    }
                }
                map = self.add_blocks(megabyte, map, 1 << (2 * density));
            }
        }
        let with_tags = self.numbers.below(2) == 0;
        let mut allocated = Vec::new();
        for slot in map.blocks() {
            // One that was there may have been freed and allocated again.
            let was_there = before.blocks().any(|other| other == slot);
            if !was_there || self.numbers.below(8) == 0 {
                let has_tag = with_tags && self.numbers.below(4) != 0;
                let tag = if has_tag { self.numbers.draw() } else { 0 };
                allocated.push((first_unit + slot.first_unit() as u64, OwnerTag(tag)));
            }
        }
        MegabyteChange {
            megabyte,
            map,
            allocated,
        }
    }

    /// Adds blocks to those of a megabyte, where there is no metadata.
    fn add_blocks(&mut self, megabyte: u32, mut map: MegabyteMap, attempts: usize) -> MegabyteMap {
        let reserved = ReservedPages::of(self.metadata.geometry());
        for _ in 0..attempts {
            let slot = self.slot();
            let is_free = map.units().is_some_and(|units| slot.is_free(&units));
            if is_free && reserved.leave_room(megabyte, &MegabyteMap::EMPTY.with(slot)) {
                map = map.with(slot);
            }
        }
        map
    }

    fn has_room(&self, megabyte: u32) -> bool {
        let reserved = ReservedPages::of(self.metadata.geometry());
        reserved.leave_room(megabyte, &MegabyteMap::WHOLE)
    }

    fn slot(&mut self) -> Slot {
        let block_type = match self.numbers.below(8) {
            0 => BlockType::Kib256,
            1 | 2 => BlockType::Kib64,
            _ => BlockType::Kib4,
        };
        Slot::holding(self.numbers.below(UNITS as usize), block_type)
    }

    /// The megabyte after a change.
    fn changed(&self, change: &MegabyteChange) -> ModelMegabyte {
        let before = self.state.megabytes.get(&change.megabyte).cloned();
        let before = before.unwrap_or_default();
        let first_unit = u64::from(change.megabyte) * UNITS;
        let owner = |slot: Slot| {
            let unit = first_unit + slot.first_unit() as u64;
            let allocated = change.allocated.iter().find(|(at, _)| *at == unit);
            let tag = match allocated {
                Some((_, tag)) => tag.0,
                None => before.owners[&unit].tag,
            };
            (unit, BlockOwner { tag, life: 0 })
        };
        ModelMegabyte {
            map: change.map,
            owners: change.map.blocks().map(owner).collect(),
        }
    }

    fn grow(&mut self) -> std::io::Result<()> {
        let least = if self.grows { 4 * UNITS } else { 1 };
        let more = least + self.numbers.below(3 * UNITS as usize) as u64;
        let total_pages = self.state.total_pages + more;
        self.disk.resize(total_pages.max(self.disk.total_pages()));
        let mut after = self.state.clone();
        after.total_pages = self.metadata.geometry().grown(total_pages).total_pages();
        let done = after.clone();
        self.expect(after, true);
        self.metadata.grow(total_pages)?;
        self.state = done;
        Ok(())
    }

    fn declare(&mut self) -> std::io::Result<()> {
        let mut after = self.state.clone();
        after.declared = self.numbers.below(1000) as u64;
        let done = after.clone();
        self.expect(after, true);
        self.metadata.declare(declaration_of(done.declared))?;
        self.state = done;
        Ok(())
    }

    fn shrink(&mut self) -> std::io::Result<()> {
        let less = 1 + self.numbers.below(3 * UNITS as usize) as u64;
        let total_pages = self.state.total_pages.saturating_sub(less);
        let last = self.state.megabytes.keys().next_back();
        let is_free = last.is_none_or(|last| (u64::from(*last) + 1) * UNITS <= total_pages);
        if !is_free {
            return Ok(());
        }
        let mut after = self.state.clone();
        if self.metadata.geometry().shrunk(total_pages).is_some() {
            after.total_pages = total_pages;
        }
        let done = after.clone();
        self.expect(after, true);
        self.metadata.shrink(total_pages)?;
        self.state = done;
        Ok(())
    }
}
