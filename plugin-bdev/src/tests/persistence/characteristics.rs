//! What is declared of a device can be declared anew, for good, by the pool's creator and root.

use chimaera_bdev_proto::{CreateParams, PerfMetrics};
use chimaera_chimod::Creator;
use chimaera_proto::Status;

use super::{Store, Written, on_every_store};
use crate::testing::{POOL, ROOT, TestPool, file_bytes, file_params, ram_params};

const CREATOR: Creator = Creator {
    uid: 1001,
    gid: 100,
    is_operator: false,
};
const STRANGER: Creator = Creator {
    uid: 1002,
    // The group gives no right to declare.
    gid: 100,
    is_operator: false,
};

fn metrics(iops: f64) -> PerfMetrics {
    PerfMetrics {
        iops,
        ..PerfMetrics::default()
    }
}

fn declaring(iops: f64) -> CreateParams {
    CreateParams {
        perf_metrics: Some(metrics(iops)),
        ..file_params(0)
    }
}

/// Opens the pool for this user, as an operator: the module opens files for nobody else.
fn open_by(store: &Store, creator: Creator, params: &CreateParams) -> TestPool {
    let creator = Creator {
        is_operator: true,
        ..creator
    };
    let opened = store.open_by(creator, (POOL, false), params);
    opened.expect("it opens")
}

#[track_caller]
fn assert_forbidden(error: &chimaera_chimod::ModuleError) {
    assert_eq!(error.failure.status, Status::PermissionDenied, "{error}");
    for text in [
        "perf_metrics",
        "user 1001",
        "not user 1002",
        "leave them out",
    ] {
        assert!(error.message.contains(text), "no {text:?} in {error}");
    }
}

#[test]
fn those_that_are_not_given_are_those_of_the_pool() {
    on_every_store(file_bytes(8), |store| {
        drop(open_by(store, CREATOR, &declaring(7.0)));
        let pool = open_by(store, STRANGER, &file_params(0));
        assert_eq!(pool.stats().metrics, metrics(7.0));
        pool.ask_again_by(STRANGER, &file_params(0))
            .expect("the same");
        pool.ask_again_by(STRANGER, &declaring(7.0))
            .expect("the same");
        assert_eq!(pool.stats().metrics, metrics(7.0));
    });
}

#[test]
fn those_that_are_given_to_an_open_pool_take_their_place_at_once_and_for_good() {
    on_every_store(file_bytes(8), |store| {
        let pool = open_by(store, CREATOR, &declaring(7.0));
        let written = Written::of_all_kinds(&pool);
        for (by, iops) in [(CREATOR, 8.0), (ROOT, 9.0)] {
            pool.ask_again_by(by, &declaring(iops)).expect("declared");
            assert_eq!(pool.stats().metrics, metrics(iops));
            // Nothing has to be flushed for that.
            let crash = store.image();
            let inspected =
                chimaera_bdev_format::image::inspect(store.name.as_ref()).expect("a pool");
            assert_eq!(inspected.perf_metrics, metrics(iops));
            assert!(inspected.is_sound());
            assert!(crash == store.image());
        }
        pool.flush().expect("flushed");
        drop(pool);
        let pool = open_by(store, STRANGER, &file_params(0));
        assert_eq!(pool.stats().metrics, metrics(9.0));
        written.assert_all_of(&pool);
    });
}

#[test]
fn those_that_are_given_at_opening_take_their_place_too() {
    on_every_store(file_bytes(8), |store| {
        drop(open_by(store, CREATOR, &declaring(7.0)));
        for (by, iops) in [(CREATOR, 8.0), (ROOT, 9.0)] {
            let pool = open_by(store, by, &declaring(iops));
            assert_eq!(pool.stats().metrics, metrics(iops));
            drop(pool);
            let pool = open_by(store, STRANGER, &file_params(0));
            assert_eq!(pool.stats().metrics, metrics(iops));
        }
    });
}

#[test]
fn they_are_not_for_others_to_declare_and_nothing_changes_then() {
    on_every_store(file_bytes(8), |store| {
        let pool = open_by(store, CREATOR, &declaring(7.0));
        let error = pool.ask_again_by(STRANGER, &declaring(8.0));
        assert_forbidden(&error.expect_err("not the creator"));
        assert_eq!(pool.stats().metrics, metrics(7.0));
        drop(pool);
        let image = store.image();
        match store.open_by(STRANGER, (POOL, false), &declaring(8.0)) {
            Ok(_) => panic!("declared by a stranger"),
            Err(error) => assert_eq!(error.failure.status, Status::PermissionDenied),
        }
        assert!(store.image() == image, "what is refused changes nothing");
    });
}

#[test]
fn a_request_that_differs_otherwise_declares_nothing() {
    on_every_store(file_bytes(1), |store| {
        let pool = open_by(store, CREATOR, &declaring(7.0));
        let asked = CreateParams {
            io_depth: Some(9),
            ..declaring(8.0)
        };
        let error = pool
            .ask_again_by(CREATOR, &asked)
            .expect_err("another depth");
        assert_eq!(error.failure.status, Status::ParameterMismatch);
        assert_eq!(pool.stats().metrics, metrics(7.0));
    });
}

#[test]
fn a_pool_that_is_only_read_has_them_for_as_long_as_it_is_open() {
    on_every_store(file_bytes(1), |store| {
        drop(open_by(store, CREATOR, &declaring(7.0)));
        let image = store.image();
        let read_only = |iops| CreateParams {
            read_only: true,
            ..declaring(iops)
        };
        let pool = open_by(store, CREATOR, &read_only(8.0));
        assert_eq!(pool.stats().metrics, metrics(8.0));
        pool.ask_again_by(CREATOR, &read_only(9.0))
            .expect("declared");
        assert_eq!(pool.stats().metrics, metrics(9.0));
        drop(pool);
        assert!(store.image() == image, "not a byte is changed");
        let pool = open_by(store, CREATOR, &file_params(0));
        assert_eq!(pool.stats().metrics, metrics(7.0));
    });
}

#[test]
fn a_memory_pool_has_a_creator_too() {
    let params = |iops| CreateParams {
        perf_metrics: Some(metrics(iops)),
        ..ram_params(1 << 20)
    };
    let made = TestPool::create_by(
        CREATOR,
        (POOL, false),
        "memory",
        &params(7.0),
        (1, Default::default()),
    );
    let pool = made.expect("made");
    let error = pool.ask_again_by(STRANGER, &params(8.0));
    assert_forbidden(&error.expect_err("not the creator"));
    assert_eq!(pool.stats().metrics, metrics(7.0));
    for (by, iops) in [(CREATOR, 8.0), (ROOT, 9.0)] {
        pool.ask_again_by(by, &params(iops)).expect("declared");
        assert_eq!(pool.stats().metrics, metrics(iops));
    }
}
