//! Damaged metadata is repaired from its copy, or reported; it is never believed, and never made worse.

use chimaera_bdev_format::Geometry;
use chimaera_bdev_format::image::CheckMode;
use chimaera_bdev_proto::{Block, CreateParams, ListedTag, OwnedBlock, OwnerTag, UNIT_BYTES};
use chimaera_proto::Status;

use super::{SUPERBLOCK_BYTES, Store, UNPROTECTED_BYTES, Written, on_every_store, pattern};
use crate::testing::{TestPool, file_bytes, file_params};

const CORRUPTED: Status = Status::CorruptedMetadata;
fn read_only() -> CreateParams {
    CreateParams {
        read_only: true,
        ..file_params(0)
    }
}

/// Where the two copies of the only page of the table of a small pool begin.
fn tables(size: u64) -> [u64; 2] {
    let geometry = Geometry::new(size / UNIT_BYTES).expect("room");
    geometry.tables().map(|page| page * UNIT_BYTES)
}

#[track_caller]
fn assert_told(pool: &TestPool, level: u32, words: &[&str]) {
    let log = pool.recorder().log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0].0, level, "{log:?}");
    for word in words {
        assert!(log[0].1.contains(word), "no {word:?} in {log:?}");
    }
}

/// Makes a pool, ends it in order, and returns what is in it.
fn ended(store: &Store) -> Written {
    let pool = store.open();
    let written = Written::of_all_kinds(&pool);
    drop(pool);
    written
}

/// The store is as it was before the damage, but for what each opening changes.
#[track_caller]
fn assert_mended(store: &Store, good: &[u8]) {
    let found = store.check(CheckMode::Look).expect("a pool");
    assert_eq!((found.repairable, found.lost), (vec![], vec![]));
    assert!(
        store.image_without_superblocks() == good,
        "as it was before the damage"
    );
}

#[test]
fn a_damaged_superblock_is_repaired_from_the_others_and_told() {
    on_every_store(file_bytes(8), |store| {
        let written = ended(store);
        let good = store.image_without_superblocks();
        let (near, far) = store.superblocks();
        assert_eq!((near.len(), far.len()), (2, 2));
        let texts = [
            "the first superblock",
            "the second superblock",
            "the far superblock",
            "the far superblock",
        ];
        for (offset, text) in near.into_iter().chain(far).zip(texts) {
            for byte in [0, 30, 300, 4100, 8191] {
                store.damage(offset + byte);
                let pool = store.open();
                assert_told(&pool, 2, &[text, "repaired"]);
                written.assert_all_of(&pool);
                drop(pool);
                assert_mended(store, &good);
                assert_eq!(store.open().recorder().log(), [], "and no word more");
            }
            // A superblock that looks as if it had never been written.
            store.write(offset, &[0; SUPERBLOCK_BYTES]);
            let pool = store.open();
            assert_told(&pool, 2, &[text]);
            written.assert_all_of(&pool);
        }
    });
}

