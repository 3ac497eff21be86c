//! Opening pools after failures, crashes, and writes of other programs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chimaera_bdev_proto::{IoEngine, PerfMetrics};
use chimaera_proto::PoolId;

use super::*;
use crate::block_map::MegabyteMap;
use crate::check::check;
use crate::limits::{MAX_COUNTED, MIN_LEFT_TO_COUNT};
use crate::superblock::{FormatFeatures, Identity, PoolOwner};
use crate::{Birth, FormatVersion, OpenError, OpenMode, open};

/// A device in memory: what is on the medium, and what was written since.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    durable: BTreeMap<u64, Page>,
    written: BTreeMap<u64, Page>,
    /// How many of the next flushes fail.
    failing_flushes: usize,
    /// What a failed flush should have made durable: no later flush does, and it can be read until the power is cut.
    lost: BTreeMap<u64, Page>,
}

impl Memory {
    fn cut_power(&self) {
        let mut pages = self.0.lock().expect("no panic");
        pages.written.clear();
        pages.lost.clear();
    }

    /// Another device that holds the same.
    fn copied(&self) -> Self {
        let pages = self.0.lock().expect("no panic");
        assert!(pages.written.is_empty(), "all of it is durable");
        Self(Arc::new(Mutex::new(Pages {
            durable: pages.durable.clone(),
            ..Pages::default()
        })))
    }

    fn fail_next_flush(&self) {
        self.0.lock().expect("no panic").failing_flushes = 1;
    }
}

impl Disk for Memory {
    fn read(&self, first_page: u64, pages: &mut [Page]) -> io::Result<()> {
        let state = self.0.lock().expect("no panic");
        for (at, page) in (first_page..).zip(pages) {
            let places = [&state.written, &state.lost, &state.durable];
            let found = places.iter().find_map(|place| place.get(&at));
            *page = found.cloned().unwrap_or(Page::ZERO);
        }
        Ok(())
    }

    fn write(&self, first_page: u64, pages: &[Page]) -> io::Result<()> {
        let mut state = self.0.lock().expect("no panic");
        let places = (first_page..).zip(pages.iter().cloned());
        state.written.extend(places);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.0.lock().expect("no panic");
        let written = std::mem::take(&mut state.written);
        if state.failing_flushes > 0 {
            state.failing_flushes -= 1;
            state.lost.extend(written);
            return Err(io::ErrorKind::Other.into());
        }
        for page in written.keys() {
            state.lost.remove(page);
        }
        state.durable.extend(written);
        Ok(())
    }
}

fn identity() -> Identity {
    Identity {
        pool: PoolId::new(8000, 0),
        name: "pool".to_owned(),
        owner: PoolOwner::default(),
        alignment: 512,
        io_depth: 1,
        io_engine: IoEngine::Auto,
        metrics: PerfMetrics::default(),
        scrubs: false,
    }
}

fn format(disk: &Memory, pages: u64) -> Metadata<Memory> {
    let geometry = Geometry::new(pages).expect("room");
    let birth = Birth {
        uuid: [7; 16],
        seed: 7,
        history: 1,
        created: 0,
    };
    Metadata::format(disk.clone(), identity(), geometry, birth, false).expect("made")
}

fn whole(megabyte: u32) -> MegabyteChange {
    MegabyteChange {
        megabyte,
        map: MegabyteMap::WHOLE,
        allocated: Vec::new(),
    }
}

fn open_with_blocks(disk: &Memory) -> Result<(Metadata<Memory>, Vec<u32>), OpenError> {
    let mut found = Vec::new();
    let mut note = |megabyte, _| found.push(megabyte);
    let opened = open(
        disk.clone(),
        OpenMode::ReadWrite { history: 5 },
        &mut note,
        &mut |_, _| {},
    )?;
    found.sort_unstable();
    Ok((opened.metadata, found))
}

#[test]
fn what_a_failed_flush_left_is_not_built_on_before_it_is_durable() {
    let disk = Memory::default();
    let mut metadata = format(&disk, 64 * UNITS);
    metadata.commit(&[whole(2)]).expect("committed");
    disk.fail_next_flush();
    metadata.commit(&[whole(3)]).expect_err("not durable");
    metadata
        .commit(&[whole(4)])
        .expect_err("nothing after that");
    drop(metadata);

    let (mut metadata, _) = open_with_blocks(&disk).expect("sound");
    metadata.commit(&[whole(5)]).expect("committed");
    drop(metadata);
    disk.cut_power();
    let (_, found) = open_with_blocks(&disk).expect("what was committed is there");
    assert!(found.contains(&2) && found.contains(&5), "{found:?}");
}

