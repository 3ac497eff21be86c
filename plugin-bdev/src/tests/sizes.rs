//! How large a pool is.

use std::fs;
use std::ops::Range;

use chimaera_bdev_format::Geometry;
use chimaera_bdev_proto::{MEGABYTE, UNIT_BYTES};
use chimaera_proto::Status;
use chimaera_testing::disk_folder;

use super::assert_refused;
use crate::testing::{
    TestPool, file_bytes, file_params, name_in, one_block_bytes, ram_params, whole_megabytes,
};

#[test]
fn memory_needs_a_size_that_the_system_has() {
    let refuse = |size, status, text| assert_refused("memory", &ram_params(size), status, text);
    refuse(0, Status::InvalidArgument, "needs a size");
    refuse(4095, Status::InvalidArgument, "at least 4096");
    refuse(1 << 60, Status::OutOfMemory, "smaller");
    refuse(u64::MAX, Status::OutOfMemory, "smaller");
    let pool = TestPool::create("memory", &ram_params(MEGABYTE + 4097), 1).expect("made");
    assert_eq!(pool.stats().total_size, MEGABYTE + 4096);
    assert_eq!(pool.stats().remaining_size, MEGABYTE + 4096);
}

#[test]
fn a_file_pool_is_as_large_as_its_file_unless_told() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    assert_refused(&name, &file_params(0), Status::NotFound, "give a size");
    assert_refused(&name, &file_params(1), Status::InvalidArgument, "at least");
    assert!(!fs::exists(&name).expect("the folder is there"));

    fs::write(&name, []).expect("written");
    assert_refused(&name, &file_params(0), Status::InvalidArgument, "size");
    fs::write(&name, [0; 4095]).expect("written");
    assert_refused(&name, &file_params(0), Status::InvalidArgument, "4095");
    let made = |file_len: u64, params| {
        fs::remove_file(&name).expect("removed");
        let file = fs::File::create(&name).expect("made");
        file.set_len(file_len).expect("set");
        let pool = TestPool::create(&name, &params, 1).expect("made");
        let size = pool.stats().total_size;
        (size, fs::metadata(&name).expect("there").len())
    };
    assert_eq!(
        made(MEGABYTE + 4099, file_params(0)),
        (MEGABYTE + 4096, MEGABYTE + 4099)
    );
    assert_eq!(
        made(2 * MEGABYTE, file_params(MEGABYTE)),
        (MEGABYTE, 2 * MEGABYTE)
    );
    assert_eq!(made(8195, file_params(MEGABYTE)), (MEGABYTE, MEGABYTE));
    assert_eq!(made(0, file_params(MEGABYTE)), (MEGABYTE, MEGABYTE));
}

#[test]
fn metadata_takes_its_part_of_a_file_pool() {
    for megabytes in [1, 4, 40] {
        let folder = disk_folder();
        let name = name_in(&folder, "pool");
        let params = file_params(file_bytes(megabytes));
        let pool = TestPool::create(&name, &params, 1).expect("made");
        let stats = pool.stats();
        assert_eq!(stats.total_size, file_bytes(megabytes));
        assert_eq!(
            stats.remaining_size,
            stats.total_size - stats.metadata_size,
            "a new pool has all the rest"
        );
        assert!(stats.persistent && !stats.read_only);
        let whole = pool
            .allocate(megabytes * MEGABYTE)
            .expect("room for as much");
        let mut places: Vec<_> = whole.iter().map(|block| block.offset / MEGABYTE).collect();
        places.sort();
        let expected: Vec<_> = whole_megabytes(stats.total_size).collect();
        assert_eq!(places, expected, "where no metadata is");
        let small = pool.allocate(4096).expect("room beside the metadata")[0];
        let geometry = Geometry::new(stats.total_size / UNIT_BYTES).expect("room");
        let taken = |pages: Range<u64>| pages.contains(&(small.offset / UNIT_BYTES));
        assert!(!geometry.reserved().any(taken), "{small:?}");
        assert!(!expected.contains(&(small.offset / MEGABYTE)), "{small:?}");
        assert_eq!(pool.allocate(MEGABYTE), Err(Status::NoSpace));
    }
    let pool = TestPool::create("memory", &ram_params(MEGABYTE), 1).expect("made");
    assert_eq!(pool.stats().metadata_size, 0);
    assert!(!pool.stats().persistent);
}

#[test]
fn the_smallest_file_pool_has_one_block() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let least = one_block_bytes();
    assert_refused(
        &name,
        &file_params(least - 4096),
        Status::InvalidArgument,
        &format!("give at least {least}"),
    );
    assert!(!fs::exists(&name).expect("the folder is there"));
    let pool = TestPool::create(&name, &file_params(least), 1).expect("made");
    assert_eq!(pool.stats().remaining_size, 4096);
    let block = pool.allocate(4096).expect("one")[0];
    assert_eq!(block.offset, least - 4096);
    assert_eq!(pool.allocate(1), Err(Status::NoSpace));
}

#[test]
fn a_memory_pool_that_is_larger_than_the_memory_there_is_comes_with_a_warning() {
    let Some(available) = chimaera_thread::available_bytes() else {
        return;
    };
    let warnings = |size| {
        let pool = TestPool::create("memory", &ram_params(size), 1).expect("a pool");
        let log = pool.recorder().log();
        let told =
            |(level, text): &&(u32, String)| *level == 2 && text.contains("the kernel kills");
        log.iter().filter(told).count()
    };
    assert_eq!(warnings(MEGABYTE), 0);
    assert_eq!(warnings(available + MEGABYTE), 1);
}
