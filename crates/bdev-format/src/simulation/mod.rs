//! The proof of crash consistency: a simulated device, and what may go wrong on it.
//!
//! # Fault model
//! - A sector of 512 bytes is written whole or not at all. Until a flush has succeeded, each sector of each
//!   write before it may be lost or kept, whatever becomes of the others; where writes overlap, any of them
//!   may have come last. What was flushed stays as it is, unless it is damaged.
//! - *Crash*: of what was not flushed anything may be left. *Kill*: all of it can be read, and none of it is
//!   durable. *Failure*: from some write or flush on the device fails all; a write that failed may have
//!   been done in part.
//! - *Damage*: at most one piece at a time: a flipped bit, a sector or a page of zeroes, an end that comes
//!   too early; also on top of a crash.
//!
//! # What is checked
//! Opening finds what the last commit made durable, or what was being made so: of a commit that fits the
//! journal all or nothing, of a larger one by megabytes; with the tags of that very allocation. What opening
//! has found once is found again. With the whole stack: each block has its owner's data, from the version
//! that was flushed on, sector by sector; space adds up; and the pool can go on. With damage: the same, or
//! an error and no write.
//!
//! # Outside the guarantee
//! - Both copies of the *last* record of the journal damaged: the commit then seems never to have been.
//! - Damage to both copies of anything else, and to tags, which have one: told, not repaired.
//! - A pool whose making was interrupted may be called damaged instead of none.
//! - A device that fails a flush and says later that all is durable, though what it failed on was dropped.
//! - Contents that somebody forged, checksums included: they may say anything that could be. They do not
//!   make the program panic; see [`fuzz`].
//!
//! # When a test fails
//! It prints the seed: `CHIMAERA_CRASH_SEED=n cargo test -p <package> --lib <test>` runs just
//! that history again. The text says in which life, after how many of its writes and flushes, and with what
//! lost. `CHIMAERA_CRASH_POINTS=n` tries more crashes.

#[cfg(test)]
mod crashes;
mod damage;
#[cfg(test)]
mod damages;
mod disk;
#[cfg(test)]
mod fuzz;
mod history;
mod model;
mod system;
#[cfg(test)]
mod weaknesses;
mod workload;

pub use disk::{DiskImage, SimulatedDisk};
pub use history::{Trial, data_on, run};
pub use model::{
    BlockData, BlockOwner, Expected, FoundPool, Life, ModelMegabyte, ModelState, TagComparison,
    Versions, stamped_page,
};
pub use system::{SystemUnderTest, Timeline};
pub use workload::{MetadataAlone, format};

use crate::weakness::{CrashWeakness, with_weakness};

/// Numbers that look random, the same ones for the same seed.
pub struct Numbers(u64);

impl Numbers {
    /// Those of this seed.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds begin far from each other.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next one, below this limit, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.draw() >> 11) % limit as u64) as usize
    }
}

/// A number that the environment may set.
fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Runs histories until so many crashes were tried, or the one that the environment names.
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

/// Histories that are tried before a weakness counts as not found, several times as many as any takes.
const SEEDS: u64 = 100;

/// Sees that leaving the step out makes some history fail, and that the history is sound otherwise.
///
/// # Panics
/// If no history fails without it, or one with it.
pub fn is_missed<S: SystemUnderTest>(weakness: CrashWeakness, trial: Trial) {
    let failing = (0..SEEDS).find_map(|seed| {
        let outcome = with_weakness(Some(weakness), || run::<S>(seed, trial));
        outcome.err().map(|text| (seed, text))
    });
    let Some((seed, text)) = failing else {
        panic!("{SEEDS} histories do without what {weakness:?} leaves out");
    };
    // For whoever reads the output: what goes wrong then.
    std::io::Write::write_all(
        &mut std::io::stdout(),
        format!("{weakness:?}: {text}\n").as_bytes(),
    )
    .expect("standard output");
    let outcome = run::<S>(seed, trial);
    outcome.expect("nothing is wrong with the history itself");
}
