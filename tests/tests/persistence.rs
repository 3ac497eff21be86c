//! Pools on files and devices outlive their daemon, however that ends.

use std::path::Path;

use chimaera_bdev_client::{
    Block, BlockType, Client, CreateOptions, PoolId, PoolQuery, Runtime, Status,
};
use chimaera_tests::{
    Daemon, LoopDevice, MIB, PATIENCE, Pattern, SmallFileSystem, assert_empty, assert_refused,
    client, disk_folder, file_bytes, remaining, skipped, text,
};
use nix::sys::signal::Signal;

const QUERY: PoolQuery = PoolQuery::Local;

/// The pool on this file, whichever id it has.
fn open(runtime: &Runtime, path: &Path) -> Client {
    let pool = Client::new(runtime, PoolId::NULL);
    let opened = pool.create(PoolQuery::Dynamic, text(path), &CreateOptions::file());
    assert!(opened.expect("the pool is opened").created);
    pool
}

/// Allocates blocks of all kinds, and fills them.
fn write(pool: &Client, pattern: Pattern) -> Vec<Block> {
    let mut blocks = Vec::new();
    for block_type in BlockType::ALL {
        blocks.extend(
            pool.allocate_blocks(QUERY, block_type.size())
                .expect("room"),
        );
    }
    for block in &blocks {
        let buffer = pool.runtime().allocate_buffer(block.size as usize);
        let mut buffer = buffer.expect("a buffer");
        pattern.fill(block.offset, &mut buffer);
        pool.write(QUERY, block, &buffer).expect("a write");
    }
    blocks
}

fn check(pool: &Client, pattern: Pattern, blocks: &[Block]) {
    for block in blocks {
        let buffer = pool.runtime().allocate_buffer(block.size as usize);
        let mut buffer = buffer.expect("a buffer");
        pool.read(QUERY, block, &mut buffer).expect("a read");
        pattern.check(block.offset, &buffer);
    }
}

fn bytes_of(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| block.size).sum()
}

/// A daemon is killed with one lot of blocks flushed, another not, and a third freed since the flush.
fn outlive_a_kill(path: &Path) {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 7);
    pool.create(PoolQuery::Dynamic, text(path), &CreateOptions::file())
        .expect("the pool is made");
    let room = assert_empty(&pool).remaining_size;
    let patterns = [1, 2, 3].map(|writer| Pattern::new(writer, 1));
    let kept = write(&pool, patterns[0]);
    let freed = write(&pool, patterns[1]);
    runtime
        .admin()
        .flush(Some(pool.pool_id().into()))
        .expect("flushed");
    let forgotten = write(&pool, patterns[2]);
    pool.free_blocks(QUERY, &freed).expect("freed");
    let folder = daemon.kill_and_leave();

    let daemon = Daemon::start_in(folder, &[] as &[&str]);
    let runtime = daemon.connect();
    let pool = open(&runtime, path);
    assert_eq!(pool.pool_id(), PoolId::new(8000, 7), "it has its own id");
    assert_eq!(remaining(&pool), room - bytes_of(&kept) - bytes_of(&freed));
    check(&pool, patterns[0], &kept);
    check(&pool, patterns[1], &freed);
    for block in &forgotten {
        let refused = pool.free_blocks(QUERY, &[*block]);
        assert_refused(refused, Status::DoubleFree, &[]);
    }
    pool.free_blocks(QUERY, &kept).expect("they are allocated");
    pool.free_blocks(QUERY, &freed).expect("they are allocated");
    assert_empty(&pool);
}

#[test]
fn what_was_flushed_to_a_file_outlives_a_daemon_that_is_killed() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let file = std::fs::File::create(&path).expect("a file");
    file.set_len(file_bytes(9)).expect("a length");
    outlive_a_kill(&path);
}

#[test]
fn what_was_flushed_to_a_device_outlives_a_daemon_that_is_killed() {
    match LoopDevice::attach(file_bytes(9)) {
        Ok(device) => outlive_a_kill(device.path()),
        Err(reason) => skipped("a pool on a loop device", &reason),
    }
}

#[test]
fn a_daemon_that_is_stopped_keeps_all_that_its_pools_have() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let pattern = Pattern::new(1, 1);
    let mut daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let options = CreateOptions::file().size(file_bytes(4));
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    let blocks = write(&pool, pattern);
    let left = remaining(&pool);
    drop((pool, runtime));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));

    let daemon = Daemon::start();
    let pool = open(&daemon.connect(), &path);
    assert_eq!(remaining(&pool), left);
    check(&pool, pattern, &blocks);
}

