//! Megabytes that are lost at a bad moment, or cannot be read.

use chimaera_bdev_proto::{BlockType, OwnerTag};

use super::Numbers;
use super::damage_tests::pool_with_blocks;
use super::disk::{DiskImage, Loss, SECTOR_BYTES, SimulatedDisk};
use super::lost::{Accident, LostMegabytes, Promise, is_table_in_doubt, repaired};
use super::model::{Expected, FoundPool, TagComparison, WRITING};
use crate::block_map::{MegabyteChange, MegabyteMap, Slot, UNITS};
use crate::check::check;
use crate::geometry::{Extent, Geometry, TablePage};
use crate::limits::PAGE_BYTES;
use crate::page::{Disk, Page};
use crate::table::TableEntries;
use crate::weakness::{CrashWeakness, with_weakness};
use crate::{FormatVersion, OpenError, OpenMode, identify};

/// The page of the table with megabyte 0.
const FIRST_PAGE: TablePage = TablePage { extent: 0, page: 0 };

/// A pool of two extents, in the table, in the journal, and with tags.
fn some_pool() -> (DiskImage, Expected) {
    // In megabytes without metadata, whose entries lie in several sectors of the table.
    pool_with_blocks(FormatVersion::Two, [40, 60], [1, 25, 45, 1, 25])
}

fn geometry_of(image: &DiskImage) -> Geometry {
    let identified = identify(&SimulatedDisk::new(image.clone()));
    identified.expect("a pool").geometry
}

/// A pool, and what a crash left of it that tore the second copy of a page of the table in a checkpoint.
fn with_a_torn_second_copy() -> (DiskImage, Expected) {
    let (before, expected) = some_pool();
    let geometry = geometry_of(&before);
    let disk = SimulatedDisk::new(before.clone());
    let mut opened = FoundPool::open(&disk, WRITING).expect("it is sound");
    opened.metadata.checkpoint().expect("a sound device");
    let after = disk.seen();
    let mut torn = before;
    let [first, second] = [0, 1].map(|copy| geometry.table_page(FIRST_PAGE, copy));
    torn.change(first, |bytes| *bytes = after.page(first));
    assert_ne!(torn.page(second), after.page(second));
    torn.change(second, |bytes| {
        bytes[..SECTOR_BYTES].copy_from_slice(&after.page(second)[..SECTOR_BYTES]);
    });
    (torn, expected)
}

/// What is found where these megabytes are lost, which is all that there was.
fn assert_whole(image: &DiskImage, expected: &Expected, first: u64, accident: Accident) {
    let lost = LostMegabytes {
        first,
        count: 1,
        accident,
    };
    let found = lost.check(image, (expected, Promise::Whole), &mut Numbers::new(1));
    let found = found.unwrap_or_else(|text| panic!("{lost:?}: {text}"));
    assert!(found.is_some(), "{lost:?}");
}

#[test]
fn opening_mends_second_copies_of_the_table_that_a_crash_tore() {
    let (torn, expected) = with_a_torn_second_copy();
    let disk = SimulatedDisk::new(torn);
    let _ = FoundPool::open(&disk, WRITING).expect("its first copy is sound");
    for accident in Accident::EACH {
        assert_whole(&disk.seen(), &expected, 0, accident);
    }
}