#[test]
fn an_interrupted_checkpoint_is_no_damage() {
    let disk = Memory::default();
    let mut metadata = format(&disk, 64 * UNITS);
    for megabyte in 9..13 {
        metadata.commit(&[whole(megabyte)]).expect("committed");
    }
    metadata.checkpoint().expect("in the table");
    for megabyte in 17..21 {
        metadata.commit(&[whole(megabyte)]).expect("committed");
    }
    // The tags, both copies of the table as it was, and the first copy of the table.
    for _ in 0..6 {
        metadata.advance_checkpoint().expect("a step");
    }
    drop(metadata);
    let checked = check(&disk, u64::MAX, None, &mut |_, _| {}).expect("a pool");
    assert_eq!(checked.repairable, Vec::<String>::new());
    assert_eq!(checked.lost, Vec::<String>::new());
}

/// Puts back what this megabyte of another device held.
fn put_back(disk: &Memory, megabyte: u64, held: &Memory) {
    let mut pages = Page::zeroes(UNITS as usize);
    held.read(megabyte * UNITS, &mut pages).expect("read");
    disk.write(megabyte * UNITS, &pages).expect("written");
    disk.flush().expect("durable");
}

#[test]
fn an_older_state_of_a_megabyte_that_was_put_back_is_not_taken() {
    let disk = Memory::default();
    let mut metadata = format(&disk, 64 * UNITS);
    metadata.commit(&[whole(9), whole(10)]).expect("committed");
    metadata.end().expect("in good order");
    let older = disk.copied();
    let (mut metadata, _) = open_with_blocks(&disk).expect("sound");
    let freed = MegabyteChange {
        map: MegabyteMap::EMPTY,
        ..whole(10)
    };
    metadata.commit(&[freed, whole(11)]).expect("committed");
    metadata.checkpoint().expect("in the table");
    let at_work = disk.copied();
    metadata.end().expect("in good order");
    for (disk, is_in_use) in [(&disk, false), (&at_work, true)] {
        // The first copies of all lie in megabyte 0, the second ones behind the far place.
        for megabyte in [0, 32] {
            let what = format!("megabyte {megabyte}, in use: {is_in_use}");
            let disk = disk.copied();
            put_back(&disk, megabyte, &older);
            let checked = check(&disk, u64::MAX, None, &mut |_, _| {}).expect("a pool");
            assert_eq!(checked.lost, Vec::<String>::new(), "{what}");
            let repairable = &checked.repairable;
            let is_named = repairable.iter().any(|it| it.contains("of the table"));
            assert!(is_named, "{what}: {repairable:?}");
            let (metadata, found) = open_with_blocks(&disk).expect("sound");
            assert_eq!(found, [9, 11], "{what}");
            drop(metadata);
            if megabyte == 0 {
                put_back(&disk, 32, &older);
                let (_, found) = open_with_blocks(&disk).expect("sound");
                assert_eq!(found, [9, 11], "it was mended, {what}");
            }
        }
    }
}

#[test]
fn what_no_program_wrote_is_damage_and_no_panic() {
    let disk = Memory::default();
    let sound = format(&disk, 64 * UNITS).superblock().clone();
    assert_eq!(sound.features(), FormatFeatures::default());
    let spoilt: [fn(&mut Superblock); 6] = [
        |it| it.generation = u64::MAX,
        |it| it.epoch = u64::MAX,
        |it| it.epoch = u64::MAX - 1,
        |it| it.sequence = u64::MAX,
        |it| it.geometry.journal.pages = 1 << 40,
        |it| it.geometry.extents[0].megabytes = u32::MAX,
    ];
    for (place, spoil) in spoilt.into_iter().enumerate() {
        let mut superblock = sound.clone();
        spoil(&mut superblock);
        for place in sound.geometry.superblocks() {
            disk.write(place, &superblock.to_pages(place))
                .expect("written");
        }
        let opened = open_with_blocks(&disk);
        let is_damage = matches!(opened, Err(OpenError::Damaged(_)));
        assert!(is_damage, "{place}: {:?}", opened.map(|(_, found)| found));
    }
}

/// The numbers of a superblock that grow one by one.
const COUNTED: [fn(&mut Superblock) -> &mut u64; 3] = [
    |it| &mut it.generation,
    |it| &mut it.epoch,
    |it| &mut it.sequence,
];