/// A file system of 3 MiB and a daemon, where this machine allows that.
fn small_disk() -> Option<(SmallFileSystem, Daemon)> {
    match SmallFileSystem::mount("size=3M") {
        Ok(disk) => Some((disk, Daemon::start())),
        Err(reason) => {
            skipped("a disk that is full", &reason);
            None
        }
    }
}

/// A pool on a sparse file with room for so many megabytes.
fn sparse_pool(runtime: &Runtime, path: &Path, megabytes: u64) -> Client {
    let pool = client(runtime, 0);
    let options = CreateOptions::file().size(file_bytes(megabytes));
    pool.create(PoolQuery::Dynamic, text(path), &options)
        .expect("the pool is made");
    pool
}

#[test]
fn a_disk_that_is_full_leaves_metadata_its_space() {
    let Some((disk, daemon)) = small_disk() else {
        return;
    };
    let runtime = daemon.connect();
    let path = disk.folder().join("pool");
    let pool = sparse_pool(&runtime, &path, 8);
    let blocks = pool.allocate_blocks(QUERY, 8 * MIB).expect("blocks");
    let buffer = runtime.allocate_buffer(MIB as usize).expect("a buffer");
    let writes = blocks.iter().map(|block| pool.write(QUERY, block, &buffer));
    assert!(writes.filter(Result::is_err).count() > 0, "it is full now");
    for block in &blocks[..4] {
        runtime
            .admin()
            .flush(Some(pool.pool_id().into()))
            .expect("flushed");
        pool.free_blocks(QUERY, &[*block]).expect("freed");
    }
    let left = remaining(&pool);
    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool goes");
    assert_eq!(remaining(&open(&runtime, &path)), left);
}

#[test]
fn a_pool_does_not_grow_where_its_metadata_would_have_no_space() {
    let Some((disk, daemon)) = small_disk() else {
        return;
    };
    let runtime = daemon.connect();
    let path = disk.folder().join("pool");
    let pool = sparse_pool(&runtime, &path, 2);
    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool goes");
    let filler = disk.folder().join("filler");
    let full = std::fs::write(&filler, vec![1; 4 << 20]);
    full.expect_err("there is no space left");
    let larger = CreateOptions::file().size(file_bytes(40));
    let refused = pool.create(PoolQuery::Dynamic, text(&path), &larger);
    assert_refused(refused, Status::NoSpace, &["set space aside"]);
    let len = std::fs::metadata(&path).expect("the file").len();
    assert_eq!(len, file_bytes(2), "it is as long as it was");
    assert_eq!(assert_empty(&open(&runtime, &path)).total_size, len);
    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool goes");
    std::fs::remove_file(&filler).expect("removed");
    pool.create(PoolQuery::Dynamic, text(&path), &larger)
        .expect("there is space now");
    assert_eq!(assert_empty(&pool).total_size, file_bytes(40));
}

#[test]
fn a_pool_is_destroyed_after_its_writes_in_flight_and_they_are_on_the_file() {
    const BLOCKS: u64 = 48;
    const ROUNDS: u32 = 8;
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let size = file_bytes((u64::from(ROUNDS) * (BLOCKS << 16)) >> 20);
    let options = CreateOptions::file().size(size).io_depth(4);
    let mut written = Vec::new();
    // The same pool in each, as the file keeps it.
    for round in 0..ROUNDS {
        let pool = Client::new(&runtime, PoolId::new(8000, 0));
        pool.create(PoolQuery::Dynamic, text(&path), &options)
            .expect("the file is free");
        let pattern = Pattern::new(0, round);
        let blocks: Vec<_> = (0..BLOCKS)
            .map(|_| {
                pool.allocate_blocks(QUERY, BlockType::Kib64.size())
                    .expect("a block")[0]
            })
            .collect();
        let tasks: Vec<_> = blocks
            .iter()
            .map(|block| {
                let mut buffer = runtime.allocate_buffer(1 << 16).expect("a buffer");
                pattern.fill(block.offset, &mut buffer);
                pool.async_write(QUERY, block, buffer)
            })
            .collect();
        let mut destroyed = runtime.admin().async_destroy_pool(pool.pool_id());
        destroyed
            .wait_timeout(PATIENCE)
            .expect("it does not hang")
            .expect("the pool goes");
        for mut task in tasks {
            let result = task.try_wait().expect("done before the pool went");
            assert_eq!(result.expect("what was taken is carried out").0, 1 << 16);
        }
        let file = std::fs::read(&path).expect("the file");
        written.extend(blocks.into_iter().map(|block| (block, pattern)));
        for (block, pattern) in &written {
            let (start, end) = (block.offset, block.offset + block.size);
            pattern.check(start, &file[start as usize..end as usize]);
        }
        let gone = pool.get_stats().expect_err("the pool is gone");
        assert_eq!(gone.status(), Status::PoolNotFound);
    }
}
