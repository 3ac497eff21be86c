//! A copy of a pool becomes a pool of its own, with a crash at each write and flush, and a lost megabyte on top of it.

use std::collections::BTreeMap;

use chimaera_bdev_proto::OwnerTag;
use chimaera_proto::PoolId;

use super::Numbers;
use super::creation::format;
use super::disk::{DiskImage, Loss, SimulatedDisk};
use super::model::{FoundPool, WRITING};
use crate::block_map::{MegabyteChange, MegabyteMap, UNITS};
use crate::check::{Repair, check};
use crate::limits::PAGE_BYTES;
use crate::rename::{OwnIdentity, rename};
use crate::{FormatVersion, OpenError};

const MEGABYTES: u64 = 16;
const NAME: &str = "/var/tmp/copy";
pub(super) const OWN: OwnIdentity = OwnIdentity {
    uuid: [0xC0; 16],
    pool: PoolId::new(200_000, 7),
};

/// What a pool holds: the blocks, by megabyte, and the tag of each.
type Contents = BTreeMap<u32, (MegabyteMap, Option<OwnerTag>)>;

fn contents(pool: &FoundPool) -> Contents {
    let tag_of = |megabyte: u32| {
        let tags = pool.metadata.tags(&[u64::from(megabyte) * UNITS]);
        tags.expect("read")[0]
    };
    let maps = pool.maps.iter();
    maps.map(|(&megabyte, &map)| (megabyte, (map, tag_of(megabyte))))
        .collect()
}

/// A pool whose process was killed, with some of its blocks in the table and others in both halves of the journal.
fn killed_pool(numbers: &mut Numbers) -> DiskImage {
    let disk = SimulatedDisk::new(DiskImage::blank(MEGABYTES * UNITS));
    let mut metadata =
        format(numbers, &disk, FormatVersion::Two, MEGABYTES * UNITS).expect("there is room");
    for (count, megabyte) in [3, 5, 6, 7, 9, 10, 11].into_iter().enumerate() {
        let change = MegabyteChange {
            megabyte,
            map: MegabyteMap::WHOLE,
            allocated: vec![(
                u64::from(megabyte) * UNITS,
                OwnerTag(u64::from(megabyte) + 100),
            )],
        };
        metadata.commit(&[change]).expect("committed");
        match count {
            2 => metadata.checkpoint().expect("in the table"),
            // The journal's half is changed, and the checkpoint is not finished.
            4 => metadata.advance_checkpoint().expect("a step"),
            _ => {}
        }
    }
    disk.seen()
}

fn without_megabyte(image: &DiskImage, megabyte: u64) -> SimulatedDisk {
    let mut image = image.clone();
    for page in megabyte * UNITS..(megabyte + 1) * UNITS {
        image.change(page, |bytes| *bytes = [0; PAGE_BYTES]);
    }
    SimulatedDisk::new(image)
}

/// Opens the pool, which has to have these contents, and the old identity or the new one. Says whether it is the new.
fn assert_found(disk: &SimulatedDisk, old: [u8; 16], expected: &Contents, when: &str) -> bool {
    let pool = FoundPool::open(disk, WRITING).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(&contents(&pool), expected, "{when}");
    let superblock = pool.metadata.superblock();
    let identity = &superblock.identity;
    let found = (superblock.uuid, identity.pool, identity.name.as_str());
    let is_new = found == (OWN.uuid, OWN.pool, NAME);
    let is_old = found == (old, PoolId::new(8000, 1), "simulated");
    assert!(is_new || is_old, "{when}: {found:?}");
    is_new
}

#[test]
fn a_copy_has_its_old_identity_or_the_new_one_after_any_crash() {
    let mut numbers = Numbers::new(1);
    let image = killed_pool(&mut numbers);
    let disk = SimulatedDisk::new(image.clone());
    let before = FoundPool::open(&SimulatedDisk::new(image.clone()), WRITING).expect("sound");
    let expected = contents(&before);
    let old = before.metadata.superblock().uuid;
    assert_eq!(expected.len(), 7);

    rename(disk.clone(), NAME.to_owned(), Some(OWN), 99).expect("renamed");
    assert!(assert_found(
        &SimulatedDisk::new(disk.seen()),
        old,
        &expected,
        "at the end"
    ));
    let recording = disk.recording();
    let mut seen = [0; 2];
    for position in 0..=recording.len() {
        let left = recording.at(position);
        for loss in Loss::EACH {
            let crashed = left.crash(loss, &mut numbers);
            let when = format!("after {position} writes and flushes, {loss:?} lost");
            let is_new = assert_found(&SimulatedDisk::new(crashed.clone()), old, &expected, &when);
            seen[usize::from(is_new)] += 1;
            for megabyte in [0, MEGABYTES / 2] {
                let disk = without_megabyte(&crashed, megabyte);
                if megabyte == 0 {
                    let opened = FoundPool::open(&disk, WRITING).err();
                    assert!(
                        matches!(opened, Some(OpenError::OnlyFarCopies(_))),
                        "{when}"
                    );
                    let repair = Some(Repair {
                        history: 5,
                        seconds: 1,
                        uuid: None,
                    });
                    let checked = check(&disk, disk.total_pages(), repair, &mut |_, _| {});
                    assert!(checked.expect("a copy is left").repaired, "{when}");
                }
                assert_found(
                    &disk,
                    old,
                    &expected,
                    &format!("{when}, and MiB {megabyte}"),
                );
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}

#[test]
fn a_name_alone_changes_nothing_else() {
    let disk = SimulatedDisk::new(killed_pool(&mut Numbers::new(2)));
    let before = crate::identify(&disk).expect("a pool");
    rename(disk.clone(), NAME.to_owned(), None, 99).expect("renamed");
    let after = crate::identify(&disk).expect("a pool");
    assert_eq!(
        (after.uuid, after.identity.pool),
        (before.uuid, before.identity.pool)
    );
    assert_eq!(after.identity.name, NAME);
    let history = after.history.expect("version 2");
    assert!(history.current == 99 && history.ended_well);
    assert_eq!(
        Some(history.predecessor),
        before.history.map(|it| it.current)
    );
}
