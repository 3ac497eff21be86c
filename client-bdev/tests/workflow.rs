//! The client's operations, blocking and not, against a module that behaves.

use std::thread;

use chimaera_bdev_client::{
    Block, BlockType, Client, CreateOptions, PerfMetrics, PoolId, PoolQuery, Runtime, Status,
};
use chimaera_testing::{FakeHost, MIB, Watchdog, fake_bdev};

fn pool(runtime: &Runtime, mib: u64) -> Client {
    let bdev = Client::new(runtime, PoolId::new(8000, 0));
    let options = CreateOptions::ram(mib * MIB);
    let info = bdev
        .create(PoolQuery::Dynamic, "memory", &options)
        .expect("creates");
    assert!(info.created);
    bdev
}

#[test]
fn what_is_written_is_read() -> Result<(), Box<dyn std::error::Error>> {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 8);
    let blocks = bdev.allocate_blocks(PoolQuery::Local, 512 * 1024)?;
    assert_eq!(blocks.len(), 1);
    let mut buffer = runtime.allocate_buffer(4096)?;
    buffer.fill(0xAB);
    let written: u64 = bdev.write(PoolQuery::Local, &blocks[0], &buffer)?;
    assert_eq!(written, 4096);
    buffer.fill(0);
    let read: u64 = bdev.read(PoolQuery::Local, &blocks[0], &mut buffer)?;
    assert_eq!(read, 4096);
    assert!(buffer.iter().all(|&byte| byte == 0xAB));

    bdev.write_at(PoolQuery::Local, &blocks[0], 5000, buffer.range(..3))?;
    bdev.read_at(PoolQuery::Local, &blocks[0], 4999, buffer.range_mut(10..15))?;
    assert_eq!(&buffer[9..16], &[0xAB, 0, 0xAB, 0xAB, 0xAB, 0, 0xAB]);

    let stats = bdev.get_stats()?;
    assert_eq!(stats.metrics, PerfMetrics::default());
    assert_eq!((stats.remaining_size, stats.total_size), (7 * MIB, 8 * MIB));

    let task = bdev.async_write(PoolQuery::Local, &blocks[0], buffer);
    let (written, buffer) = task.wait()?;
    assert_eq!((written, buffer.len()), (4096, 4096));
    bdev.free_blocks(PoolQuery::Local, &blocks)?;
    assert_eq!(bdev.get_stats()?.remaining_size, 8 * MIB);
    Ok(())
}

#[test]
fn everything_can_be_awaited() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let tokio = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("tokio");
    tokio
        .block_on(async {
            let bdev = Client::new(&runtime, PoolId::new(8001, 0));
            let options = CreateOptions::ram(16 * MIB);
            bdev.async_create(PoolQuery::Dynamic, "memory", &options)
                .await?;
            let blocks = bdev
                .async_allocate_blocks(PoolQuery::Local, 10 * MIB)
                .await?;
            assert_eq!(blocks.len(), 10);
            let mut buffer = runtime.allocate_buffer(4096)?;
            for (number, block) in (1..).zip(&blocks) {
                buffer.fill(number);
                (_, buffer) = bdev.async_write(PoolQuery::Local, block, buffer).await?;
                (_, buffer) = bdev
                    .async_read_at(PoolQuery::Local, block, 1, buffer)
                    .await?;
                assert_eq!(buffer[..], [&[number; 4095][..], &[0]].concat());
            }
            bdev.async_free_blocks(PoolQuery::Local, &blocks).await?;
            assert_eq!(bdev.async_get_stats().await?.remaining_size, 16 * MIB);
            Ok::<_, chimaera_bdev_client::TaskError>(())
        })
        .expect("works");
}

#[test]
fn the_host_can_choose_the_id_and_the_name_finds_it() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = Client::new(&runtime, PoolId::NULL);
    let metrics = PerfMetrics {
        iops: 500_000.0,
        ..PerfMetrics::default()
    };
    let options = CreateOptions::file()
        .opened_by_daemon(true)
        .io_depth(64)
        .alignment(512)
        .perf_metrics(metrics);
    let info = bdev
        .create(PoolQuery::Dynamic, "/a/file", &options)
        .expect("creates");
    assert_eq!(bdev.pool_id(), info.id);
    assert!(!info.id.is_null());
    let again = bdev
        .create(PoolQuery::Dynamic, "/a/file", &options)
        .expect("finds");
    assert!(!again.created);
    let other = Client::open(&runtime, "/a/file").expect("opens");
    assert_eq!(other.pool_id(), info.id);
    assert!(other.get_stats().expect("statistics").metrics.iops > 400_000.0);

    let error = bdev
        .create(PoolQuery::Dynamic, "/a/file", &options.io_depth(1))
        .expect_err("other parameters");
    assert_eq!(error.status(), Status::ParameterMismatch);
    let text = error.to_string();
    assert!(
        text.contains("/a/file") && text.contains("use those, or another id"),
        "{text}"
    );
    let error = Client::open(&runtime, "nothing").expect_err("no such pool");
    assert_eq!(error.status(), Status::PoolNotFound);
}

