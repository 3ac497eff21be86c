//! Each opening of a pool says how its device is used, and what is declared of the device can be declared anew.

use std::path::Path;

use chimaera_bdev_client::{
    Client, CreateOptions, PerfMetrics, PoolId, PoolQuery, Runtime, Stats, Status,
};
use chimaera_tests::{Daemon, MIB, assert_refused, client, disk_folder, file_bytes, text};

const QUERY: PoolQuery = PoolQuery::Local;

fn profile(iops: f64) -> PerfMetrics {
    PerfMetrics {
        iops,
        read_latency_us: 50.0,
        ..PerfMetrics::default()
    }
}

fn create(runtime: &Runtime, path: &Path, options: &CreateOptions) -> (Client, bool) {
    let pool = Client::new(runtime, PoolId::NULL);
    let info = pool.create(PoolQuery::Dynamic, text(path), options);
    (pool, info.expect("the pool is there").created)
}

fn stats(pool: &Client) -> Stats {
    pool.get_stats().expect("statistics")
}

#[test]
fn creating_a_pool_again_with_another_profile_switches_to_it_for_good() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let options = CreateOptions::file().size(file_bytes(2));
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let slow = options.perf_metrics(profile(100.0));
    pool.create(PoolQuery::Dynamic, text(&path), &slow)
        .expect("the pool is made");
    let blocks = pool.allocate_blocks(QUERY, MIB).expect("room");
    let (again, created) = create(&runtime, &path, &options.perf_metrics(profile(500_000.0)));
    assert!(!created, "it is the same pool");
    for pool in [&pool, &again] {
        assert_eq!(stats(pool).metrics, profile(500_000.0));
    }
    pool.free_blocks(QUERY, &blocks)
        .expect("they are as they were");
    // What is declared needs no flush, and outlives a daemon that is killed.
    let folder = daemon.kill_and_leave();

    let daemon = Daemon::start_in(folder, &[] as &[&str]);
    let runtime = daemon.connect();
    let (pool, created) = create(&runtime, &path, &CreateOptions::file());
    assert!(created);
    assert_eq!(stats(&pool).metrics, profile(500_000.0));
}

#[test]
fn an_opening_says_how_the_device_is_used_and_an_open_pool_is_used_as_it_is() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let options = CreateOptions::file().size(file_bytes(2));
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let (pool, _) = create(&runtime, &path, &options.io_depth(8).alignment(4096));
    let usage = |pool: &Client| (stats(pool).io_depth, stats(pool).alignment);
    assert_eq!(usage(&pool), (8, 4096));
    let destroy = |pool: &Client| {
        let destroyed = runtime.admin().destroy_pool(pool.pool_id());
        destroyed.expect("the pool goes");
    };
    destroy(&pool);
    let (pool, created) = create(&runtime, &path, &options.io_depth(64));
    assert!(created);
    assert_eq!(usage(&pool), (64, 4096));
    let refused = pool.create(PoolQuery::Dynamic, text(&path), &options.io_depth(8));
    let words = [
        "io_depth is 64, asked for 8",
        "destroy it and create it again",
    ];
    assert_refused(refused, Status::ParameterMismatch, &words);
    let (same, created) = create(&runtime, &path, &CreateOptions::file());
    assert!(!created, "who names no depth takes the pool as it is");
    assert_eq!(usage(&same), (64, 4096));
    destroy(&pool);
    let (pool, _) = create(&runtime, &path, &options.alignment(0));
    assert_eq!(usage(&pool), (8, 4096), "as it was made");
}

#[test]
fn statistics_count_the_blocks_that_are_there_and_not_only_those_since_the_opening() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let options = CreateOptions::file().size(file_bytes(4));
    let daemon = Daemon::start_with(&["--workers", "2"]);
    let runtime = daemon.connect();
    let (pool, _) = create(&runtime, &path, &options);
    let mut blocks = pool.allocate_blocks(QUERY, 2 * MIB).expect("room");
    for size in [4096, 65_536, 262_144] {
        blocks.extend(pool.allocate_blocks(QUERY, size).expect("room"));
    }
    assert_eq!(stats(&pool).allocated_blocks, 5);
    let destroyed = runtime.admin().destroy_pool(pool.pool_id());
    destroyed.expect("the pool goes");

    let (pool, _) = create(&runtime, &path, &CreateOptions::file());
    let now = stats(&pool);
    assert_eq!(now.allocated_blocks, 5, "from before");
    assert_eq!((now.activity.allocations, now.activity.frees), (0, 0));
    let shown = daemon.run(&["pool", "stats", text(&path)]).success();
    assert!(
        shown.contains("blocks allocated      5 (2.3 MiB)"),
        "{shown}"
    );
    pool.free_blocks(QUERY, &blocks[..3])
        .expect("they are allocated");
    let refused = pool.free_blocks(QUERY, &blocks);
    assert_refused(refused, Status::DoubleFree, &[]);
    let now = stats(&pool);
    assert_eq!(now.allocated_blocks, 2, "what is refused frees nothing");
    assert_eq!((now.activity.allocations, now.activity.frees), (0, 3));
    let more = pool.allocate_blocks(QUERY, 4096).expect("room");
    assert_eq!(stats(&pool).allocated_blocks, 3);
    blocks.drain(..3);
    blocks.extend(more);
    pool.free_blocks(QUERY, &blocks)
        .expect("they are allocated");
    assert_eq!(stats(&pool).allocated_blocks, 0);
}
