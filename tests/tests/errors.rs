//! Every error of the bdev client, against a real daemon: told apart by its status, with a text
//! that says what happened to what, and with nothing changed.
//!
//! Damaged metadata (`CorruptedMetadata`) is not here: no pool keeps metadata on its device yet,
//! so nothing can be damaged.

use std::fmt::Debug;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use chimaera_bdev_client::{
    Block, BlockType, Client, CreateOptions, Error, PerfMetrics, PoolId, PoolQuery, Runtime,
    Status, Task,
};
use chimaera_client::Call;
use chimaera_proto::bdev::{Method, TransferArguments};
use chimaera_tests::{Daemon, Faulty, LoopDevice, SmallFileSystem, disk_folder, skipped};

const QUERY: PoolQuery = PoolQuery::Local;
const MIB: u64 = 1 << 20;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn client(runtime: &Runtime, number: u32) -> Client {
    Client::new(runtime, PoolId::new(8000, number))
}

/// A pool of memory of this size.
fn memory(runtime: &Runtime, size: u64) -> Client {
    let pool = client(runtime, 0);
    pool.create(PoolQuery::Dynamic, "memory", &CreateOptions::ram(size))
        .expect("the pool is made");
    pool
}

fn remaining(pool: &Client) -> u64 {
    pool.get_stats().expect("statistics").remaining_size
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An error has this status, and its text these words.
#[track_caller]
fn assert_refused<T: Debug>(
    result: Result<T, impl Into<Error>>,
    status: Status,
    words: &[&str],
) -> Error {
    let error: Error = match result {
        Ok(value) => panic!("{value:?} instead of {status:?}"),
        Err(error) => error.into(),
    };
    assert_eq!(error.status(), status, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} in: {error}");
    }
    error
}

/// Creating a pool fails so, and leaves no pool behind.
#[track_caller]
fn assert_not_created(
    pool: &Client,
    name: &str,
    options: &CreateOptions,
    status: Status,
    words: &[&str],
) -> Error {
    let error = assert_refused(
        pool.create(PoolQuery::Dynamic, name, options),
        status,
        words,
    );
    assert!(error.operation().contains(name), "{error}");
    assert_refused(
        pool.get_stats(),
        Status::PoolNotFound,
        &["create the pool first"],
    );
    let found = pool.runtime().admin().find_pool(name);
    assert_refused(found, Status::PoolNotFound, &[name]);
    error
}

#[test]
fn an_allocation_without_space_takes_nothing() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = memory(&runtime, 8 * MIB);
    let held = pool.allocate_blocks(QUERY, 4096).expect("a block");
    let free = 8 * MIB - 4096;
    // Too much, also where the list travels in a buffer, and where no pool has as much.
    for size in [8 * MIB, 8 * MIB + 1, 100 * MIB, 1 << 40, u64::MAX] {
        let result = pool.allocate_blocks(QUERY, size);
        assert_refused(
            result,
            Status::NoSpace,
            &["not enough free space", "8000.0"],
        );
        assert_eq!(remaining(&pool), free, "{size}");
        let result = pool.async_allocate_blocks(QUERY, size).and_then(Task::wait);
        assert_refused(result, Status::NoSpace, &[]);
        assert_eq!(remaining(&pool), free, "{size}");
    }
    // Enough, but not in one piece: the megabyte of the first block is broken.
    let whole = pool.allocate_blocks(QUERY, 7 * MIB).expect("the others");
    assert!(remaining(&pool) > 600 << 10);
    assert_refused(pool.allocate_blocks(QUERY, MIB), Status::NoSpace, &[]);
    pool.free_blocks(QUERY, &held).expect("a free");
    pool.free_blocks(QUERY, &whole).expect("a free");
    assert_eq!(remaining(&pool), 8 * MIB);
    assert_eq!(pool.allocate_blocks(QUERY, 0).expect("none"), []);
}

