//! Every way to say which containers a task is for, as real tasks on a real daemon: there is one
//! node, with one container per pool.

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Status};
use chimaera_client::{ContainerId, NodeId};
use chimaera_tests::{Daemon, MIB, Pattern};

const RIGHT: [PoolQuery; 9] = [
    PoolQuery::Local,
    PoolQuery::Dynamic,
    PoolQuery::Broadcast,
    PoolQuery::DirectId(ContainerId(0)),
    PoolQuery::DirectHash(0),
    PoolQuery::DirectHash(1),
    PoolQuery::DirectHash(u32::MAX),
    PoolQuery::Range {
        offset: 0,
        count: 1,
    },
    PoolQuery::Physical(NodeId(0)),
];

const fn range(offset: u32, count: u32) -> PoolQuery {
    PoolQuery::Range { offset, count }
}

const WRONG: [(PoolQuery, Status); 9] = [
    (
        PoolQuery::DirectId(ContainerId(1)),
        Status::ContainerNotFound,
    ),
    (
        PoolQuery::DirectId(ContainerId(u32::MAX)),
        Status::ContainerNotFound,
    ),
    (range(0, 2), Status::ContainerNotFound),
    (range(1, 1), Status::ContainerNotFound),
    (range(u32::MAX, 1), Status::ContainerNotFound),
    (range(0, 0), Status::InvalidArgument),
    (range(9, 0), Status::InvalidArgument),
    (PoolQuery::Physical(NodeId(1)), Status::NodeNotFound),
    (PoolQuery::Physical(NodeId(u32::MAX)), Status::NodeNotFound),
];

const POOL_BYTES: u64 = 8 * MIB;

#[test]
fn every_query_that_names_what_is_there_reaches_the_pool() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = Client::new(&runtime, PoolId::new(8000, 0));
    let pattern = Pattern::new(1, 1);
    for (index, query) in RIGHT.into_iter().enumerate() {
        let info = pool
            .create(query, "queried", &CreateOptions::ram(POOL_BYTES))
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(info.created, index == 0, "one pool, whatever the query");
        // A list in a buffer, one in the completion, and data both ways.
        let blocks = pool
            .allocate_blocks(query, 5 * MIB)
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        let block = &blocks[4];
        let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
        pattern.fill(block.offset, &mut buffer);
        assert_eq!(
            pool.write(query, block, &buffer).ok(),
            Some(4096),
            "{query}"
        );
        buffer.fill(0);
        assert_eq!(
            pool.read(query, block, &mut buffer).ok(),
            Some(4096),
            "{query}"
        );
        pattern.check(block.offset, &buffer);
        pool.free_blocks(query, &blocks)
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        let stats = pool.get_stats().expect("statistics");
        assert_eq!(stats.remaining_size, POOL_BYTES, "{query}");
    }
    let stats = pool.get_stats().expect("statistics");
    let once_each = RIGHT.len() as u64;
    assert_eq!(
        stats.activity.write_operations, once_each,
        "a broadcast too is carried out once on one container"
    );
}

#[test]
fn every_query_that_names_what_is_not_there_is_refused_and_changes_nothing() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = Client::new(&runtime, PoolId::new(8000, 0));
    pool.create(
        PoolQuery::Dynamic,
        "queried",
        &CreateOptions::ram(POOL_BYTES),
    )
    .expect("the pool is made");
    let block = pool
        .allocate_blocks(PoolQuery::Local, 4096)
        .expect("a block")[0];
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    buffer.fill(1);
    pool.write(PoolQuery::Local, &block, &buffer)
        .expect("a write");
    for (query, status) in WRONG {
        let other = Client::new(&runtime, PoolId::new(8001, 0));
        let created = other.create(query, "other", &CreateOptions::ram(POOL_BYTES));
        assert_eq!(created.map_err(|error| error.status()), Err(status));
        let allocated = pool.allocate_blocks(query, 4096);
        assert_eq!(allocated.map_err(|error| error.status()), Err(status));
        buffer.fill(2);
        let written = pool.write(query, &block, &buffer);
        let error = written.expect_err("refused");
        assert_eq!(error.status(), status, "{query}: {error}");
        assert!(error.to_string().contains("8000.0"), "{error}");
        let freed = pool.free_blocks(query, &[block]);
        assert_eq!(freed.map_err(|error| error.status()), Err(status));
        // The buffer of a refused task comes back.
        let task = pool.async_write(query, &block, buffer);
        let refused = task.wait().expect_err("refused");
        assert_eq!(refused.status(), status, "{query}");
        buffer = refused.buffer.expect("the buffer comes back");
        let read = pool.read(PoolQuery::Local, &block, &mut buffer);
        assert_eq!(read.ok(), Some(4096));
        assert!(buffer.iter().all(|&byte| byte == 1), "{query}");
    }
    let pools = runtime.admin().list_pools().expect("a list");
    assert_eq!(pools.len(), 1, "{pools:?}");
    let stats = pool.get_stats().expect("statistics");
    assert_eq!(stats.remaining_size, POOL_BYTES - 4096);
}
