//! A pool is opened as what it is, or the error says what differs.

use chimaera_bdev_proto::{CreateParams, MEGABYTE};
use chimaera_proto::{PoolId, Status};

use super::{Store, Written, on_every_store};
use crate::testing::{POOL, file_bytes, file_params};

const MISMATCH: Status = Status::ParameterMismatch;

/// The words by which an error names each parameter.
const NAMES: [&str; 6] = [
    "its id is",
    "its name is",
    "pool of",
    "io_depth is",
    "alignment is",
    "io_engine is",
];

#[test]
fn each_parameter_that_differs_is_named_and_no_other() {
    let whole = file_bytes(2);
    on_every_store(whole, |store| {
        let mut written = Written::default();
        written.add(&store.open(), MEGABYTE);
        let check = |id, params: &CreateParams, words: &[&str]| {
            let text = store.assert_refused_as((id, false), params, MISMATCH, words);
            for name in NAMES {
                let is_meant = words.iter().any(|word| word.contains(name));
                assert_eq!(text.contains(name), is_meant, "{name} in {text}");
            }
        };
        let other = PoolId::new(8000, 77);
        check(
            other,
            &file_params(0),
            &["its id is 8000.0, asked for 8000.77"],
        );
        let smaller = &file_params(whole - MEGABYTE);
        let words = &[&*format!(
            "pool of {whole} bytes, asked for {}",
            whole - MEGABYTE
        )];
        check(POOL, smaller, words);
        let read_only = &CreateParams {
            read_only: true,
            ..*smaller
        };
        check(POOL, read_only, words);
        // As it is, and as "whatever there is".
        for same in [file_params(0), file_params(whole)] {
            for read_only in [false, true] {
                let same = CreateParams { read_only, ..same };
                written.assert_all_of(&store.open_with(&same).expect("the same"));
            }
        }
    });
}

#[test]
fn another_id_is_refused_and_none_adopts_the_pools() {
    on_every_store(file_bytes(1), |store| {
        drop(store.open());
        let other = PoolId::new(8000, 77);
        let words = ["its id is 8000.0, asked for 8000.77 (ask for that id, or for none)"];
        store.assert_refused_as((other, false), &file_params(0), MISMATCH, &words);
        // The host chose this one for a client that asked for none.
        let pool = store.open_as((other, true), &file_params(0));
        let pool = pool.expect("any id will do");
        assert_eq!(pool.handle().pool_id().expect("told"), Some(POOL));
    });
}

#[test]
fn a_new_pool_keeps_the_id_that_was_chosen_for_it() {
    on_every_store(file_bytes(1), |store| {
        let chosen = PoolId::new(3, 4);
        let pool = store.open_as((chosen, true), &file_params(0));
        drop(pool.expect("made"));
        let again = store.open_as((PoolId::new(5, 6), true), &file_params(0));
        let own = again.expect("opened").handle().pool_id();
        assert_eq!(own.expect("told"), Some(chosen));
    });
}

#[test]
fn a_file_under_another_name_is_refused_with_both_names() {
    let store = Store::on_file(file_bytes(1));
    drop(store.open());
    let moved = Store {
        name: format!("{}-moved", store.name),
        ..Store::on_file(MEGABYTE)
    };
    std::fs::rename(&store.name, &moved.name).expect("renamed");
    let words = [&*format!(
        "its name is {}, asked for {}",
        store.name, moved.name
    )];
    let rename = format!("(`chimaera pool rename {}` changes it;", moved.name);
    moved.assert_refused(&file_params(0), MISMATCH, &[words[0], &rename]);
    std::fs::rename(&moved.name, &store.name).expect("renamed");
    // Renamed, the pool would be lost to those who ask for it by the name that it has.
    for is_symbolic in [true, false] {
        let linked = match is_symbolic {
            true => std::os::unix::fs::symlink(&store.name, &moved.name),
            false => std::fs::hard_link(&store.name, &moved.name),
        };
        linked.expect("linked");
        let advice = "both lead to it: ask for it by the name that it has";
        moved.assert_refused(&file_params(0), MISMATCH, &[words[0], advice]);
        std::fs::remove_file(&moved.name).expect("removed");
    }
    store.open();
}

#[test]
fn a_larger_size_with_another_mistake_leaves_the_file_as_long_as_it_was() {
    let store = Store::on_file(file_bytes(1));
    drop(store.open());
    let words = ["its id is 8000.0, asked for 8000.77"];
    let larger = file_params(file_bytes(5));
    store.assert_refused_as((PoolId::new(8000, 77), false), &larger, MISMATCH, &words);
}