#[test]
fn a_block_that_is_not_allocated_is_refused_and_the_refusal_says_which_way() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = memory(&runtime, 4 * MIB);
    let block = pool.allocate_blocks(QUERY, 4096).expect("a block")[0];
    let other = pool.allocate_blocks(QUERY, 64 << 10).expect("a block")[0];
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    buffer.fill(0xAA);
    pool.write(QUERY, &block, &buffer).expect("a write");
    let free = remaining(&pool);

    let never = Block::new(3 * MIB, BlockType::Kib4);
    let larger = Block::new(0, BlockType::Mib1);
    let smaller = Block::new(other.offset, BlockType::Kib4);
    let outside = Block::new(4 * MIB, BlockType::Kib4);
    let far = Block::new(1 << 60, BlockType::Mib1);
    let shifted = Block {
        offset: block.offset + 512,
        ..block
    };
    let other_size = Block {
        size: 8192,
        ..block
    };
    let cases = [
        (never, Status::NotAllocated, Status::DoubleFree),
        (larger, Status::WrongSize, Status::WrongSize),
        (smaller, Status::WrongSize, Status::WrongSize),
        (shifted, Status::WrongSize, Status::WrongSize),
        (other_size, Status::WrongSize, Status::WrongSize),
        (outside, Status::OutOfRange, Status::OutOfRange),
        (far, Status::OutOfRange, Status::OutOfRange),
    ];
    for (wrong, of_transfer, of_free) in cases {
        assert_refused(pool.write(QUERY, &wrong, &buffer), of_transfer, &["8000.0"]);
        assert_refused(
            pool.read(QUERY, &wrong, &mut buffer),
            of_transfer,
            &["8000.0"],
        );
        assert_refused(pool.free_blocks(QUERY, &[wrong]), of_free, &["8000.0"]);
        // In a list, all or none is freed.
        assert_refused(
            pool.free_blocks(QUERY, &[block, other, wrong]),
            of_free,
            &[],
        );
        assert_eq!(remaining(&pool), free, "{wrong:?}");
    }
    let twice = pool.free_blocks(QUERY, &[block, block]);
    assert_refused(twice, Status::DoubleFree, &["named twice"]);
    let read = pool.read(QUERY, &block, &mut buffer);
    assert_eq!(read.expect("the block is still allocated"), 4096);
    assert!(buffer.iter().all(|&byte| byte == 0xAA), "and untouched");

    pool.free_blocks(QUERY, &[block, other]).expect("a free");
    assert_refused(
        pool.free_blocks(QUERY, &[block]),
        Status::DoubleFree,
        &["freed before"],
    );
    assert_refused(
        pool.write(QUERY, &block, &buffer),
        Status::NotAllocated,
        &["the block is not allocated", "AllocateBlocks"],
    );
    assert_eq!(remaining(&pool), 4 * MIB);
}

