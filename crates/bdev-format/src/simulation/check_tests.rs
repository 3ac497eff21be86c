//! What a check finds and repairs, and what it says of a pool that another process is changing.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::Numbers;
use super::damage_tests::{self, pool_with_blocks};
use super::disk::{DiskImage, Loss, SimulatedDisk};
use super::lost::{Accident, LostMegabytes, Promise, repaired};
use super::model::{Expected, FoundPool, TagComparison, WRITING};
use super::rename_tests::OWN;
use crate::block_map::UNITS;
use crate::check::{Checked, agreed, check};
use crate::geometry::Geometry;
use crate::page::{bytes_of, u32_at, u64_at};
use crate::rename::rename;
use crate::superblock::Superblock;
use crate::{Disk, FormatVersion, OpenError, OpenMode, Page, identify};

/// A pool of two extents, in the table, in the journal, and with tags, and without a block where metadata lies.
fn some_pool(version: FormatVersion) -> (DiskImage, Expected) {
    pool_with_blocks(version, [40, 60], [1, 25, 45, 1, 25])
}

fn superblock_of(image: &DiskImage) -> Superblock {
    identify(&SimulatedDisk::new(image.clone())).expect("a pool")
}

fn looked_at<D: Disk + Clone>(disk: &D, geometry: &Geometry) -> Checked {
    let checked = check(disk, geometry.total_pages, None, &mut |_, _| {});
    checked.expect("a pool")
}

/// The pages in which a record of the journal begins that is not in the table yet.
fn records(image: &DiskImage) -> Vec<u64> {
    let superblock = superblock_of(image);
    let begins = |page: &u64| {
        let bytes = image.page(*page);
        u32_at(&bytes, 0) == u32::from_le_bytes(*b"CJRN") && u64_at(&bytes, 8) > superblock.epoch
    };
    let pages = superblock.geometry.journal.ranges().flatten();
    pages.filter(begins).collect()
}

/// Looks at a pool whose journal has lost copies of records, of which a look says so with their number, and repairs it.
fn assert_told_and_mended(version: FormatVersion, damaged: &DiskImage, count: usize) {
    let geometry = superblock_of(damaged).geometry;
    let disk = SimulatedDisk::new(damaged.clone());
    let found = looked_at(&disk, &geometry);
    let is_told = |text: &&String| text.contains("of the journal has one sound copy");
    let told = found.repairable.iter().filter(is_told).count();
    assert_eq!(told, count, "{version:?}: {:?}", found.repairable);
    assert_eq!((found.repairable.len(), found.lost.len()), (count, 0));
    assert!(!disk.recording().has_writes(), "a look");
    assert!(repaired(&disk).expect("nothing is lost").repaired);
    let again = looked_at(&disk, &geometry);
    assert_eq!(
        (again.repairable, again.lost),
        (vec![], vec![]),
        "{version:?}"
    );
    let (_, expected) = some_pool(version);
    let found = FoundPool::open(&disk, OpenMode::ReadOnly).expect("it is sound");
    expected
        .admit(&found, TagComparison::Exact)
        .expect("as it was");
}

#[test]
fn a_record_of_the_journal_that_has_one_copy_is_told_and_gets_another() {
    for version in FormatVersion::ALL {
        let (image, _) = some_pool(version);
        let records = records(&image);
        assert!(records.len() >= 4, "two commits: {records:?}");
        for page in records {
            let mut damaged = image.clone();
            damaged.change(page, |bytes| bytes[70] ^= 0x10);
            assert_told_and_mended(version, &damaged, 1);
        }
    }
}

