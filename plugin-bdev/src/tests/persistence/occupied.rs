//! What holds something else is left as it is, unless the creator says otherwise.

use std::fs;
use std::process::Command;

use chimaera_bdev_proto::{CreateParams, MEGABYTE};
use chimaera_proto::Status;
use chimaera_testing::{disk_folder, skipped};

use super::{Store, UNPROTECTED_BYTES, Written, on_every_store, pattern, room};
use crate::testing::{file_bytes, file_params, name_in};

const NOT_BLANK: Status = Status::NotBlank;

fn overwrite() -> CreateParams {
    CreateParams {
        overwrite: true,
        ..file_params(0)
    }
}

/// An image of a new file system, if the system has the means to make one.
fn ext4_image(size: u64) -> Option<Vec<u8>> {
    let folder = disk_folder();
    let file = name_in(&folder, "image");
    let made = fs::File::create(&file).and_then(|file| file.set_len(size));
    made.expect("the build's folder can be written");
    let output = Command::new("mkfs.ext4").args(["-q", "-F", &file]).output();
    if output.is_ok_and(|output| output.status.success()) {
        return Some(fs::read(&file).expect("made"));
    }
    skipped("a device with ext4", "there is no mkfs.ext4");
    None
}

#[test]
fn a_file_system_is_refused_by_its_name_until_it_may_be_overwritten() {
    let size = file_bytes(4);
    let Some(image) = ext4_image(size) else {
        return;
    };
    on_every_store(size, |store| {
        store.put(&image);
        store.assert_refused(&file_params(0), NOT_BLANK, &["ext4", "overwrite"]);
        let read_only = CreateParams {
            read_only: true,
            ..file_params(0)
        };
        let said =
            store.assert_refused(&read_only, NOT_BLANK, &["ext4", "name the file or device"]);
        assert!(
            !said.contains("overwrite"),
            "there is nothing to make: {said}"
        );
        let pool = store.open_with(&overwrite()).expect("told to");
        assert_eq!(pool.list(), []);
        assert_eq!(pool.stats().remaining_size, room(&pool));
        let written = Written::of_all_kinds(&pool);
        drop(pool);
        written.assert_all_of(&store.open());
    });
}

#[test]
fn data_without_a_name_is_refused_with_its_place() {
    let size = file_bytes(1);
    on_every_store(size, |store| {
        for (offset, text) in [(0, "0x0"), (5000, "0x1388"), (size - 1, "0x1fffff")] {
            store.write(offset, &[1]);
            let words = ["of an unknown kind", text];
            store.assert_refused(&file_params(0), NOT_BLANK, &words);
            store.write(offset, &[0]);
        }
        store.open();
    });
    on_every_store(size, |store| {
        store.put(&pattern(1, size));
        store.assert_refused(&file_params(0), NOT_BLANK, &["offset 0x0"]);
    });
}

#[test]
fn data_in_a_sparse_file_is_found_wherever_it_lies() {
    let size = 1 << 34;
    for at in [129 * MEGABYTE + 7, size / 2 + 5 * MEGABYTE, size - MEGABYTE] {
        let store = Store::on_file(size);
        store.write(at, &[1]);
        let refused = store.open_with(&file_params(0)).map(|_| ());
        let error = refused.expect_err("it holds something");
        assert_eq!(error.failure.status, NOT_BLANK, "{error}");
        let words = format!("first non-zero byte at offset {at:#x}");
        assert!(error.message.contains(&words), "{error}");
        // Zeroes that were written are nothing.
        store.write(at, &[0]);
        assert_eq!(store.open().list(), []);
    }
}

#[test]
fn the_part_of_a_page_at_the_end_of_a_file_is_looked_at_too() {
    let store = Store::on_file(5000);
    store.write(4999, &[1]);
    let grown = file_params(file_bytes(1));
    let words = ["first non-zero byte at offset 0x1387"];
    store.assert_refused(&grown, NOT_BLANK, &words);
    // One that is only zero is blank.
    store.write(4999, &[0]);
    let pool = store.open_with(&grown).expect("blank");
    assert_eq!(pool.stats().total_size, file_bytes(1));
    drop(pool);

    let store = Store::on_file(5000);
    store.write(0, &pattern(1, 5000));
    let words = ["offset 0x0"];
    store.assert_refused(&grown, NOT_BLANK, &words);
    let overwritten = CreateParams {
        overwrite: true,
        ..grown
    };
    let pool = store.open_with(&overwritten).expect("told to");
    assert_eq!(pool.list(), []);
}

