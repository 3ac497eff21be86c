//! Daemons with a thread that is stuck in the kernel: the process stays, with every file that it has open, and what
//! others wait for is free all the same.

use std::path::Path;

use chimaera_bdev_client::{Client, PoolQuery, Runtime, Status};
use chimaera_testing::{FuseCall, FuseServer};
use chimaera_tests::exit::{FAILED, IN_THE_WAY, NO_RUNTIME};
use chimaera_tests::{
    BackgroundDaemon, Daemon, MIB, ProgramOutput, RunningCommand, chimaera, disk_folder,
    is_in_state, is_root, memory, skipped, text, until,
};
use nix::sys::signal::Signal;

const WHAT: &str = "a daemon that is stuck in the kernel";

/// A daemon with a pool on a file whose file system answers nothing that would flush it, and one on a sound file.
struct Stuck {
    /// Dropped first: it lets the daemon go.
    server: FuseServer,
    daemon: Daemon,
    folder: tempfile::TempDir,
    runtime: Runtime,
}

impl Stuck {
    /// `None` where this machine does not allow it.
    fn start() -> Option<Self> {
        if !is_root(WHAT) {
            return None;
        }
        let server = FuseServer::mount(16 * MIB).map_err(|reason| skipped(WHAT, &reason));
        let server = server.ok()?;
        let daemon = Daemon::start_with(&[
            "--workers",
            "1",
            "--stop-timeout",
            "1",
            "--allow-fs",
            "fuse",
        ]);
        let folder = disk_folder();
        let created = daemon.create_file_pool(&folder.path().join("sound"), "8MiB");
        let _ = created.success();
        let _ = daemon.create_file_pool(&server.file(), "16MiB").success();
        let runtime = daemon.connect();
        let _ = memory(&runtime, MIB);
        server.withhold(&[FuseCall::Write, FuseCall::Sync]);
        Some(Self {
            server,
            daemon,
            folder,
            runtime,
        })
    }

    /// Waits until a thread of the daemon is stuck in the kernel.
    fn wait_until_stuck(&self) {
        let process = self.daemon.process_id();
        until("a thread is stuck", || {
            let threads = std::fs::read_dir(format!("/proc/{process}/task"));
            let mut threads = threads.into_iter().flatten().flatten();
            threads.any(|thread| is_in_state(text(&thread.path()), 'D'))
        });
    }

    /// The daemon that serves at the same socket by now.
    fn successor(&self) -> BackgroundDaemon {
        let next = BackgroundDaemon::at(&self.daemon.socket());
        assert_ne!(next.process_id, self.daemon.process_id().cast_signed());
        next
    }

    fn open(&self, file: &Path) -> ProgramOutput {
        let open = ["pool", "create", text(file), "--type", "file"];
        self.daemon.run(&open)
    }

    /// The successor opens what the daemon has closed.
    fn assert_sound_is_opened(&self) {
        let _ = self.open(&self.folder.path().join("sound")).success();
    }

    /// The successor says who keeps a file locked.
    fn assert_refused(&self, file: &Path) {
        let refused = self.open(file).failure(IN_THE_WAY);
        let process = self.daemon.process_id();
        let holder = format!("process {process}, which was killed and cannot end");
        assert!(refused.contains(&holder), "{refused}");
    }

    fn start_successor(&self) {
        let socket = self.daemon.socket();
        let start = [
            "runtime",
            "start",
            "--detach",
            "--allow-fs",
            "fuse",
            "--socket",
            text(&socket),
        ];
        let _ = chimaera(&start).success();
    }
}

#[test]
fn a_daemon_that_is_stuck_in_the_kernel_is_stopped_in_time_and_another_takes_its_place() {
    let Some(mut stuck) = Stuck::start() else {
        return;
    };
    let idle = stuck.daemon.connect();
    let stop = RunningCommand::start(stuck.daemon.command(&["runtime", "stop"]));
    stuck.wait_until_stuck();
    until("its clients see the end", || {
        !stuck.runtime.is_connected() && !idle.is_connected()
    });
    let process = stuck.daemon.process_id();
    until("only the kernel keeps it", || {
        is_in_state(&format!("/proc/{process}"), 'Z')
    });
    assert!(!stuck.daemon.has_ended());
    let log = stuck.daemon.log();
    let named = format!("given up: pool {} ", text(&stuck.server.file()));
    assert!(log.contains(&named), "{log}");
    let lost = stuck.runtime.admin().list_pools().expect_err("it is gone");
    assert_eq!(lost.status(), Status::ConnectionLost);

    stuck.start_successor();
    let next = stuck.successor();
    stuck.assert_sound_is_opened();
    stuck.assert_refused(&stuck.server.file());
    stop.wait_for(&["may be lost", text(&stuck.server.file())]);
    assert_eq!(stop.exit_code(), Some(FAILED));
    stuck.server.answer_all();
    assert_eq!(stuck.daemon.wait().0, Some(FAILED));
    drop(next);
}

#[test]
fn a_second_signal_frees_the_place_of_a_daemon_that_is_stuck_in_the_kernel() {
    let Some(mut stuck) = Stuck::start() else {
        return;
    };
    stuck.daemon.signal(Signal::SIGTERM);
    stuck.wait_until_stuck();
    stuck.daemon.insist(Signal::SIGTERM);
    until("its client sees the end", || !stuck.runtime.is_connected());
    assert!(!stuck.daemon.has_ended());
    stuck.start_successor();
    let next = stuck.successor();
    stuck.assert_sound_is_opened();
    stuck.assert_refused(&stuck.server.file());
    stuck.server.answer_all();
    assert_eq!(stuck.daemon.wait().0, Some(FAILED));
    drop(next);
}

#[test]
fn the_place_of_a_daemon_that_was_killed_and_cannot_end_is_taken() {
    let Some(mut stuck) = Stuck::start() else {
        return;
    };
    let file = stuck.server.file();
    let pool = Client::open(&stuck.runtime, text(&file)).expect("the pool is there");
    let _ = pool.allocate_blocks(PoolQuery::Local, 4096).expect("space");
    let flush = ["pool", "flush", text(&file)];
    let flush = RunningCommand::start(stuck.daemon.command(&flush));
    stuck.server.wait_for_unanswered(1);
    stuck.daemon.signal(Signal::SIGKILL);
    stuck.start_successor();
    assert!(!stuck.daemon.has_ended());
    let next = stuck.successor();
    // It had no time to close anything.
    stuck.assert_refused(&stuck.folder.path().join("sound"));
    stuck.assert_refused(&file);
    stuck.server.answer_all();
    assert_eq!(stuck.daemon.wait().0, None, "it was killed");
    assert_eq!(flush.exit_code(), Some(NO_RUNTIME));
    drop(next);
}