#[test]
fn a_transfer_beyond_its_block_moves_nothing() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = memory(&runtime, MIB);
    let blocks: Vec<_> = (0..2)
        .map(|_| pool.allocate_blocks(QUERY, 4096).expect("a block")[0])
        .collect();
    let mut buffer = runtime.allocate_buffer(8192).expect("a buffer");
    buffer.fill(0x11);
    for block in &blocks {
        pool.write(QUERY, block, buffer.range(..4096))
            .expect("a write");
    }
    buffer.fill(0xFF);
    let words = ["the block has 4096 bytes", "ends at 8192"];
    let block = &blocks[0];
    assert_refused(
        pool.write(QUERY, block, &buffer),
        Status::BeyondBlock,
        &words,
    );
    assert_refused(
        pool.read(QUERY, block, &mut buffer),
        Status::BeyondBlock,
        &words,
    );
    for offset in [1, 4096, 4097, u64::MAX] {
        let write = pool.write_at(QUERY, block, offset, buffer.range(..4096));
        assert_refused(write, Status::BeyondBlock, &["the block has 4096 bytes"]);
    }
    let across = pool.write_blocks(QUERY, &blocks[..1], &buffer);
    assert_refused(across, Status::BeyondBlock, &["4096 bytes together"]);
    // The buffer of a refused task comes back.
    let refused = pool.async_write(QUERY, block, buffer).expect_err("refused");
    assert_eq!(refused.status(), Status::BeyondBlock);
    let mut buffer = refused.buffer.expect("the buffer comes back");
    assert_eq!(buffer.len(), 8192);
    // A client that does not look for itself is told the same by the host.
    let arguments = TransferArguments {
        block: *block,
        offset_in_block: 1,
    };
    let call = Call {
        pool: pool.pool_id(),
        query: QUERY,
        method: Method::Write as u16,
        arguments: arguments.to_arguments(),
    };
    let told = runtime.call_receiving(&call, buffer.range_mut(..4096));
    assert_refused(told, Status::BeyondBlock, &[]);

    for block in &blocks {
        pool.read(QUERY, block, buffer.range_mut(..4096))
            .expect("a read");
        assert!(buffer[..4096].iter().all(|&byte| byte == 0x11));
    }
}

#[test]
fn a_pool_that_is_not_there_is_not_found_by_any_operation() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 404);
    let block = Block::new(0, BlockType::Kib4);
    let mut buffer = runtime.allocate_buffer(16).expect("a buffer");
    let status = Status::PoolNotFound;
    let words = ["8000.404", "create the pool first"];
    assert_refused(pool.allocate_blocks(QUERY, 1), status, &words);
    assert_refused(pool.allocate_blocks(QUERY, 64 * MIB), status, &words);
    assert_refused(pool.free_blocks(QUERY, &[block]), status, &words);
    assert_refused(pool.free_blocks(QUERY, &[block; 9]), status, &words);
    assert_refused(pool.write(QUERY, &block, &buffer), status, &words);
    assert_refused(pool.read(QUERY, &block, &mut buffer), status, &words);
    assert_refused(pool.get_stats(), status, &words);
    assert_refused(Client::open(&runtime, "nobody"), status, &["nobody"]);
    let admin = runtime.admin();
    assert_refused(admin.destroy_pool(pool.pool_id()), status, &["8000.404"]);
    assert_refused(admin.flush(Some(pool.pool_id())), status, &["8000.404"]);
}

#[test]
fn a_file_that_is_not_there_is_not_found() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let absent = daemon.folder().join("absent");
    assert_not_created(
        &pool,
        text(&absent),
        &CreateOptions::file(),
        Status::NotFound,
        &["does not exist", "give a total_size"],
    );
    let nowhere = daemon.folder().join("nowhere/file");
    assert_not_created(
        &pool,
        text(&nowhere),
        &CreateOptions::file().total_size(MIB),
        Status::NotFound,
        &["cannot create"],
    );
    assert!(!absent.exists() && !nowhere.exists());
}

