//! The proof of crash consistency: a simulated device, and what may go wrong on it.
//!
//! # Fault model
//! - A sector of 512 bytes is written whole or not at all. Until a flush has succeeded, each sector of each
//!   write before it may be lost or kept, whatever becomes of the others; where writes overlap, any of them
//!   may have come last. What was flushed stays as it is, unless it is damaged.
//! - *Crash*: of what was not flushed anything may be left. *Kill*: all of it can be read, and none of it is
//!   durable. *Failure*: from some write or flush on the device fails all; a write that failed may have
//!   been done in part.
//! - *Lie*: one flush fails, and the device goes on. What that flush should have made durable is read back, and no
//!   later flush makes it durable unless it is written again. A crash may lose it as anything that was not flushed.
//!   Only the metadata is promised then: a client was told that its data may be lost.
//! - *Damage*: at most one piece at a time: a flipped bit, a sector or a page of zeroes, an end that comes
//!   too early; also on top of a crash.
//! - *Loss*: one megabyte, or two neighbouring ones, of a pool that is protected against it: zeroes, noise, or pages
//!   that cannot be read until all of them is written; at rest, and on top of a crash before the pool is opened again.
//!
//! # What is checked
//! Opening finds what the last commit made durable, or what a commit under way was making durable: all or nothing
//! of one that fits the journal, megabyte by megabyte of a larger one; and each block has the tag of its own
//! allocation. What opening has found once is found again.
//!
//! Each opening has a history of its own, which follows that of the last opening that somebody was given, and says of
//! that one that it has ended in good order only if it has. After an error nothing is written but the mark of the
//! failure; a pool that has one is repaired before it is opened.
//!
//! With the whole stack: each block has its owner's data, sector by sector, of the version that was flushed or a later
//! one; the remaining space is right; and the pool can go on. With damage: the same, or an error and no write.
//! With a loss: all that was flushed, tags included, after a repair where the beginning is lost. Where a crash has torn
//! a copy of the table, an error that names the megabytes will do. A repair may be interrupted, leaves two copies of
//! all that is in use, and the pool can go on.
//!
//! # Outside the guarantee
//! - Damage to both copies of the *last* record of the journal: its commit then seems never to have been made.
//! - Damage to both copies of anything else, and to tags of version 1, which have one copy: reported, not repaired.
//! - A pool whose creation was interrupted may be found damaged instead of absent.
//! - The lie in a pool of version 1: opening does not write its superblocks again, so that a lie and damage to the
//!   other superblock lead to an older state. Histories of version 1 have no lies.
//! - Forged metadata with right checksums: it may say anything that is valid. It does not make the program panic;
//!   see `fuzz_tests`.
//!
//! # When a test fails
//! It prints the seed: `CHIMAERA_CRASH_SEED=n cargo test -p <package> --lib <test>` runs just
//! that history again. The text says in which life the crash came, after how many of its writes and flushes, and
//! what was lost. `CHIMAERA_CRASH_POINTS=n` tries more crashes.

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod crash_tests;
mod creation;
mod damage;
#[cfg(test)]
mod damage_tests;
mod disk;
mod disk_image;
mod doubt;
#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod finding_tests;
#[cfg(test)]
mod fuzz_tests;
mod history;
mod lost;
#[cfg(test)]
mod lost_tests;
#[cfg(test)]
mod mark_tests;
mod model;
mod openings;
#[cfg(test)]
mod rename_tests;
#[cfg(test)]
mod rival_tests;
mod system;
#[cfg(test)]
mod upgrade_tests;
#[cfg(test)]
mod weakness_tests;
mod workload;

pub use creation::format;
pub use disk::{DiskImage, SimulatedDisk};
pub use history::{Trial, data_on, run};
pub use model::{
    BlockData, BlockOwner, Expected, FoundPool, Life, ModelMegabyte, ModelState, PageVersions,
    TagComparison, WRITING, stamped_page,
};
pub use openings::Openings;
pub use system::{SystemUnderTest, Timeline};
pub use workload::{MetadataAlone, MetadataOfManyExtents, MetadataOfVersion1};

use crate::weakness::{CrashWeakness, with_weakness};

/// A pseudo-random generator: the same seed gives the same numbers.
pub struct Numbers(u64);

impl Numbers {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds begin far from each other.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.draw() >> 11) % limit as u64) as usize
    }
}

/// The number that a variable of the environment has, if it is set.
fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Runs histories until this many crashes were tried, or the one history whose seed the environment names.
///
/// # Panics
/// If one fails.
pub fn run_all(points: u64, run: impl Fn(u64) -> Result<u64, String>) {
    if let Some(seed) = from_environment("CHIMAERA_CRASH_SEED") {
        run(seed).unwrap_or_else(|text| panic!("{text}"));
        return;
    }
    let points = from_environment("CHIMAERA_CRASH_POINTS").unwrap_or(points);
    let mut tried = 0;
    for seed in 0.. {
        tried += run(seed).unwrap_or_else(|text| panic!("after {tried} crashes: {text}"));
        if tried >= points {
            return;
        }
    }
}

/// Histories that are tried before a weakness counts as not found: several times as many as finding any takes.
const MAX_HISTORIES: u64 = 100;

/// Sees that the simulation finds a weakness: some history fails with it, and passes without it.
///
/// # Panics
/// If no history fails with the weakness, or one that does fails without it too.
pub fn assert_found<S: SystemUnderTest>(weakness: CrashWeakness, trial: Trial) {
    let failing = (0..MAX_HISTORIES).find_map(|seed| {
        let outcome = with_weakness(Some(weakness), || run::<S>(seed, trial));
        outcome.err().map(|text| (seed, text))
    });
    let Some((seed, text)) = failing else {
        panic!("{MAX_HISTORIES} histories pass with {weakness:?}");
    };
    // Shows readers of the output what goes wrong with it.
    std::io::Write::write_all(
        &mut std::io::stdout(),
        format!("{weakness:?}: {text}\n").as_bytes(),
    )
    .expect("standard output");
    let outcome = run::<S>(seed, trial);
    outcome.expect("nothing is wrong with the history itself");
}
