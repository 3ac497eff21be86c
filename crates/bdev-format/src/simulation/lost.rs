//! Lost megabytes: one, or two neighbouring ones, of a device are overwritten with zeroes or noise, or cannot be read.
//!
//! From four megabytes on, as it was made, a pool loses nothing by it, tags included. Opening alone mends it; where
//! nothing is left of the superblocks at the beginning, a repair that somebody asks for does.

use std::ops::Range;
use std::rc::Rc;

use super::Numbers;
use super::disk::{DiskImage, Leftover, Loss, SimulatedDisk};
use super::model::{Expected, FoundPool, ModelState, TagComparison, WRITING};
use crate::block_map::UNITS;
use crate::check::{Checked, Repair, check};
use crate::geometry::Extent;
use crate::limits::NEAR_SUPERBLOCKS;
use crate::{Geometry, OpenError, OpenMode};

/// How the megabytes were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accident {
    Zeroes,
    Noise,
    Unreadable,
}

impl Accident {
    pub(super) const EACH: [Self; 3] = [Self::Zeroes, Self::Noise, Self::Unreadable];
}

/// Megabytes that are lost at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostMegabytes {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) accident: Accident,
}

/// The repair that is asked for where the superblocks at the beginning are gone.
const REPAIR: Repair = Repair {
    history: 9,
    seconds: 1,
    uuid: None,
};

/// What becomes of a pool that lost megabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// All is found.
    Whole,
    /// All is found, or an error names the megabytes: a crash had torn a page of one copy of the table.
    WholeOrNamed,
}

impl LostMegabytes {
    /// Some megabyte that has metadata of the pool, or two neighbouring ones of which one has.
    pub(super) fn draw(geometry: &Geometry, numbers: &mut Numbers) -> Self {
        let megabytes = megabytes_of(geometry);
        let megabyte = megabytes[numbers.below(megabytes.len())];
        let count = 1 + numbers.below(2) as u64;
        Self {
            first: megabyte.saturating_sub(numbers.below(count as usize) as u64),
            count,
            accident: Accident::EACH[numbers.below(Accident::EACH.len())],
        }
    }

    /// The medium after the accident.
    fn apply(self, image: &DiskImage, numbers: &mut Numbers) -> DiskImage {
        let mut image = image.clone();
        let end = (self.first + self.count) * UNITS;
        let pages = self.first * UNITS..end.min(image.total_pages());
        pages.clone().for_each(|page| image.clear(page));
        match self.accident {
            Accident::Zeroes => {}
            Accident::Noise => {
                // Without letters, so that it is no signature of anything, which a pool's beginning would be left to.
                let noise = std::array::from_fn(|_| numbers.draw() as u8 | 0x80);
                pages.for_each(|page| image.change(page, |bytes| *bytes = noise));
            }
            Accident::Unreadable => image.make_unreadable(pages),
        }
        image
    }

    /// Checks that the pool on a medium that has lost these is as promised, read-only and for writing. Gives the device
    /// on which it was mended, and what was found, unless an error was promised.
    pub(super) fn check(
        self,
        image: &DiskImage,
        (expected, promise): (&Expected, Promise),
        numbers: &mut Numbers,
    ) -> Result<Option<(SimulatedDisk, Rc<ModelState>)>, String> {
        let disk = SimulatedDisk::new(self.apply(image, numbers));
        match FoundPool::open(&disk, OpenMode::ReadOnly) {
            Ok(found) if found.lost.is_empty() => {
                expected.admit(&found, TagComparison::Exact)?;
            }
            Ok(found) => promise.admit_error(&found.lost.join("; "))?,
            // Nobody has asked for a repair.
            Err(OpenError::OnlyFarCopies(_)) if self.first == 0 => {}
            Err(error) => return Err(format!("reading only: {error}")),
        }
        if disk.recording().has_writes() {
            return Err("reading only wrote".to_owned());
        }
        if let Some(error) = self.mend(&disk)? {
            // A repair gives the pool its beginning back also where something is lost.
            let is_beginning =
                |pages: &Range<u64>| self.first == 0 && NEAR_SUPERBLOCKS.contains(&pages.start);
            if !disk.recording().written().all(|pages| is_beginning(&pages)) {
                return Err(format!("wrote, and then: {error}"));
            }
            promise.admit_error(&error)?;
            return Ok(None);
        }
        let state = see(&disk, expected)?;
        Ok(Some((disk, state)))
    }

