//! A pool grows with its file or device, and shrinks where nothing is lost.

use chimaera_bdev_proto::{Block, MEGABYTE, UNIT_BYTES};
use chimaera_proto::Status;

use super::{Store, Written, on_every_store};
use crate::testing::{file_bytes, file_params};

/// Opens the pool and checks that it has grown, with all that was there.
fn assert_grown(store: &Store, size: u64, written: &mut Written) {
    let pool = store.open();
    assert_eq!(pool.stats().total_size, size);
    let log = pool.recorder().log();
    assert!(
        matches!(&log[..], [(3, text)] if text.contains(&format!("has {size} bytes now"))),
        "{log:?}"
    );
    written.assert_all_of(&pool);
    // The new space is as good as any, and everything is kept with it.
    let before = written.bytes();
    while written.try_add(&pool, MEGABYTE).is_ok() {}
    assert!(written.bytes() > before, "there is new space");
    drop(pool);
    written.assert_all_of(&store.open());
}

#[test]
fn a_pool_grows_with_its_file_or_device_as_often_as_that_does() {
    // 101 megabytes have a page of the table, so that the later steps add some.
    on_every_store(file_bytes(4), |store| {
        let mut written = Written::default();
        written.add(&store.open(), 4 * MEGABYTE);
        for size in [
            file_bytes(8),
            file_bytes(8) + 17 * MEGABYTE / 4,
            40 * MEGABYTE,
            110 * MEGABYTE,
        ] {
            store.resize(size);
            assert_grown(store, size, &mut written);
        }
    });
}

#[test]
fn a_larger_size_grows_a_file_and_its_pool() {
    let store = Store::on_file(0);
    let mut written = Written::default();
    let pool = store.open_with(&file_params(file_bytes(3)));
    written.add(&pool.expect("made"), 3 * MEGABYTE);
    for size in [10, 14, 30].map(|megabytes| megabytes * MEGABYTE) {
        drop(store.open_with(&file_params(size)).expect("grown"));
        let len = std::fs::metadata(&store.name).expect("there").len();
        assert_eq!(len, size);
        let pool = store.open_with(&file_params(size)).expect("the same");
        assert_eq!(pool.stats().total_size, size);
        written.add(&pool, MEGABYTE);
        written.assert_all_of(&pool);
    }
}

#[test]
fn a_pool_waits_until_it_can_grow_by_so_much_that_its_new_copies_lie_apart_and_says_so() {
    on_every_store(file_bytes(4), |store| {
        let mut written = Written::default();
        written.add(&store.open(), 4 * MEGABYTE);
        let grows = file_bytes(4) + 3 * MEGABYTE + UNIT_BYTES;
        for unused in [MEGABYTE, 3 * MEGABYTE] {
            store.resize(file_bytes(4) + unused);
            let pool = store.open();
            assert_eq!(pool.stats().total_size, file_bytes(4));
            let told = format!(
                "{unused} bytes stay unused: the pool grows again when its file or device has {grows} bytes"
            );
            assert_eq!(pool.recorder().log(), [(3, told)]);
            written.assert_all_of(&pool);
        }
        store.resize(grows);
        let pool = store.open();
        assert_eq!(pool.stats().total_size, grows);
        written.assert_all_of(&pool);
        while written.try_add(&pool, 262_144).is_ok() {}
        let is_new = |block: &Block| block.offset >= file_bytes(4);
        assert!(written.0.iter().any(|(owned, _)| is_new(&owned.block)));
        drop(pool);
        written.assert_all_of(&store.open());
    });
}

/// Asks for a size to which the pool cannot grow: it is opened, its file is as long as before, and the log says why.
fn assert_not_grown(store: &Store, asked: u64, told: &(u32, String)) {
    let is = std::fs::metadata(&store.name).expect("there").len();
    for _ in 0..2 {
        let pool = store.open_with(&file_params(asked)).expect("it is opened");
        assert_eq!(pool.stats().total_size, is);
        assert_eq!(pool.recorder().log(), std::slice::from_ref(told));
        for same in [asked, is, 0] {
            pool.ask_again(&file_params(same)).expect("the same");
        }
        drop(pool);
        assert_eq!(std::fs::metadata(&store.name).expect("there").len(), is);
    }
}

