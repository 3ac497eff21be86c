//! Calls that do not block do what their blocking twins do, and give buffers back.

use std::sync::{Arc, Mutex};

use chimaera_bdev_client::{
    Block, BlockType, Client, CreateOptions, GetOrCreatePool, PageCursor, PoolId, PoolInfo,
    PoolQuery, Runtime, Status, Task, TaskError,
};
use chimaera_testing::{FakeHost, MIB, Verdict, Watchdog, attaching, block_on, fake_bdev};

const QUERY: PoolQuery = PoolQuery::Local;

fn pool(runtime: &Runtime, mib: u64) -> Client {
    let options = CreateOptions::ram(mib * MIB);
    Client::open_or_create(runtime, "memory", &options).expect("creates")
}

/// More blocks than a lane holds tasks, with a last one that is used in part, and bytes for them.
fn many_blocks(bdev: &Client) -> (Vec<Block>, Vec<u8>) {
    let blocks = (0..200).map(|_| bdev.allocate_blocks(QUERY, 4096).expect("allocates")[0]);
    let bytes = (0..199 * 4096 + 100).map(|at| (at / 4096 + at) as u8);
    (blocks.collect(), bytes.collect())
}

#[test]
fn a_buffer_crosses_many_blocks_and_comes_back() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 4);
    let (blocks, bytes) = many_blocks(&bdev);
    let mut buffer = runtime.allocate_buffer(bytes.len()).expect("buffer");
    buffer.copy_from_slice(&bytes);
    for is_awaited in [false, true] {
        let task = bdev.async_write_blocks(QUERY, &blocks, buffer);
        let written = if is_awaited {
            block_on(task)
        } else {
            task.wait()
        };
        let count;
        (count, buffer) = written.expect("writes");
        assert_eq!(count, bytes.len() as u64);
        buffer.fill(0);
        let task = bdev.async_read_blocks(QUERY, &blocks, buffer);
        let read = if is_awaited {
            block_on(task)
        } else {
            task.wait()
        };
        let count;
        (count, buffer) = read.expect("reads");
        assert_eq!(count, bytes.len() as u64);
        assert_eq!(buffer[..], bytes[..]);
    }
    let mut read = runtime.allocate_buffer(bytes.len()).expect("buffer");
    bdev.read_blocks(QUERY, &blocks, &mut read).expect("reads");
    assert_eq!(read[..], bytes[..]);
    let task = bdev.async_write_blocks(QUERY, &[], runtime.allocate_buffer(0).expect("buffer"));
    assert_eq!(task.wait().expect("nothing to do").0, 0);
}

#[test]
fn a_transfer_across_blocks_that_fails_says_which_and_gives_the_buffer_back() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 4);
    let (blocks, bytes) = many_blocks(&bdev);
    let buffer = runtime.allocate_buffer(bytes.len()).expect("buffer");
    let failed = |task: chimaera_bdev_client::Task<_>| match task.wait() {
        Ok((count, _)) => panic!("{count} bytes were transferred"),
        Err(TaskError { error, buffer }) => (error, buffer.expect("it comes back")),
    };
    let (error, buffer) = failed(bdev.async_write_blocks(QUERY, &blocks[..199], buffer));
    assert_eq!(error.status(), Status::BeyondBlock, "{error}");
    let wrong = Block {
        size: 8192,
        ..blocks[0]
    };
    let (error, buffer) = failed(bdev.async_read_blocks(QUERY, &[blocks[0], wrong], buffer));
    assert_eq!(error.status(), Status::BeyondBlock, "{error}");
    bdev.free_blocks(QUERY, &blocks[70..72]).expect("frees");
    for _ in 0..3 {
        let buffer = runtime.allocate_buffer(bytes.len()).expect("buffer");
        let (error, buffer) = failed(bdev.async_read_blocks(QUERY, &blocks, buffer));
        assert_eq!(error.status(), Status::NotAllocated);
        assert!(error.to_string().contains("block 71 of 200"), "{error}");
        assert_eq!(buffer.len(), bytes.len());
    }
    let (_host, other) = FakeHost::connect(fake_bdev());
    let elsewhere = pool(&other, 4);
    let there = [elsewhere.allocate_blocks(QUERY, MIB).expect("allocates")[0]];
    let (error, _) = failed(elsewhere.async_write_blocks(QUERY, &there, buffer));
    assert_eq!(error.status(), Status::InvalidBuffer, "{error}");
    assert!(error.to_string().contains("block 1 of 1"), "{error}");
}

#[test]
fn pools_are_opened_and_made() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let options = CreateOptions::ram(4 * MIB);
    block_on(async {
        let error = Client::async_open(&runtime, "memory").await;
        let error = error.expect_err("no such pool").error;
        assert_eq!(error.status(), Status::PoolNotFound);
        assert!(error.to_string().contains("opening the pool \"memory\""));
        let made = Client::async_open_or_create(&runtime, "memory", &options).await?;
        assert!(!made.pool_id().is_null());
        let opened = Client::async_open(&runtime, "memory").await?;
        assert_eq!(opened.pool_id(), made.pool_id());
        Ok::<_, TaskError>(())
    })
    .expect("works");
    let error = Client::async_open_or_create(&runtime, "", &CreateOptions::ram(0).io_depth(1));
    assert!(error.wait().is_ok(), "memory has any name");
}