#[test]
fn a_client_learns_the_id_also_from_a_creation_that_it_does_not_wait_for() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = Client::new(&runtime, PoolId::NULL);
    let clone = bdev.clone();
    let options = CreateOptions::ram(MIB);
    let task = bdev.async_create(PoolQuery::Dynamic, "chosen", &options);
    let info = task.wait().expect("creates");
    assert_eq!((bdev.pool_id(), clone.pool_id()), (info.id, info.id));
    let other = Client::open_or_create(&runtime, "other", &options).expect("creates");
    assert!(!other.pool_id().is_null());
}

#[test]
fn a_file_is_named_by_its_whole_path_and_memory_as_it_is() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let folder = std::env::current_dir().expect("a working folder");
    let file = CreateOptions::file().size(MIB).opened_by_daemon(true);
    for (name, options, expected) in [
        ("a/pool", file, folder.join("a/pool")),
        ("/b/pool", file, "/b/pool".into()),
        ("c/pool", CreateOptions::ram(MIB), "c/pool".into()),
    ] {
        let bdev = Client::new(&runtime, PoolId::NULL);
        let info = bdev
            .create(PoolQuery::Dynamic, name, &options)
            .expect("creates");
        assert_eq!(std::path::PathBuf::from(info.name), expected);
    }
}

#[test]
fn bytes_that_lie_anywhere_are_written_and_read() -> Result<(), Box<dyn std::error::Error>> {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 8);
    let blocks = bdev.allocate_blocks(PoolQuery::Local, 4096)?;
    assert_eq!(
        bdev.write_bytes(PoolQuery::Local, &blocks[0], b"somewhere")?,
        9
    );
    assert_eq!(
        bdev.write_bytes_at(PoolQuery::Local, &blocks[0], 4, b"Where")?,
        5
    );
    let mut bytes = [0; 9];
    assert_eq!(
        bdev.read_bytes(PoolQuery::Local, &blocks[0], &mut bytes)?,
        9
    );
    assert_eq!(&bytes, b"someWhere");
    let mut long = [7; 4097];
    let error = bdev.read_bytes(PoolQuery::Local, &blocks[0], &mut long);
    assert_eq!(error.expect_err("too long").status(), Status::BeyondBlock);
    assert_eq!(long, [7; 4097], "nothing changes");
    Ok(())
}

#[test]
fn admin_lists_all_pages_and_destroys() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let admin = runtime.admin();
    admin.ping().expect("pings");
    assert!(admin.list_pools().expect("lists").is_empty());
    for minor in 0..10 {
        Client::new(&runtime, PoolId::new(8000, minor))
            .create(
                PoolQuery::Dynamic,
                &format!("pool {minor}"),
                &CreateOptions::ram(MIB),
            )
            .expect("creates");
    }
    let pools = admin.list_pools().expect("lists");
    assert_eq!(pools.len(), 10);
    assert!(pools.is_sorted_by_key(|pool| pool.id));
    assert_eq!(admin.find_pool("pool 7").expect("finds").id.minor, 7);
    admin.flush(None).expect("flushes");
    admin.destroy_pool(PoolId::new(8000, 7)).expect("destroys");
    let error = admin.destroy_pool(PoolId::new(8000, 7)).expect_err("gone");
    assert_eq!(error.status(), Status::PoolNotFound);
    assert!(error.to_string().contains("8000.7"), "{error}");
    assert_eq!(admin.list_pools().expect("lists").len(), 9);
}

