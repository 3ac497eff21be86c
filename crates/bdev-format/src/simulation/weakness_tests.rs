//! The simulation finds the fault when a step is left out that crash safety depends on.

use chimaera_bdev_proto::{BlockType, OwnerTag};

use super::creation::identity;
use super::damage_tests::birth;
use super::disk::{DiskImage, SimulatedDisk};
use super::model::{FoundPool, WRITING};
use super::workload::{MetadataAlone, MetadataOfVersion1};
use super::{Trial, assert_found};
use crate::block_map::{MegabyteChange, MegabyteMap, Slot, UNITS};
use crate::weakness::{CrashWeakness, with_weakness};
use crate::{FormatVersion, Geometry, Metadata};

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
fn the_second_copy_is_durable_before_the_superblock() {
    assert_found::<MetadataAlone>(CrashWeakness::SecondCopyNotFlushed, Trial::LostMegabyte);
}

#[test]
fn a_superblock_is_durable_before_the_other_is_written() {
    assert_found::<MetadataAlone>(CrashWeakness::SuperblockNotFlushed, Trial::Crash);
}

#[test]
fn a_far_superblock_is_durable_while_another_is_written() {
    assert_found::<MetadataAlone>(CrashWeakness::FarSuperblocksTogether, Trial::Crash);
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

/// The commit of 200 megabytes with a block each, all of which have this tag. It takes two records.
fn two_records(tag: u64) -> Vec<MegabyteChange> {
    let change = |megabyte: u32| MegabyteChange {
        megabyte,
        map: MegabyteMap::EMPTY.with(Slot::holding(100, BlockType::Kib4)),
        allocated: vec![(u64::from(megabyte) * UNITS + 100, OwnerTag(tag))],
    };
    let mut changes: Vec<_> = (100..300).map(change).collect();
    // The second record is the same whatever the tag.
    for change in &mut changes[150..] {
        change.allocated[0].1 = OwnerTag(7);
    }
    changes
}

/// Opens what is on an image, commits that, and gives the device before and after.
fn commit_on(image: DiskImage, tag: u64) -> (DiskImage, DiskImage) {
    let disk = SimulatedDisk::new(image);
    let mut found = FoundPool::open(&disk, WRITING).expect("it is sound");
    assert!(found.maps.is_empty(), "half a commit does not count");
    let before = disk.seen();
    found
        .metadata
        .commit(&two_records(tag))
        .expect("a sound device");
    (before, disk.seen())
}

/// Twice a crash leaves one of two records of a commit: the first one of the first attempt, the second one of the
/// second. What is found then: the tag of the first block, if there is one.
fn halves_of_two_attempts(version: FormatVersion) -> Option<OwnerTag> {
    let disk = SimulatedDisk::new(DiskImage::blank(400 * UNITS));
    let copies = version.copies_in_region();
    let geometry = Geometry::with_journal(version, 400 * UNITS, 4 * copies).expect("room");
    let metadata = Metadata::format(disk.clone(), identity(), geometry, birth(7), false);
    let geometry = metadata.expect("a sound device").geometry().clone();
    let keep = |from: &DiskImage, to: &mut DiskImage, pages: std::ops::Range<u64>| {
        for page in geometry
            .journal
            .halves(1)
            .flat_map(|half| half + pages.start..half + pages.end)
        {
            to.change(page, |bytes| *bytes = from.page(page));
        }
    };
    let first_record = 0..2 * copies;
    let (mut image, after) = commit_on(disk.seen(), 1);
    keep(&after, &mut image, first_record.clone());
    let (mut image, after) = commit_on(image, 2);
    keep(
        &after,
        &mut image,
        first_record.end..first_record.end + copies,
    );
    let found = FoundPool::open(&SimulatedDisk::new(image), WRITING).expect("it is sound");
    let unit = 100 * UNITS + 100;
    found.maps.get(&100)?;
    found.metadata.tags(&[unit]).expect("read")[0]
}

#[test]
fn what_is_left_of_a_commit_is_no_part_of_the_next() {
    for version in FormatVersion::ALL {
        assert_eq!(halves_of_two_attempts(version), None, "{version:?}");
        let found = with_weakness(Some(CrashWeakness::RemainsLeft), || {
            halves_of_two_attempts(version)
        });
        assert_eq!(
            found,
            Some(OwnerTag(1)),
            "{version:?}: the commit that was given up"
        );
    }
}

#[test]
fn a_second_copy_that_looks_sound_is_written_again_before_the_first() {
    assert_found::<MetadataAlone>(CrashWeakness::SecondCopiesTrusted, Trial::Lies);
}

#[test]
fn superblocks_that_look_sound_are_written_again() {
    assert_found::<MetadataAlone>(CrashWeakness::SuperblocksTrusted, Trial::Lies);
    assert_found::<MetadataAlone>(CrashWeakness::EndTrusted, Trial::Lies);
}

#[test]
fn a_first_copy_that_looks_sound_is_written_again_before_the_second() {
    assert_found::<MetadataAlone>(CrashWeakness::FirstCopiesTrusted, Trial::Lies);
}

#[test]
fn superblocks_are_written_again_one_half_after_the_other() {
    assert_found::<MetadataAlone>(CrashWeakness::SuperblocksRestoredTogether, Trial::Lies);
    assert_found::<MetadataAlone>(CrashWeakness::SuperblocksRestoredInWrongOrder, Trial::Lies);
}

#[test]
fn a_history_is_durable_before_the_pool_is_ready() {
    for trial in [Trial::Crash, Trial::ManyLives] {
        assert_found::<MetadataAlone>(CrashWeakness::HistoryNotWritten, trial);
    }
    assert_found::<MetadataAlone>(CrashWeakness::HistoryNotFlushed, Trial::Crash);
}

#[test]
fn each_opening_has_a_history_of_its_own_and_is_counted() {
    assert_found::<MetadataAlone>(CrashWeakness::HistoryUsedTwice, Trial::Crash);
    assert_found::<MetadataAlone>(CrashWeakness::OpeningsCountedAnew, Trial::Crash);
}

#[test]
fn an_opening_has_ended_in_good_order_only_if_it_was_ended() {
    assert_found::<MetadataAlone>(CrashWeakness::EndAssumed, Trial::Crash);
    assert_found::<MetadataAlone>(CrashWeakness::EndedEarly, Trial::Crash);
}

#[test]
fn after_a_failure_nothing_is_written_but_the_mark() {
    assert_found::<MetadataAlone>(CrashWeakness::WrittenAfterFailure, Trial::Crash);
}

#[test]
fn what_a_failure_left_in_doubt_is_written_again_without_a_mark_as_well() {
    assert_found::<MetadataAlone>(CrashWeakness::AbsenceOfMarkTrusted, Trial::Lies);
}

#[test]
fn a_repair_removes_the_mark() {
    assert_found::<MetadataAlone>(CrashWeakness::MarkLeft, Trial::Crash);
}

#[test]
fn tags_have_two_copies() {
    assert_found::<MetadataAlone>(CrashWeakness::TagsWrittenOnce, Trial::CrashAndDamage);
    assert_found::<MetadataAlone>(CrashWeakness::TagsWrittenOnce, Trial::LostMegabyte);
}

#[test]
fn copies_of_tags_are_not_written_at_once() {
    assert_found::<MetadataAlone>(CrashWeakness::TagCopiesTogether, Trial::Crash);
}

#[test]
fn tags_that_look_as_they_should_are_written_again() {
    assert_found::<MetadataAlone>(CrashWeakness::TagsTrusted, Trial::Lies);
}

#[test]
fn a_torn_second_copy_of_the_table_is_mended_when_the_pool_is_opened() {
    assert_found::<MetadataAlone>(CrashWeakness::TornSecondCopyLeft, Trial::LostMegabyte);
}

#[test]
fn the_journal_is_in_both_regions() {
    assert_found::<MetadataAlone>(CrashWeakness::RecordWrittenOnce, Trial::LostMegabyte);
}
