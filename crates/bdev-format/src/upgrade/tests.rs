use std::ops::Range;

use super::old_pool::{Held, OldPool, see_that_it_is_sound, upgrade};
use super::*;
use crate::block_map::Slot;
use crate::check::Repair;
use crate::geometry::far_page;
use crate::simulation::{Numbers, SimulatedDisk};
use chimaera_bdev_proto::BlockType;

/// Upgrades a pool, and sees that it holds what it held, and that the places of its copies keep the laws.
fn upgraded(pool: &OldPool) -> SimulatedDisk {
    let disk = pool.copy();
    assert!(upgrade(&disk).expect("there is room"));
    let checked = see_that_it_is_sound(&disk).expect("all copies are there");
    let superblock = &checked.superblock;
    assert_eq!(superblock.version(), FormatVersion::Two);
    let history = superblock.history.expect("version 2 has one");
    assert_eq!((history.openings, history.ended_well), (1, true));
    assert_eq!(superblock.geometry.kept & 1, 0);
    if superblock.geometry.is_protected() {
        see_that_copies_lie_apart(&superblock.geometry);
    }
    assert!(
        !upgrade(&disk).expect("it is sound"),
        "nothing is left to do"
    );
    pool.held().open(&disk).expect("it holds what it held");
    disk
}

fn megabytes_of(pages: &Range<u64>) -> Range<u64> {
    pages.start / UNITS..pages.end.div_ceil(UNITS)
}

fn see_that_copies_lie_apart(geometry: &Geometry) {
    let mut pairs: Vec<[Range<u64>; 2]> = Vec::new();
    let mut add = |mut copies: Vec<Range<u64>>| {
        let second = copies.pop().expect("a second copy");
        pairs.push([copies.pop().expect("a first copy"), second]);
    };
    add(geometry.journal.ranges().collect());
    for extent in &geometry.extents {
        add(extent.table_ranges().collect());
        add(extent.tag_ranges().collect());
    }
    for [first, second] in pairs {
        let (a, b) = (megabytes_of(&first), megabytes_of(&second));
        assert!(a.end <= b.start || b.end <= a.start, "{first:?} {second:?}");
    }
}

fn no_room(disk: &SimulatedDisk) -> Option<MissingRoom> {
    let position = disk.position();
    match upgrade(disk) {
        Err(UpgradeError::NoRoom(missing)) => {
            assert_eq!(disk.position(), position, "nothing was written");
            Some(missing)
        }
        Ok(true) => None,
        other => panic!("{other:?}"),
    }
}

fn pages_of(missing: &MissingRoom) -> Vec<Range<u64>> {
    let page_bytes = PAGE_BYTES as u64;
    let blocks = missing.blocks.iter();
    let pages = blocks.map(|(offset, size)| offset / page_bytes..(offset + size) / page_bytes);
    pages.collect()
}

/// A pool without room is as it was, and has room when the advice of the refusal is taken: either of them.
fn see_that_advice_helps(mut pool: OldPool, missing: &MissingRoom) {
    pool.held().open(&pool.copy()).expect("it is as it was");
    if let Some(growth) = missing.growth {
        let mut grown = pool.twin();
        grown.grow(growth / PAGE_BYTES as u64);
        upgraded(&grown);
    }
    if !missing.blocks.is_empty() {
        pool.free(&pages_of(missing));
        upgraded(&pool);
    }
}

#[test]
fn pools_of_all_sizes_are_upgraded() {
    let megabyte = UNITS;
    let sizes = [
        megabyte,
        megabyte + 100,
        2 * megabyte,
        3 * megabyte,
        4 * megabyte - 1,
        4 * megabyte,
        5 * megabyte + 17,
        100 * megabyte,
        (64 << 10) * megabyte,
    ];
    for pages in sizes {
        let mut pool = OldPool::make(&mut Numbers::new(pages), pages);
        let slot = |number| Slot {
            block_type: BlockType::Kib4,
            number,
        };
        let last = pool.metadata.geometry().megabytes() - 1;
        pool.allocate(0, (200..210).map(slot), 17);
        pool.allocate(last, (90..99).map(slot), 18);
        let disk = upgraded(&pool);
        let geometry = see_that_it_is_sound(&disk)
            .expect("sound")
            .superblock
            .geometry;
        assert_eq!(geometry.is_protected(), pages >= 4 * megabyte, "{pages}");
        let new = Geometry::new(pages).expect("room");
        assert_eq!(geometry.far, new.far, "where a new pool has it");
    }
}

#[test]
fn pools_with_any_blocks_are_upgraded_or_say_what_they_lack() {
    let mut refused = 0;
    for seed in 0..60 {
        let pool = OldPool::random(&mut Numbers::new(seed));
        match no_room(&pool.copy()) {
            None => {
                upgraded(&pool);
            }
            Some(missing) => {
                refused += 1;
                see_that_advice_helps(pool, &missing);
            }
        }
    }
    assert!(refused < 30, "{refused} are refused");
}

#[test]
fn a_full_pool_is_left_as_it_is_and_names_blocks_to_free() {
    for megabytes in [4, 8, 33] {
        let mut pool = OldPool::make(&mut Numbers::new(megabytes), megabytes * UNITS);
        pool.fill(|_| false);
        let missing = no_room(&pool.copy()).expect("it is full");
        assert!(!missing.blocks.is_empty() && missing.growth.is_some());
        see_that_advice_helps(pool, &missing);
    }
}

