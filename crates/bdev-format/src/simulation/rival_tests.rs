//! Records of one epoch and sequence that differ in the two regions of the journal.

use super::creation::identity;
use super::damage_tests::{birth, change};
use super::disk::{DiskImage, SimulatedDisk};
use super::model::{FoundPool, WRITING};
use crate::block_map::{MegabyteChange, UNITS};
use crate::{FormatVersion, Geometry, Metadata, OpenError, OpenMode};

/// A pool with one commit, of megabyte 3.
fn pool() -> DiskImage {
    let total_pages = 64 * UNITS;
    let disk = SimulatedDisk::new(DiskImage::blank(total_pages));
    let geometry = Geometry::with_journal(FormatVersion::Two, total_pages, 8).expect("room");
    let metadata = Metadata::format(disk.clone(), identity(), geometry, birth(7), false);
    let mut metadata = metadata.expect("a sound device");
    metadata.commit(&[change(3, 2)]).expect("a sound device");
    disk.seen()
}

/// The pool after another commit, and the number of the records in that.
fn with_commit(changes: &[MegabyteChange]) -> (DiskImage, u64) {
    let disk = SimulatedDisk::new(pool());
    let mut metadata = FoundPool::open(&disk, WRITING).expect("sound").metadata;
    let before = metadata.next_sequence;
    metadata.commit(changes).expect("a sound device");
    (disk.seen(), metadata.next_sequence - before)
}

/// A commit of two records.
fn long() -> Vec<MegabyteChange> {
    (34..62).map(|megabyte| change(megabyte, 36)).collect()
}

/// The first image, with what the second one has in a region of the journal, up to the page `end` of each half.
fn mixed(image: &DiskImage, other: &DiskImage, region: usize, end: u64) -> DiskImage {
    let found = FoundPool::open(&SimulatedDisk::new(image.clone()), OpenMode::ReadOnly);
    let journal = found.expect("sound").metadata.geometry().journal;
    let mut mixed = image.clone();
    for epoch in 0..2 {
        let half = journal.halves(epoch).nth(region).expect("two regions");
        for page in half..half + end.min(journal.pages) {
            mixed.change(page, |bytes| *bytes = other.page(page));
        }
    }
    mixed
}

fn megabytes(found: &FoundPool) -> Vec<u32> {
    found.maps.keys().copied().collect()
}

#[test]
fn sound_records_that_contradict_each_other_are_damage() {
    let (short, _) = with_commit(&[change(5, 4)]);
    let (other, _) = with_commit(&[change(6, 4)]);
    let (long, count) = with_commit(&long());
    assert_eq!(count, 2);
    let mut longer = self::long();
    longer[27] = change(61, 35);
    let (differs_at_its_end, count) = with_commit(&longer);
    assert_eq!(count, 2);
    let pairs = [
        (&short, &other),
        (&short, &long),
        (&long, &differs_at_its_end),
    ];
    for (number, (one, two)) in pairs.into_iter().enumerate() {
        for (one, two) in [(one, two), (two, one)] {
            for region in 0..2 {
                let image = mixed(one, two, region, u64::MAX);
                let disk = SimulatedDisk::new(image);
                let text = match FoundPool::open(&disk, WRITING) {
                    Err(OpenError::Damaged(text)) => text,
                    Err(error) => panic!("{number}: {error}"),
                    Ok(found) => panic!("{number}: {:?}", megabytes(&found)),
                };
                assert!(!disk.recording().has_writes(), "{number}");
                assert!(
                    text.contains("pages ") && text.contains("differs"),
                    "{text}"
                );
                let found = FoundPool::open(&disk, OpenMode::ReadOnly).expect("readable");
                assert_eq!(megabytes(&found), [3], "{number}");
                assert_eq!(found.lost.len(), 1, "{number}: {:?}", found.lost);
            }
        }
    }
}

#[test]
fn a_record_of_a_commit_that_is_not_whole_contradicts_nothing() {
    let (short, _) = with_commit(&[change(5, 4)]);
    let (long, _) = with_commit(&long());
    // The first record has four pages, behind that of the commit before.
    for region in 0..2 {
        let image = mixed(&short, &long, region, 5);
        let found = FoundPool::open(&SimulatedDisk::new(image), WRITING).expect("sound");
        assert_eq!(megabytes(&found), [3, 5]);
    }
}