/// What damages both superblocks at the beginning, and what is said of that where no other is left.
type Harm = (fn(&Store, u64), &'static str);

const HARMS: [Harm; 2] = [
    (
        |store, offset| store.damage(offset + 100),
        "both copies of the superblock",
    ),
    (
        |store, offset| store.write(offset, &[0; SUPERBLOCK_BYTES]),
        "superblock are gone",
    ),
];

/// Opening the pool is refused with these words, also for reading only.
fn assert_damaged(store: &Store, words: &[&str]) {
    store.assert_refused(&file_params(0), CORRUPTED, words);
    let said = store.assert_refused(&read_only(), CORRUPTED, words);
    assert!(!said.contains("read_only"), "that was tried: {said}");
}

fn assert_overwritten(store: &Store) {
    let overwritten = CreateParams {
        overwrite: true,
        ..file_params(0)
    };
    let pool = store.open_with(&overwritten).expect("told to");
    assert_told(&pool, 3, &["what it held is lost"]);
    assert_eq!(pool.list(), []);
}

#[test]
fn without_both_superblocks_at_the_beginning_a_far_one_is_named_and_a_repair_takes_it() {
    on_every_store(file_bytes(8), |store| {
        let written = ended(store);
        let good = store.image_without_superblocks();
        let (near, far) = store.superblocks();
        for (harm, _) in HARMS {
            for &offset in &near {
                harm(store, offset);
            }
            let place = format!("at offset {:#x}", far[0]);
            let words = [
                "corrupted block metadata",
                "its beginning was overwritten",
                &place,
                &store.name,
                "pool check --repair",
                "nothing was written",
            ];
            assert_damaged(store, &words);
            let before = store.image();
            store.check(CheckMode::Look).expect_err("nobody asked");
            assert!(store.image() == before);
            store.repair();
            assert_mended(store, &good);
            let pool = store.open();
            assert_eq!(pool.recorder().log(), []);
            written.assert_all_of(&pool);
        }
        for &offset in &near {
            store.damage(offset + 100);
        }
        assert_overwritten(store);
    });
}

#[test]
fn without_any_superblock_a_pool_is_damaged_and_not_something_else() {
    for size in [UNPROTECTED_BYTES, file_bytes(8)] {
        for (harm, text) in HARMS {
            on_every_store(size, |store| {
                store.open().allocate(4096).expect("room");
                let (near, far) = store.superblocks();
                assert_eq!(far.is_empty(), size == UNPROTECTED_BYTES);
                for offset in near.into_iter().chain(far) {
                    harm(store, offset);
                }
                assert_damaged(
                    store,
                    &["corrupted block metadata", text, "put back a copy"],
                );
                let before = store.image();
                let mode = CheckMode::Repair { uuid: None };
                let error = store.check(mode).expect_err("nothing is left");
                assert_eq!(error.failure.status, CORRUPTED, "{error}");
                assert!(store.image() == before, "a refusal changes nothing");
                assert_overwritten(store);
            });
        }
    }
}

#[test]
fn a_damaged_page_of_the_table_is_repaired_from_its_copy_and_told() {
    let size = file_bytes(8);
    on_every_store(size, |store| {
        let written = ended(store);
        let good = store.image_without_superblocks();
        store.damage(tables(size)[0] + 50);
        // A pool that is only read repairs nothing.
        let damaged = store.image();
        let pool = store.open_with(&read_only()).expect("there is a copy");
        assert_told(&pool, 2, &["of the table is damaged", "not repaired"]);
        assert!(!pool.stats().has_unknown_blocks);
        written.assert_all_of(&pool);
        drop(pool);
        assert!(store.image() == damaged);
        let pool = store.open();
        assert_told(&pool, 2, &["of the table is damaged", "repaired"]);
        written.assert_all_of(&pool);
        drop(pool);
        assert_mended(store, &good);
    });
}

#[test]
fn of_much_damage_the_log_is_told_of_some_and_how_much_more_there_is() {
    let size = file_bytes(8);
    on_every_store(size, |store| {
        let written = ended(store);
        let (near, far) = store.superblocks();
        for offset in [near[0], far[0], far[1], tables(size)[0]] {
            store.damage(offset + 50);
        }
        for params in [read_only(), file_params(0)] {
            let pool = store.open_with(&params).expect("there are copies");
            let log = pool.recorder().log();
            let texts: Vec<_> = log.iter().map(|(_, text)| text.as_str()).collect();
            let [_, _, _, more] = texts[..] else {
                panic!("{texts:?}");
            };
            assert!(more.contains("1 more like that"), "{texts:?}");
            let inspect = "`chimaera pool inspect";
            assert!(more.contains(inspect), "{texts:?}");
            assert_eq!(texts[0].contains(inspect), !params.read_only, "{texts:?}");
            written.assert_all_of(&pool);
        }
    });
}

#[test]
fn a_table_without_a_good_copy_is_an_error_and_may_be_read_around() {
    let size = file_bytes(8);
    on_every_store(size, |store| {
        ended(store);
        for offset in tables(size) {
            store.damage(offset + 50);
        }
        let words = [
            "corrupted block metadata",
            "read_only",
            "nothing was written",
        ];
        store.assert_refused(&file_params(0), CORRUPTED, &words);
        let before = store.image();
        let pool = store.open_with(&read_only()).expect("for reading");
        assert_told(&pool, 1, &["blocks there are not known"]);
        assert!(pool.stats().has_unknown_blocks);
        assert_eq!(pool.list(), [], "what is lost is lost");
        assert_eq!(pool.allocate(4096), Err(Status::ReadOnly), "and not free");
        drop(pool);
        assert!(store.image() == before);
    });
}

/// Units whose owner tags lie in one sector.
const SECTOR_UNITS: u64 = 63;

#[test]
fn of_a_sector_that_is_damaged_in_both_copies_the_owner_tags_are_unknown_and_no_others() {
    let size = file_bytes(8);
    on_every_store(size, |store| {
        let pool = store.open();
        let written: Vec<_> = (1..=3 * 256)
            .map(|tag| {
                let owner = OwnerTag(tag);
                let block = pool.allocate_for(4096, owner).expect("room")[0];
                pool.write(block, 0, &pattern(tag, 4096)).expect("written");
                OwnedBlock::new(block, owner)
            })
            .collect();
        drop(pool);
        let sector = written[400].block.offset / UNIT_BYTES / SECTOR_UNITS;
        let mut expected = written.clone();
        expected.sort();
        // Behind each copy of the table, which has one page, lies a copy of the tags.
        let tags = tables(size).map(|table| table + UNIT_BYTES);
        for copy in tags {
            let sound = store.image();
            store.damage(copy + 512 * sector + 100);
            assert_eq!(store.open().list(), expected, "the other copy has them");
            store.put(&sound);
        }
        for copy in tags {
            store.damage(copy + 512 * sector + 100);
        }
        let pool = store.open();
        let is_hit = |block: &Block| block.offset / UNIT_BYTES / SECTOR_UNITS == sector;
        for owned in expected.iter_mut().filter(|owned| is_hit(&owned.block)) {
            owned.owner = ListedTag::Unknown;
        }
        assert_eq!(pool.list(), expected);
        let unknown = expected.iter().filter(|owned| is_hit(&owned.block));
        assert_eq!(unknown.count() as u64, SECTOR_UNITS);
        for (tag, owned) in (1..).zip(&written) {
            let read = pool.read(owned.block, 0, 4096).expect("allocated");
            assert!(read == pattern(tag, 4096));
        }
        pool.flush().expect("that goes on");
        pool.allocate_for(4096, OwnerTag(9)).expect("so does that");
    });
}
