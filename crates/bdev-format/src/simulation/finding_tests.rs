//! Devices with copies of superblocks that contradict each other.

use std::ops::Range;

use super::Numbers;
use super::creation::format;
use super::disk::{DiskImage, Loss, SimulatedDisk};
use super::model::{FoundPool, WRITING};
use crate::check::{Checked, Repair, agreed, check};
use crate::page::{Checksum, bytes_of};
use crate::superblock::hyphenated;
use crate::upgrade::UpgradeError;
use crate::{Disk, FormatVersion, OpenError, OpenMode, PAGE_BYTES, Page, Superblock, identify};

/// Where a superblock has these.
const VERSION_AT: usize = 16;
const FEATURES_AT: usize = 24;
const GENERATION_AT: usize = 96;

const PAGES: u64 = 16 * 256;
const FAR: u64 = 8 * 256;
/// Another place at which far superblocks may lie.
const ELSEWHERE: u64 = 4 * 256;

/// A device with a pool that was opened and closed.
fn pool(seed: u64, pages: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(DiskImage::blank(pages));
    let made = format(&mut Numbers::new(seed), &disk, FormatVersion::Two, pages);
    drop(made.expect("room"));
    let opened = FoundPool::open(&disk, WRITING);
    opened.expect("sound").metadata.end().expect("ended");
    disk
}

/// The device as it is, with nothing of it to be written or flushed.
fn settled(disk: &SimulatedDisk) -> SimulatedDisk {
    SimulatedDisk::new(disk.seen())
}

fn zero(disk: &SimulatedDisk, pages: Range<u64>) {
    for page in pages {
        disk.write(page, &Page::zeroes(1)).expect("inside");
    }
}

/// Writes this superblock as the copy at `place`, where it says that its far place is `far`.
fn forge(disk: &SimulatedDisk, superblock: &Superblock, far: u64, place: u64) {
    let mut forged = superblock.clone();
    forged.geometry.far = Some(far);
    disk.write(place, &forged.to_pages(place)).expect("inside");
}

/// Changes a copy of a superblock, and gives it a right checksum again.
fn change(disk: &SimulatedDisk, place: u64, change: impl FnOnce(&mut [u8])) {
    let mut pages = Page::zeroes(2);
    disk.read(place, &mut pages).expect("inside");
    let mut bytes = bytes_of(&pages).to_vec();
    change(&mut bytes);
    Checksum::UNSEEDED.seal(u32::from_le_bytes(*b"CHIM"), &mut bytes);
    let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
    let pages: Vec<_> = pages.iter().map(|&page| Page(page)).collect();
    disk.write(place, &pages).expect("inside");
}

fn repair(disk: &SimulatedDisk, uuid: Option<[u8; 16]>) -> Result<Checked, OpenError> {
    let repair = Repair {
        history: 5,
        seconds: 1,
        uuid,
    };
    check(disk, disk.total_pages(), Some(repair), &mut |_, _| {})
}

/// The error of everything that would write, which writes nothing.
fn refusal(disk: &SimulatedDisk) -> OpenError {
    let disk = settled(disk);
    let opened = FoundPool::open(&disk, WRITING).err();
    let renamed = crate::rename::rename(disk.clone(), "name".to_owned(), None, 6).err();
    let repaired = repair(&disk, None).err();
    let texts = [&opened, &renamed, &repaired].map(|error| error.as_ref().map(ToString::to_string));
    assert!(
        texts.iter().all(|text| text.is_some() && *text == texts[0]),
        "{texts:?}"
    );
    assert!(!disk.recording().has_writes());
    opened.expect("refused")
}

fn uuid_of(disk: &SimulatedDisk) -> [u8; 16] {
    identify(disk).expect("a pool").uuid
}