#[test]
fn a_number_that_no_pool_comes_to_is_damage_of_that_copy() {
    for counted in COUNTED {
        let disk = Memory::default();
        let mut forged = format(&disk, 64 * UNITS).superblock().clone();
        forged.generation += 1;
        *counted(&mut forged) = 1 << 62;
        disk.write(0, &forged.to_pages(0)).expect("written");
        let (metadata, _) = open_with_blocks(&disk).expect("the other copies are sound");
        let superblock = metadata.superblock();
        let largest = superblock.generation.max(superblock.epoch);
        assert!(largest.max(superblock.sequence) < 10, "{superblock:?}");
    }
}

#[test]
fn a_pool_that_has_counted_too_far_is_only_read() {
    for counted in COUNTED {
        let disk = Memory::default();
        let mut forged = format(&disk, 64 * UNITS).superblock().clone();
        *counted(&mut forged) = MAX_COUNTED - MIN_LEFT_TO_COUNT + 1;
        for place in forged.geometry.superblocks() {
            let written = disk.write(place, &forged.to_pages(place));
            written.expect("written");
        }
        disk.flush().expect("durable");
        let opened = open_with_blocks(&disk).err();
        assert!(
            matches!(opened, Some(OpenError::OnlyReadable(_))),
            "{opened:?}"
        );
        assert!(disk.0.lock().expect("no panic").written.is_empty());
        let mode = OpenMode::ReadOnly;
        let opened = open(disk, mode, &mut |_, _| {}, &mut |_, _| {});
        assert!(opened.is_ok_and(|opened| opened.lost.is_empty()));
    }
}

#[test]
fn a_pool_that_is_open_stops_before_it_has_counted_too_far() {
    let disk = Memory::default();
    let mut metadata = format(&disk, 64 * UNITS);
    metadata.next_sequence = MAX_COUNTED - MIN_LEFT_TO_COMMIT;
    metadata.commit(&[whole(9)]).expect("committed");
    metadata.commit(&[whole(10)]).expect_err("the end");
    metadata.checkpoint().expect_err("the end");
    assert!(disk.0.lock().expect("no panic").written.is_empty());
}

#[test]
fn opening_goes_through_a_bounded_number_of_changes() {
    const MEGABYTES: u32 = 1 << 16;
    let disk = Memory::default();
    let mut metadata = format(&disk, 1 << 28);
    let maps = [MegabyteMap::WHOLE, MegabyteMap::EMPTY];
    for map in maps.into_iter().cycle().take(11) {
        let changes: Vec<_> = (10_000..10_000 + MEGABYTES)
            .map(|megabyte| MegabyteChange {
                map,
                ..whole(megabyte)
            })
            .collect();
        metadata.commit(&changes).expect("committed");
    }
    drop(metadata);
    let (metadata, found) = open_with_blocks(&disk).expect("sound");
    assert_eq!(found.len(), MEGABYTES as usize);
    assert!(metadata.changes <= MAX_EPOCH_CHANGES);
    let not_in_the_table = metadata.next_sequence - 1 - metadata.superblock.sequence;
    let most = 2 * MAX_EPOCH_CHANGES / MEGABYTES as usize;
    assert!(not_in_the_table <= most as u64, "{not_in_the_table}");
}

/// Makes a pool of so many megabytes, with commits in one epoch that no program writes now: each of a run of megabytes.
fn with_commits(megabytes: u64, commits: &[(std::ops::Range<u32>, MegabyteMap)]) -> Memory {
    let disk = Memory::default();
    let metadata = format(&disk, megabytes * UNITS);
    let mut at = 0;
    for ((run, map), sequence) in commits.iter().zip(1..) {
        // The first megabyte of each run is tagged, with the sequence of its commit.
        let update = |megabyte| {
            let tagged = megabyte == run.start;
            let unit = u64::from(megabyte) * UNITS;
            journal::MegabyteUpdate {
                megabyte,
                entry: TableEntry { map: *map, tagged },
                tags: if tagged {
                    vec![(unit, sequence)]
                } else {
                    Vec::new()
                },
            }
        };
        let updates: Vec<_> = run.clone().map(update).collect();
        let (pages, _) = journal::lay_out(&updates, (1, sequence), metadata.record_layout());
        for half in metadata.geometry().journal.halves(1) {
            disk.write(half + at, &pages).expect("written");
        }
        at += pages.len() as u64;
    }
    disk
}

