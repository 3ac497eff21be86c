//! A history: a pool's lives one after another, each ended by a crash, a kill, a failing device or an orderly
//! close; and of each life all the crashes that it might have ended with.

use std::rc::Rc;

use super::Numbers;
use super::damage::Damage;
use super::disk::{DiskImage, Leftover, Loss, Recording, SimulatedDisk, Walk};
use super::doubt::{
    see_that_a_copy_is_durable, see_that_superblocks_are_durable, see_that_superblocks_are_left,
};
use super::lost::{LostMegabytes, Promise, has_torn_table, is_table_in_doubt, lose_another};
use super::model::{BlockData, Expected, ModelState, TagComparison, read_stamp};
use super::system::{SystemUnderTest, Timeline};
use super::workload::{self, LifePlan, Pace, Retried};
use crate::block_map::UNITS;
use crate::{FormatVersion, OpenError, identify};

/// What is tried after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Opening.
    Crash,
    /// Opening after something else was damaged as well.
    CrashAndDamage,
    /// Opening after one megabyte, or two neighbouring ones, were lost as well.
    LostMegabyte,
    /// The next life: one crash of each life, and many lives one after another.
    ManyLives,
    /// After some crashes of a short life another short life, and each crash of that.
    Pairs,
    /// After a short life in which a flush fails another one on the same device, and each crash of that.
    Lies,
}

/// How much is tried.
const LIVES: usize = 6;
const MANY_LIVES: usize = 60;
const LOSSES: usize = 4;
const DEPTH: usize = 3;
const LYING_LIVES: usize = 8;
/// Crashes of the first of two lives.
const FIRST_CRASHES: usize = 40;

/// Runs the history with this seed. Gives the number of crashes that were tried.
///
/// # Errors
/// What was found that may not be, with all that is needed to see it again.
pub fn run<S: SystemUnderTest>(seed: u64, trial: Trial) -> Result<u64, String> {
    let mut history = History::<S> {
        numbers: Numbers::new(seed),
        system_under_test: S::default(),
        trial,
        points: 0,
    };
    let outcome = match trial {
        Trial::Pairs => history.live_twice(),
        Trial::Lies => history.live_with_lies(),
        _ => history.live(),
    };
    outcome.map_err(|text| {
        let (name, version) = (S::NAME, S::VERSION.number());
        format!("CHIMAERA_CRASH_SEED={seed} {name} of version {version} {trial:?}: {text}")
    })?;
    Ok(history.points)
}

struct History<S> {
    numbers: Numbers,
    system_under_test: S,
    trial: Trial,
    points: u64,
}

impl<S: SystemUnderTest> History<S> {
    fn live(&mut self) -> Result<(), String> {
        let pages = S::device_pages(&mut self.numbers);
        let (mut disk, mut expected) = Self::blank(pages);
        let lives = match self.trial {
            Trial::ManyLives => MANY_LIVES,
            _ => LIVES,
        };
        for life in 0..lives {
            let start = disk.position();
            let mut timeline = Timeline::new(start, expected.clone());
            self.system_under_test
                .live(&mut self.numbers, &disk, &mut timeline, &expected)
                .map_err(|text| format!("life {life}: {text}"))?;
            let recording = disk.recording();
            if self.trial == Trial::ManyLives {
                self.points += 1;
            } else {
                self.crash_everywhere(&recording, start, &timeline)
                    .map_err(|text| format!("life {life}, {text}"))?;
            }
            (disk, expected) = self.end(&recording, start, &timeline);
        }
        Ok(())
    }

    /// A blank device, and that it may stay so.
    fn blank(pages: u64) -> (SimulatedDisk, Expected) {
        let state = ModelState {
            total_pages: pages,
            ..ModelState::default()
        };
        let expected = Expected {
            may_be_absent: true,
            ..Expected::exactly(Rc::new(state), Rc::default())
        };
        (SimulatedDisk::new(DiskImage::blank(pages)), expected)
    }

