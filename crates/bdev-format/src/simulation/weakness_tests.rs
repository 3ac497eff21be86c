//! The simulation finds the fault when a step is left out that crash safety depends on.

use super::workload::{MetadataAlone, MetadataOfVersion1};
use super::{Trial, assert_found};
use crate::weakness::CrashWeakness;

#[test]
fn a_commit_flushes_its_record() {
    assert_found::<MetadataAlone>(CrashWeakness::CommitNotFlushed, Trial::Crash);
}

#[test]
fn tags_are_durable_before_the_table() {
    assert_found::<MetadataAlone>(CrashWeakness::TagsNotFlushed, Trial::Crash);
}

#[test]
fn a_copy_of_the_table_is_durable_before_the_other_is_written() {
    assert_found::<MetadataAlone>(CrashWeakness::TableCopiesTogether, Trial::Crash);
}

#[test]
fn a_torn_second_copy_is_mended_before_the_first_is_written() {
    assert_found::<MetadataAlone>(CrashWeakness::SecondCopyNotLookedAt, Trial::Pairs);
}

#[test]
fn the_second_copy_is_durable_before_the_superblock() {
    assert_found::<MetadataAlone>(CrashWeakness::SecondCopyNotFlushed, Trial::Pairs);
}

#[test]
fn a_superblock_is_durable_before_the_other_is_written() {
    assert_found::<MetadataAlone>(CrashWeakness::SuperblockNotFlushed, Trial::Crash);
}

#[test]
fn what_recovery_found_is_durable_before_it_counts() {
    // In version 2 the flush of what tells of the opening makes it durable as well.
    assert_found::<MetadataOfVersion1>(CrashWeakness::RecoveryNotFlushed, Trial::Crash);
}

#[test]
fn a_torn_record_does_not_count() {
    assert_found::<MetadataAlone>(CrashWeakness::JournalUnchecked, Trial::Crash);
}

#[test]
fn a_damaged_page_of_the_table_does_not_count() {
    assert_found::<MetadataAlone>(CrashWeakness::TableUnchecked, Trial::CrashAndDamage);
}

#[test]
fn a_damaged_superblock_does_not_count() {
    assert_found::<MetadataAlone>(CrashWeakness::SuperblockUnchecked, Trial::CrashAndDamage);
}

#[test]
fn damaged_tags_do_not_count() {
    assert_found::<MetadataAlone>(CrashWeakness::TagsUnchecked, Trial::CrashAndDamage);
}

#[test]
fn one_copy_of_a_record_may_be_damaged() {
    assert_found::<MetadataAlone>(CrashWeakness::RecordWrittenOnce, Trial::CrashAndDamage);
}

#[test]
fn a_record_has_two_copies_again_after_recovery() {
    assert_found::<MetadataAlone>(CrashWeakness::LoneRecordLeft, Trial::CrashAndDamage);
}

#[test]
fn what_is_left_of_a_commit_is_no_part_of_the_next() {
    assert_found::<MetadataAlone>(CrashWeakness::RemainsLeft, Trial::Pairs);
}

#[test]
fn a_second_copy_that_looks_sound_is_written_again_before_the_first() {
    assert_found::<MetadataAlone>(CrashWeakness::SecondCopiesTrusted, Trial::Crash);
}

#[test]
fn superblocks_that_look_sound_are_written_again() {
    assert_found::<MetadataAlone>(CrashWeakness::SuperblocksTrusted, Trial::Crash);
}

#[test]
fn a_first_copy_that_looks_sound_is_written_again_before_the_second() {
    assert_found::<MetadataAlone>(CrashWeakness::FirstCopiesTrusted, Trial::Crash);
}
