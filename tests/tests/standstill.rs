//! Daemons that were killed, and are not gone yet.

use std::path::{Path, PathBuf};

use chimaera_bdev_client::{PoolQuery, Runtime};
use chimaera_tests::exit::FAILED;
use chimaera_tests::{
    BackgroundDaemon, Daemon, MIB, RunningCommand, Watchdog, chimaera, memory, skipped, text, until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Memory that takes the system some milliseconds to free.
const POOL_BYTES: u64 = 512 * MIB;

/// Bytes of the largest blocks.
const BLOCK_BYTES: u64 = MIB;

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
        let daemon = BackgroundDaemon::at(&socket);
        fill(&socket);
        let process = Pid::from_raw(daemon.process_id);
        kill(process, Signal::SIGKILL).expect("it runs");
        let _ = chimaera(&start).success();
    }
    let _last = BackgroundDaemon::at(&socket);
}

/// Takes a process into a frozen control group, from which only the test lets it out.
struct Freezer(PathBuf);

impl Freezer {
    fn of(process: u32) -> Result<Self, String> {
        let folder = Path::new("/sys/fs/cgroup/freezer");
        let folder = folder.join(format!("chimaera-test-{process}"));
        let failed = |error: std::io::Error| format!("no control group can be made: {error}");
        std::fs::create_dir(&folder).map_err(failed)?;
        let freezer = Self(folder);
        freezer.write("cgroup.procs", &process.to_string());
        freezer.write("freezer.state", "FROZEN");
        Ok(freezer)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("the group takes it");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        // Where the process is left the system keeps it.
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_daemon_that_was_killed_and_cannot_end_is_said_to_be() {
    let mut daemon = Daemon::start();
    let freezer = match Freezer::of(daemon.process_id()) {
        Ok(freezer) => freezer,
        Err(reason) => return skipped("a daemon that cannot end", &reason),
    };
    let group = freezer.0.join("freezer.state");
    until("it is frozen", || {
        std::fs::read_to_string(&group).is_ok_and(|state| state.trim() == "FROZEN")
    });
    let waits = |words: &[&str]| RunningCommand::start(daemon.command(words));
    let frozen = waits(&["pool", "list"]);
    frozen.wait_for(&["waiting for", "is frozen with its control group"]);

    daemon.signal(Signal::SIGKILL);
    let said = "was killed and cannot end";
    let commands = [
        waits(&["runtime", "status"]),
        waits(&["pool", "list"]),
        waits(&["runtime", "stop"]),
    ];
    for command in &commands {
        command.wait_for(&["waiting for", said]);
    }
    // It runs no code of the program any more, so another one takes its place.
    let _ = daemon.run(&["runtime", "start", "--detach"]).success();
    let _next = BackgroundDaemon::at(&daemon.socket());
    for command in commands.into_iter().chain([frozen]) {
        let last = command.wait_for(&["did not answer for 20s", said]);
        assert!(!last.contains("in good order"), "{last}");
        assert_eq!(command.exit_code(), Some(FAILED));
    }
    drop(freezer);
    assert_eq!(daemon.wait().0, None, "it was killed");
}