#[test]
fn a_buffer_crosses_many_blocks() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 100);
    // More blocks than a lane holds tasks, with a last one that is used in part.
    let blocks: Vec<Block> = (0..200)
        .flat_map(|_| {
            bdev.allocate_blocks(PoolQuery::Local, 4096)
                .expect("allocates")
        })
        .collect();
    let len = 199 * 4096 + 100;
    let mut buffer = runtime.allocate_buffer(len).expect("buffer");
    for (at, byte) in buffer.iter_mut().enumerate() {
        *byte = (at / 4096 + at) as u8;
    }
    assert_eq!(
        bdev.write_blocks(PoolQuery::Local, &blocks, &buffer)
            .expect("writes"),
        len as u64
    );
    let mut other = runtime.allocate_buffer(len).expect("buffer");
    assert_eq!(
        bdev.read_blocks(PoolQuery::Local, &blocks, &mut other)
            .expect("reads"),
        len as u64
    );
    assert_eq!(buffer[..], other[..]);

    let error = bdev
        .write_blocks(PoolQuery::Local, &blocks[..199], &buffer)
        .expect_err("too long");
    assert_eq!(error.status(), Status::BeyondBlock);
    bdev.free_blocks(PoolQuery::Local, &blocks[70..72])
        .expect("frees");
    let error = bdev
        .read_blocks(PoolQuery::Local, &blocks, &mut other)
        .expect_err("one is gone");
    assert_eq!(error.status(), Status::NotAllocated);
    assert!(error.to_string().contains("block 71 of 200"), "{error}");
    bdev.free_blocks(PoolQuery::Local, &[])
        .expect("nothing to free");
}

#[test]
fn what_cannot_succeed_is_refused_before_it_is_sent() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    // There is no such pool, so whatever is sent fails with another status.
    let bdev = Client::new(&runtime, PoolId::new(1234, 5));
    let block = Block::new(0, BlockType::Kib4);
    let mut buffer = runtime.allocate_buffer(4097).expect("buffer");
    let error = bdev
        .write(PoolQuery::Local, &block, &buffer)
        .expect_err("too long");
    assert_eq!(error.status(), Status::BeyondBlock);
    let text = error.to_string();
    for part in ["4097 bytes", "1234.5", "4 KiB", "ends at 4097"] {
        assert!(text.contains(part), "{text}");
    }
    let error = bdev
        .read_at(PoolQuery::Local, &block, u64::MAX, buffer.range_mut(..1))
        .expect_err("beyond");
    assert_eq!(error.status(), Status::BeyondBlock);
    let wrong = Block {
        size: 8192,
        ..block
    };
    let error = bdev
        .write(PoolQuery::Local, &wrong, &buffer)
        .expect_err("no such block");
    assert_eq!(error.status(), Status::WrongSize);
    let error = bdev
        .async_write(PoolQuery::Local, &block, buffer)
        .wait()
        .expect_err("too long");
    assert_eq!(error.status(), Status::BeyondBlock);
    assert_eq!(error.into_buffer().expect("comes back").len(), 4097);
    let error = bdev
        .allocate_blocks(PoolQuery::Local, u64::MAX)
        .expect_err("no such size");
    assert_eq!(error.status(), Status::NoSpace);
    let error = bdev
        .allocate_blocks(PoolQuery::Local, 1)
        .expect_err("no such pool");
    assert_eq!(error.status(), Status::PoolNotFound);
}

#[test]
fn errors_of_the_pool_tell_themselves_apart_and_keep_the_buffer() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 8);
    let error = bdev
        .allocate_blocks(PoolQuery::Local, 9 * MIB)
        .expect_err("too much");
    assert_eq!(error.status(), Status::NoSpace);
    assert!(
        error.to_string().contains("9437184 bytes in pool 8000.0"),
        "{error}"
    );
    let blocks = bdev
        .allocate_blocks(PoolQuery::Local, 3 * MIB)
        .expect("allocates");
    bdev.free_blocks(PoolQuery::Local, &blocks[..1])
        .expect("frees");
    let error = bdev
        .free_blocks(PoolQuery::Local, &blocks[..1])
        .expect_err("twice");
    assert_eq!(error.status(), Status::DoubleFree);
    let buffer = runtime.allocate_buffer(10).expect("buffer");
    let task = bdev.async_write(PoolQuery::Local, &blocks[0], buffer);
    let error = task.wait().expect_err("not allocated");
    assert_eq!(error.status(), Status::NotAllocated);
    assert_eq!(error.into_buffer().expect("comes back").len(), 10);
}

#[test]
fn a_client_is_used_by_many_threads_at_once() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 16);
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let (bdev, runtime) = (&bdev, &runtime);
            scope.spawn(move || {
                let blocks = bdev
                    .allocate_blocks(PoolQuery::Local, 4096)
                    .expect("allocates");
                let mut buffer = runtime.allocate_buffer(4096).expect("buffer");
                for _ in 0..100 {
                    buffer.fill(thread);
                    bdev.write(PoolQuery::Local, &blocks[0], &buffer)
                        .expect("writes");
                    buffer.fill(0xff);
                    bdev.read(PoolQuery::Local, &blocks[0], &mut buffer)
                        .expect("reads");
                    assert!(buffer.iter().all(|&byte| byte == thread));
                }
            });
        }
    });
}
