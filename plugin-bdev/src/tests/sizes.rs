//! How large a pool is.

use std::fs;

use chimaera_proto::Status;
use chimaera_proto::bdev::CreateParams;

use crate::testing::{Pool, disk_folder, file_params, name_in, ram_params};

const MIB: u64 = 1 << 20;

#[track_caller]
fn assert_refused(name: &str, params: &CreateParams, status: Status, text: &str) {
    let Err(error) = Pool::create(name, params, 1) else {
        panic!("{name} was made with {params:?}");
    };
    assert_eq!(error.failure.status, status, "{error}");
    assert!(error.message.contains(text), "{error}");
}

#[test]
fn memory_needs_a_size_that_the_system_has() {
    let refuse = |size, status, text| assert_refused("memory", &ram_params(size), status, text);
    refuse(0, Status::InvalidArgument, "needs a total_size");
    refuse(4095, Status::InvalidArgument, "at least 4096");
    refuse(1 << 60, Status::OutOfMemory, "smaller");
    refuse(u64::MAX, Status::OutOfMemory, "smaller");
    let pool = Pool::create("memory", &ram_params(MIB + 4097), 1).expect("made");
    assert_eq!(pool.stats().total_size, MIB + 4096);
    assert_eq!(pool.stats().remaining_size, MIB + 4096);
}

#[test]
fn a_file_pool_is_as_large_as_its_file_unless_told() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    assert_refused(&name, &file_params(0), Status::NotFound, "total_size");
    assert_refused(&name, &file_params(1), Status::InvalidArgument, "4096");
    assert!(!fs::exists(&name).expect("the folder is there"));

    fs::write(&name, []).expect("written");
    assert_refused(
        &name,
        &file_params(0),
        Status::InvalidArgument,
        "total_size",
    );
    fs::write(&name, [1; 4095]).expect("written");
    assert_refused(&name, &file_params(0), Status::InvalidArgument, "4095");
    fs::write(&name, [1; 8195]).expect("written");
    let size_of = |params| {
        let pool = Pool::create(&name, &params, 1).expect("made");
        let size = pool.stats().total_size;
        (size, fs::metadata(&name).expect("there").len())
    };
    assert_eq!(size_of(file_params(0)), (8192, 8195));
    assert_eq!(size_of(file_params(4096)), (4096, 8195));
    assert_eq!(size_of(file_params(MIB)), (MIB, MIB));
    assert_eq!(size_of(file_params(0)), (MIB, MIB));
    let kept = fs::read(&name).expect("read");
    assert_eq!(kept[..8195], [1; 8195], "a file keeps what it holds");
}