#[test]
fn copies_of_a_pool_that_name_different_far_places_are_a_conflict() {
    let disk = pool(1, PAGES);
    let mut superblock = identify(&disk).expect("a pool");
    superblock.generation += 100;
    for place in [ELSEWHERE, ELSEWHERE + 3] {
        forge(&disk, &superblock, ELSEWHERE, place);
    }
    assert_eq!(uuid_of(&disk), superblock.uuid, "its beginning is there");
    let sound = check(&settled(&disk), PAGES, None, &mut |_, _| {}).expect("sound");
    assert!(sound.repairable.is_empty() && sound.lost.is_empty());
    zero(&disk, 0..256);
    let error = refusal(&disk);
    let OpenError::ConflictingCopies(copies) = &error else {
        panic!("{error}");
    };
    let bytes = |pages: Range<u64>| pages.start * 4096..pages.end * 4096;
    let places = [bytes(ELSEWHERE..ELSEWHERE + 5), bytes(FAR..FAR + 5)];
    assert_eq!(copies.places(), places);
    for offset in ["0x400000", "0x403000", "0x800000", "0x803000"] {
        assert!(error.to_string().contains(offset), "{error}");
    }
    let named = repair(&settled(&disk), Some(superblock.uuid)).err();
    assert!(matches!(named, Some(OpenError::ConflictingCopies(_))));
    zero(&disk, ELSEWHERE..ELSEWHERE + 5);
    let repaired = repair(&settled(&disk), None).expect("one place is left");
    assert_eq!(repaired.restored_from, Some(FAR));
}

#[test]
fn a_copy_in_a_place_that_it_does_not_name_does_not_count() {
    let disk = pool(1, PAGES);
    let superblock = identify(&disk).expect("a pool");
    zero(&disk, 0..256);
    zero(&disk, FAR..FAR + 6);
    for place in [ELSEWHERE, ELSEWHERE + 3, FAR + 3] {
        forge(&disk, &superblock, 2 * 256, place);
    }
    // Of version 1, which does not say where it lies.
    let old = SimulatedDisk::new(DiskImage::blank(PAGES));
    let made = format(&mut Numbers::new(1), &old, FormatVersion::One, PAGES);
    let old = made.expect("room").superblock().clone();
    disk.write(FAR, &old.to_pages(FAR)).expect("inside");
    let opened = FoundPool::open(&settled(&disk), WRITING).err();
    assert!(
        matches!(opened, Some(OpenError::Damaged(_) | OpenError::NoPool)),
        "{opened:?}"
    );
}

#[test]
fn a_copy_of_version_1_in_the_far_place_does_not_count() {
    let disk = pool(1, PAGES);
    let superblock = identify(&disk).expect("a pool");
    let old = SimulatedDisk::new(DiskImage::blank(PAGES));
    let made = format(&mut Numbers::new(1), &old, FormatVersion::One, PAGES);
    let mut old = made.expect("room").superblock().clone();
    old.uuid = superblock.uuid;
    old.generation = superblock.generation + 100;
    disk.write(FAR, &old.to_pages(FAR)).expect("inside");
    let found = identify(&disk).expect("a pool");
    assert_eq!(
        (found.version(), found.generation),
        (FormatVersion::Two, superblock.generation)
    );
}

#[test]
fn copies_of_two_pools_in_one_place_are_both_offered() {
    let (disk, other) = (pool(1, PAGES), pool(2, PAGES));
    let uuids = [&disk, &other].map(uuid_of);
    let superblock = identify(&other).expect("a pool");
    disk.write(FAR + 3, &superblock.to_pages(FAR + 3))
        .expect("inside");
    zero(&disk, 0..256);
    let OpenError::OnlyFarCopies(copies) = refusal(&disk) else {
        panic!("both are there");
    };
    let mut found = copies.uuids();
    found.sort_unstable();
    let mut wanted = uuids;
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    for (uuid, from) in uuids.into_iter().zip([FAR, FAR + 3]) {
        let disk = settled(&disk);
        let checked = repair(&disk, Some(uuid)).expect("it is there");
        assert_eq!(
            (checked.superblock.uuid, checked.restored_from),
            (uuid, Some(from))
        );
    }
}

/// A device with a pool over whose first megabyte that of another one was copied, and the UUIDs of both: first that at
/// the beginning.
fn two_pools() -> (SimulatedDisk, [[u8; 16]; 2]) {
    let (disk, other) = (pool(1, PAGES), pool(2, PAGES));
    let uuids = [&other, &disk].map(uuid_of);
    let mut megabyte = Page::zeroes(256);
    other.read(0, &mut megabyte).expect("inside");
    disk.write(0, &megabyte).expect("inside");
    (settled(&disk), uuids)
}