#[test]
fn parameters_that_make_no_pool_are_refused_and_leave_no_file() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let file = disk_folder();
    let path = file.path().join("pool");
    let name = text(&path);
    let sized = CreateOptions::file().total_size(MIB);
    let invalid = Status::InvalidArgument;
    let refused = |name: &str, options: CreateOptions, status, words: &[&str]| {
        assert_not_created(&pool, name, &options, status, words);
    };
    refused("ram", CreateOptions::ram(0), invalid, &["total_size"]);
    refused("ram", CreateOptions::ram(4095), invalid, &["at least 4096"]);
    refused(name, sized.total_size(100), invalid, &["at least 4096"]);
    refused(name, sized.io_depth(0), invalid, &["io_depth is 0"]);
    refused(name, sized.io_depth(4097), invalid, &["io_depth is 4097"]);
    for alignment in [0, 1, 256, 513, 8192, u32::MAX] {
        let words = [&*format!("alignment is {alignment}"), "power of two"];
        refused(name, sized.alignment(alignment), Status::Alignment, &words);
    }
    let metrics = PerfMetrics {
        iops: f64::NAN,
        ..PerfMetrics::default()
    };
    refused(name, sized.perf_metrics(metrics), invalid, &["iops is NaN"]);
    assert!(!path.exists(), "no refused creation leaves a file");
    refused("", CreateOptions::ram(MIB), invalid, &["from 1 to 4096"]);
    let long = "x".repeat(4097);
    refused(&long, CreateOptions::ram(MIB), invalid, &["4097"]);

    let admin = Client::new(&runtime, PoolId::ADMIN);
    let refused = admin.create(PoolQuery::Dynamic, "mine", &CreateOptions::ram(MIB));
    assert_refused(refused, invalid, &["admin pool"]);
    let destroyed = runtime.admin().destroy_pool(PoolId::ADMIN);
    assert_refused(
        destroyed,
        Status::PermissionDenied,
        &["cannot be destroyed"],
    );
}

#[test]
fn what_is_no_file_or_device_is_not_opened() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let fifo = daemon.folder().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let socket = daemon.socket();
    let cases = [
        (text(daemon.folder()), "is a directory"),
        ("/dev/null", "is a character device"),
        (text(&fifo), "is a FIFO"),
        (text(&socket), "is a socket"),
    ];
    for (name, words) in cases {
        assert_not_created(
            &pool,
            name,
            &CreateOptions::file().total_size(MIB),
            Status::InvalidArgument,
            &[words, "regular file or a block device"],
        );
    }
}

#[test]
fn a_file_pool_without_a_size_is_as_large_as_its_file() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let name = text(&path);
    let file = File::create(&path).expect("a file");
    for len in [0, 4095] {
        file.set_len(len).expect("a length");
        assert_not_created(
            &client(&runtime, 0),
            name,
            &CreateOptions::file(),
            Status::InvalidArgument,
            &[&format!("has {len} bytes"), "give a total_size"],
        );
    }
    file.set_len(MIB + 5000).expect("a length");
    let pool = client(&runtime, 0);
    let info = pool
        .create(PoolQuery::Dynamic, name, &CreateOptions::file())
        .expect("the pool is made");
    assert!(info.created);
    assert_eq!(remaining(&pool), MIB + 4096, "whole blocks only");
    assert_eq!(file.metadata().expect("a file").len(), MIB + 5000);
}

#[test]
fn a_file_grows_to_the_size_asked_for_and_keeps_what_it_has() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    std::fs::write(&path, [0x5A; 4096]).expect("a file");
    let pool = client(&runtime, 0);
    let options = CreateOptions::file().total_size(2 * MIB);
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    let file = File::open(&path).expect("the file");
    assert_eq!(file.metadata().expect("a file").len(), 2 * MIB);
    assert_eq!(remaining(&pool), 2 * MIB);
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, 0).expect("a read");
    assert_eq!(bytes, [0x5A; 4096]);
    // A block of the part that was added is as good as any.
    let blocks = pool.allocate_blocks(QUERY, 2 * MIB).expect("all of it");
    let buffer = runtime.allocate_buffer(4096).expect("a buffer");
    let last = blocks.iter().max().expect("two blocks");
    pool.write_at(QUERY, last, MIB - 4096, &buffer)
        .expect("a write to its end");
}

#[test]
fn a_file_serves_one_pool_at_a_time_in_one_daemon_and_in_two() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let options = CreateOptions::file().total_size(MIB);
    let pool = client(&runtime, 0);
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    // The same file under another name is the same file.
    let link = folder.path().join("link");
    std::fs::hard_link(&path, &link).expect("a link");
    let busy = ["is in use", "use another file"];
    assert_not_created(
        &client(&runtime, 1),
        text(&link),
        &options,
        Status::Busy,
        &busy,
    );
    let second = Daemon::start();
    let elsewhere = client(&second.connect(), 0);
    assert_not_created(&elsewhere, text(&path), &options, Status::Busy, &busy);
    assert_eq!(remaining(&pool), MIB, "the pool is as it was");

    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool goes");
    let info = elsewhere.create(PoolQuery::Dynamic, text(&path), &options);
    assert!(info.expect("the file is free again").created);
}

