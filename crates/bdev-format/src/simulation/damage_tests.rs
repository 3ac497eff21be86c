//! Damage to pools that were closed in good order, and commits that are longer than those of histories.

use std::rc::Rc;

use chimaera_bdev_proto::{BlockType, OwnerTag};

use super::Numbers;
use super::damage::Damage;
use super::disk::{DiskImage, Loss, SECTOR_BYTES, SimulatedDisk};
use super::model::{BlockOwner, Expected, FoundPool, ModelMegabyte, ModelState, TagComparison};
use super::workload::identity;
use crate::block_map::{MegabyteChange, MegabyteMap, Slot, UNITS};
use crate::limits::{SUPERBLOCK_COPIES, SUPERBLOCK_PAGES, TAGS_PER_SECTOR};
use crate::{Geometry, Metadata, OpenError, OpenMode, PAGE_BYTES};

/// A pool of two extents, with blocks in the table, in the journal, and with tags.
pub(super) fn some_pool() -> (DiskImage, Expected) {
    let disk = SimulatedDisk::new(DiskImage::blank(6 * UNITS));
    let geometry = Geometry::with_journal(3 * UNITS, 8).expect("room");
    let metadata = Metadata::format(disk.clone(), identity(), geometry, ([7; 16], 1), false);
    let mut metadata = metadata.expect("a sound device");
    metadata.grow(6 * UNITS).expect("a sound device");
    let mut state = ModelState {
        total_pages: 6 * UNITS,
        ..ModelState::default()
    };
    for (step, megabyte) in [0, 1, 4, 1, 5].into_iter().enumerate() {
        let change = change(megabyte, step as u64 + 2);
        state.set(megabyte, megabyte_of(&change));
        metadata.commit(&[change]).expect("a sound device");
        if step == 2 {
            metadata.checkpoint().expect("a sound device");
        }
    }
    (
        disk.seen(),
        Expected::exactly(Rc::new(state), Rc::default()),
    )
}

/// A megabyte with `count` tagged blocks and nothing else.
fn change(megabyte: u32, count: u64) -> MegabyteChange {
    let slots = (0..count as usize).map(|number| Slot::holding(number * 7, BlockType::Kib4));
    let map = slots.clone().fold(MegabyteMap::EMPTY, MegabyteMap::with);
    let unit = |slot: Slot| u64::from(megabyte) * UNITS + slot.first_unit() as u64;
    MegabyteChange {
        megabyte,
        map,
        allocated: slots.map(|slot| (unit(slot), OwnerTag(count))).collect(),
    }
}

fn megabyte_of(change: &MegabyteChange) -> ModelMegabyte {
    let allocated = change.allocated.iter();
    ModelMegabyte {
        map: change.map,
        owners: allocated
            .map(|(unit, tag)| {
                (
                    *unit,
                    BlockOwner {
                        tag: tag.0,
                        life: 0,
                    },
                )
            })
            .collect(),
    }
}

#[test]
fn any_bit_of_a_superblock_is_repaired() {
    let (image, expected) = some_pool();
    for first_page in SUPERBLOCK_COPIES {
        for bit in 0..SUPERBLOCK_PAGES as usize * PAGE_BYTES * 8 {
            let page = first_page + (bit / 8 / PAGE_BYTES) as u64;
            let bit = bit % (8 * PAGE_BYTES);
            let mut damaged = image.clone();
            Damage::FlippedBit { page, bit }.apply(&mut damaged);
            for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
                let disk = SimulatedDisk::new(damaged.clone());
                let found = FoundPool::open(&disk, mode).expect("the other copy is sound");
                expected
                    .admit(&found, TagComparison::Exact)
                    .expect("as it was");
                assert_eq!((found.repaired.len(), found.lost.len()), (1, 0));
                assert_eq!(disk.recording().has_writes(), mode == OpenMode::ReadWrite);
                if mode == OpenMode::ReadWrite {
                    assert_eq!(disk.seen().page(page), image.page(page));
                }
            }
        }
    }
}

#[test]
fn any_damage_to_metadata_is_repaired_or_reported() {
    let (image, expected) = some_pool();
    let pages = FoundPool::open(&SimulatedDisk::new(image.clone()), OpenMode::ReadOnly)
        .expect("it is sound")
        .metadata
        .geometry()
        .reserved()
        .flatten()
        .collect::<Vec<_>>();
    let mut numbers = Numbers::new(1);
    let mut damages: Vec<Damage> = Vec::new();
    for &page in &pages {
        damages.extend([Damage::ZeroedPage { page }, Damage::CutOff { pages: page }]);
        let sectors = 0..PAGE_BYTES / SECTOR_BYTES;
        damages.extend(sectors.map(|sector| Damage::ZeroedSector { page, sector }));
        let bits = (0..100).map(|_| numbers.below(8 * PAGE_BYTES));
        damages.extend(bits.map(|bit| Damage::FlippedBit { page, bit }));
    }
    for damage in damages {
        let mut damaged = image.clone();
        damage.apply(&mut damaged);
        let outcome = damage.check(&damaged, &expected);
        outcome.unwrap_or_else(|text| panic!("{damage:?}: {text}"));
    }
}

/// A pool of four megabytes, in each of which every unit is a block with a tag of its own; and the page of its tags.
fn with_tagged_units() -> (DiskImage, u64) {
    let disk = SimulatedDisk::new(DiskImage::blank(4 * UNITS));
    let geometry = Geometry::with_journal(4 * UNITS, 32).expect("room");
    let tags = geometry.extents[0].tags;
    let metadata = Metadata::format(disk.clone(), identity(), geometry, ([7; 16], 1), false);
    let mut metadata = metadata.expect("a sound device");
    for megabyte in 0..4 {
        let slots = (0..UNITS as usize).map(|number| Slot::holding(number, BlockType::Kib4));
        let first = u64::from(megabyte) * UNITS;
        let change = MegabyteChange {
            megabyte,
            map: slots.fold(MegabyteMap::EMPTY, MegabyteMap::with),
            allocated: (first..first + UNITS)
                .map(|unit| (unit, OwnerTag(unit + 1)))
                .collect(),
        };
        metadata.commit(&[change]).expect("a sound device");
    }
    metadata.checkpoint().expect("a sound device");
    (disk.seen(), tags)
}

