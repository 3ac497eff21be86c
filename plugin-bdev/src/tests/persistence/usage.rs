//! Each opening says how a pool's device is used; what it leaves open is as the pool was made.

use chimaera_bdev_proto::{CreateParams, IoEngine, MEGABYTE, Stats};
use chimaera_proto::Status;

use super::{Store, Written, on_every_store};
use crate::testing::{file_bytes, file_params, loop_device};
use crate::tests::engines;

fn using(io_depth: u32, alignment: u32, io_engine: IoEngine) -> CreateParams {
    CreateParams {
        io_depth: Some(io_depth),
        alignment: Some(alignment),
        io_engine,
        ..file_params(0)
    }
}

fn usage(stats: &Stats) -> (u32, u32, Option<IoEngine>) {
    (stats.io_depth, stats.alignment, stats.io_engine)
}

#[test]
fn an_opening_that_names_another_use_has_it_and_the_next_one_has_the_first_again() {
    let last = *engines().last().expect("one at least");
    on_every_store(file_bytes(8), |store| {
        let pool = store.open_with(&using(9, 4096, IoEngine::Libaio));
        let pool = pool.expect("made");
        let mut written = Written::of_all_kinds(&pool);
        assert_eq!(usage(&pool.stats()), (9, 4096, Some(IoEngine::Libaio)));
        drop(pool);
        let finest = if store.device.is_some() { 512 } else { 4096 };
        let pool = store.open_with(&using(64, finest, last)).expect("opened");
        assert_eq!(usage(&pool.stats()), (64, finest, Some(last)));
        // Also with an alignment of less than a block of the device that it was made on.
        written.assert_all_of(&pool);
        written.add(&pool, MEGABYTE);
        drop(pool);
        for left_open in [
            file_params(0),
            CreateParams {
                alignment: Some(0),
                ..file_params(0)
            },
            CreateParams {
                read_only: true,
                ..file_params(0)
            },
        ] {
            let pool = store.open_with(&left_open).expect("opened");
            assert_eq!(usage(&pool.stats()), (9, 4096, Some(IoEngine::Libaio)));
            written.assert_all_of(&pool);
        }
    });
}

#[test]
fn an_open_pool_is_used_as_it_is_and_the_error_says_how_to_change_that() {
    on_every_store(file_bytes(1), |store| {
        let pool = store.open_with(&using(9, 4096, IoEngine::Libaio));
        let pool = pool.expect("made");
        for same in [file_params(0), using(9, 4096, IoEngine::Auto)] {
            pool.ask_again(&same).expect("the same pool");
        }
        let other = using(10, 512, IoEngine::IoUring);
        let error = pool
            .ask_again(&other)
            .expect_err("it cannot be changed now");
        assert_eq!(error.failure.status, Status::ParameterMismatch);
        for text in [
            "io_depth is 9, asked for 10",
            "alignment is 4096, asked for 512",
            "io_engine is libaio, asked for io_uring",
            "leave them open to use the pool as it is, or destroy it and create it again",
        ] {
            assert!(error.message.contains(text), "no {text:?} in {error}");
        }
        assert_eq!(usage(&pool.stats()), (9, 4096, Some(IoEngine::Libaio)));
    });
}

#[test]
fn a_pool_that_moved_to_a_device_of_larger_blocks_is_opened_with_those() {
    let fine = Store::on_device(file_bytes(8));
    let coarse = loop_device(file_bytes(8), &["--sector-size", "4096"]);
    let (Some(fine), Some(coarse)) = (fine, coarse) else {
        return;
    };
    let pool = fine
        .open_with(&using(9, 512, IoEngine::Auto))
        .expect("made");
    let written = Written::of_all_kinds(&pool);
    drop(pool);
    let image = fine.image();
    let moved = Store {
        name: coarse.name().to_owned(),
        device: Some(coarse),
        ..Store::on_file(MEGABYTE)
    };
    moved.put(&image);
    chimaera_bdev_format::image::rename(moved.name.as_ref(), &moved.name).expect("renamed");
    let words = ["alignment is 512", "needs 4096"];
    moved.assert_refused(&using(9, 512, IoEngine::Auto), Status::Alignment, &words);
    let pool = moved.open_with(&file_params(0)).expect("opened");
    assert_eq!((pool.stats().io_depth, pool.stats().alignment), (9, 4096));
    written.assert_all_of(&pool);
}