#[test]
fn a_fragmented_pool_names_the_run_that_it_lacks() {
    let mut pool = OldPool::make(&mut Numbers::new(1), 16 * UNITS);
    let far = far_page(3)..far_page(3) + KEPT_PAGES;
    pool.fill(|page| page % 3 == 0 || far.contains(&page));
    let missing = no_room(&pool.copy()).expect("no two free pages follow each other");
    let journal = 2 * pool.metadata.geometry().journal.pages * PAGE_BYTES as u64;
    assert_eq!(missing.what, "the second copy of the journal");
    assert_eq!(missing.bytes, journal);
    // A page in three is free already.
    let bytes: u64 = missing.blocks.iter().map(|(_, size)| size).sum();
    assert!(bytes < journal + 3 * PAGE_BYTES as u64, "{missing:?}");
    see_that_advice_helps(pool, &missing);
}

#[test]
fn a_farther_place_is_taken_where_blocks_lie_in_the_best_one() {
    let mut pool = OldPool::make(&mut Numbers::new(1), 16 * UNITS);
    let slot = Slot {
        block_type: BlockType::Kib4,
        number: 4,
    };
    pool.allocate(8, std::iter::once(slot), 0);
    let disk = upgraded(&pool);
    let geometry = see_that_it_is_sound(&disk)
        .expect("sound")
        .superblock
        .geometry;
    assert_eq!(geometry.far, Some(far_page(2)));
    assert_eq!(geometry.kept, crate::geometry::ALL_KEPT & !(1 << 3));
}

#[test]
fn after_an_upgrade_the_loss_of_any_megabyte_leaves_all_metadata() {
    for seed in 0..12 {
        let pool = OldPool::random(&mut Numbers::new(seed));
        let disk = pool.copy();
        if no_room(&disk).is_some() {
            continue;
        }
        for megabyte in 0..disk.total_pages() / UNITS {
            let lost = SimulatedDisk::new(disk.seen());
            lost.write(megabyte * UNITS, &Page::zeroes(UNITS as usize))
                .expect("inside");
            see_that_it_can_be_repaired(&lost, &pool.held(), megabyte);
        }
    }
}

fn see_that_it_can_be_repaired(lost: &SimulatedDisk, held: &Held, megabyte: u64) {
    if megabyte > 0 {
        held.see_metadata(lost).expect("a copy is left");
    }
    let repair = Repair {
        history: 5,
        seconds: 1,
        uuid: None,
    };
    let checked =
        check::check(lost, lost.total_pages(), Some(repair), &mut |_, _| {}).expect("a repair");
    assert!(checked.lost.is_empty(), "{megabyte}: {:?}", checked.lost);
    see_that_it_is_sound(lost).expect("repaired");
    held.see_metadata(lost).expect("it holds what it held");
}

#[test]
fn a_damaged_pool_is_refused_and_left_as_it_is() {
    let mut numbers = Numbers::new(3);
    let mut pool = OldPool::make(&mut numbers, 8 * UNITS);
    let slots = (0..20).map(|number| Slot {
        block_type: BlockType::Kib4,
        number,
    });
    pool.allocate(3, slots, 5);
    pool.metadata.checkpoint().expect("a checkpoint");
    let extent = pool.metadata.geometry().extents[0];
    let tags = extent.tags[0].expect("a place") + TagPlace::of(3 * UNITS).page;
    for page in [0, 16, extent.tables[0], extent.tables[1], tags] {
        let disk = pool.copy();
        disk.write(page, &[Page([7; PAGE_BYTES])]).expect("inside");
        let position = disk.position();
        let refused = upgrade(&disk);
        assert!(
            matches!(&refused, Err(UpgradeError::Damaged { .. })),
            "{page}: {refused:?}"
        );
        assert_eq!(disk.position(), position, "nothing was written");
    }
}

#[test]
fn what_a_block_had_as_its_data_is_no_superblock_after_an_upgrade() {
    let mut pool = OldPool::make(&mut Numbers::new(4), 16 * UNITS);
    // A copy of a pool of version 2 was in blocks that were freed.
    let other = SimulatedDisk::new(pool.disk.seen());
    upgrade(&other).expect("there is room");
    let mut forged = Page::zeroes(KEPT_PAGES as usize);
    other.read(far_page(3), &mut forged).expect("inside");
    for exponent in [1, 2, 3] {
        pool.disk
            .write(far_page(exponent), &forged)
            .expect("inside");
    }
    pool.metadata.commit(&[]).expect("a flush");
    let disk = upgraded(&pool);
    for exponent in [1, 2] {
        let mut pages = Page::zeroes(KEPT_PAGES as usize);
        disk.read(far_page(exponent), &mut pages).expect("inside");
        assert!(
            pages.iter().all(|page| page.0 == Page::ZERO.0),
            "{exponent}"
        );
    }
}

#[test]
fn a_device_that_fails_in_the_middle_leaves_a_sound_pool() {
    let mut numbers = Numbers::new(6);
    let mut pool = OldPool::make(&mut numbers, 8 * UNITS);
    let slots = (0..20).map(|number| Slot {
        block_type: BlockType::Kib4,
        number,
    });
    pool.allocate(3, slots, 5);
    let mut failures = 0;
    loop {
        let disk = pool.copy();
        disk.fail_after(failures);
        let outcome = upgrade(&disk);
        let left = SimulatedDisk::new(disk.seen());
        pool.held().open(&left).expect("it holds what it held");
        match outcome {
            Ok(_) => break,
            Err(UpgradeError::Pool(OpenError::Device(_))) => failures += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(failures > 10, "{failures} writes and flushes");
}