    /// Short lives on one device, of whose flushes one fails in each.
    fn live_with_lies(&mut self) -> Result<(), String> {
        let pages = UNITS * (4 + self.numbers.below(120) as u64);
        let (mut disk, mut expected) = Self::blank(pages);
        let mut retried = Retried::new();
        for life in 0..LYING_LIVES {
            let start = disk.position();
            let lived = self.live_shortly(&disk, start, &expected, &mut retried, Pace::Lying);
            let (recording, timeline) = lived.map_err(|text| format!("life {life}: {text}"))?;
            self.crash_everywhere(&recording, start, &timeline)
                .map_err(|text| format!("life {life}, {text}"))?;
            expected = timeline.at(recording.len()).clone();
            disk = SimulatedDisk::with_unflushed(recording.at(recording.len()));
        }
        Ok(())
    }

    /// Two short lives, of which the second comes after each crash of the first.
    fn live_twice(&mut self) -> Result<(), String> {
        let pages = UNITS * (20 + self.numbers.below(100) as u64);
        let (disk, blank) = Self::blank(pages);
        let (mut retried, pace) = (Retried::new(), Pace::Short);
        let (mut recording, mut timeline) =
            self.live_shortly(&disk, 0, &blank, &mut retried, pace)?;
        let mut start = 0;
        // The later ones find something in both halves of the journal.
        for _ in 0..3 {
            let disk = SimulatedDisk::with_unflushed(recording.at(recording.len()));
            let expected = timeline.at(recording.len()).clone();
            start = disk.position();
            (recording, timeline) =
                self.live_shortly(&disk, start, &expected, &mut retried, pace)?;
        }
        // A sample: all crashes of one history alike would leave no time for another history. Most of them come where
        // much can be lost.
        let lengths: Vec<usize> = recording.lengths().collect();
        let positions: Vec<usize> = (0..FIRST_CRASHES)
            .map(|_| {
                let mut draw = || start + self.numbers.below(recording.len() + 1 - start);
                let drawn = [draw(), draw(), draw()];
                drawn
                    .into_iter()
                    .max_by_key(|at| lengths[*at])
                    .unwrap_or(start)
            })
            .collect();
        let mut walk = recording.walk();
        for position in 0..=recording.len() {
            let crashes = positions.iter().filter(|at| **at == position).count();
            for _ in 0..crashes.min(walk.left.in_flight().count() * Loss::EACH.len()) {
                let loss = Loss::EACH[self.numbers.below(Loss::EACH.len())];
                let image = walk.left.crash(loss, &mut self.numbers);
                self.live_again(&image, timeline.at(position), &retried)
                    .map_err(|text| format!("position {position}, lost {loss:?}: {text}"))?;
            }
            walk.step();
        }
        Ok(())
    }

    fn live_again(
        &mut self,
        image: &DiskImage,
        expected: &Expected,
        retried: &Retried,
    ) -> Result<(), String> {
        let disk = SimulatedDisk::new(image.clone());
        let mut retried = retried.clone();
        let (recording, timeline) =
            self.live_shortly(&disk, 0, expected, &mut retried, Pace::Short)?;
        self.crash_everywhere(&recording, 0, &timeline)
    }

    fn live_shortly(
        &mut self,
        disk: &SimulatedDisk,
        start: usize,
        expected: &Expected,
        retried: &mut Retried,
        pace: Pace,
    ) -> Result<(Recording, Timeline), String> {
        let mut timeline = Timeline::new(start, expected.clone());
        let numbers = &mut self.numbers;
        let plan = LifePlan {
            version: S::VERSION,
            pace,
            grows: false,
        };
        workload::live(numbers, disk, &mut timeline, expected, retried, plan)?;
        Ok((disk.recording(), timeline))
    }

    /// Tries a crash at each write and each flush of a life.
    fn crash_everywhere(
        &mut self,
        recording: &Recording,
        start: usize,
        timeline: &Timeline,
    ) -> Result<(), String> {
        let mut walk = recording.walk();
        (0..start).for_each(|_| walk.step());
        for position in start..=recording.len() {
            let expected = timeline.at(position);
            if S::VERSION >= FormatVersion::Two && !expected.may_be_absent {
                see_that_superblocks_are_left(&walk.left)
                    .and_then(|()| see_that_a_copy_is_durable(&walk.left))
                    .map_err(|text| format!("position {position}: {text}"))?;
            }
            self.crash_at(&walk, expected, 0, LOSSES)
                .map_err(|text| format!("position {position}: {text}"))?;
            if let Some(superblocks) = timeline.superblocks_of_ready(position) {
                see_that_superblocks_are_durable(&walk.left, superblocks)
                    .map_err(|text| format!("position {position}: {text}"))?;
            }
            walk.step();
        }
        Ok(())
    }