#[test]
fn a_pool_that_exists_otherwise_says_what_differs() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let name = text(&path);
    let options = CreateOptions::file().total_size(MIB);
    let pool = client(&runtime, 0);
    pool.create(PoolQuery::Dynamic, name, &options)
        .expect("the pool is made");

    let mismatch = Status::ParameterMismatch;
    let refused = |pool: &Client, name: &str, options: CreateOptions, words: &[&str]| {
        let result = pool.create(PoolQuery::Dynamic, name, &options);
        assert_refused(result, mismatch, words);
    };
    refused(
        &client(&runtime, 1),
        name,
        options,
        &["exists with id 8000.0, asked for 8000.1"],
    );
    refused(
        &pool,
        "another",
        options,
        &["pool 8000.0 exists with name", "asked for another"],
    );
    refused(
        &pool,
        name,
        CreateOptions::ram(MIB),
        &["bdev_type is file, asked for ram"],
    );
    let iops = |iops| PerfMetrics {
        iops,
        ..PerfMetrics::default()
    };
    refused(
        &pool,
        name,
        options
            .total_size(2 * MIB)
            .io_depth(64)
            .alignment(512)
            .perf_metrics(iops(7.0)),
        &[
            "total_size is 1048576, asked for 2097152",
            "io_depth is 32, asked for 64",
            "alignment is 4096, asked for 512",
            "iops is 1000, asked for 7",
        ],
    );
    let file = std::fs::metadata(&path).expect("the file");
    assert_eq!(file.len(), MIB, "a refused request grows nothing");

    let faulty = Faulty::created(&runtime, 0);
    let info = faulty.create("").expect("it is there");
    let bdev = Client::new(&runtime, faulty.pool_id());
    refused(
        &bdev,
        &info.name,
        CreateOptions::ram(MIB),
        &["exists with module chimaera_faulty, asked for chimaera_bdev"],
    );
    assert_refused(
        Client::open(&runtime, &info.name),
        Status::InvalidArgument,
        &["a pool of the module chimaera_faulty, not of chimaera_bdev"],
    );

    // The same again, in each of the ways to say it, is the same pool.
    for same in [
        options,
        CreateOptions::file(),
        options.perf_metrics(iops(1000.0)),
    ] {
        for client in [&pool, &Client::new(&runtime, PoolId::NULL)] {
            let info = client
                .create(PoolQuery::Dynamic, name, &same)
                .expect("the same pool");
            assert!(!info.created);
            assert_eq!(info.id, pool.pool_id());
        }
    }
}

#[test]
fn a_file_that_the_daemon_may_not_write_is_refused_as_such() {
    // The kernel lets nobody write it, not even root.
    let read_only = Path::new("/sys/kernel/uevent_seqnum");
    if !read_only.exists() {
        return skipped("a file that nobody may write", "no sysfs");
    }
    let daemon = Daemon::start();
    let error = assert_not_created(
        &client(&daemon.connect(), 0),
        text(read_only),
        &CreateOptions::file(),
        Status::PermissionDenied,
        &["cannot open", text(read_only)],
    );
    assert!(error.errno().is_some(), "{error:?}");
}

#[test]
fn a_device_that_is_read_only_is_refused_as_such() {
    let folder = disk_folder();
    let device = match LoopDevice::attach_with(folder.path(), MIB, &["--read-only"]) {
        Ok(device) => device,
        Err(reason) => return skipped("a read-only device", &reason),
    };
    let daemon = Daemon::start();
    assert_not_created(
        &client(&daemon.connect(), 0),
        text(device.path()),
        &CreateOptions::file(),
        Status::PermissionDenied,
        &["Read-only"],
    );
}

