//! Each step that can be left out is one that the simulation misses.

use super::workload::MetadataAlone;
use super::{Trial, is_missed};
use crate::weakness::CrashWeakness;

#[test]
fn a_commit_flushes_its_record() {
    is_missed::<MetadataAlone>(CrashWeakness::CommitNotFlushed, Trial::Crash);
}

#[test]
fn tags_are_durable_before_the_table() {
    is_missed::<MetadataAlone>(CrashWeakness::TagsNotFlushed, Trial::Crash);
}

#[test]
fn a_copy_of_the_table_is_durable_before_the_other_is_written() {
    is_missed::<MetadataAlone>(CrashWeakness::TableCopiesTogether, Trial::Crash);
}

#[test]
fn a_torn_second_copy_is_mended_before_the_first_is_written() {
    is_missed::<MetadataAlone>(CrashWeakness::SecondCopyNotLookedAt, Trial::Pairs);
}

#[test]
fn the_second_copy_is_durable_before_the_superblock() {
    is_missed::<MetadataAlone>(CrashWeakness::SecondCopyNotFlushed, Trial::Pairs);
}

#[test]
fn a_superblock_is_durable_before_the_other_is_written() {
    is_missed::<MetadataAlone>(CrashWeakness::SuperblockNotFlushed, Trial::Crash);
}

#[test]
fn what_recovery_found_is_durable_before_it_counts() {
    is_missed::<MetadataAlone>(CrashWeakness::RecoveryNotFlushed, Trial::Crash);
}

#[test]
fn a_torn_record_does_not_count() {
    is_missed::<MetadataAlone>(CrashWeakness::JournalUnchecked, Trial::Crash);
}

#[test]
fn a_damaged_page_of_the_table_does_not_count() {
    is_missed::<MetadataAlone>(CrashWeakness::TableUnchecked, Trial::CrashAndDamage);
}

#[test]
fn a_damaged_superblock_does_not_count() {
    is_missed::<MetadataAlone>(CrashWeakness::SuperblockUnchecked, Trial::CrashAndDamage);
}

#[test]
fn damaged_tags_do_not_count() {
    is_missed::<MetadataAlone>(CrashWeakness::TagsUnchecked, Trial::CrashAndDamage);
}

#[test]
fn one_copy_of_a_record_may_be_damaged() {
    is_missed::<MetadataAlone>(CrashWeakness::RecordWrittenOnce, Trial::CrashAndDamage);
}

#[test]
fn a_record_has_two_copies_again_after_recovery() {
    is_missed::<MetadataAlone>(CrashWeakness::LoneRecordLeft, Trial::CrashAndDamage);
}

#[test]
fn what_is_left_of_a_commit_is_no_part_of_the_next() {
    is_missed::<MetadataAlone>(CrashWeakness::RemainsLeft, Trial::Pairs);
}