    fn crash_at(
        &mut self,
        walk: &Walk<'_>,
        expected: &Expected,
        depth: usize,
        losses: usize,
    ) -> Result<(), String> {
        let left = &walk.left;
        // Where nothing can be lost all crashes are alike.
        let losses = if left.in_flight().next().is_none() {
            1
        } else {
            losses
        };
        let first = match left.in_flight().count() {
            0 => 0,
            _ => self.numbers.below(Loss::EACH.len()),
        };
        for number in first..first + losses {
            let loss = Loss::EACH[number % Loss::EACH.len()];
            let image = left.crash(loss, &mut self.numbers);
            self.points += 1;
            let outcome = match self.trial {
                Trial::CrashAndDamage => self.damage(&image, expected),
                Trial::LostMegabyte => self.lose(&image, left, expected),
                _ => self.recover(&image, expected, depth),
            };
            outcome.map_err(|text| format!("lost {loss:?}: {text}"))?;
        }
        Ok(())
    }

    /// Opens what a crash left.
    fn recover(
        &mut self,
        image: &DiskImage,
        expected: &Expected,
        depth: usize,
    ) -> Result<(), String> {
        let disk = SimulatedDisk::new(image.clone());
        let mut openings = expected.openings.clone();
        let opened = openings.open(&disk, &mut self.numbers);
        let found = match opened {
            Err(OpenError::NoPool | OpenError::Damaged(_)) if expected.may_be_absent => {
                return Ok(());
            }
            opened => opened.map_err(|error| format!("opening: {error}"))?,
        };
        let state = expected.admit(&found, TagComparison::Exact)?;
        let interrupted = Expected {
            openings: openings.clone(),
            ..expected.clone()
        };
        openings.ready(&found.metadata, found.journal_records)?;
        let pinned = Expected {
            openings,
            ..Expected::exactly(Rc::clone(&state), Rc::clone(&expected.data))
        };
        let recording = disk.recording();
        S::check(&mut self.numbers, &disk, found, (expected, &state), depth)?;
        // A crash may interrupt opening. Once it has finished, what it has found is found again.
        // Of crashes of recoveries about one in two is followed by another, however much a recovery writes.
        let chance = if depth == 0 { 16 } else { 4 * recording.len() };
        if recording.has_writes() && depth < DEPTH && self.numbers.below(chance) == 0 {
            let mut walk = recording.walk();
            for position in 0..=recording.len() {
                let is_over = position == recording.len();
                let expected = if is_over { &pinned } else { &interrupted };
                self.crash_at(&walk, expected, depth + 1, 2)
                    .map_err(|text| format!("recovery, position {position}: {text}"))?;
                walk.step();
            }
        }
        Ok(())
    }

    /// Damages one more place of what a crash left. Opening must then find what a first opening has found, or report
    /// damage.
    fn damage(&mut self, image: &DiskImage, expected: &Expected) -> Result<(), String> {
        if expected.may_be_absent {
            return Ok(());
        }
        let disk = SimulatedDisk::new(image.clone());
        let mut openings = expected.openings.clone();
        let found = openings.open(&disk, &mut self.numbers);
        let found = found.map_err(|error| format!("opening: {error}"))?;
        let state = expected.admit(&found, TagComparison::Exact)?;
        let pinned = Expected::exactly(state, Rc::default());
        for (image, expected) in [(image.clone(), expected), (disk.seen(), &pinned)] {
            let mut damaged = image;
            let damage = Damage::draw(&found, &mut self.numbers);
            damage.apply(&mut damaged);
            damage
                .check(&damaged, expected)
                .map_err(|text| format!("{damage:?}: {text}"))?;
        }
        Ok(())
    }

