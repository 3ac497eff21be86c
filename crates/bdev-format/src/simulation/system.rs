//! The system under test: what histories run on. And what is expected of it at which moment.

use super::Numbers;
use super::disk::SimulatedDisk;
use super::model::{Expected, FoundPool, ModelState};
use super::openings::Openings;
use crate::{FormatVersion, Metadata, OpenError};

/// A pool, or a part of one, that histories run on. Its fields have what goes from one life to the next.
pub trait SystemUnderTest: Default {
    /// Its name where a history fails.
    const NAME: &'static str;

    /// The version of the format of its pools.
    const VERSION: FormatVersion = FormatVersion::NEWEST;

    /// Pages of a new device.
    fn device_pages(numbers: &mut Numbers) -> u64;

    /// Lives once: opens the pool that is expected on the disk, or makes it if there may be none, and works with it.
    ///
    /// # Errors
    /// What was found that may not be.
    fn live(
        &mut self,
        numbers: &mut Numbers,
        disk: &SimulatedDisk,
        timeline: &mut Timeline,
        expected: &Expected,
    ) -> Result<(), String>;

    /// Checks what was found after a crash beyond its metadata, which `expected` has admitted as the given state.
    /// At depth 0 it was a crash of a life, deeper down one of a recovery.
    ///
    /// # Errors
    /// What was found that may not be.
    fn check(
        numbers: &mut Numbers,
        disk: &SimulatedDisk,
        found: FoundPool,
        expected: (&Expected, &ModelState),
        depth: usize,
    ) -> Result<(), String>;
}

/// What is expected from which position of the device's log on.
pub struct Timeline {
    steps: Vec<(usize, Expected)>,
    /// Where the pool is ready, and the first page of each copy of its superblock.
    ready: Option<(usize, Vec<u64>)>,
}

impl Timeline {
    /// Expects this from `position` on.
    pub fn new(position: usize, expected: Expected) -> Self {
        Self {
            steps: vec![(position, expected)],
            ready: None,
        }
    }

    /// Expects another state from `position` on, which is not before the last one, and of the openings what was
    /// expected before.
    pub fn push(&mut self, position: usize, expected: Expected) {
        let openings = self.last().openings.clone();
        let expected = Expected {
            openings,
            ..expected
        };
        self.steps.push((position, expected));
    }

    /// What is expected at this position, which is not before the first one.
    pub fn at(&self, position: usize) -> &Expected {
        let after = self.steps.partition_point(|(from, _)| *from <= position);
        &self.steps[after - 1].1
    }

    fn last(&self) -> &Expected {
        &self.steps[self.steps.len() - 1].1
    }

    /// Opens the pool on a disk for writing, as another one of its openings.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        &mut self,
        disk: &SimulatedDisk,
        numbers: &mut Numbers,
    ) -> Result<FoundPool, OpenError> {
        let (start, mut openings) = (disk.position(), self.last().openings.clone());
        let opened = openings.open(disk, numbers);
        self.push_openings(start, openings);
        opened
    }

    /// Notes that a pool was made or opened and is given to somebody, with so many records in its journal.
    ///
    /// # Errors
    /// That what it says of the openings before is wrong.
    pub fn ready(
        &mut self,
        disk: &SimulatedDisk,
        metadata: &Metadata<SimulatedDisk>,
        journal_records: u64,
    ) -> Result<(), String> {
        let mut openings = self.last().openings.clone();
        openings.ready(metadata, journal_records)?;
        self.push_openings(disk.position(), openings);
        if metadata.superblock().history.is_some() {
            self.ready = Some((disk.position(), metadata.geometry().superblocks()));
        }
        Ok(())
    }

    /// Expects of the openings something else from `position` on, and the same state as before.
    pub(super) fn push_openings(&mut self, position: usize, openings: Openings) {
        let expected = Expected {
            openings,
            ..self.last().clone()
        };
        self.steps.push((position, expected));
    }

    /// Changes what is expected of the openings from `position` on.
    pub(super) fn change_openings(&mut self, position: usize, change: fn(&mut Openings)) {
        let mut openings = self.last().openings.clone();
        change(&mut openings);
        self.push_openings(position, openings);
    }

    /// If a pool of version 2 is ready at this position: the first page of each copy of its superblock.
    pub(super) fn superblocks_of_ready(&self, position: usize) -> Option<&[u64]> {
        let (at, superblocks) = self.ready.as_ref()?;
        (*at == position).then_some(superblocks)
    }
}