#[test]
fn a_pool_is_not_written_where_the_superblock_of_another_is_in_its_far_place() {
    let (disk, [near, far]) = two_pools();
    let error = refusal(&disk);
    assert!(
        matches!(&error, OpenError::TwoPools(pools) if pools.uuids() == [near, far]),
        "{error}"
    );
    let text = error.to_string();
    for word in [&hyphenated(&near), &hyphenated(&far), "0x0", "0x800000"] {
        assert!(text.contains(word), "{text}");
    }
    let upgraded = crate::upgrade::plan(&disk, PAGES).err();
    let is_refusal = matches!(upgraded, Some(UpgradeError::Pool(OpenError::TwoPools(_))));
    assert!(is_refusal, "{upgraded:?}");
    let other = repair(&disk, Some([1; 16])).err();
    assert!(matches!(other, Some(OpenError::AnotherUuid(uuid)) if uuid == near));
    let opened = FoundPool::open(&disk, OpenMode::ReadOnly).expect("readable");
    assert_eq!(opened.metadata.superblock().uuid, near);
    assert_eq!(opened.repaired[0], text, "it is told of");
    let checked = check(&disk, PAGES, None, &mut |_, _| {}).expect("readable");
    assert!(checked.two_pools.is_some());
    assert!(!disk.recording().has_writes());
    // One of the two copies is enough.
    for place in [FAR, FAR + 3] {
        let disk = settled(&disk);
        zero(&disk, place..place + 2);
        assert!(matches!(refusal(&disk), OpenError::TwoPools(_)));
    }
}

#[test]
fn two_pools_count_beside_a_writer_only_if_several_looks_find_them() {
    let (alone, other) = (pool(1, PAGES), pool(2, PAGES));
    let (both, superblock) = (settled(&alone), identify(&other).expect("a pool"));
    for place in [FAR, FAR + 3] {
        let written = both.write(place, &superblock.to_pages(place));
        written.expect("inside");
    }
    let looks = |disks: &[&SimulatedDisk]| {
        let mut disks = disks.iter().copied();
        let mut last = None;
        let found = agreed(|| {
            last = disks.next().or(last);
            let disk = last.expect("one disk");
            check(disk, PAGES, None, &mut |_, _| {}).map(|checked| (checked, ()))
        });
        let (checked, ()) = found.expect("a pool");
        assert!(checked.lost.is_empty() && checked.repairable.is_empty());
        checked.two_pools.is_some()
    };
    assert!(looks(&[&both]));
    assert!(!looks(&[&both, &alone]));
    let damaged = settled(&alone);
    zero(&damaged, 16..18);
    assert!(!looks(&[&damaged, &both]));
    assert!(!looks(&[&alone]));
}

#[test]
fn a_repair_of_the_pool_that_is_named_can_crash_and_be_repeated() {
    let (disk, uuids) = two_pools();
    for uuid in uuids {
        let disk = settled(&disk);
        let checked = repair(&disk, Some(uuid)).expect("it is there");
        assert!(checked.repaired, "{:?}", checked.lost);
        assert_is_alone(&disk, uuid);
        let recording = disk.recording();
        let mut numbers = Numbers::new(3);
        let mut walk = recording.walk();
        for _ in 0..=recording.len() {
            for loss in Loss::EACH {
                let disk = SimulatedDisk::new(walk.left.crash(loss, &mut numbers));
                let found = identify(&disk).map(|found| uuids.contains(&found.uuid));
                assert!(
                    matches!(found, Ok(true) | Err(OpenError::OnlyFarCopies(_))),
                    "{found:?}"
                );
                repair(&disk, Some(uuid)).unwrap_or_else(|error| panic!("{error}"));
                assert_is_alone(&disk, uuid);
            }
            walk.step();
        }
    }
}

