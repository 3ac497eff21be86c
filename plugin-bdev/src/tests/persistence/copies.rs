//! Of a pool and its copies, one is open at a time.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use chimaera_bdev_format::{Geometry, image};
use chimaera_bdev_proto::{CreateParams, MEGABYTE, UNIT_BYTES};
use chimaera_chimod::ModuleError;
use chimaera_proto::{PoolId, Status};

use super::{Store, Written};
use crate::testing::{POOL, TestPool, file_bytes, file_params};

fn read_only() -> CreateParams {
    CreateParams {
        read_only: true,
        ..file_params(0)
    }
}

/// A pool that was ended, with something in it, and a copy of it that has the name of its own file.
fn pool_and_copy() -> (Store, Store, Written) {
    let store = Store::on_file(file_bytes(2));
    let mut written = Written::default();
    written.add(&store.open(), MEGABYTE);
    let copy = copy_of(&store);
    image::rename(Path::new(&copy.name), &copy.name).expect("renamed");
    (store, copy, written)
}

/// A copy of a file, in a folder of its own.
fn copy_of(store: &Store) -> Store {
    let copy = Store::on_file(0);
    fs::copy(&store.name, &copy.name).expect("copied");
    copy
}

/// The UUID of the pool on a file, as it is shown.
fn uuid(store: &Store) -> String {
    let inspection = image::inspect(Path::new(&store.name)).expect("a pool");
    uuid::Uuid::from_bytes(inspection.uuid).to_string()
}

#[track_caller]
fn assert_duplicate(copy: &Store, id: (PoolId, bool), params: &CreateParams, other: &Store) {
    let advice = format!("`chimaera pool rename --copy {}`", copy.name);
    let named = format!("the pool {} with the id {POOL}", other.name);
    let words = [
        "duplicate UUID",
        &named,
        &uuid(copy),
        "destroy that one first",
        &advice,
    ];
    copy.assert_refused_as(id, params, Status::ParameterMismatch, &words);
}

#[test]
fn a_copy_is_refused_while_the_original_is_open_and_both_are_named() {
    let (store, copy, written) = pool_and_copy();
    let pool = store.open();
    for params in [file_params(0), read_only(), file_params(file_bytes(4))] {
        assert_duplicate(&copy, (POOL, false), &params, &store);
        // Another id does not make it another pool, and the host's own choice neither.
        assert_duplicate(&copy, (PoolId::new(1, 2), false), &params, &store);
        assert_duplicate(&copy, (PoolId::new(1, 2), true), &params, &store);
    }
    written.assert_all_of(&pool);
    drop(pool);
    let of_copy = copy.open();
    written.assert_all_of(&of_copy);
    assert_duplicate(&store, (POOL, false), &file_params(0), &copy);
}

#[test]
fn a_copy_that_still_has_the_originals_name_is_called_a_copy_first() {
    let (store, _, _) = pool_and_copy();
    let copy = copy_of(&store);
    let pool = store.open();
    assert_duplicate(&copy, (POOL, false), &file_params(0), &store);
    drop(pool);
    // Nothing shows that it is a copy then, and not the pool itself in another place.
    let advice = format!("`chimaera pool rename --copy {}`", copy.name);
    let words = ["its name is", &advice];
    copy.assert_refused(&file_params(0), Status::ParameterMismatch, &words);
}

#[test]
fn two_copies_are_not_read_side_by_side() {
    let (store, copy, written) = pool_and_copy();
    let pool = store.open_with(&read_only()).expect("it opens");
    for params in [file_params(0), read_only()] {
        assert_duplicate(&copy, (POOL, false), &params, &store);
    }
    drop(pool);
    written.assert_all_of(&copy.open_with(&read_only()).expect("it opens"));
}

#[test]
fn a_pool_that_was_just_made_has_its_copies_refused_too() {
    let store = Store::on_file(file_bytes(1));
    let pool = store.open();
    pool.flush().expect("flushed");
    let copy = copy_of(&store);
    assert_duplicate(&copy, (POOL, false), &file_params(0), &store);
}

#[test]
fn an_opening_that_fails_keeps_no_copy_out() {
    let (store, copy, written) = pool_and_copy();
    let refused = [
        ((PoolId::new(1, 2), false), file_params(0)),
        ((POOL, false), file_params(MEGABYTE)),
    ];
    for (id, params) in refused {
        store.assert_refused_as(id, &params, Status::ParameterMismatch, &[]);
        written.assert_all_of(&copy.open());
    }
    // One that fails late, when the metadata is read.
    let geometry = Geometry::new(file_bytes(2) / UNIT_BYTES).expect("room");
    for page in geometry.tables() {
        store.damage(page * UNIT_BYTES + 50);
    }
    store.assert_refused(&file_params(0), Status::CorruptedMetadata, &[]);
    written.assert_all_of(&copy.open());
}

#[test]
fn a_copy_that_is_overwritten_is_a_pool_of_its_own() {
    let (store, copy, written) = pool_and_copy();
    let pool = store.open();
    let overwrite = CreateParams {
        overwrite: true,
        ..file_params(0)
    };
    let other = copy.open_with(&overwrite).expect("another pool");
    assert_eq!(other.list(), []);
    written.assert_all_of(&pool);
}

#[test]
fn of_a_pool_and_its_copy_that_are_opened_at_once_one_is_opened() {
    let (store, copy, _) = pool_and_copy();
    for _ in 0..20 {
        let start = Barrier::new(2);
        // Neither ends before the other was opened or refused.
        let end = Barrier::new(2);
        let open = |store: &Store| -> Result<(), ModuleError> {
            start.wait();
            let opened: Result<TestPool, _> = store.open_with(&file_params(0));
            end.wait();
            opened.map(|_| ())
        };
        let (one, other) = thread::scope(|scope| {
            let one = scope.spawn(|| open(&store));
            let other = open(&copy);
            (one.join().expect("no panic"), other)
        });
        let refused: Vec<_> = [one, other].into_iter().filter_map(Result::err).collect();
        let [error] = &refused[..] else {
            panic!("one is refused: {refused:?}");
        };
        assert!(error.message.contains("duplicate UUID"), "{error}");
    }
}
