//! Every error of the bdev client, against a real daemon: told apart by its status, with a text
//! that says what happened to what, and with nothing changed.
//!
//! Damaged metadata (`CorruptedMetadata`) is not here: the module's own tests damage devices byte by byte.

use chimaera_bdev_client::{Block, BlockType, Client, NodeId, PoolId, PoolQuery, Runtime, Status};
use chimaera_bdev_proto::{Method, TransferArguments};
use chimaera_client::Call;
use chimaera_tests::{
    Daemon, KIB, MIB, assert_refused, client, disk_folder, memory, remaining, text,
};

const QUERY: PoolQuery = PoolQuery::Local;

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
        let why = match size {
            u64::MAX => "does not fit a task",
            _ => "not enough free space",
        };
        assert_refused(result, Status::NoSpace, &[why, "8000.0"]);
        assert_eq!(remaining(&pool), free, "{size}");
        let result = pool.async_allocate_blocks(QUERY, size).wait();
        assert_refused(result, Status::NoSpace, &[]);
        assert_eq!(remaining(&pool), free, "{size}");
    }
    // Enough, but not in one piece: the megabyte of the first block is broken.
    let whole = pool.allocate_blocks(QUERY, 7 * MIB).expect("the others");
    assert!(remaining(&pool) > 600 * KIB);
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
    let other = pool.allocate_blocks(QUERY, 64 * KIB).expect("a block")[0];
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
            &["freeing 3 blocks in pool 8000.0"],
        );
        assert_eq!(remaining(&pool), free, "{wrong:?}");
    }
    let read = pool.read(QUERY, &block, &mut buffer);
    assert_eq!(read.expect("the block is still allocated"), 4096);
    assert!(buffer.iter().all(|&byte| byte == 0xAA), "and untouched");
}

#[test]
fn a_list_to_free_names_the_block_that_is_refused_and_frees_none() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = memory(&runtime, 4 * MIB);
    let block = pool.allocate_blocks(QUERY, 4096).expect("a block")[0];
    let other = pool.allocate_blocks(QUERY, 64 * KIB).expect("a block")[0];
    let never = Block::new(3 * MIB, BlockType::Kib4);
    let buffer = runtime.allocate_buffer(4096).expect("a buffer");
    let twice = pool.free_blocks(QUERY, &[block, block]);
    let words = ["named twice", "number 2 (4 KiB at 0x"];
    assert_refused(twice, Status::DoubleFree, &words);
    let third = pool.free_blocks(QUERY, &[block, other, never]);
    let words = ["of which number 3 (4 KiB at 0x300000) is refused"];
    assert_refused(third, Status::DoubleFree, &words);
    pool.free_blocks(QUERY, &[block, other]).expect("a free");
    assert_refused(
        pool.free_blocks(QUERY, &[block]),
        Status::DoubleFree,
        &["freed before"],
    );
    assert_refused(
        pool.write(QUERY, &block, &buffer),
        Status::NotAllocated,
        &["the block is not allocated", "allocate_blocks"],
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
        let words = ["the block has 4096 bytes", "begin"];
        assert_refused(write, Status::BeyondBlock, &words);
    }
    let across = pool.write_blocks(QUERY, &blocks[..1], &buffer);
    assert_refused(across, Status::BeyondBlock, &["4096 bytes together"]);
    // The buffer of a refused task comes back.
    let refused = pool
        .async_write(QUERY, block, buffer)
        .wait()
        .expect_err("refused");
    assert_eq!(refused.status(), Status::BeyondBlock);
    let mut buffer = refused.buffer.expect("the buffer comes back");
    assert_eq!(buffer.len(), 8192);
    // A client that does not check for itself gets the same from the host.
    let arguments = TransferArguments {
        block: *block,
        offset_in_block: 1,
    };
    let call = Call {
        pool: pool.pool_id(),
        instance: 0,
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
    assert_refused(
        admin.flush(Some(pool.pool_id().into())),
        status,
        &["8000.404"],
    );
}

/// A flush that is sent to the wrong module does not become an order to stop.
#[test]
fn pools_that_cannot_be_a_block_devices_are_named_and_nothing_happens_to_the_daemon() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let null = Client::new(&runtime, PoolId::NULL);
    let words = ["PoolId::NULL", "open it by its name"];
    assert_refused(null.flush(QUERY), Status::PoolNotFound, &words);
    let admin = Client::new(&runtime, PoolId::ADMIN);
    let words = ["1.0 (`PoolId::ADMIN`)", "Runtime::admin"];
    assert_refused(admin.flush(QUERY), Status::InvalidArgument, &words);
    assert_refused(
        admin.allocate_blocks(QUERY, 1),
        Status::InvalidArgument,
        &words,
    );
    let pool = memory(&runtime, MIB);
    let nothing = PoolQuery::Range {
        offset: 0,
        count: 0,
    };
    let words = ["pool 8000.0", "a range of 0 containers"];
    assert_refused(pool.flush(nothing), Status::InvalidArgument, &words);
    let elsewhere = PoolQuery::Physical(NodeId(7));
    assert_refused(pool.flush(elsewhere), Status::NodeNotFound, &["on node 0"]);
    assert_eq!(remaining(&pool), MIB);
    assert!(daemon.connect().is_connected(), "it welcomes others");
}

#[test]
fn a_method_that_no_module_has_and_a_buffer_of_another_connection_are_refused() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = memory(&runtime, MIB);
    let block = pool.allocate_blocks(QUERY, 4096).expect("a block")[0];
    let call = Call {
        pool: pool.pool_id(),
        instance: 0,
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
    let words = [
        "no daemon listens there",
        text(&socket),
        "or name the socket",
    ];
    let error = assert_refused(Err::<(), _>(error), Status::NoRuntime, &words);
    assert!(
        error.to_string().contains(&format!(
            "`chimaera runtime start --socket {}`",
            text(&socket)
        )),
        "{error}"
    );
}
