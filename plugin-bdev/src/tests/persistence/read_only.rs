//! A pool that is open for reading only is read, and nothing else.

use chimaera_bdev_proto::{Block, BlockType, CreateParams, MEGABYTE};
use chimaera_proto::Status;

use super::{Store, Written, on_every_store};
use crate::testing::{TestPool, file_bytes, file_params};

fn read_only() -> CreateParams {
    CreateParams {
        read_only: true,
        ..file_params(0)
    }
}

fn assert_only_reads(pool: &TestPool, written: &Written) {
    written.assert_all_of(pool);
    let stats = pool.stats();
    assert!(stats.read_only && stats.persistent);
    let refused = Err(Status::ReadOnly);
    let block = written.0[0].0.block;
    let write = pool.write(block, 0, &[1; 512]);
    assert_eq!(write.map_err(|failure| failure.status), refused);
    for size in [4096, MEGABYTE, 4 * MEGABYTE] {
        assert_eq!(pool.allocate(size), Err(Status::ReadOnly));
    }
    assert_eq!(pool.free(&[block]), Err(Status::ReadOnly));
    let other = Block::new(8 * MEGABYTE, BlockType::Kib4);
    assert_eq!(pool.free(&[block, other]), Err(Status::ReadOnly));
    pool.flush().expect("nothing to do");
    pool.handle().flush().expect("nothing to do");
    written.assert_all_of(pool);
}

#[test]
fn reading_works_and_nothing_else_and_nothing_is_written() {
    on_every_store(file_bytes(8), |store| {
        let pool = store.open();
        let written = Written::of_all_kinds(&pool);
        pool.flush().expect("flushed");
        let crash = store.image();
        drop(pool);
        let end = store.image();
        // With all of it in the table, and with all of it in the journal.
        for image in [end, crash] {
            store.put(&image);
            let pool = store.open_with(&read_only()).expect("it opens");
            assert_only_reads(&pool, &written);
            assert_eq!(pool.recorder().log(), []);
            drop(pool);
            assert!(store.image() == image, "not a byte is changed");
        }
        written.assert_all_of(&store.open());
    });
}

#[test]
fn an_open_pool_is_of_one_kind() {
    let store = Store::on_file(file_bytes(1));
    let pool = store.open();
    let error = pool.ask_again(&read_only()).expect_err("it is writable");
    let text = "read_only is false, asked for true";
    assert!(error.message.contains(text), "{error}");
    drop(pool);
    let pool = store.open_with(&read_only()).expect("it opens");
    pool.ask_again(&read_only()).expect("the same");
    let error = pool
        .ask_again(&file_params(0))
        .expect_err("it is read-only");
    assert_eq!(error.failure.status, Status::ParameterMismatch);
    let text = "read_only is true, asked for false";
    assert!(error.message.contains(text), "{error}");
}

#[test]
fn a_device_that_cannot_be_written_opens_for_reading() {
    let Some(store) = Store::on_device(file_bytes(8)) else {
        return;
    };
    let written = Written::of_all_kinds(&store.open());
    let device = store.device.as_ref().expect("a device");
    device.set_read_only(true);
    let Err(error) = store.open_with(&file_params(0)) else {
        panic!("it cannot be written");
    };
    assert_eq!(error.failure.status, Status::PermissionDenied, "{error}");
    let pool = store.open_with(&read_only()).expect("it opens");
    assert_only_reads(&pool, &written);
    drop(pool);
    device.set_read_only(false);
    written.assert_all_of(&store.open());
}

#[test]
fn reading_makes_no_pool() {
    on_every_store(file_bytes(1), |store| {
        let words = [
            "holds nothing but zeroes",
            "name the file or device that has the pool",
        ];
        let said = store.assert_refused(&read_only(), Status::NotFound, &words);
        assert!(
            !said.contains("overwrite"),
            "there is nothing to make: {said}"
        );
        store.write(100, &[1]);
        let words = ["holds data of an unknown kind", words[1]];
        let said = store.assert_refused(&read_only(), Status::NotBlank, &words);
        assert!(
            !said.contains("overwrite"),
            "there is nothing to make: {said}"
        );
    });
    let store = Store::on_file(0);
    std::fs::remove_file(&store.name).expect("removed");
    for params in [
        read_only(),
        CreateParams {
            total_size: MEGABYTE,
            ..read_only()
        },
    ] {
        let Err(error) = store.open_with(&params) else {
            panic!("there is none");
        };
        assert_eq!(error.failure.status, Status::NotFound, "{error}");
        assert!(!std::fs::exists(&store.name).expect("the folder is there"));
    }
    let both = CreateParams {
        overwrite: true,
        ..read_only()
    };
    let store = Store::on_file(file_bytes(1));
    let Err(error) = store.open_with(&both) else {
        panic!("a contradiction");
    };
    assert_eq!(error.failure.status, Status::InvalidArgument, "{error}");
}