#[test]
fn overwriting_a_pool_makes_an_empty_one() {
    on_every_store(file_bytes(8), |store| {
        let pool = store.open();
        let old = Written::of_all_kinds(&pool);
        drop(pool);
        let other = CreateParams {
            io_depth: Some(9),
            ..overwrite()
        };
        let pool = store.open_with(&other).expect("told to");
        assert_eq!(pool.list(), []);
        assert_eq!(pool.stats().remaining_size, room(&pool));
        assert_eq!(pool.stats().io_depth, 9);
        let mut new = Written::default();
        new.add(&pool, old.0[0].0.block.size);
        drop(pool);
        let same = CreateParams {
            io_depth: Some(9),
            ..file_params(0)
        };
        new.assert_all_of(&store.open_with(&same).expect("the new one"));
    });
}

#[test]
fn an_open_pool_is_not_overwritten() {
    let store = Store::on_file(file_bytes(8));
    let pool = store.open();
    let written = Written::of_all_kinds(&pool);
    pool.flush().expect("flushed");
    // Neither through the host that has it open, nor by another.
    let error = pool.ask_again(&overwrite()).expect_err("open");
    assert_eq!(error.failure.status, Status::Busy, "{error}");
    assert!(error.message.contains("destroy it first"), "{error}");
    store.assert_refused(&overwrite(), Status::Busy, &["in use"]);
    written.assert_all_of(&pool);
}

#[test]
fn a_file_that_is_too_small_is_refused_also_if_it_may_be_overwritten() {
    let store = Store::on_file(64 << 10);
    store.put(&pattern(3, 64 << 10));
    for params in [overwrite(), file_params(0)] {
        let Err(error) = store.open_with(&params) else {
            panic!("too small");
        };
        assert!(store.image() == pattern(3, 64 << 10), "{error}");
    }
    let words = ["65536 bytes are too few"];
    store.assert_refused(&overwrite(), Status::InvalidArgument, &words);
}

#[test]
fn a_file_that_another_system_was_written_over_is_that_and_no_pool() {
    let size = file_bytes(4);
    let Some(image) = ext4_image(size) else {
        return;
    };
    on_every_store(size, |store| {
        let pool = store.open();
        pool.allocate(MEGABYTE).expect("room");
        drop(pool);
        // As if mkfs had written this first; the second superblock of the pool is still there.
        store.write(0, &image[..8192]);
        store.assert_refused(&file_params(0), NOT_BLANK, &["ext4"]);
    });
}

#[test]
fn a_pool_that_lost_its_first_megabyte_is_no_blank_device_and_is_repaired() {
    on_every_store(file_bytes(24), |store| {
        let pool = store.open();
        let written = Written::of_all_kinds(&pool);
        drop(pool);
        // What lay there of blocks is lost, whatever becomes of the pool.
        let start = store.image()[..MEGABYTE as usize].to_vec();
        store.write(0, &vec![0; MEGABYTE as usize]);
        let place = format!("at offset {:#x}", store.superblocks().1[0]);
        let words = ["its beginning was overwritten", &place, "--repair"];
        store.assert_refused(&file_params(0), Status::CorruptedMetadata, &words);
        store.repair();
        for (owned, _) in &written.0 {
            let range = owned.block.offset..owned.block.offset + owned.block.size;
            if range.end <= MEGABYTE {
                let range = range.start as usize..range.end as usize;
                store.write(owned.block.offset, &start[range]);
            }
        }
        written.assert_all_of(&store.open());
    });
}

#[test]
fn a_pool_without_a_far_superblock_that_lost_its_first_megabyte_is_no_blank_device() {
    on_every_store(UNPROTECTED_BYTES, |store| {
        let mut written = Written::default();
        written.add(&store.open(), MEGABYTE);
        let intact = store.image();
        store.write(0, &vec![0; MEGABYTE as usize]);
        store.assert_refused(
            &file_params(0),
            NOT_BLANK,
            &["data of an unknown kind", "overwrite"],
        );
        // What was lost can still be put back.
        store.put(&intact);
        written.assert_all_of(&store.open());
    });
}
