//! The system under test: what histories run on. And what is expected of it at which moment.

use super::Numbers;
use super::disk::SimulatedDisk;
use super::model::{Expected, FoundPool, ModelState};
use crate::FormatVersion;

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
pub struct Timeline(Vec<(usize, Expected)>);

impl Timeline {
    /// Expects this from `position` on.
    pub fn new(position: usize, expected: Expected) -> Self {
        Self(vec![(position, expected)])
    }

    /// Expects something else from `position` on, which is not before the last one.
    pub fn push(&mut self, position: usize, expected: Expected) {
        self.0.push((position, expected));
    }

    /// What is expected at this position, which is not before the first one.
    pub fn at(&self, position: usize) -> &Expected {
        let after = self.0.partition_point(|(from, _)| *from <= position);
        &self.0[after - 1].1
    }
}