#[test]
fn a_region_of_the_journal_that_is_gone_is_told_and_no_more_a_danger_after_a_repair() {
    let (image, expected) = some_pool(FormatVersion::Two);
    let count = records(&image).len() / 2;
    for region in superblock_of(&image).geometry.journal.ranges() {
        let mut damaged = image.clone();
        region.for_each(|page| damaged.clear(page));
        assert_told_and_mended(FormatVersion::Two, &damaged, count);
        let disk = SimulatedDisk::new(damaged);
        repaired(&disk).expect("nothing is lost");
        let lost = LostMegabytes {
            first: 0,
            count: 1,
            accident: Accident::Zeroes,
        };
        let found = lost.check(
            &disk.seen(),
            (&expected, Promise::Whole),
            &mut Numbers::new(1),
        );
        assert!(found.expect("as it was").is_some());
    }
}

#[test]
fn a_pool_that_only_a_newer_program_may_write_is_refused_before_its_beginning_is_written() {
    let (mut image, _) = some_pool(FormatVersion::Two);
    let mut superblock = superblock_of(&image);
    superblock.unknown_features.read_only_compatible = 1 << 40;
    let places = superblock.geometry.superblocks();
    for &place in &places {
        for (page, bytes) in (place..).zip(superblock.to_pages(place)) {
            image.change(page, |to| to.copy_from_slice(bytes_of(&[bytes])));
        }
    }
    let tables = superblock.geometry.tables();
    let mut lost_too = image.clone();
    tables.into_iter().for_each(|page| lost_too.clear(page));
    for mut image in [image, lost_too] {
        (0..18).for_each(|page| image.clear(page));
        let disk = SimulatedDisk::new(image);
        let refused = repaired(&disk);
        assert!(
            matches!(refused, Err(OpenError::OnlyReadable(_))),
            "{refused:?}"
        );
        assert!(!disk.recording().has_writes());
    }
}

/// A disk on which a page is being written by somebody else: each read finds something else of it.
#[derive(Clone)]
struct BusyDisk {
    disk: SimulatedDisk,
    page: u64,
    reads: Rc<Cell<u8>>,
}

impl Disk for BusyDisk {
    fn read(&self, first_page: u64, pages: &mut [Page]) -> io::Result<()> {
        self.disk.read(first_page, pages)?;
        for (_, page) in (first_page..).zip(pages).filter(|(at, _)| *at == self.page) {
            self.reads.set(self.reads.get().wrapping_add(1));
            page.0
                .iter_mut()
                .for_each(|byte| *byte ^= self.reads.get() | 1);
        }
        Ok(())
    }

    fn write(&self, _: u64, _: &[Page]) -> io::Result<()> {
        unreachable!("a look writes nothing")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("a look writes nothing")
    }
}

/// What looks at a disk agree on.
fn agreed_on<D: Disk + Clone>(disk: &D, geometry: &Geometry) -> Checked {
    let look = || {
        let checked = check(disk, geometry.total_pages, None, &mut |_, _| {});
        checked.map(|checked| (checked, ()))
    };
    agreed(look).expect("a pool").0
}

#[test]
fn beside_a_writer_only_damage_counts_that_stays_as_it_is() {
    let (image, _) = some_pool(FormatVersion::Two);
    let superblock = superblock_of(&image);
    let geometry = &superblock.geometry;
    let last_record = records(&image)
        .into_iter()
        .max_by_key(|page| u64_at(&image.page(*page), 16));
    let first_record = records(&image)
        .into_iter()
        .min_by_key(|page| u64_at(&image.page(*page), 16));
    let (last_record, first_record) = last_record.zip(first_record).expect("two commits");
    let tags = geometry.extents[0].tags[1].expect("there are two copies");
    let second_table = geometry.tables()[1];
    for page in [tags, second_table, first_record, last_record] {
        let disk = BusyDisk {
            disk: SimulatedDisk::new(image.clone()),
            page,
            reads: Rc::default(),
        };
        let alone = looked_at(&disk, geometry);
        assert!(!alone.repairable.is_empty(), "page {page} is looked at");
        let agreed = agreed_on(&disk, geometry);
        assert_eq!(
            (agreed.repairable, agreed.lost),
            (vec![], vec![]),
            "page {page}"
        );
        let mut damaged = image.clone();
        damaged.change(page, |bytes| bytes.fill(0x55));
        let agreed = agreed_on(&SimulatedDisk::new(damaged), geometry);
        // A record of the last commit may just be being written.
        assert_eq!(
            agreed.repairable.is_empty(),
            page == last_record,
            "page {page}"
        );
        assert!(agreed.lost.is_empty());
    }
}

