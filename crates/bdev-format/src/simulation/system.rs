//! What of a pool a history drives, and what is expected of it when.

use super::Numbers;
use super::disk::SimulatedDisk;
use super::model::{Expected, FoundPool, ModelState};

/// A pool, or a part of it, that lives and is found again. It keeps what goes from one life to the next.
pub trait SystemUnderTest: Default {
    /// What it is called where a history fails.
    const NAME: &'static str;

    /// Pages of a new device.
    fn device_pages(numbers: &mut Numbers) -> u64;

    /// A life: opens what is expected on the disk, or makes it if there may be none, and works with it.
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

    /// Checks what was found after a crash, beyond the metadata: what was expected, and the state of that
    /// which was found. At depth 0 it is the crash of a
    /// life, deeper down one of a recovery.
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

/// What was expected from which position of the log on.
pub struct Timeline(Vec<(usize, Expected)>);

impl Timeline {
    /// Expects this from that position on.
    pub fn new(position: usize, expected: Expected) -> Self {
        Self(vec![(position, expected)])
    }

    /// Expects something else from this position on, which is not before the last one.
    pub fn push(&mut self, position: usize, expected: Expected) {
        self.0.push((position, expected));
    }

    /// What is expected at this position, which is not before the first one.
    pub fn at(&self, position: usize) -> &Expected {
        let after = self.0.partition_point(|(from, _)| *from <= position);
        &self.0[after - 1].1
    }
}