#[test]
fn where_no_copy_of_the_table_is_sound_an_error_names_the_megabytes() {
    let (mut image, _) = with_a_torn_second_copy();
    image.make_unreadable(0..UNITS);
    let wanted = "the table's page for the megabytes from 0 on is sound and can be read";
    let repair = repaired(&SimulatedDisk::new(image.clone()));
    let lost = repair.expect("a far superblock is there").lost.join("; ");
    assert!(lost.contains(wanted), "{lost}");
    // The first copy alone cannot be read.
    let (mut image, _) = with_a_torn_second_copy();
    let first = geometry_of(&image).table_page(FIRST_PAGE, 0);
    image.make_unreadable(first..first + 1);
    let disk = SimulatedDisk::new(image);
    let read = FoundPool::open(&disk, OpenMode::ReadOnly).expect("what is left can be read");
    assert!(read.lost.join("; ").contains(wanted), "{:?}", read.lost);
    match FoundPool::open(&disk, WRITING).err() {
        Some(OpenError::Damaged(text)) => assert!(text.contains(wanted), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(!disk.recording().has_writes());
}

#[test]
fn any_megabyte_of_a_pool_may_be_one_that_cannot_be_read() {
    let (image, expected) = some_pool();
    for megabyte in 0..60 {
        assert_whole(&image, &expected, megabyte, Accident::Unreadable);
    }
}

#[test]
fn a_repair_writes_again_what_cannot_be_read_of_the_journal() {
    let (image, expected) = some_pool();
    let regions: Vec<_> = geometry_of(&image).journal.ranges().collect();
    let mut bad = image.clone();
    bad.make_unreadable(regions[1].clone());
    let disk = SimulatedDisk::new(bad);
    let checked = check(&disk, disk.total_pages(), None, &mut |_, _| {}).expect("readable");
    let count = regions[1].end - regions[1].start;
    let first = regions[1].start;
    let wanted = format!("{count} pages cannot be read, from page {first} on");
    let said = checked.repairable.join("; ");
    assert!(said.contains(&wanted), "{said}");
    let _ = repaired(&disk).expect("sound copies");
    let mut other = disk.seen();
    other.make_unreadable(regions[0].clone());
    assert_whole(&other, &expected, 0, Accident::Unreadable);
}

/// At which position of a checkpoint that makes a megabyte tagged a page of the table is in doubt while tags are.
fn table_before_tags() -> Option<usize> {
    let (image, _) = some_pool();
    let geometry = geometry_of(&image);
    let disk = SimulatedDisk::new(image);
    let mut opened = FoundPool::open(&disk, WRITING).expect("it is sound");
    // The first checkpoint since the pool was opened flushes more often.
    for megabyte in [3, 5] {
        let tagged = MegabyteChange {
            megabyte,
            map: MegabyteMap::EMPTY.with(Slot::holding(9, BlockType::Kib4)),
            allocated: vec![(u64::from(megabyte) * UNITS + 9, OwnerTag(5))],
        };
        opened.metadata.commit(&[tagged]).expect("a sound device");
        opened.metadata.checkpoint().expect("a sound device");
    }
    let recording = disk.recording();
    let mut walk = recording.walk();
    let (mut found, mut tables_in_doubt) = (None, 0);
    for position in 0..=recording.len() {
        if is_table_in_doubt(&walk.left, &geometry) {
            tables_in_doubt += 1;
            let mut tags = geometry.extents.iter().flat_map(Extent::tag_ranges);
            if tags.any(|pages| walk.left.is_in_doubt(&pages)) {
                found.get_or_insert(position);
            }
        }
        walk.step();
    }
    assert!(tables_in_doubt > 1, "both copies are written");
    found
}

#[test]
fn the_table_is_written_when_both_copies_of_the_tags_are_durable() {
    assert_eq!(table_before_tags(), None);
    let weakness = Some(CrashWeakness::SecondTagsNotFlushed);
    assert!(with_weakness(weakness, table_before_tags).is_some());
}

/// At which position of a checkpoint the first copy of a page of the table is in doubt while the second, which was
/// damaged since the pool was opened, is not sound.
fn first_copy_before_a_damaged_second_one() -> Option<usize> {
    let (image, _) = some_pool();
    let geometry = geometry_of(&image);
    let [first, second] = [0, 1].map(|copy| geometry.table_page(FIRST_PAGE, copy));
    let disk = SimulatedDisk::new(image);
    let mut opened = FoundPool::open(&disk, WRITING).expect("it is sound");
    // The first checkpoint since the pool was opened writes second copies again in any case.
    opened.metadata.checkpoint().expect("a sound device");
    let noise = Page([0x5A; PAGE_BYTES]);
    disk.write(second, &[noise]).expect("a sound device");
    disk.flush().expect("a sound device");
    let damaged_at = disk.position();
    let change = MegabyteChange {
        megabyte: 3,
        map: MegabyteMap::EMPTY.with(Slot::holding(9, BlockType::Kib4)),
        allocated: Vec::new(),
    };
    opened.metadata.commit(&[change]).expect("a sound device");
    opened.metadata.checkpoint().expect("a sound device");
    let checksum = opened.metadata.superblock().checksum();
    let recording = disk.recording();
    let mut is_written = false;
    let found = (damaged_at..=recording.len()).find(|&position| {
        let left = recording.at(position);
        let is_in_doubt = left.is_in_doubt(&(first..first + 1));
        is_written |= is_in_doubt;
        let left = left.crash(Loss::All, &mut Numbers::new(1));
        is_in_doubt && TableEntries::read(&Page(left.page(second)), 0, checksum).is_none()
    });
    assert!(is_written, "the checkpoint writes the page");
    found
}

#[test]
fn a_damaged_second_copy_is_mended_before_the_first_is_written() {
    assert_eq!(first_copy_before_a_damaged_second_one(), None);
    let weakness = Some(CrashWeakness::SecondCopyNotLookedAt);
    assert!(with_weakness(weakness, first_copy_before_a_damaged_second_one).is_some());
}

#[test]
fn a_superblock_may_be_damaged_where_pages_beside_it_cannot_be_read() {
    let (mut image, expected) = some_pool();
    image.clear(0);
    image.make_unreadable(3..15);
    let disk = SimulatedDisk::new(image);
    let opened = FoundPool::open(&disk, WRITING).expect("three superblocks are sound");
    let found = expected.admit(&opened, TagComparison::Exact);
    assert!(found.is_ok(), "{:?}", found.err());
    // What is known by a signature is still seen there.
    let (mut image, _) = some_pool();
    image.change(0, |bytes| {
        bytes.fill(0);
        bytes[..4].copy_from_slice(b"XFSB");
    });
    image.make_unreadable(3..15);
    let refused = FoundPool::open(&SimulatedDisk::new(image), WRITING).err();
    assert!(
        matches!(refused, Some(OpenError::Overwritten(_))),
        "{refused:?}"
    );
}