    /// Crashes while a pool is being mended that has lost these, on the device where that was recorded, and mends it
    /// again. `state` is what was found.
    pub(super) fn crash_mending(
        self,
        disk: &SimulatedDisk,
        (expected, state): (&Expected, &Rc<ModelState>),
        numbers: &mut Numbers,
    ) -> Result<(), String> {
        let pinned = Expected::exactly(Rc::clone(state), Rc::clone(&expected.data));
        let recording = disk.recording();
        let mut walk = recording.walk();
        for position in 0..=recording.len() {
            let is_over = position == recording.len();
            let expected = if is_over { &pinned } else { expected };
            for _ in 0..2 {
                let loss = Loss::EACH[numbers.below(Loss::EACH.len())];
                let disk = SimulatedDisk::new(walk.left.crash(loss, numbers));
                let outcome = match self.mend(&disk)? {
                    Some(error) => Err(error),
                    None => see(&disk, expected).map(drop),
                };
                outcome
                    .map_err(|text| format!("mending, position {position}, {loss:?}: {text}"))?;
            }
            walk.step();
        }
        Ok(())
    }

    /// Mends a pool: by opening it, or, where the superblocks at the beginning are gone, or where it has the mark of a
    /// failure, by a repair. Gives the error, if something is lost.
    fn mend(self, disk: &SimulatedDisk) -> Result<Option<String>, String> {
        match FoundPool::open(disk, WRITING) {
            Ok(_) => Ok(None),
            Err(OpenError::OnlyFarCopies(_)) if self.first == 0 => repair(disk),
            Err(OpenError::Marked(_)) => repair(disk),
            Err(OpenError::Damaged(text)) => Ok(Some(text)),
            Err(error) => Err(format!("opening: {error}")),
        }
    }
}

impl Promise {
    fn admit_error(self, error: &str) -> Result<(), String> {
        match self {
            Self::WholeOrNamed if error.contains("the megabytes from") => Ok(()),
            _ => Err(format!("lost: {error}")),
        }
    }
}

/// The megabytes that have metadata.
pub(super) fn megabytes_of(geometry: &Geometry) -> Vec<u64> {
    let ranges = geometry.reserved();
    let mut megabytes: Vec<u64> = ranges
        .flat_map(|pages| pages.start / UNITS..=(pages.end - 1) / UNITS)
        .collect();
    megabytes.dedup();
    megabytes
}

/// Repairs a pool.
pub(super) fn repaired(disk: &SimulatedDisk) -> Result<Checked, OpenError> {
    check(disk, disk.total_pages(), Some(REPAIR), &mut |_, _| {})
}

/// Whether a power cut may tear what a copy of the table has.
pub(super) fn is_table_in_doubt(left: &Leftover, geometry: &Geometry) -> bool {
    let mut tables = geometry.extents.iter().flat_map(Extent::table_ranges);
    tables.any(|pages| left.is_in_doubt(&pages))
}

/// Whether a page of the table is damaged in one copy.
pub(super) fn has_torn_table(disk: &SimulatedDisk) -> Result<bool, String> {
    let checked = check(disk, disk.total_pages(), None, &mut |_, _| {});
    let checked = checked.map_err(|error| error.to_string())?;
    let mut repairable = checked.repairable.iter();
    Ok(repairable.any(|text| text.contains("of the table")))
}

fn repair(disk: &SimulatedDisk) -> Result<Option<String>, String> {
    match repaired(disk) {
        Ok(checked) if checked.lost.is_empty() => Ok(None),
        Ok(checked) => Ok(Some(checked.lost.join("; "))),
        Err(error) => Err(format!("repairing: {error}")),
    }
}

/// What is found on a device, which may be.
fn see(disk: &SimulatedDisk, expected: &Expected) -> Result<Rc<ModelState>, String> {
    let found = FoundPool::open(disk, OpenMode::ReadOnly).map_err(|error| error.to_string())?;
    if !found.lost.is_empty() {
        return Err(format!("lost after mending: {}", found.lost.join("; ")));
    }
    expected.admit(&found, TagComparison::Exact)
}

/// Repairs all copies of a pool that has this state. Then any other megabyte may be lost.
pub(super) fn lose_another(
    disk: &SimulatedDisk,
    state: &Rc<ModelState>,
    numbers: &mut Numbers,
) -> Result<(), String> {
    repaired(disk).map_err(|error| format!("repairing: {error}"))?;
    let checked = check(disk, disk.total_pages(), None, &mut |_, _| {});
    let checked = checked.map_err(|error| error.to_string())?;
    if !checked.repairable.is_empty() || !checked.lost.is_empty() {
        let left: Vec<_> = checked.repairable.iter().chain(&checked.lost).collect();
        return Err(format!("left after a repair: {left:?}"));
    }
    let another = LostMegabytes::draw(&checked.superblock.geometry, numbers);
    let expected = Expected::exactly(Rc::clone(state), Rc::default());
    let lost = another.check(&disk.seen(), (&expected, Promise::Whole), numbers);
    lost.map(drop)
        .map_err(|text| format!("then {another:?}: {text}"))
}
