//! Pools of version 1 for tests, with blocks, tags and data, and what must be found in them later.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use chimaera_bdev_proto::{BlockType, OwnerTag};

use super::{UpgradeError, finish, plan};
use crate::block_map::{MegabyteChange, MegabyteMap, Slot, UNITS, units_of};
use crate::check::{self, Checked};
use crate::geometry::ReservedPages;
use crate::simulation::{
    BlockOwner, DiskImage, Expected, FoundPool, ModelMegabyte, ModelState, Numbers, PageVersions,
    SimulatedDisk, TagComparison, WRITING, format, stamped_page,
};
use crate::{Disk, FormatVersion, Metadata, OpenError, Page, Superblock};

/// A pool of version 1 that is open.
pub(crate) struct OldPool {
    pub(crate) disk: SimulatedDisk,
    pub(crate) metadata: Metadata<SimulatedDisk>,
    state: ModelState,
}

/// What a pool holds, whichever version it has.
#[derive(Clone)]
pub(crate) struct Held(Expected);

impl OldPool {
    pub(crate) fn make(numbers: &mut Numbers, total_pages: u64) -> Self {
        let disk = SimulatedDisk::new(DiskImage::blank(total_pages));
        let metadata = format(numbers, &disk, FormatVersion::One, total_pages).expect("a pool");
        let state = ModelState {
            total_pages,
            ..ModelState::default()
        };
        Self {
            disk,
            metadata,
            state,
        }
    }

    /// A small pool of one to three extents, more or less full, closed in good order or killed.
    pub(crate) fn random(numbers: &mut Numbers) -> Self {
        let megabytes = 4 + numbers.below(12) as u64;
        let pages = megabytes * UNITS + numbers.below(UNITS as usize) as u64;
        let mut pool = Self::make(numbers, pages);
        pool.fill_randomly(numbers);
        for _ in 0..numbers.below(3) {
            pool.grow(UNITS * (1 + numbers.below(6) as u64));
            pool.fill_randomly(numbers);
        }
        if numbers.below(2) == 0 {
            pool.metadata.checkpoint().expect("a checkpoint");
        }
        pool
    }

    pub(crate) fn grow(&mut self, pages: u64) {
        self.state.total_pages += pages;
        self.disk.resize(self.state.total_pages);
        self.metadata.grow(self.state.total_pages).expect("room");
        assert_eq!(
            self.metadata.geometry().total_pages(),
            self.state.total_pages
        );
    }

    /// Allocates blocks in some of the megabytes, or most.
    fn fill_randomly(&mut self, numbers: &mut Numbers) {
        let share = 2 + 2 * numbers.below(4);
        for megabyte in 0..self.metadata.geometry().megabytes() {
            if numbers.below(10) >= share {
                continue;
            }
            let slots: Vec<_> = (0..1 + numbers.below(16))
                .map(|_| {
                    let block_type = match numbers.below(16) {
                        0 => BlockType::Kib256,
                        1 | 2 => BlockType::Kib64,
                        _ => BlockType::Kib4,
                    };
                    Slot::holding(numbers.below(UNITS as usize), block_type)
                })
                .collect();
            let tag = match numbers.below(2) {
                0 => 0,
                _ => numbers.draw() | 1,
            };
            self.allocate(megabyte, slots.into_iter(), tag);
        }
    }

    /// Allocates all that is free in blocks that are as large as can be, from which `leaves_out` takes some away.
    pub(crate) fn fill(&mut self, leaves_out: impl Fn(u64) -> bool) {
        for megabyte in 0..self.metadata.geometry().megabytes() {
            let slots = BlockType::ALL.into_iter().rev().flat_map(|block_type| {
                let count = UNITS / units_of(block_type);
                (0..count as usize).map(move |number| Slot { block_type, number })
            });
            let kept = slots.filter(|slot| {
                let first = u64::from(megabyte) * UNITS + slot.first_unit() as u64;
                !(first..first + units_of(slot.block_type)).any(&leaves_out)
            });
            self.allocate(megabyte, kept, 0);
        }
    }

    /// Allocates those of these blocks for which there is room, writes data to them and commits them.
    pub(crate) fn allocate(&mut self, megabyte: u32, slots: impl Iterator<Item = Slot>, tag: u64) {
        let reserved = ReservedPages::of(self.metadata.geometry());
        let mut changed = (*self.state.megabytes.entry(megabyte).or_default().clone()).clone();
        let mut allocated = Vec::new();
        for slot in slots {
            let is_free = changed
                .map
                .units()
                .is_some_and(|units| slot.is_free(&units));
            if !is_free || !reserved.leave_room(megabyte, &MegabyteMap::EMPTY.with(slot)) {
                continue;
            }
            changed.map = changed.map.with(slot);
            let unit = u64::from(megabyte) * UNITS + slot.first_unit() as u64;
            changed.owners.insert(
                unit,
                BlockOwner {
                    tag,
                    life: unit + 1,
                },
            );
            allocated.push((unit, OwnerTag(tag)));
            let data = vec![Page(stamped_page(unit + 1, 1)); units_of(slot.block_type) as usize];
            self.disk.write(unit, &data).expect("space");
        }
        self.commit(megabyte, changed, allocated);
    }

