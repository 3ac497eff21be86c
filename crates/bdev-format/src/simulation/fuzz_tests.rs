//! Forged metadata: opening it ends, in bounded memory and without a panic.
//!
//! An input is a list of patches of a sound pool: `page (1) | flags (1) | offset (2) | length (1) | bytes`.
//! With bit 0 of the flags the structure that the patch lies in gets a right checksum again, so that the code
//! behind the checksum is reached too. Inputs that once failed are in `corpus`.

// Inputs that once failed are files.
#![allow(clippy::disallowed_methods)]

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::damage_tests::some_pool;
use super::disk::{DiskImage, SimulatedDisk};
use super::model::{FoundPool, WRITING};
use crate::block_map::UNITS;
use crate::check::{Repair, check};
use crate::page::{Checksum, u32_at};
use crate::{FormatVersion, OpenMode, PAGE_BYTES, journal};

const RESEALED: u8 = 1;

/// Opens a pool with the patches of `input`, in each mode, and checks it.
pub(super) fn open_patched((image, seed): (&DiskImage, u32), input: &[u8]) {
    let mut image = image.clone();
    let mut rest = input;
    while let [page, flags, low, high, len, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        // The metadata of the pool lies on its first pages, in version 2 also at the third megabyte, and in that which
        // growth has added.
        let page = match page {
            0..120 => u64::from(*page),
            120..240 => 2 * UNITS + u64::from(*page - 120),
            240..248 => 5 * UNITS + u64::from(*page - 240),
            _ => 7 * UNITS + u64::from(*page - 248),
        };
        let at = usize::from(u16::from_le_bytes([*low, *high])) % PAGE_BYTES;
        image.change(page, |page| {
            let len = bytes.len().min(PAGE_BYTES - at);
            page[at..at + len].copy_from_slice(&bytes[..len]);
        });
        if flags & RESEALED != 0 {
            reseal(&mut image, page, seed);
        }
    }
    for mode in [OpenMode::ReadOnly, WRITING] {
        let disk = SimulatedDisk::new(image.clone());
        let opened = FoundPool::open(&disk, mode);
        if mode == OpenMode::ReadOnly || opened.is_err() {
            assert!(!disk.recording().has_writes(), "{mode:?}: wrote");
        }
        let Ok(mut found) = opened else { continue };
        for (megabyte, map) in &found.maps {
            assert!(map.units().is_some(), "overlapping blocks");
            let first = u64::from(*megabyte) * UNITS;
            let units: Vec<_> = map
                .blocks()
                .map(|slot| first + slot.first_unit() as u64)
                .collect();
            let _ = found.metadata.tags(&units);
        }
        if mode == WRITING {
            let _ = found.metadata.commit(&[]);
            let _ = found.metadata.checkpoint();
        }
    }
    let disk = SimulatedDisk::new(image.clone());
    let _ = check(&disk, disk.total_pages(), None, &mut |_, _| {});
    assert!(!disk.recording().has_writes(), "a check wrote");
    repair(image);
}

/// Repairs a pool as far as it can be. What was repaired has nothing left to be repaired, and can be opened.
fn repair(image: DiskImage) {
    let repair = Repair {
        history: 77,
        seconds: 1,
        uuid: None,
    };
    let disk = SimulatedDisk::new(image);
    let checked = check(&disk, disk.total_pages(), Some(repair), &mut |_, _| {});
    let Ok(checked) = checked else { return };
    if !checked.repaired {
        return;
    }
    let again = check(&disk, disk.total_pages(), None, &mut |_, _| {});
    let again = again.expect("a repaired pool is one");
    assert_eq!(again.repairable, [""; 0], "{:?}", checked.repairable);
    assert_eq!(again.lost, [""; 0], "{:?}", checked.repairable);
    let opened = FoundPool::open(&disk, WRITING);
    if let Err(error) = opened {
        panic!("{error}: {:?}", checked.repairable);
    }
}

