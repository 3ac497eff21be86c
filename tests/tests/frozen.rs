//! A file system that does not take what a pool writes holds up that pool, and not its worker.

use chimaera_bdev_client::{Client, CreateOptions, IoEngine, PoolQuery};
use chimaera_tests::{
    Daemon, FreezableFileSystem, MIB, client, file_bytes, is_root, skipped, text, within,
};

const QUERY: PoolQuery = PoolQuery::Local;

/// A pool in memory, served by the only worker, goes on.
fn assert_served(other: &Client) {
    let other = other.clone();
    within("another pool's tasks", move || {
        for _ in 0..100 {
            let blocks = other.allocate_blocks(QUERY, 4096).expect("a block");
            other.free_blocks(QUERY, &blocks).expect("a free");
        }
    });
}

fn writes_wait_and_others_do_not(engine: IoEngine) {
    let system = match FreezableFileSystem::mount(64 * MIB) {
        Ok(system) => system,
        Err(reason) => return skipped("writes to a frozen file system", &reason),
    };
    let daemon = Daemon::start_with(&["--workers", "1"]);
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let path = system.folder().join("pool");
    let options = CreateOptions::file().size(file_bytes(8)).io_engine(engine);
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    let other = client(&runtime, 1);
    other
        .create(PoolQuery::Dynamic, "other", &CreateOptions::ram(MIB))
        .expect("the pool is made");
    let blocks = pool.allocate_blocks(QUERY, 8 * MIB).expect("blocks");
    let write = |block, byte: u8| {
        let mut buffer = runtime.allocate_buffer(8192).expect("a buffer");
        buffer.fill(byte);
        pool.async_write(QUERY, block, buffer)
    };
    // Some parts of the file have room on the file system by then, and others do not.
    for block in &blocks[..4] {
        write(block, 1).wait().expect("a write");
    }

    let frozen = system.freeze();
    let writes: Vec<_> = blocks.iter().map(|block| write(block, 2)).collect();
    assert_served(&other);
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    let read = other.get_stats();
    read.expect("the client is served");
    assert!(writes.iter().all(|write| !write.is_complete()));
    drop(frozen);
    for write in writes {
        let (written, _) = write.wait().expect("it goes on");
        assert_eq!(written, 8192);
    }
    for block in &blocks {
        pool.read(QUERY, block, &mut buffer).expect("a read");
        assert!(buffer.iter().all(|&byte| byte == 2));
    }
}

#[test]
fn writes_to_a_frozen_file_system_hold_up_no_other_pool() {
    if !is_root("writes to a frozen file system") {
        return;
    }
    for engine in [IoEngine::IoUring, IoEngine::Libaio] {
        writes_wait_and_others_do_not(engine);
    }
}
