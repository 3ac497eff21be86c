//! Whole pools on a simulated disk: allocator, metadata in step with it, and the data of blocks.
//!
//! `chimaera_bdev_format::simulation` says what may go wrong there, and how to run a failed history again.

mod stack;

use chimaera_bdev_format::CrashWeakness;
use chimaera_bdev_format::simulation::{Trial, assert_found, run, run_all};
use stack::Stack;

/// Crashes that are tried, unless the environment asks for more.
const POINTS: u64 = 40_000;
const LIVES: u64 = 5_000;

#[test]
fn blocks_and_their_data_are_found_after_any_crash() {
    run_all(POINTS, |seed| run::<Stack>(seed, Trial::Crash));
}

#[test]
fn blocks_and_their_data_are_found_after_many_crashes() {
    run_all(LIVES, |seed| run::<Stack>(seed, Trial::ManyLives));
}

#[test]
fn a_commit_of_nothing_flushes_the_data() {
    assert_found::<Stack>(CrashWeakness::DataNotFlushed, Trial::Crash);
}

#[test]
fn freed_space_is_reused_after_its_free_is_durable() {
    assert_found::<Stack>(CrashWeakness::SpaceReusedEarly, Trial::Crash);
}