#[test]
fn a_size_to_which_a_pool_cannot_grow_leaves_its_file_as_long_as_it_is() {
    const GROWTH: u64 = 4 * MEGABYTE;

    let store = Store::on_file(GROWTH);
    drop(store.open());
    let (asked, grows) = (6 * MEGABYTE, 7 * MEGABYTE + UNIT_BYTES);
    let told = format!(
        "it does not grow to {asked} bytes, and its file is left as long as it is: the pool grows again when its file \
         or device has {grows} bytes"
    );
    assert_not_grown(&store, asked, &(3, told));
    for size in (2..=64).map(|extents| extents * GROWTH) {
        let pool = store.open_with(&file_params(size)).expect("grown");
        assert_eq!(pool.stats().total_size, size);
    }
    for asked in [65 * GROWTH, 1000 * GROWTH] {
        let told = format!(
            "it does not grow to {asked} bytes, and its file is left as long as it is: the pool has grown as often as \
             it can; only a new one, made with overwrite, has them"
        );
        assert_not_grown(&store, asked, &(2, told));
    }
    // Where the pool has lost an unused end, it gets that again, and no more.
    store.resize(63 * GROWTH + 3 * MEGABYTE);
    let pool = store.open_with(&file_params(1000 * GROWTH));
    assert_eq!(pool.expect("it is opened").stats().total_size, 64 * GROWTH);
    assert_eq!(
        std::fs::metadata(&store.name).expect("there").len(),
        64 * GROWTH
    );
}

#[test]
fn a_larger_size_than_a_device_has_is_refused() {
    let Some(store) = Store::on_device(file_bytes(2)) else {
        return;
    };
    drop(store.open());
    let words = ["at most that"];
    let params = file_params(file_bytes(3));
    store.assert_refused(&params, Status::InvalidArgument, &words);
}

#[test]
fn a_file_that_has_a_little_more_than_its_pool_can_use_is_opened_all_the_same() {
    // Behind the last megabyte that the metadata describes there is no room for more metadata.
    let (made, asked) = (file_bytes(3) + 3 * 4096, file_bytes(4) + 3 * 4096);
    let store = Store::on_file(made);
    drop(store.open());
    let pool = store.open_with(&file_params(asked)).expect("grown");
    let size = pool.stats().total_size;
    assert_eq!(size, file_bytes(4), "up to the whole megabyte");
    for params in [file_params(asked), file_params(0)] {
        pool.ask_again(&params).expect("the same");
    }
    drop(pool);
    for params in [file_params(asked), file_params(0)] {
        let pool = store.open_with(&params).expect("the same");
        assert_eq!(pool.stats().total_size, size);
    }
}

#[test]
fn a_pool_that_cannot_grow_any_more_says_so() {
    /// By less, a pool does not grow.
    const GROWTH: u64 = 4 * MEGABYTE;

    let store = Store::on_file(file_bytes(2));
    drop(store.open());
    for size in (2..).map(|steps| steps * GROWTH) {
        store.resize(size);
        let pool = store.open();
        let log = pool.recorder().log();
        if pool.stats().total_size < size {
            let told = format!("{GROWTH} bytes stay unused");
            assert!(
                matches!(&log[..], [(2, text)] if text.contains(&told)),
                "{log:?}"
            );
            return;
        }
        assert!(
            matches!(&log[..], [(3, _)]),
            "only that it has grown: {log:?}"
        );
    }
}

#[test]
fn a_pool_whose_file_grows_while_it_is_open_is_found_as_it_is_and_grows_when_it_is_opened_again() {
    on_every_store(file_bytes(4), |store| {
        let mut written = Written::default();
        let pool = store.open();
        written.add(&pool, MEGABYTE);
        let is = file_bytes(4);
        for larger in [file_bytes(9), file_bytes(12)] {
            let told_before = pool.recorder().log().len();
            store.resize(larger);
            for params in [file_params(0), file_params(is), file_params(0)] {
                pool.ask_again(&params).expect("nobody asked for another");
            }
            let log = pool.recorder().log();
            let words = format!("has {larger} bytes now, it had {is}");
            assert!(
                matches!(&log[told_before..], [(2, text)] if text.contains(&words)),
                "it is told once: {log:?}"
            );
            let error = pool.ask_again(&file_params(larger)).expect_err("larger");
            assert_eq!(error.failure.status, Status::ParameterMismatch, "{error}");
            for words in [
                &format!("size is {is}, asked for {larger}"),
                "destroy it, which leaves",
            ] {
                assert!(error.message.contains(words), "no {words:?} in {error}");
            }
        }
        written.assert_all_of(&pool);
        drop(pool);
        assert_grown(store, file_bytes(12), &mut written);
    });
}

