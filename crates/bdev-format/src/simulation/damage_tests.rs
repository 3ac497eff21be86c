//! Damage to pools that were closed in good order, and commits that are longer than those of histories.

use std::rc::Rc;

use chimaera_bdev_proto::{BlockType, OwnerTag};

use super::Numbers;
use super::creation::identity;
use super::damage::Damage;
use super::disk::{DiskImage, Loss, SECTOR_BYTES, SimulatedDisk};
use super::model::{
    BlockOwner, Expected, FoundPool, ModelMegabyte, ModelState, TagComparison, WRITING,
};
use crate::block_map::{MegabyteChange, MegabyteMap, Slot, UNITS};
use crate::limits::{SUPERBLOCK_PAGES, TAGS_PER_SECTOR};
use crate::{
    Birth, FormatVersion, Geometry, Metadata, OpenError, OpenMode, PAGE_BYTES, open_admitting,
};

/// A pool of two extents, with blocks in the table, in the journal, and with tags.
pub(super) fn some_pool(version: FormatVersion) -> (DiskImage, Expected) {
    pool_with_blocks(version, [5, 10], [0, 1, 6, 1, 9])
}

/// As [`some_pool`], of so many megabytes when it was made and now, with blocks in these. Those of the first three
/// commits are in the table.
pub(super) fn pool_with_blocks(
    version: FormatVersion,
    sizes: [u64; 2],
    megabytes: [u32; 5],
) -> (DiskImage, Expected) {
    let [made, total_pages] = sizes.map(|size| size * UNITS);
    let disk = SimulatedDisk::new(DiskImage::blank(total_pages));
    let geometry = Geometry::with_journal(version, made, 8).expect("room");
    let metadata = Metadata::format(disk.clone(), identity(), geometry, birth(7), false);
    let mut metadata = metadata.expect("a sound device");
    metadata.grow(total_pages).expect("a sound device");
    assert_eq!(metadata.geometry().total_pages(), total_pages);
    let mut state = ModelState {
        total_pages,
        ..ModelState::default()
    };
    for (step, megabyte) in megabytes.into_iter().enumerate() {
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

pub(super) fn birth(number: u8) -> Birth {
    Birth {
        uuid: [number; 16],
        seed: u32::from(number),
        history: 1,
        created: 1,
    }
}

/// A megabyte with `count` tagged blocks and nothing else.
pub(super) fn change(megabyte: u32, count: u64) -> MegabyteChange {
    let slots = (0..count as usize).map(|number| Slot::holding(number * 7, BlockType::Kib4));
    let map = slots.clone().fold(MegabyteMap::EMPTY, MegabyteMap::with);
    let unit = |slot: Slot| u64::from(megabyte) * UNITS + slot.first_unit() as u64;
    MegabyteChange {
        megabyte,
        map,
        allocated: slots.map(|slot| (unit(slot), OwnerTag(count))).collect(),
    }
}

pub(super) fn megabyte_of(change: &MegabyteChange) -> ModelMegabyte {
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
    for version in FormatVersion::ALL {
        let (image, expected) = some_pool(version);
        let places = superblocks_of(&image);
        for bit in 0..places.len() * SUPERBLOCK_PAGES as usize * PAGE_BYTES * 8 {
            // All bits of the first copy, and a sample of those of the others.
            let (place, bit) = (bit / (2 * PAGE_BYTES * 8), bit % (2 * PAGE_BYTES * 8));
            if place > 0 && bit % 13 != 0 {
                continue;
            }
            let page = places[place] + (bit / 8 / PAGE_BYTES) as u64;
            let bit = bit % (8 * PAGE_BYTES);
            let mut damaged = image.clone();
            Damage::FlippedBit { page, bit }.apply(&mut damaged);
            for mode in [OpenMode::ReadOnly, WRITING] {
                let disk = SimulatedDisk::new(damaged.clone());
                let found = FoundPool::open(&disk, mode).expect("another copy is sound");
                expected
                    .admit(&found, TagComparison::Exact)
                    .expect("as it was");
                assert_eq!((found.repaired.len(), found.lost.len()), (1, 0));
                assert_eq!(disk.recording().has_writes(), mode == WRITING);
            }
        }
    }
}

fn superblocks_of(image: &DiskImage) -> Vec<u64> {
    let found = FoundPool::open(&SimulatedDisk::new(image.clone()), OpenMode::ReadOnly);
    found
        .expect("it is sound")
        .metadata
        .geometry()
        .superblocks()
}

#[test]
fn any_damage_to_metadata_is_repaired_or_reported() {
    for version in FormatVersion::ALL {
        damage_everywhere(version);
    }
}

fn damage_everywhere(version: FormatVersion) {
    let (image, expected) = some_pool(version);
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
        outcome.unwrap_or_else(|text| panic!("{version:?}, {damage:?}: {text}"));
    }
}

/// A pool of four megabytes, in each of which every unit is a block with a tag of its own; and the first page of each
/// copy of its tags.
fn with_tagged_units(version: FormatVersion) -> (DiskImage, Vec<u64>) {
    let disk = SimulatedDisk::new(DiskImage::blank(4 * UNITS));
    let geometry = Geometry::with_journal(version, 4 * UNITS, 32).expect("room");
    let tags = geometry.extents[0].tags.into_iter().flatten().collect();
    let metadata = Metadata::format(disk.clone(), identity(), geometry, birth(7), false);
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

/// Damages the same sector of tags in these copies.
fn damage_sector(image: &DiskImage, copies: &[u64], damage: fn(u64, usize) -> Damage) -> DiskImage {
    let mut damaged = image.clone();
    for tags in copies {
        damage(tags + 1, 2).apply(&mut damaged);
    }
    damaged
}

#[test]
fn of_a_sector_of_tags_that_is_damaged_in_every_copy_its_units_are_unknown_and_no_others() {
    let number = 8 + 2;
    let unknown = number * TAGS_PER_SECTOR..(number + 1) * TAGS_PER_SECTOR;
    let damages: [fn(u64, usize) -> Damage; 2] = [
        |page, sector| Damage::ZeroedSector { page, sector },
        |page, sector| Damage::FlippedBit {
            page,
            bit: 8 * (sector * SECTOR_BYTES + 8) + 3,
        },
    ];
    for version in FormatVersion::ALL {
        let (image, copies) = with_tagged_units(version);
        for damage in damages {
            let found = tags_on(damage_sector(&image, &copies, damage)).expect("read");
            for (unit, tag) in (0..).zip(found) {
                let expected = (!unknown.contains(&unit)).then_some(OwnerTag(unit + 1));
                assert_eq!(tag, expected, "unit {unit}, {version:?}");
            }
            let one_copy = &copies[..copies.len() - 1];
            let found = tags_on(damage_sector(&image, one_copy, damage)).expect("read");
            assert!(found.iter().all(Option::is_some), "{version:?}");
        }
    }
}

#[test]
fn tags_that_were_cut_off_are_unknown() {
    let (mut image, copies) = with_tagged_units(FormatVersion::One);
    Damage::CutOff {
        pages: copies[0] + 1,
    }
    .apply(&mut image);
    let found = tags_on(image).expect("read");
    assert_eq!(found[0], Some(OwnerTag(1)));
    assert_eq!(found.last(), Some(&None));
}

#[test]
fn a_commit_of_many_long_records_is_found_and_its_damage_is_reported() {
    const MEGABYTES: u32 = 20_000;
    let total_pages = u64::from(MEGABYTES) * UNITS;
    let disk = SimulatedDisk::new(DiskImage::blank(total_pages));
    let geometry = Geometry::new(total_pages).expect("room");
    let metadata = Metadata::format(disk.clone(), identity(), geometry, birth(7), false);
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
    let found = FoundPool::open(&SimulatedDisk::new(image.clone()), WRITING);
    let admitted = expected.admit(&found.expect("it is sound"), TagComparison::Exact);
    admitted.expect("as it was committed");
    // Both copies of the second record.
    let mut damaged = image;
    for journal in metadata.geometry().journal.halves(1) {
        damaged.change(journal + 64, |bytes| bytes.fill(0));
    }
    let opened = FoundPool::open(&SimulatedDisk::new(damaged), WRITING);
    assert!(matches!(opened.err(), Some(OpenError::Damaged(_))));
}

#[test]
fn an_old_pool_is_whole_or_gone_while_a_new_one_takes_its_place() {
    for old in FormatVersion::ALL {
        for new in FormatVersion::ALL {
            replace(old, new);
        }
    }
}

/// Makes a pool of a version in the place of one of a version, and crashes everywhere.
fn replace(old: FormatVersion, new: FormatVersion) {
    let (image, expected) = some_pool(old);
    let disk = SimulatedDisk::new(image);
    let geometry = Geometry::with_journal(new, 10 * UNITS, 8).expect("room");
    let made = Metadata::format(disk.clone(), identity(), geometry, birth(8), true);
    made.map(drop).expect("a sound device");
    let new = ModelState {
        total_pages: 10 * UNITS,
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
            match FoundPool::open(&SimulatedDisk::new(image), WRITING) {
                Ok(found) => {
                    let admitted = expected.admit(&found, TagComparison::Exact);
                    admitted.unwrap_or_else(|text| panic!("{position}, {loss:?}: {text}"));
                }
                Err(OpenError::NoPool | OpenError::Damaged(_) | OpenError::OnlyFarCopies(_)) => {}
                Err(error) => panic!("{position}, {loss:?}: {error}"),
            }
        }
        walk.step();
    }
}

#[test]
fn a_pool_with_blocks_that_its_caller_does_not_admit_is_left_as_it_is() {
    for version in FormatVersion::ALL {
        let (image, _) = some_pool(version);
        let disk = SimulatedDisk::new(image);
        let opened = open_admitting(
            disk.clone(),
            WRITING,
            &mut |megabyte, _| megabyte < 6,
            &mut |_, _| {},
        );
        assert!(
            matches!(opened.err(), Some(OpenError::NotAdmitted(6))),
            "{version:?}"
        );
        assert!(!disk.recording().has_writes(), "{version:?}");
    }
}

#[test]
fn a_page_of_the_journal_of_version_1_that_cannot_be_read_has_a_copy() {
    let (image, expected) = some_pool(FormatVersion::One);
    let found = FoundPool::open(&SimulatedDisk::new(image.clone()), OpenMode::ReadOnly);
    let journal = found.expect("it is sound").metadata.geometry().journal;
    let (mut opened, mut refused) = (0, 0);
    for page in journal.ranges().flatten() {
        for count in 1..=2 {
            let mut image = image.clone();
            image.make_unreadable(page..page + count);
            for mode in [OpenMode::ReadOnly, WRITING] {
                let disk = SimulatedDisk::new(image.clone());
                match FoundPool::open(&disk, mode) {
                    Ok(found) => {
                        let admitted = expected.admit(&found, TagComparison::Exact);
                        admitted.unwrap_or_else(|text| panic!("{count} from {page} on: {text}"));
                        opened += 1;
                    }
                    Err(error) => {
                        assert!(count > 1, "page {page}: {error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(opened > refused && refused > 0, "{opened} {refused}");
}