fn tags_on(image: DiskImage) -> std::io::Result<Vec<Option<OwnerTag>>> {
    let found = FoundPool::open(&SimulatedDisk::new(image), OpenMode::ReadOnly).expect("sound");
    let units: Vec<u64> = (0..4 * UNITS).collect();
    found.metadata.tags(&units)
}

#[test]
fn of_a_damaged_sector_of_tags_its_units_are_unknown_and_no_others() {
    let (image, tags) = with_tagged_units();
    let (page, sector) = (tags + 1, 2);
    let number = 8 + sector as u64;
    let unknown = number * TAGS_PER_SECTOR..(number + 1) * TAGS_PER_SECTOR;
    for damage in [
        Damage::ZeroedSector { page, sector },
        Damage::FlippedBit {
            page,
            bit: 8 * (sector * SECTOR_BYTES + 8) + 3,
        },
    ] {
        let mut damaged = image.clone();
        damage.apply(&mut damaged);
        let found = tags_on(damaged).expect("read");
        for (unit, tag) in (0..).zip(found) {
            let expected = (!unknown.contains(&unit)).then_some(OwnerTag(unit + 1));
            assert_eq!(tag, expected, "unit {unit}, {damage:?}");
        }
    }
}

#[test]
fn tags_that_the_device_does_not_read_are_its_error_and_not_unknown() {
    let (mut image, tags) = with_tagged_units();
    Damage::CutOff { pages: tags + 1 }.apply(&mut image);
    let error = tags_on(image).expect_err("the second page of tags is not there");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_commit_of_many_long_records_is_found_and_its_damage_is_reported() {
    const MEGABYTES: u32 = 20_000;
    let total_pages = u64::from(MEGABYTES) * UNITS;
    let disk = SimulatedDisk::new(DiskImage::blank(total_pages));
    let geometry = Geometry::new(total_pages).expect("room");
    let metadata = Metadata::format(disk.clone(), identity(), geometry, ([7; 16], 1), false);
    let mut metadata = metadata.expect("a sound device");
    let mut state = ModelState {
        total_pages,
        ..ModelState::default()
    };
    let changes: Vec<_> = (100..MEGABYTES - 100)
        .map(|megabyte| MegabyteChange {
            allocated: Vec::new(),
            ..change(megabyte, 1 + u64::from(megabyte % 9))
        })
        .collect();
    for change in &changes {
        let none = BlockOwner { tag: 0, life: 0 };
        let unit = |slot: Slot| u64::from(change.megabyte) * UNITS + slot.first_unit() as u64;
        let owners = change.map.blocks().map(|slot| (unit(slot), none)).collect();
        let map = change.map;
        state.set(change.megabyte, ModelMegabyte { map, owners });
    }
    let before = metadata.next_sequence;
    metadata.commit(&changes).expect("a sound device");
    assert!(metadata.next_sequence - before > 2, "several records");
    metadata.commit(&[change(3, 2)]).expect("a sound device");
    state.set(3, megabyte_of(&change(3, 2)));
    let recording = disk.recording();
    let image = recording
        .at(recording.len())
        .crash(Loss::All, &mut Numbers::new(1));
    let expected = Expected::exactly(Rc::new(state), Rc::default());
    let found = FoundPool::open(&SimulatedDisk::new(image.clone()), OpenMode::ReadWrite);
    let admitted = expected.admit(&found.expect("it is sound"), TagComparison::Exact);
    admitted.expect("as it was committed");
    // Both copies of the second record.
    let mut damaged = image;
    let journal = metadata.geometry().journal[1];
    for page in [128, 192] {
        damaged.change(journal + page, |bytes| bytes.fill(0));
    }
    let opened = FoundPool::open(&SimulatedDisk::new(damaged), OpenMode::ReadWrite);
    assert!(matches!(opened.err(), Some(OpenError::Damaged(_))));
}

#[test]
fn an_old_pool_is_whole_or_gone_while_a_new_one_takes_its_place() {
    let (image, expected) = some_pool();
    let disk = SimulatedDisk::new(image);
    let geometry = Geometry::with_journal(6 * UNITS, 8).expect("room");
    let made = Metadata::format(disk.clone(), identity(), geometry, ([8; 16], 2), true);
    made.map(drop).expect("a sound device");
    let new = ModelState {
        total_pages: 6 * UNITS,
        ..ModelState::default()
    };
    let expected = Expected {
        after: Some(Rc::new(new)),
        is_atomic: true,
        ..expected
    };
    let recording = disk.recording();
    let mut numbers = Numbers::new(1);
    let mut walk = recording.walk();
    for position in 0..=recording.len() {
        for loss in Loss::EACH.into_iter().cycle().take(200) {
            let image = walk.left.crash(loss, &mut numbers);
            match FoundPool::open(&SimulatedDisk::new(image), OpenMode::ReadWrite) {
                Ok(found) => {
                    let admitted = expected.admit(&found, TagComparison::Exact);
                    admitted.unwrap_or_else(|text| panic!("{position}, {loss:?}: {text}"));
                }
                Err(OpenError::NoPool | OpenError::Damaged(_)) => {}
                Err(error) => panic!("{position}, {loss:?}: {error}"),
            }
        }
        walk.step();
    }
}