/// The end of the last of these blocks.
fn end(blocks: &[Block]) -> u64 {
    let ends = blocks.iter().map(|block| block.offset + block.size);
    ends.max().expect("some")
}

#[test]
fn a_pool_shrinks_where_nothing_is_lost_and_not_where_something_is() {
    on_every_store(file_bytes(10), |store| {
        let mut written = Written::default();
        let pool = store.open();
        written.add(&pool, 5 * MEGABYTE);
        let blocks: Vec<_> = written.0.iter().map(|(owned, _)| owned.block).collect();
        drop(pool);
        let whole = store.image();
        let end = end(&blocks);
        for size in [end - MEGABYTE, end - 4096] {
            store.resize(size);
            let words = [
                "it was cut off",
                "what is missing is in use",
                "put back a copy of it",
            ];
            store.assert_refused(&file_params(0), Status::CorruptedMetadata, &words);
        }
        store.resize(file_bytes(10));
        store.put(&whole);
        written.assert_all_of(&store.open());

        store.resize(end);
        let pool = store.open();
        assert_eq!(pool.stats().total_size, end);
        let log = pool.recorder().log();
        assert!(
            matches!(&log[..], [(2, text)] if text.contains(&format!("has {end} bytes now"))
                && text.contains("has become smaller")),
            "{log:?}"
        );
        written.assert_all_of(&pool);
        assert_eq!(pool.allocate(MEGABYTE), Err(Status::NoSpace));
        drop(pool);
        assert_grown_after_shrinking(store, &mut written);
    });
}

#[test]
fn an_explicit_size_does_not_put_zeroes_in_the_place_of_what_was_cut_off() {
    let store = Store::on_file(file_bytes(10));
    let mut written = Written::default();
    let pool = store.open();
    written.add(&pool, 5 * MEGABYTE);
    let blocks: Vec<_> = written.0.iter().map(|(owned, _)| owned.block).collect();
    drop(pool);
    let whole = store.image();
    for size in [end(&blocks) - 4096, end(&blocks) - 3 * MEGABYTE, 128 << 10] {
        store.resize(size);
        for asked in [file_bytes(10), file_bytes(12)] {
            let words = ["it was cut off", "what is missing is in use"];
            store.assert_refused(&file_params(asked), Status::CorruptedMetadata, &words);
            assert_eq!(store.image().len() as u64, size, "it is as it was");
        }
        store.put(&whole);
    }
    let pool = store.open_with(&file_params(file_bytes(10)));
    written.assert_all_of(&pool.expect("it is whole again"));
}

fn assert_grown_after_shrinking(store: &Store, written: &mut Written) {
    let size = file_bytes(10) + 5 * MEGABYTE;
    store.resize(size);
    assert_grown(store, size, written);
}

#[test]
fn a_file_without_the_end_of_its_metadata_is_refused() {
    on_every_store(file_bytes(10), |store| {
        drop(store.open());
        store.resize(128 << 10);
        let words = ["it was cut off", "its metadata lies there"];
        store.assert_refused(&file_params(0), Status::CorruptedMetadata, &words);
    });
}

#[test]
fn an_explicit_size_gives_a_truncated_file_its_length_back() {
    let store = Store::on_file(file_bytes(10));
    let mut written = Written::default();
    written.add(&store.open(), MEGABYTE);
    store.resize(file_bytes(5));
    let pool = store.open_with(&file_params(file_bytes(10)));
    let pool = pool.expect("it has its size back");
    assert_eq!(pool.stats().total_size, file_bytes(10));
    written.assert_all_of(&pool);
}
