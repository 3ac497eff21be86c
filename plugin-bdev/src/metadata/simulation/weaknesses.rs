//! Each step that can be left out is one that the simulation misses.

use super::history::{Trial, run};
use super::level::Level;
use super::stack::Stack;
use super::workload::MetadataAlone;
use crate::metadata::{Weakness, with_weakness};

/// Histories that are tried before a weakness counts as not found, several times as many as any takes.
const SEEDS: u64 = 100;

/// Sees that leaving the step out makes some history fail, and that the history is sound otherwise.
fn is_missed<L: Level>(weakness: Weakness, trial: Trial) {
    let failing = (0..SEEDS).find_map(|seed| {
        let outcome = with_weakness(Some(weakness), || run::<L>(seed, trial));
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
    let outcome = run::<L>(seed, trial);
    outcome.expect("nothing is wrong with the history itself");
}

#[test]
fn a_commit_flushes_its_record() {
    is_missed::<MetadataAlone>(Weakness::CommitNotFlushed, Trial::Crash);
}

#[test]
fn a_commit_of_nothing_flushes_the_data() {
    is_missed::<Stack>(Weakness::DataNotFlushed, Trial::Crash);
}

#[test]
fn tags_are_durable_before_the_table() {
    is_missed::<MetadataAlone>(Weakness::TagsNotFlushed, Trial::Crash);
}

#[test]
fn a_copy_of_the_table_is_durable_before_the_other_is_written() {
    is_missed::<MetadataAlone>(Weakness::TableCopiesTogether, Trial::Crash);
}

#[test]
fn a_torn_second_copy_is_mended_before_the_first_is_written() {
    is_missed::<MetadataAlone>(Weakness::SecondCopyNotLookedAt, Trial::Pairs);
}

#[test]
fn the_second_copy_is_durable_before_the_superblock() {
    is_missed::<MetadataAlone>(Weakness::SecondCopyNotFlushed, Trial::Pairs);
}

#[test]
fn a_superblock_is_durable_before_the_other_is_written() {
    is_missed::<MetadataAlone>(Weakness::SuperblockNotFlushed, Trial::Crash);
}

#[test]
fn what_recovery_found_is_durable_before_it_counts() {
    is_missed::<MetadataAlone>(Weakness::RecoveryNotFlushed, Trial::Crash);
}

#[test]
fn a_torn_record_does_not_count() {
    is_missed::<MetadataAlone>(Weakness::JournalUnchecked, Trial::Crash);
}

#[test]
fn a_damaged_page_of_the_table_does_not_count() {
    is_missed::<MetadataAlone>(Weakness::TableUnchecked, Trial::CrashAndDamage);
}

#[test]
fn a_damaged_superblock_does_not_count() {
    is_missed::<MetadataAlone>(Weakness::SuperblockUnchecked, Trial::CrashAndDamage);
}

#[test]
fn damaged_tags_do_not_count() {
    is_missed::<MetadataAlone>(Weakness::TagsUnchecked, Trial::CrashAndDamage);
}

#[test]
fn one_copy_of_a_record_may_be_damaged() {
    is_missed::<MetadataAlone>(Weakness::RecordWrittenOnce, Trial::CrashAndDamage);
}

#[test]
fn a_record_has_two_copies_again_after_recovery() {
    is_missed::<MetadataAlone>(Weakness::LoneRecordLeft, Trial::CrashAndDamage);
}

#[test]
fn what_is_left_of_a_commit_is_no_part_of_the_next() {
    is_missed::<MetadataAlone>(Weakness::RemainsLeft, Trial::Pairs);
}

#[test]
fn freed_space_is_given_away_after_the_free_is_durable() {
    is_missed::<Stack>(Weakness::SpaceReusedEarly, Trial::Crash);
}
