//! Crashes at every write and every flush.

use super::history::{Trial, run};
use super::run_all;
use super::workload::{MetadataAlone, MetadataOfManyExtents, MetadataOfVersion1};

/// Crashes that are tried, unless the environment asks for more.
const METADATA_POINTS: u64 = 60_000;
const PAIRS_POINTS: u64 = 30_000;
const LIVES: u64 = 5_000;
const LIES_POINTS: u64 = 20_000;
const DAMAGE_POINTS: u64 = 20_000;
/// Of pools with one extent, and with several.
const LOST_MEGABYTE_POINTS: u64 = 25_000;
/// Of pools of version 1, whose format does not change any more.
const VERSION_1_POINTS: u64 = 10_000;

#[test]
fn what_was_committed_is_found_after_any_crash() {
    run_all(METADATA_POINTS, |seed| {
        run::<MetadataAlone>(seed, Trial::Crash)
    });
}

#[test]
fn what_was_committed_is_found_after_any_two_crashes() {
    run_all(PAIRS_POINTS, |seed| {
        run::<MetadataAlone>(seed, Trial::Pairs)
    });
}

#[test]
fn what_was_committed_is_found_after_many_crashes() {
    run_all(LIVES, |seed| run::<MetadataAlone>(seed, Trial::ManyLives));
}

#[test]
fn what_was_committed_is_found_after_a_drive_has_lied() {
    run_all(LIES_POINTS, |seed| run::<MetadataAlone>(seed, Trial::Lies));
}

#[test]
fn damage_on_top_of_a_crash_is_repaired_or_reported() {
    run_all(DAMAGE_POINTS, |seed| {
        run::<MetadataAlone>(seed, Trial::CrashAndDamage)
    });
}

#[test]
fn a_lost_megabyte_on_top_of_a_crash_loses_nothing() {
    run_all(LOST_MEGABYTE_POINTS, |seed| {
        run::<MetadataAlone>(seed, Trial::LostMegabyte)
    });
}

#[test]
fn a_lost_megabyte_of_a_pool_of_many_extents_loses_nothing() {
    run_all(LOST_MEGABYTE_POINTS, |seed| {
        run::<MetadataOfManyExtents>(seed, Trial::LostMegabyte)
    });
}

#[test]
fn a_pool_of_version_1_is_found_after_any_crash() {
    for trial in [Trial::Crash, Trial::Pairs, Trial::CrashAndDamage] {
        run_all(VERSION_1_POINTS, |seed| {
            run::<MetadataOfVersion1>(seed, trial)
        });
    }
}