    /// Loses megabytes of what a crash left, and of what opening made of that.
    fn lose(
        &mut self,
        image: &DiskImage,
        left: &Leftover,
        expected: &Expected,
    ) -> Result<(), String> {
        if expected.may_be_absent {
            return Ok(());
        }
        let disk = SimulatedDisk::new(image.clone());
        let geometry = identify(&disk).map_err(|error| error.to_string())?.geometry;
        if !geometry.is_protected() {
            return Ok(());
        }
        let is_torn = is_table_in_doubt(left, &geometry) && has_torn_table(&disk)?;
        let found = expected.openings.clone().open(&disk, &mut self.numbers);
        let found = found.map_err(|error| format!("opening: {error}"))?;
        let state = expected.admit(&found, TagComparison::Exact)?;
        if is_torn && has_torn_table(&disk)? {
            return Err("a copy of the table is damaged after opening".to_owned());
        }
        let pinned = Expected::exactly(state, Rc::default());
        let promise = match is_torn {
            true => Promise::WholeOrNamed,
            false => Promise::Whole,
        };
        let before = (image.clone(), (expected, promise));
        for (image, promised) in [before, (disk.seen(), (&pinned, Promise::Whole))] {
            let lost = LostMegabytes::draw(&geometry, &mut self.numbers);
            self.lose_these(lost, &image, promised)
                .map_err(|text| format!("{lost:?}: {text}"))?;
        }
        Ok(())
    }

    /// Loses these megabytes, and sometimes goes on: with a crash while the pool is being mended, with the loss of
    /// another megabyte, or with a short life and each crash of it.
    fn lose_these(
        &mut self,
        lost: LostMegabytes,
        image: &DiskImage,
        promised: (&Expected, Promise),
    ) -> Result<(), String> {
        let Some((disk, state)) = lost.check(image, promised, &mut self.numbers)? else {
            return Ok(());
        };
        match self.numbers.below(96) {
            0 => lost.crash_mending(&disk, (promised.0, &state), &mut self.numbers),
            1 => lose_another(&disk, &state, &mut self.numbers),
            2 => {
                let expected = Expected::exactly(state, Rc::default());
                let trial = std::mem::replace(&mut self.trial, Trial::Crash);
                let outcome = self.live_again(&disk.seen(), &expected, &Retried::new());
                self.trial = trial;
                outcome.map_err(|text| format!("living on: {text}"))
            }
            _ => Ok(()),
        }
    }

    /// Ends a life: the device of the next one, and what is expected on it.
    fn end(
        &mut self,
        recording: &Recording,
        start: usize,
        timeline: &Timeline,
    ) -> (SimulatedDisk, Expected) {
        let mut position = recording.len();
        // A process goes on after the lie, most times: it opens the pool anew and works.
        let goes_on = recording.has_lies(start) && self.numbers.below(4) != 0;
        if !goes_on && self.numbers.below(3) != 0 {
            // At a position where something can be lost, if a few attempts find one.
            for _ in 0..4 {
                position = start + self.numbers.below(recording.len() - start + 1);
                if recording.at(position).in_flight().next().is_some() {
                    break;
                }
            }
        }
        let mut expected = timeline.at(position).clone();
        let left = recording.at(position);
        if goes_on || self.numbers.below(3) == 0 {
            return (SimulatedDisk::with_unflushed(left), expected);
        }
        let loss = Loss::EACH[self.numbers.below(Loss::EACH.len())];
        let image = left.crash(loss, &mut self.numbers);
        expected.data = Rc::new(data_on(&image, &expected.data));
        (SimulatedDisk::new(image), expected)
    }
}

/// The versions that are on a medium, where all that is there is durable.
pub fn data_on(image: &DiskImage, data: &BlockData) -> BlockData {
    let mut now = BlockData::new();
    for (&(life, page), versions) in data {
        let stamps = (0..8).map(|sector| read_stamp(&image.sector(page, sector)));
        let mine: Vec<_> = stamps
            .flatten()
            .filter(|(of, _)| *of == life)
            .map(|(_, version)| version)
            .collect();
        let mut versions = *versions;
        if mine.len() == 8 {
            versions.oldest = mine.iter().copied().min().unwrap_or(0);
            versions.flushed = versions.oldest;
            versions.latest = mine.iter().copied().max().unwrap_or(0);
        } else if versions.flushed == 0 {
            // What was written to the page was lost, or a part of it.
            continue;
        }
        now.insert((life, page), versions);
    }
    now
}
