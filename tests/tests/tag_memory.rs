//! What owner tags take of a daemon's memory. Prints, and asserts nothing: run it with
//! `--ignored --nocapture measure_memory`.
#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]

use std::collections::VecDeque;
use std::fs;

use chimaera_bdev_client::{Client, CreateOptions, OwnerTag, PoolQuery};
use chimaera_tests::{Daemon, GIB, MIB, disk_folder, text};

const QUERY: PoolQuery = PoolQuery::Local;
const AT_A_TIME: usize = 64;

/// Allocates so many blocks of this size, each with a tag of its own or none.
fn allocate(pool: &Client, count: u64, bytes: u64, tagged: bool) {
    let mut tasks = VecDeque::new();
    for number in 1..=count {
        if tasks.len() == AT_A_TIME {
            let task = tasks.pop_front();
            task.map(chimaera_bdev_client::Task::wait);
        }
        let tag = OwnerTag(if tagged { number } else { 0 });
        tasks.push_back(pool.async_allocate_blocks_for(QUERY, bytes, tag));
    }
    for task in tasks {
        task.wait().expect("room");
    }
}

/// Bytes that a line of the daemon's `/proc/PID/status` tells.
fn memory(daemon: &Daemon, line: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.process_id()));
    let text = text.expect("it runs");
    let found = text.lines().find(|found| found.starts_with(line));
    let kibibytes = found.and_then(|found| found.split_whitespace().nth(1));
    kibibytes
        .expect("a number")
        .parse::<u64>()
        .expect("a number")
        << 10
}

#[test]
#[ignore = "a measurement"]
fn measure_memory_of_owner_tags() {
    for (count, bytes, size) in [
        (1 << 20, 4096, 8 * GIB),
        (1 << 24, 4096, 66 * GIB),
        (1 << 20, MIB, 1100 * GIB),
    ] {
        for tagged in [false, true] {
            let folder = disk_folder();
            let path = folder.path().join("pool");
            let daemon = Daemon::start();
            let runtime = daemon.connect();
            let options = CreateOptions::file().size(size);
            let pool = Client::open_or_create(&runtime, text(&path), &options).expect("made");
            let before = memory(&daemon, "RssAnon:");
            allocate(&pool, count, bytes, tagged);
            let held = memory(&daemon, "RssAnon:") - before;
            pool.flush(QUERY).expect("flushed");
            println!(
                "{count} blocks of {bytes} bytes, tagged: {tagged}: {held} bytes more before the flush, at most {} \
                 resident",
                memory(&daemon, "VmHWM:")
            );
        }
    }
}
