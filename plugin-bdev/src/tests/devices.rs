//! Block devices, on a loop device where the system lets the test make one.

use std::time::Instant;

use chimaera_bdev_proto::{CreateParams, MEGABYTE};
use chimaera_proto::Status;
use chimaera_testing::PATIENCE;

use super::{assert_refused, with_every_engine};
use crate::testing::{TestPool, file_bytes, file_params, loop_device};

#[test]
fn a_block_device_is_a_pool_of_its_size_and_has_one_at_a_time() {
    let Some(device) = loop_device(file_bytes(3) + 512, &[]) else {
        return;
    };
    let name = device.name();
    assert_refused(
        name,
        &file_params(2 * file_bytes(3)),
        Status::InvalidArgument,
        "at most that",
    );
    for params in with_every_engine(&file_params(0)) {
        use_whole_device(name, &params);
    }
}

#[test]
fn a_loop_device_and_the_file_that_it_stands_on_have_one_pool_together() {
    let Some(device) = loop_device(4 * MEGABYTE, &[]) else {
        return;
    };
    let over = CreateParams {
        overwrite: true,
        ..file_params(0)
    };
    let (name, file) = (device.name(), device.file().to_str().expect("UTF-8"));
    let pool = TestPool::create(name, &over, 1).expect("made");
    assert_refused(file, &over, Status::Busy, "has locked it");
    pool.handle().flush().expect("flushed");
    drop(pool);
    let reason = format!("{name} is in use: it is a loop device on {file}, which another pool");
    let pool = TestPool::create(file, &over, 1).expect("made");
    assert_refused(name, &over, Status::Busy, &reason);
    drop(pool);
    TestPool::create(name, &over, 1).expect("free again");
}

#[test]
fn two_loop_devices_with_a_part_of_a_file_each_have_a_pool_each() {
    const SIZE: &str = "4194304";
    let first = loop_device(8 * MEGABYTE, &["--sizelimit", SIZE]);
    let Some(first) = first else { return };
    let second = first.attach_again(&["--offset", SIZE]).expect("another");
    let pool = TestPool::create(first.name(), &file_params(0), 1).expect("made");
    let other = TestPool::create(second.name(), &file_params(0), 1).expect("made");
    for pool in [pool, other] {
        pool.handle().flush().expect("flushed");
    }
}

fn use_whole_device(name: &str, params: &CreateParams) {
    let new = CreateParams {
        // The device holds the pool of the engine before.
        overwrite: true,
        ..*params
    };
    let pool = TestPool::create(name, &new, 1).expect("made");
    let stats = pool.stats();
    assert_eq!(stats.total_size, file_bytes(3));
    assert!(stats.direct_io);
    pool.ask_again(&file_params(0)).expect("the whole device");
    assert_refused(name, &file_params(0), Status::Busy, "in use");

    let blocks = pool.allocate(3 * MEGABYTE).expect("room");
    let bytes: Vec<u8> = (0..MEGABYTE).map(|at| (at % 251) as u8).collect();
    for block in &blocks {
        pool.write(*block, 0, &bytes).expect("written");
        pool.write(*block, 777, &[9; 5]).expect("written");
    }
    let mut expected = bytes;
    expected[777..782].fill(9);
    let assert_kept = |pool: &TestPool| {
        for block in &blocks {
            assert!(pool.read(*block, 0, MEGABYTE as usize).expect("read") == expected);
        }
    };
    assert_kept(&pool);
    pool.handle().flush().expect("flushed");
    drop(pool);
    // A process that another test is just starting has a copy of the file for a moment.
    let start = Instant::now();
    let pool = loop {
        match TestPool::create(name, params, 1) {
            Ok(pool) => break pool,
            Err(error) => assert_eq!(error.failure.status, Status::Busy, "{error}"),
        }
        assert!(start.elapsed() < PATIENCE, "free again");
        std::thread::yield_now();
    };
    assert_kept(&pool);
}

#[test]
fn a_device_with_large_blocks_needs_a_large_alignment() {
    let Some(device) = loop_device(4 * MEGABYTE, &["--sector-size", "4096"]) else {
        return;
    };
    let small = CreateParams {
        alignment: Some(512),
        ..file_params(0)
    };
    assert_refused(device.name(), &small, Status::Alignment, "at least 4096");
    assert_refused(device.name(), &small, Status::Alignment, "is 512");
    TestPool::create(device.name(), &file_params(0), 1).expect("made");
}

#[test]
fn a_read_only_device_is_refused() {
    let Some(device) = loop_device(MEGABYTE, &["--read-only"]) else {
        return;
    };
    assert_refused(
        device.name(),
        &file_params(0),
        Status::PermissionDenied,
        device.name(),
    );
}
