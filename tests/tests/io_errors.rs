//! Devices that fail under a pool: their errors reach the client with the system's number, and the
//! daemon goes on.

use std::fs::File;

use chimaera_bdev_client::{Block, Client, CreateOptions, PoolQuery, Status};
use chimaera_tests::{
    Daemon, LoopDevice, MIB, SmallFileSystem, assert_empty, assert_refused, client, disk_folder,
    file_bytes, skipped, text,
};

const QUERY: PoolQuery = PoolQuery::Local;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Reads and writes a block whose part of the device is lost.
fn assert_io_errors(pool: &Client, block: &Block, errno: i32) {
    let runtime = pool.runtime();
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    let error = assert_refused(
        pool.read(QUERY, block, &mut buffer),
        Status::IoError,
        &["reading 4096 bytes", "I/O error: Input/output error"],
    );
    assert_eq!(error.errno(), Some(errno));
    let refused = pool
        .async_read(QUERY, block, buffer)
        .wait()
        .expect_err("an I/O error");
    assert_eq!(refused.error.errno(), Some(errno));
    assert!(refused.buffer.is_some(), "the buffer comes back");
    let errors = pool.get_stats().expect("statistics").activity.errors;
    assert_eq!(errors, 2, "and are counted");
}

#[test]
fn a_file_truncated_behind_a_pools_back_gives_io_errors_and_the_daemon_goes_on() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let pool = client(&runtime, 0);
    let options = CreateOptions::file().size(file_bytes(4));
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    let blocks = pool.allocate_blocks(QUERY, 4 * MIB).expect("blocks");
    let (first, last) = (
        blocks.iter().min().expect("blocks"),
        blocks.iter().max().expect("blocks"),
    );
    let file = File::options().write(true).open(&path);
    file.and_then(|file| file.set_len(first.offset + MIB))
        .expect("truncates");
    assert_io_errors(&pool, last, EIO);
    let mut buffer = runtime.allocate_buffer(MIB as usize).expect("a buffer");
    let read = pool.read(QUERY, first, &mut buffer);
    assert_eq!(read.expect("what is left can be read"), MIB);
    pool.free_blocks(QUERY, &blocks).expect("a free");
    assert_empty(&pool);
}

#[test]
fn a_device_that_fails_gives_io_errors_and_the_daemon_goes_on() {
    let device = match LoopDevice::attach(file_bytes(4)) {
        Ok(device) => device,
        Err(reason) => return skipped("a device that fails", &reason),
    };
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    pool.create(
        PoolQuery::Dynamic,
        text(device.path()),
        &CreateOptions::file(),
    )
    .expect("the pool is made");
    let blocks = pool.allocate_blocks(QUERY, 4 * MIB).expect("blocks");
    let buffer = runtime.allocate_buffer(MIB as usize).expect("a buffer");
    pool.write(QUERY, &blocks[3], &buffer).expect("a write");
    device.fail();
    assert_io_errors(&pool, &blocks[3], EIO);
    pool.free_blocks(QUERY, &blocks).expect("a free");
    assert_empty(&pool);
    runtime.admin().ping().expect("the daemon goes on");
}

#[test]
fn a_disk_that_is_full_gives_io_errors_with_their_errno() {
    let disk = match SmallFileSystem::mount("size=1M") {
        Ok(disk) => disk,
        Err(reason) => return skipped("a disk that is full", &reason),
    };
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let path = disk.folder().join("pool");
    let pool = client(&runtime, 0);
    // The file has holes, for which there is no room when they are to be filled.
    let options = CreateOptions::file().size(file_bytes(4));
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    let blocks = pool.allocate_blocks(QUERY, 4 * MIB).expect("blocks");
    let mut buffer = runtime.allocate_buffer(MIB as usize).expect("a buffer");
    let refused: Vec<_> = blocks
        .iter()
        .filter_map(|block| pool.write(QUERY, block, &buffer).err())
        .collect();
    assert!(refused.len() >= 3, "one megabyte does not hold four");
    for error in refused {
        assert_eq!(error.status(), Status::IoError, "{error}");
        assert_eq!(error.errno(), Some(ENOSPC), "{error}");
        assert!(
            error.to_string().contains("No space left on device"),
            "{error}"
        );
    }
    for block in &blocks {
        pool.read(QUERY, block, &mut buffer)
            .expect("a hole can be read");
    }
    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool goes, and with it its hold on the disk");
}