#[test]
fn a_pool_of_another_module_is_not_opened() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let params = chimaera_proto::codec::encode(CreateOptions::ram(MIB).params()).expect("encodes");
    let request = GetOrCreatePool::new("another", "pool", PoolId::new(9000, 0), params);
    let made = runtime
        .admin()
        .get_or_create_pool(PoolQuery::Dynamic, &request);
    assert!(made.expect("creates").created);
    let opened = Client::async_open(&runtime, "pool").wait();
    for error in [
        opened.expect_err("another's").error,
        Client::open(&runtime, "pool").expect_err("another's"),
    ] {
        assert_eq!(error.status(), Status::WrongModule);
        assert!(error.to_string().contains("of another"), "{error}");
    }
}

#[test]
fn bytes_that_lie_anywhere_are_written_and_read() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, 4);
    let block = bdev.allocate_blocks(QUERY, 4096).expect("allocates")[0];
    block_on(async {
        let mut bytes = *b"somewhere";
        let write = bdev.async_write_bytes(QUERY, &block, &bytes);
        // The task has a copy of them.
        bytes.fill(0);
        assert_eq!(write.await?, 9);
        let written = bdev.async_write_bytes_at(QUERY, &block, 4, b"Where");
        assert_eq!(written.await?, 5);
        let read = bdev.async_read_bytes(QUERY, &block, 9);
        assert_eq!(read.await?, b"someWhere");
        let read = bdev.async_read_bytes_at(QUERY, &block, 4, 3);
        assert_eq!(read.await?, b"Whe");
        Ok::<_, TaskError>(())
    })
    .expect("works");
    let too_long = bdev.async_read_bytes(QUERY, &block, 4097).wait();
    let error = too_long.expect_err("too long");
    assert_eq!(error.status(), Status::BeyondBlock);
    let too_long = bdev.async_write_bytes_at(QUERY, &block, 4090, &[1; 7]);
    let error = too_long.wait().expect_err("too long");
    assert_eq!(error.status(), Status::BeyondBlock);
    assert!(error.buffer.is_none(), "the caller had none");
}

#[test]
fn bytes_whose_task_says_that_it_was_submitted_are_written_though_it_is_dropped() {
    const TASKS: usize = 300;
    let _watchdog = Watchdog::start();
    // The host stands still while the test has this.
    let turn = Arc::new(Mutex::new(()));
    let (hosts_turn, mut module) = (Arc::clone(&turn), fake_bdev());
    let (_host, runtime) = FakeHost::connect(move |task, buffer| {
        let _turn = hosts_turn.lock().expect("no test panics with it");
        module(task, buffer)
    });
    let bdev = pool(&runtime, 4);
    let blocks: Vec<_> = (0..TASKS)
        .map(|_| bdev.allocate_blocks(QUERY, 4096).expect("allocates")[0])
        .collect();
    let tests_turn = turn.lock().expect("no test panics with it");
    let tasks = blocks
        .iter()
        .map(|block| bdev.async_write_bytes(QUERY, block, &[7; 16]));
    let tasks: Vec<_> = tasks.collect();
    let was_submitted: Vec<_> = tasks.iter().map(Task::is_submitted).collect();
    assert!(was_submitted.contains(&true) && was_submitted.contains(&false));
    drop(tests_turn);
    drop(tasks);
    for (block, was_submitted) in blocks.iter().zip(was_submitted) {
        // The read is on the same lane, and so carried out after the tasks that were submitted before.
        let mut bytes = [0; 16];
        bdev.read_bytes(QUERY, block, &mut bytes).expect("reads");
        let expected = if was_submitted { [7; 16] } else { [0; 16] };
        assert_eq!(bytes, expected, "{block:?}");
    }
}

#[test]
fn pages_of_pools_and_maps_can_be_had_one_at_a_time() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    for minor in 0..4 {
        let client = Client::new(&runtime, PoolId::new(8000, minor));
        let options = CreateOptions::ram(4 * MIB);
        client
            .create(PoolQuery::Dynamic, &format!("pool {minor}"), &options)
            .expect("creates");
    }
    let admin = runtime.admin();
    let first = admin.pool_page(None).expect("a page");
    assert!(first.more && first.pools.len() == 3);
    let last = admin.pool_page(first.pools.last().map(PoolInfo::key));
    assert_eq!(last.expect("a page").pools.len(), 1);
    let bdev = Client::open(&runtime, "pool 2").expect("opens");
    let page = bdev.map_page(QUERY, PageCursor::START).expect("a page");
    let next = page.next.expect("there is more");
    let rest = bdev.map_page(QUERY, next).expect("a page");
    let whole = [page.states, rest.states].concat();
    assert_eq!(whole, bdev.map(QUERY).expect("the map"));
}

#[test]
fn more_bytes_than_were_asked_for_are_not_believed() {
    let _watchdog = Watchdog::start();
    for claimed in [4097, u64::MAX] {
        let (_host, runtime) = FakeHost::connect(attaching(move |_, _| Verdict::ok(&[claimed])));
        let bdev = Client::new(&runtime, PoolId::new(8000, 0));
        let blocks = [0, 4096].map(|offset| Block::new(offset, BlockType::Kib4));
        let mut buffer = runtime.allocate_buffer(8192).expect("buffer");
        for error in [
            bdev.write_blocks(QUERY, &blocks, &buffer),
            bdev.read_blocks(QUERY, &blocks, &mut buffer),
        ] {
            let error = error.expect_err("too many");
            assert_eq!(error.status(), Status::ProtocolViolation);
            assert!(error.to_string().contains("across 2 blocks"), "{error}");
        }
        let error = bdev.async_write_blocks(QUERY, &blocks, buffer).wait();
        let error = error.expect_err("too many");
        assert_eq!(error.status(), Status::ProtocolViolation);
        assert_eq!(error.into_buffer().expect("it comes back").len(), 8192);
    }
}
