//! A pool whose file is not at its path any more: nothing fails, and a warning reaches everybody who could
//! lose something. Flushes of a pool whose file was cut fail.

use std::fs;
use std::path::Path;

use chimaera_bdev_format::image;
use chimaera_bdev_proto::MEGABYTE;
use chimaera_proto::Status;

use super::{Store, Written};
use crate::testing::{TestPool, file_bytes, file_params};

/// Makes a pool with blocks, and calls `happens` on its file. Then asking for the pool again fails with this
/// word, flushing warns once with the same word, and the pool is as usable as before.
#[track_caller]
fn assert_told(happens: impl Fn(&Store), word: &str) {
    let store = Store::on_file(file_bytes(8));
    let pool = store.open();
    let written = Written::of_all_kinds(&pool);
    pool.ask_again(&file_params(0)).expect("the same pool");
    pool.flush().expect("flushed");
    assert_eq!(warnings(&pool), [""; 0]);
    happens(&store);
    let error = pool.ask_again(&file_params(0)).expect_err("another file");
    assert_eq!(error.failure.status, Status::ParameterMismatch);
    assert!(error.message.contains(word), "{error}");
    assert!(error.message.contains(&store.name), "{error}");
    for _ in 0..2 {
        pool.flush().expect("flushed");
        pool.handle().flush().expect("flushed");
    }
    let told = warnings(&pool);
    assert!(
        told.len() == 1 && told[0].contains(word),
        "once, with {word:?}: {told:?}"
    );
    written.assert_all_of(&pool);
}

fn warnings(pool: &TestPool) -> Vec<String> {
    let lines = pool.recorder().log().into_iter();
    let of_place = lines.filter(|(_, text)| text.contains("not at its path"));
    of_place.map(|(_, text)| text).collect()
}

#[test]
fn a_file_that_was_removed() {
    assert_told(
        |store| fs::remove_file(&store.name).expect("removed"),
        "it was removed",
    );
}

#[test]
fn a_file_that_was_moved() {
    let moved = |store: &Store| format!("{}.moved", store.name);
    assert_told(
        |store| fs::rename(&store.name, moved(store)).expect("moved"),
        "it was moved",
    );
}

#[test]
fn a_file_that_was_replaced() {
    assert_told(
        |store| {
            fs::rename(&store.name, format!("{}.moved", store.name)).expect("moved");
            fs::write(&store.name, []).expect("another one");
        },
        "something else is there",
    );
}

#[test]
fn a_file_with_another_name_or_behind_a_link_is_where_it_was() {
    let store = Store::on_file(file_bytes(1));
    let pool = store.open();
    let moved = format!("{}.moved", store.name);
    fs::hard_link(&store.name, format!("{}.second", store.name)).expect("linked");
    fs::rename(&store.name, &moved).expect("moved");
    std::os::unix::fs::symlink(&moved, &store.name).expect("linked");
    pool.ask_again(&file_params(0)).expect("the same pool");
    pool.flush().expect("flushed");
    assert_eq!(warnings(&pool), [""; 0]);
}

#[test]
fn a_file_that_was_cut_is_not_flushed_and_not_given_though_it_is_long_again() {
    let store = Store::on_file(file_bytes(8));
    let pool = store.open();
    let words = format!("it was cut off, to 1048576 bytes of {}", file_bytes(8));
    store.resize(MEGABYTE);
    let error = pool.ask_again(&file_params(0)).expect_err("it was cut");
    assert_eq!(error.failure.status, Status::ParameterMismatch);
    assert!(error.message.contains(&words), "{error}");
    for _ in 0..2 {
        let failure = pool.flush().expect_err("a part is lost");
        assert_eq!(failure.status, Status::IoError);
        let error = pool.handle().flush().expect_err("a part is lost");
        assert!(error.message.contains(&words), "{error}");
    }
    let log = pool.recorder().log();
    let told: Vec<_> = log.iter().filter(|line| line.1.contains(&words)).collect();
    assert!(told.len() == 1 && told[0].0 == 2, "a warning: {log:?}");
    store.resize(file_bytes(8));
    // Zeroes are there now.
    let failure = pool.flush().expect_err("a part was lost");
    assert_eq!(failure.status, Status::IoError);
    let error = pool.ask_again(&file_params(0)).expect_err("it was cut");
    assert!(error.message.contains(&words), "{error}");
    drop(pool);
    let found = image::inspect(Path::new(&store.name)).expect("a pool");
    assert_eq!(found.ended_well, Some(false));
}