#[test]
fn a_device_refuses_a_finer_alignment_and_a_larger_size_than_it_has() {
    let folder = disk_folder();
    let options = ["--sector-size", "4096"];
    let device = match LoopDevice::attach_with(folder.path(), MIB, &options) {
        Ok(device) => device,
        Err(reason) => return skipped("a device with blocks of 4096 bytes", &reason),
    };
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let name = text(device.path());
    let pool = client(&runtime, 0);
    assert_not_created(
        &pool,
        name,
        &CreateOptions::file().alignment(512),
        Status::Alignment,
        &["alignment is 512", "needs 4096"],
    );
    assert_not_created(
        &pool,
        name,
        &CreateOptions::file().total_size(2 * MIB),
        Status::InvalidArgument,
        &["2097152", "has 1048576"],
    );
    pool.create(PoolQuery::Dynamic, name, &CreateOptions::file())
        .expect("the device itself is all right");
    assert_not_created(
        &client(&Daemon::start().connect(), 0),
        name,
        &CreateOptions::file(),
        Status::Busy,
        &["is in use"],
    );
}

/// Reads and writes a block of which the device lost its part.
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
        .expect("is taken")
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
    let options = CreateOptions::file().total_size(4 * MIB);
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    let blocks = pool.allocate_blocks(QUERY, 4 * MIB).expect("blocks");
    let (first, last) = (
        blocks.iter().min().expect("blocks"),
        blocks.iter().max().expect("blocks"),
    );
    let file = File::options().write(true).open(&path);
    file.and_then(|file| file.set_len(MIB)).expect("truncates");
    assert_io_errors(&pool, last, EIO);
    let mut buffer = runtime.allocate_buffer(MIB as usize).expect("a buffer");
    let read = pool.read(QUERY, first, &mut buffer);
    assert_eq!(read.expect("what is left can be read"), MIB);
    pool.free_blocks(QUERY, &blocks).expect("a free");
    assert_eq!(remaining(&pool), 4 * MIB);
}

#[test]
fn a_device_that_fails_gives_io_errors_and_the_daemon_goes_on() {
    let folder = disk_folder();
    let device = match LoopDevice::attach(folder.path(), 4 * MIB) {
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
    assert_eq!(remaining(&pool), 4 * MIB);
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
    let options = CreateOptions::file().total_size(4 * MIB);
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

#[test]
fn a_method_that_no_module_has_and_a_buffer_of_another_connection_are_refused() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = memory(&runtime, MIB);
    let block = pool.allocate_blocks(QUERY, 4096).expect("a block")[0];
    let call = Call {
        pool: pool.pool_id(),
        query: QUERY,
        method: 999,
        arguments: [0; 3],
    };
    let status = Status::UnknownMethod;
    assert_refused(runtime.call(&call), status, &["method 999 of pool 8000.0"]);
    let foreign = daemon.connect().allocate_buffer(4096).expect("a buffer");
    assert_refused(
        pool.write(QUERY, &block, &foreign),
        Status::InvalidBuffer,
        &["another connection"],
    );
}

#[test]
fn where_no_daemon_is_the_error_says_what_to_do_with_a_command_that_there_is() {
    let folder = disk_folder();
    let socket = folder.path().join("nobody.sock");
    let error = Runtime::connect_to(&socket).expect_err("nobody is there");
    assert!(error.is_no_daemon(), "{error}");
    let words = ["no daemon listens there", text(&socket), "CHIMAERA_SOCKET"];
    let error = assert_refused(Err::<(), _>(error), Status::NotFound, &words);
    assert!(
        error.to_string().contains("`chimaera runtime start`"),
        "{error}"
    );
}