fn assert_is_alone(disk: &SimulatedDisk, uuid: [u8; 16]) {
    let checked = check(disk, PAGES, None, &mut |_, _| {}).expect("sound");
    let damage = [&checked.lost[..], &checked.repairable[..]].concat();
    assert!(
        damage.is_empty() && checked.two_pools.is_none(),
        "{damage:?}"
    );
    let opened = FoundPool::open(&settled(disk), WRITING).expect("sound");
    assert_eq!(opened.metadata.superblock().uuid, uuid);
    assert!(opened.repaired.is_empty(), "{:?}", opened.repaired);
    let disk = settled(disk);
    zero(&disk, 0..256);
    match FoundPool::open(&disk, WRITING).err() {
        Some(OpenError::OnlyFarCopies(copies)) => assert_eq!(copies.uuids(), [uuid]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn superblocks_of_other_pools_at_other_places_are_ignored() {
    let (disk, other) = (pool(1, PAGES), pool(2, 2 * ELSEWHERE));
    let superblock = identify(&other).expect("a pool");
    for place in [ELSEWHERE, ELSEWHERE + 3] {
        disk.write(place, &superblock.to_pages(place))
            .expect("inside");
    }
    let opened = FoundPool::open(&settled(&disk), WRITING).expect("sound");
    assert!(opened.repaired.is_empty(), "{:?}", opened.repaired);
}

/// What a newer program may have put into a superblock: the place of the bytes, and what is said of it.
const NEWER: [(usize, u8, &str); 2] = [
    (VERSION_AT, 3, "has version 3"),
    (
        FEATURES_AT,
        0x40,
        "features that this program does not know (0x40)",
    ),
];

#[test]
fn far_copies_of_a_newer_format_are_refused_as_such() {
    for (at, byte, wanted) in NEWER {
        let disk = pool(1, PAGES);
        zero(&disk, 0..256);
        for place in [FAR, FAR + 3] {
            change(&disk, place, |bytes| bytes[at] = byte);
        }
        let error = refusal(&disk);
        assert!(
            matches!(&error, OpenError::Unsupported(text) if text.contains(wanted)),
            "{error:?}"
        );
        // Beside another pool it is one of two.
        let other = pool(2, 2 * ELSEWHERE);
        let superblock = identify(&other).expect("a pool");
        disk.write(ELSEWHERE, &superblock.to_pages(ELSEWHERE))
            .expect("inside");
        let OpenError::OnlyFarCopies(copies) = refusal(&disk) else {
            panic!("one of them can be used");
        };
        assert!(copies.to_string().contains(wanted), "{copies}");
        for uuid in copies.uuids() {
            let repaired = repair(&settled(&disk), Some(uuid));
            let is_right = match &repaired {
                Ok(checked) => uuid == superblock.uuid && checked.repaired,
                Err(error) => uuid != superblock.uuid && matches!(error, OpenError::Unsupported(_)),
            };
            assert!(is_right, "{repaired:?}");
        }
        // In another place than it says it is data.
        let disk = pool(1, PAGES);
        let mut pages = Page::zeroes(2);
        disk.read(FAR, &mut pages).expect("inside");
        zero(&disk, 0..256);
        zero(&disk, FAR..FAR + 6);
        disk.write(ELSEWHERE, &pages).expect("inside");
        change(&disk, ELSEWHERE, |bytes| bytes[at] = byte);
        let error = FoundPool::open(&disk, WRITING).err();
        assert!(
            matches!(error, Some(OpenError::NoPool | OpenError::Damaged(_))),
            "{error:?}"
        );
    }
}

#[test]
fn a_newer_superblock_of_the_pool_that_cannot_be_used_is_not_written_over() {
    for (at, byte, wanted) in NEWER {
        for place in [FAR, FAR + 3] {
            let disk = pool(1, PAGES);
            change(&disk, place, |bytes| {
                bytes[at] = byte;
                bytes[GENERATION_AT + 6] = 1;
            });
            let error = refusal(&disk);
            assert!(
                matches!(&error, OpenError::Unsupported(text) if text.contains(wanted)),
                "{error:?}"
            );
            let read = FoundPool::open(&disk, OpenMode::ReadOnly).err();
            assert!(matches!(read, Some(OpenError::Unsupported(_))), "{read:?}");
        }
    }
    // An older one is what an interrupted change has left.
    let disk = pool(1, PAGES);
    change(&disk, FAR + 3, |bytes| {
        bytes[FEATURES_AT] = 0x40;
        bytes[GENERATION_AT] = 1;
    });
    let opened = FoundPool::open(&disk, WRITING).expect("sound");
    assert_eq!(opened.repaired.len(), 1, "{:?}", opened.repaired);
}