    /// Frees the blocks that have any of these pages.
    pub(crate) fn free(&mut self, pages: &[Range<u64>]) {
        let is_freed = |block: &Range<u64>| {
            pages
                .iter()
                .any(|range| range.start < block.end && block.start < range.end)
        };
        for (megabyte, before) in self.state.megabytes.clone() {
            let mut changed = ModelMegabyte::default();
            for slot in before.map.blocks() {
                let unit = u64::from(megabyte) * UNITS + slot.first_unit() as u64;
                if !is_freed(&(unit..unit + units_of(slot.block_type))) {
                    changed.map = changed.map.with(slot);
                    changed.owners.insert(unit, before.owners[&unit]);
                }
            }
            if changed != *before {
                self.commit(megabyte, changed, Vec::new());
            }
        }
    }

    fn commit(&mut self, number: u32, megabyte: ModelMegabyte, allocated: Vec<(u64, OwnerTag)>) {
        let change = MegabyteChange {
            megabyte: number,
            map: megabyte.map,
            allocated,
        };
        self.metadata.commit(&[change]).expect("a commit");
        self.state.set(number, megabyte);
    }

    /// What it holds now.
    pub(crate) fn held(&self) -> Held {
        let mut data = BTreeMap::new();
        for (unit, slot, owner) in self.state.blocks() {
            for page in unit..unit + units_of(slot.block_type) {
                let versions = PageVersions {
                    flushed: 1,
                    oldest: 1,
                    latest: 1,
                };
                data.insert((owner.life, page), versions);
            }
        }
        Held(Expected::exactly(
            Rc::new(self.state.clone()),
            Rc::new(data),
        ))
    }

    /// Another one that holds the same, on a device of its own.
    pub(crate) fn twin(&self) -> Self {
        let disk = self.copy();
        let found = FoundPool::open(&disk, WRITING).expect("it is sound");
        Self {
            disk,
            metadata: found.metadata,
            state: self.state.clone(),
        }
    }

    /// A device with what is on this one, all of it durable.
    pub(crate) fn copy(&self) -> SimulatedDisk {
        SimulatedDisk::new(self.disk.seen())
    }
}

impl Held {
    /// Opens the pool for writing, and sees that it holds just that. Gives its superblock.
    pub(crate) fn open(&self, disk: &SimulatedDisk) -> Result<Superblock, String> {
        let found = FoundPool::open(disk, WRITING).map_err(|error| format!("opening: {error}"))?;
        let state = self.0.admit(&found, TagComparison::Exact)?;
        self.0.check_data(&disk.seen(), &state)?;
        Ok(found.metadata.superblock().clone())
    }

    /// Sees that the metadata, opened for reading, says just that, whatever became of data.
    pub(crate) fn see_metadata(&self, disk: &SimulatedDisk) -> Result<(), String> {
        let found = FoundPool::open(disk, crate::OpenMode::ReadOnly);
        let found = found.map_err(|error| format!("reading: {error}"))?;
        self.0.admit(&found, TagComparison::Exact).map(|_| ())
    }
}

/// Upgrades the pool on a disk, or goes on where that was interrupted. `false` if it has the newest version.
pub(crate) fn upgrade(disk: &SimulatedDisk) -> Result<bool, UpgradeError> {
    if finish(disk, disk.total_pages())? {
        return Ok(true);
    }
    let Some(plan) = plan(disk, disk.total_pages())? else {
        return Ok(false);
    };
    plan.carry_out(disk, 77).map(|_| true)
}

/// Checks the pool on a disk, and sees that nothing at all is to be repaired.
pub(crate) fn see_that_it_is_sound(disk: &SimulatedDisk) -> Result<Checked, String> {
    let checked = check::check(disk, disk.total_pages(), None, &mut |_, _| {});
    let checked = checked.map_err(|error: OpenError| format!("checking: {error}"))?;
    let damage = [&checked.lost[..], &checked.repairable[..]].concat();
    match damage.is_empty() && checked.mark.is_none() {
        true => Ok(checked),
        false => Err(format!("damaged: {}", damage.join("; "))),
    }
}
