//! Daemons that were killed, and are not gone yet.

use std::path::Path;

use chimaera_bdev_client::{PoolQuery, Runtime};
use chimaera_tests::{Detached, Watchdog, chimaera, memory, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Memory that takes the system some milliseconds to free.
const POOL_BYTES: u64 = 512 << 20;

/// Bytes of the largest blocks.
const BLOCK_BYTES: u64 = 1 << 20;

/// Gives the daemon memory that is to be freed at its end.
fn fill(socket: &Path) {
    let runtime = Runtime::connect_to(socket).expect("the daemon welcomes its clients");
    let pool = memory(&runtime, 2 * POOL_BYTES);
    let query = PoolQuery::Local;
    let blocks = pool
        .allocate_blocks(query, POOL_BYTES)
        .expect("there is room");
    let bytes = vec![7; BLOCK_BYTES as usize];
    for block in &blocks {
        pool.write_bytes(query, block, &bytes).expect("a write");
    }
}

#[test]
fn a_daemon_starts_where_one_was_killed_just_now() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("socket");
    let start = ["runtime", "start", "--detach", "--socket", text(&socket)];
    let _ = chimaera(&start).success();
    for _ in 0..8 {
        let daemon = Detached::at(&socket);
        fill(&socket);
        let process = Pid::from_raw(daemon.process_id);
        kill(process, Signal::SIGKILL).expect("it runs");
        let _ = chimaera(&start).success();
    }
    let _last = Detached::at(&socket);
}
