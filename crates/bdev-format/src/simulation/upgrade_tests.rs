//! Crashes at every write and every flush of an upgrade.

use super::Numbers;
use super::disk::{DiskImage, Loss, Recording, SimulatedDisk};
use crate::check::{Repair, check};
use crate::upgrade::UpgradeError;
use crate::upgrade::old_pool::{Held, OldPool, see_that_it_is_sound, upgrade};
use crate::weakness::{CrashWeakness, with_weakness};
use crate::{Disk, FormatVersion, Page};

const SEEDS: u64 = 12;

/// One crash in so many is followed by another one, of the upgrade that comes after it.
const SECOND_CRASHES: usize = 500;

const REPAIR: Repair = Repair {
    history: 5,
    seconds: 1,
    uuid: None,
};

/// Upgrades a pool, with each crash of that. Gives how many were tried.
fn crash_everywhere(seed: u64) -> Result<u64, String> {
    let mut numbers = Numbers::new(seed);
    let pool = OldPool::random(&mut numbers);
    let disk = pool.copy();
    match upgrade(&disk) {
        Err(UpgradeError::NoRoom(_)) => return Ok(0),
        outcome => assert!(outcome.expect("it is sound"), "it was of version 1"),
    }
    let held = pool.held();
    let mut trial = Trial {
        numbers,
        held,
        points: 0,
    };
    trial
        .crash_each(&disk.recording(), SECOND_CRASHES)
        .map_err(|text| format!("seed {seed}, {text}"))?;
    Ok(trial.points)
}

struct Trial {
    numbers: Numbers,
    held: Held,
    points: u64,
}

impl Trial {
    /// Tries each crash. `second` says how many of them are followed by another one, if any.
    fn crash_each(&mut self, recording: &Recording, second: usize) -> Result<(), String> {
        let mut walk = recording.walk();
        for position in 0..=recording.len() {
            let losses = match walk.left.unflushed.is_empty() {
                true => &Loss::EACH[..1],
                false => &Loss::EACH[..],
            };
            for &loss in losses {
                let image = walk.left.crash(loss, &mut self.numbers);
                self.points += 1;
                // What a kill leaves, and no power cut: all that was written before.
                let is_killed = matches!(loss, Loss::None) || walk.left.unflushed.is_empty();
                self.go_on(&image, second, is_killed)
                    .map_err(|text| format!("position {position}, lost {loss:?}: {text}"))?;
            }
            walk.step();
        }
        Ok(())
    }

    /// What a crash left is sound when it is opened, and can be upgraded to the end, whether it was opened or not:
    /// after a kill without any repair.
    fn go_on(&mut self, image: &DiskImage, second: usize, is_killed: bool) -> Result<(), String> {
        let opened = SimulatedDisk::new(image.clone());
        let version = self.held.open(&opened)?.version();
        if version == FormatVersion::Two {
            see_that_it_is_sound(&opened)?;
        }
        self.see_that_it_does_not_turn(&opened, version)?;
        let disk = SimulatedDisk::new(match self.numbers.below(2) {
            0 => image.clone(),
            _ => opened.seen(),
        });
        let upgraded = upgrade(&disk);
        if is_killed && upgraded.is_err() {
            return Err(format!("after a kill: {upgraded:?}"));
        }
        if let Err(UpgradeError::Damaged { .. }) = upgraded {
            let repaired = check(&disk, disk.total_pages(), Some(REPAIR), &mut |_, _| {});
            let repaired = repaired.map_err(|error| format!("repairing: {error}"))?;
            if !repaired.lost.is_empty() {
                return Err(format!("lost: {}", repaired.lost.join("; ")));
            }
            upgrade(&disk).map_err(|error| format!("upgrading again: {error:?}"))?;
        }
        if see_that_it_is_sound(&disk)?.superblock.version() != FormatVersion::Two {
            return Err("it still has version 1".to_owned());
        }
        let recording = disk.recording();
        self.held.open(&disk)?;
        if version == FormatVersion::One && second > 0 && self.numbers.below(second) == 0 {
            self.crash_each(&recording, 0)
                .map_err(|text| format!("second crash, {text}"))?;
        }
        Ok(())
    }

    /// Once it was opened, no superblock of another version is left that would count if one is lost.
    fn see_that_it_does_not_turn(
        &self,
        disk: &SimulatedDisk,
        version: FormatVersion,
    ) -> Result<(), String> {
        for first_page in [0, 16] {
            let lost = SimulatedDisk::new(disk.seen());
            let zeroes = Page::zeroes(2);
            lost.write(first_page, &zeroes).expect("inside");
            let found = self.held.open(&lost)?.version();
            if found != version {
                return Err(format!("it turns from {version:?} to {found:?}"));
            }
        }
        Ok(())
    }
}

#[test]
fn a_pool_is_sound_after_any_crash_of_its_upgrade() {
    let points: Result<u64, String> = (0..SEEDS).map(crash_everywhere).sum();
    let points = points.unwrap_or_else(|text| panic!("{text}"));
    assert!(points > 1000, "{points} crashes were tried");
}

#[test]
fn steps_of_an_upgrade_that_are_left_out_are_found() {
    for weakness in [
        CrashWeakness::UpgradeNotFlushed,
        CrashWeakness::UpgradeSuperblocksTogether,
    ] {
        let found = (0..SEEDS).find_map(|seed| {
            let outcome = with_weakness(Some(weakness), || crash_everywhere(seed));
            outcome.err()
        });
        assert!(found.is_some(), "{weakness:?}");
    }
}