#[test]
fn an_epoch_that_the_first_programs_did_not_bound_is_read() {
    const RUN: u32 = 1 << 16;
    let maps = [MegabyteMap::WHOLE, MegabyteMap::EMPTY];
    let run = |map| (10_000..10_000 + RUN, map);
    let mut commits: Vec<_> = maps.into_iter().cycle().take(30).map(run).collect();
    commits.push((11_000..11_007, MegabyteMap::WHOLE));
    let (mut metadata, found) = open_with_blocks(&with_commits(1 << 20, &commits)).expect("sound");
    assert_eq!(found, Vec::from_iter(11_000..11_007));
    assert!(metadata.wants_checkpoint());
    let units = [10_000, 11_000].map(|megabyte| megabyte * UNITS);
    let tags = |metadata: &Metadata<_>| metadata.tags(&units).expect("a sound device");
    assert_eq!(tags(&metadata), [Some(OwnerTag(30)), Some(OwnerTag(31))]);
    metadata.checkpoint().expect("a sound device");
    assert_eq!(tags(&metadata), [Some(OwnerTag(30)), Some(OwnerTag(31))]);
}

#[test]
fn an_epoch_about_more_megabytes_than_are_read_is_damage() {
    let run = |number: u32| (number << 17..(number + 1) << 17, MegabyteMap::WHOLE);
    let commits: Vec<_> = (1..14).map(run).collect();
    let opened = open_with_blocks(&with_commits(1 << 21, &commits));
    assert!(matches!(opened.err(), Some(OpenError::Damaged(_))));
}

#[test]
fn a_record_of_more_changes_than_there_can_be_is_none() {
    let version = FormatVersion::NEWEST;
    let layout = RecordLayout {
        version,
        max_pages: 1,
        checksum: format(&Memory::default(), 1 << 28).superblock().checksum(),
    };
    let whole = |megabyte| journal::MegabyteUpdate {
        megabyte,
        entry: TableEntry {
            map: MegabyteMap::WHOLE,
            tagged: false,
        },
        tags: Vec::new(),
    };
    let readable = |count: usize| {
        let updates: Vec<_> = (0..count as u32).map(whole).collect();
        let (pages, _) = journal::lay_out(&updates, (1, 1), layout);
        journal::read(&pages[..1], 1 << 20, version, layout.checksum).is_some()
    };
    assert!(readable(MAX_EPOCH_CHANGES));
    assert!(!readable(MAX_EPOCH_CHANGES + 1));
}

#[test]
fn a_commit_that_failed_keeps_its_tags() {
    let disk = Memory::default();
    let mut metadata = format(&disk, 64 * UNITS);
    let tagged = |tag| MegabyteChange {
        allocated: vec![(2 * UNITS, OwnerTag(tag))],
        ..whole(2)
    };
    metadata.commit(&[tagged(5)]).expect("committed");
    assert_eq!(
        metadata.tags(&[2 * UNITS]).expect("read"),
        [Some(OwnerTag(5))]
    );
    disk.fail_next_flush();
    metadata.commit(&[tagged(6)]).expect_err("not durable");
    assert_eq!(
        metadata.tags(&[2 * UNITS]).expect("read"),
        [Some(OwnerTag(6))]
    );
}

#[test]
fn blocks_in_metadata_are_damage() {
    for (megabyte, is_damage) in [(0, true), (2, true), (3, false), (16, true), (63, true)] {
        let disk = Memory::default();
        let mut metadata = format(&disk, 64 * UNITS - 1);
        metadata.commit(&[whole(megabyte)]).expect("committed");
        let checked = check(&disk, u64::MAX, None, &mut |_, _| {}).expect("a pool");
        assert_eq!(
            checked.lost.len(),
            usize::from(is_damage),
            "{:?}",
            checked.lost
        );
    }
}

#[test]
fn what_was_written_over_either_superblock_is_not_written_over() {
    // The signatures of XFS and of Btrfs.
    for (page, at, signature) in [(0, 0, &b"XFSB"[..]), (16, 0x40, b"_BHRfS_M")] {
        let disk = Memory::default();
        format(&disk, 64 * UNITS);
        let mut other = Page::zeroes(2);
        other[0].0[at..at + signature.len()].copy_from_slice(signature);
        disk.write(page, &other).expect("written");
        let opened = open_with_blocks(&disk);
        let is_told = matches!(opened, Err(OpenError::Overwritten(_)));
        assert!(is_told, "{page}: {:?}", opened.map(|(_, found)| found));
    }
}