/// Pages of the record that begins here, as it says, up to the page `end`.
fn stated_pages(image: &DiskImage, page: u64, end: u64) -> usize {
    let pages = journal::stated_pages(&crate::Page(image.page(page))).unwrap_or(1);
    pages.min((end - page) as usize)
}

/// Gives the structure that begins on this page a right checksum.
fn reseal(image: &mut DiskImage, page: u64, seed: u32) {
    let magic = u32_at(&image.page(page), 0);
    let seeded = Checksum::begin_with(seed);
    let far = 2 * UNITS;
    let (first_page, pages, checksum) = match page {
        0 | 1 => (0, 2, Checksum::UNSEEDED),
        16 | 17 => (16, 2, Checksum::UNSEEDED),
        18..34 => (page, stated_pages(image, page, 34), seeded),
        _ if (far..far + 2).contains(&page) => (far, 2, Checksum::UNSEEDED),
        _ if (far + 3..far + 5).contains(&page) => (far + 3, 2, Checksum::UNSEEDED),
        _ if (far + 6..far + 22).contains(&page) => {
            (page, stated_pages(image, page, far + 22), seeded)
        }
        _ => (page, 1, seeded),
    };
    let is_superblock = checksum == Checksum::UNSEEDED;
    let mut bytes = Vec::new();
    (0..pages).for_each(|page| bytes.extend(image.page(first_page + page as u64)));
    checksum.seal(
        if is_superblock {
            u32_at(&bytes, 0)
        } else {
            magic
        },
        &mut bytes,
    );
    for (page, sealed) in (first_page..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
        image.change(page, |bytes| *bytes = *sealed);
    }
}

/// Patches that go where fields are.
fn patch() -> impl Strategy<Value = Vec<u8>> {
    let page = prop_oneof![
        Just(0_u8),
        Just(16),
        18_u8..34,
        Just(34),
        Just(35),
        36_u8..40,
        // In version 2 what lies far from the beginning.
        120_u8..126,
        126_u8..142,
        Just(142),
        143_u8..146,
        240_u8..=255
    ];
    let offset = prop_oneof![(0_u16..40).prop_map(|word| 8 * word), 0_u16..4096];
    let number = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..12),
        Just(vec![0xFF; 8]),
        Just(vec![0xFF; 4]),
        Just(vec![0; 8]),
        (0_u8..20).prop_map(|byte| vec![byte]),
    ];
    (page, any::<bool>(), offset, number).prop_map(|(page, is_resealed, offset, bytes)| {
        let [low, high] = offset.to_le_bytes();
        let mut patch = vec![page, u8::from(is_resealed), low, high, bytes.len() as u8];
        patch.extend(bytes);
        patch
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: variable("CHIMAERA_FUZZ_CASES").unwrap_or(20_000) as u32,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(variable("CHIMAERA_FUZZ_SEED").unwrap_or(1)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn forged_metadata_makes_nothing_panic(patches in prop::collection::vec(patch(), 1..5)) {
        thread_local! {
            static POOLS: Vec<(DiskImage, u32)> = pools();
        }
        let input = patches.concat();
        POOLS.with(|pools| pools.iter().for_each(|(image, seed)| open_patched((image, *seed), &input)));
    }
}

/// A number that the environment has.
fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

/// A pool of each version, and what its checksums begin with.
fn pools() -> Vec<(DiskImage, u32)> {
    let versions = FormatVersion::ALL.into_iter();
    let pools = versions.map(|version| {
        let (image, _) = some_pool(version);
        let found = FoundPool::open(&SimulatedDisk::new(image.clone()), OpenMode::ReadOnly);
        let seed = found.expect("it is sound").metadata.superblock().seed;
        (image, seed)
    });
    pools.collect()
}

#[test]
fn inputs_that_once_failed_pass() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/simulation/corpus");
    let pools = pools();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let input = std::fs::read(entry.expect("an entry").path()).expect("an input");
        for (image, seed) in &pools {
            open_patched((image, *seed), &input);
        }
        count += 1;
    }
    assert!(count > 0, "an empty corpus proves nothing");
}