#[test]
fn a_pool_with_blocks_in_its_metadata_is_not_called_readable_and_not_renamed() {
    let (image, _) = damage_tests::some_pool(FormatVersion::Two);
    let disk = SimulatedDisk::new(image);
    let geometry = identify(&disk).expect("a pool").geometry;
    assert!(looked_at(&disk, &geometry).has_misplaced);
    for own in [None, Some(OWN)] {
        let refused = rename(disk.clone(), "/var/tmp/other".to_owned(), own, 9);
        assert!(
            matches!(refused, Err(OpenError::NotAdmitted(0))),
            "{refused:?}"
        );
    }
    assert!(!disk.recording().has_writes());
}

/// Writes a copy of a superblock.
fn put_superblock(image: &mut DiskImage, place: u64, superblock: &Superblock) {
    for (page, bytes) in (place..).zip(superblock.to_pages(place)) {
        image.change(page, |to| to.copy_from_slice(bytes_of(&[bytes])));
    }
}

#[test]
fn superblocks_are_told_that_are_older_than_a_crash_leaves_them_or_contradict_another() {
    for version in FormatVersion::ALL {
        let (image, _) = some_pool(version);
        let superblock = superblock_of(&image);
        let geometry = &superblock.geometry;
        let places = geometry.superblocks();
        for (number, &place) in places.iter().enumerate() {
            let is_first_half = number < places.len() / 2;
            for age in 0..4 {
                let mut other = superblock.clone();
                other.generation -= age;
                other.created += 1;
                let mut changed = image.clone();
                put_superblock(&mut changed, place, &other);
                let disk = SimulatedDisk::new(changed);
                let told = looked_at(&disk, geometry).repairable;
                let is_told = age != 1 || is_first_half;
                // Of two that contradict each other, nobody knows which one is right.
                let count = if age == 0 {
                    told.len().max(1)
                } else {
                    usize::from(is_told)
                };
                assert_eq!(told.len(), count, "{version:?}, {place}, {age}: {told:?}");
                assert!(repaired(&disk).is_ok_and(|checked| checked.repaired == is_told));
                let left = looked_at(&disk, geometry).repairable;
                assert_eq!(left, Vec::<String>::new(), "{version:?}, {place}, {age}");
            }
        }
    }
}

#[test]
fn no_crash_leaves_superblocks_that_are_called_older_than_it_can() {
    for version in FormatVersion::ALL {
        let (image, _) = some_pool(version);
        let geometry = superblock_of(&image).geometry;
        let disk = SimulatedDisk::new(image);
        let mut found = FoundPool::open(&disk, WRITING).expect("it is sound");
        found.metadata.checkpoint().expect("a sound device");
        found.metadata.grow(80 * UNITS).expect("a sound device");
        found.metadata.end().expect("a sound device");
        let recording = disk.recording();
        let (mut walk, mut numbers) = (recording.walk(), Numbers::new(1));
        for position in 0..=recording.len() {
            for loss in Loss::EACH.into_iter().cycle().take(100) {
                let disk = SimulatedDisk::new(walk.left.crash(loss, &mut numbers));
                let told = looked_at(&disk, &geometry).repairable;
                let is_wrong =
                    |text: &&String| text.contains("older than a") || text.contains("differs");
                let wrong = told.iter().find(is_wrong);
                assert_eq!(wrong, None, "{version:?}, {position}, {loss:?}");
            }
            walk.step();
        }
    }
}
