//! `chimaera runtime stop`: when it returns, and what it says.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeReader, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use chimaera_bdev_client::{PoolId, PoolQuery};
use chimaera_client::proto::admin::GetOrCreatePool;
use chimaera_faulty_runtime::{MODULE_NAME, Method, params};
use chimaera_tests::exit::FAILED;
use chimaera_tests::{Daemon, Faulty, MIB, RunningCommand, finish, memory, skipped, text, until};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

/// A daemon whose log nobody reads, so that it takes a while from the end of its last connection to its own.
struct Slow {
    daemon: Daemon,
    _log: PipeReader,
}

impl Slow {
    fn start() -> Self {
        let (reader, writer) = pipe().expect("a pipe");
        // By a description of its own, which does not block.
        let mut filler = File::options()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
            .expect("the pipe");
        while filler.write(&[b'.'; 4096]).is_ok() {}
        Self {
            daemon: Daemon::start_writing_to(Stdio::null(), writer),
            _log: reader,
        }
    }
}

#[test]
fn a_stop_returns_when_the_process_of_the_daemon_has_ended() {
    let Slow { daemon, _log } = Slow::start();
    let _ = daemon.run(&["runtime", "stop"]).success();
    assert!(daemon.has_ended());

    // Also where the daemon refuses connections already.
    let Slow { daemon, _log } = Slow::start();
    let file = daemon.folder().join("go on");
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&runtime, &file);
    daemon.signal(Signal::SIGTERM);
    until("it stops", || {
        runtime.admin().list_pools().expect("a list").is_empty()
    });
    let stop = RunningCommand::start(daemon.command(&["runtime", "stop"]));
    stop.wait_for(&["waiting for the daemon with process id"]);
    std::fs::write(&file, "").expect("a file");
    assert_eq!(stop.exit_code(), Some(0));
    assert!(daemon.has_ended());
}

#[test]
fn every_stop_of_a_daemon_that_could_not_flush_a_pool_fails_and_names_it() {
    let mut daemon = Daemon::start();
    let file = daemon.folder().join("go on");
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&runtime, &file);
    let failing = Faulty::new(&runtime, 1);
    failing
        .create(params::FLUSH_ERROR)
        .expect("the pool is made");
    let ordered = RunningCommand::start(daemon.command(&["runtime", "stop"]));
    ordered.wait_for(&["which is being flushed"]);
    // The daemon refuses this one's connection.
    let refused = RunningCommand::start(daemon.command(&["runtime", "stop", "--json"]));
    refused.wait_for(&["waiting for the daemon with process id"]);
    std::fs::write(&file, "").expect("a file");
    for stop in [ordered, refused] {
        stop.wait_for(&[
            &format!("process id {} has ended", daemon.process_id()),
            "pool faulty 6666.1 (6666.1): as asked: cannot flush",
            "may be lost",
        ]);
        assert_eq!(stop.exit_code(), Some(FAILED));
        assert!(daemon.has_ended());
    }
    assert_eq!(daemon.wait().0, Some(FAILED));
}

#[test]
fn a_stop_that_does_not_learn_how_the_daemon_ended_says_that() {
    let mut daemon = Daemon::start();
    let file = daemon.folder().join("go on");
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&runtime, &file);
    daemon.signal(Signal::SIGTERM);
    until("it stops", || {
        let pools = runtime.admin().list_pools();
        pools.expect("a list").is_empty()
    });
    let start = || {
        let stop = RunningCommand::start(daemon.command(&["runtime", "stop"]));
        stop.wait_for(&["waiting for the daemon with process id"]);
        stop
    };
    let first = start();
    std::fs::remove_file(daemon.folder().join("chimaera.sock.lock")).expect("it is there");
    let second = start();
    std::fs::write(&file, "").expect("a file");
    assert_eq!(first.exit_code(), Some(0), "it has the lock file open");
    second.wait_for(&["whether its pools were flushed is not known"]);
    assert_eq!(second.exit_code(), Some(FAILED));
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn a_stop_from_another_pid_namespace_waits_for_the_process_too() {
    let inside = |program: &OsStr| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork"]).arg(program);
        command
    };
    if finish(inside("true".as_ref())).code != Some(0) {
        let what = "a stop from another pid namespace";
        return skipped(what, "unshare --pid does not work here");
    }
    let Slow { daemon, _log } = Slow::start();
    let stop = daemon.command(&["runtime", "stop"]);
    let mut command = inside(stop.get_program());
    command.args(stop.get_args());
    let _ = finish(command).success();
    assert!(daemon.has_ended());
}

#[test]
fn a_stop_that_takes_long_says_what_it_waits_for_and_no_pool_waits_for_another() {
    let mut daemon = Daemon::start();
    let runtime = daemon.connect();
    let files = ["flush", "flush 2", "make", "release"].map(|name| daemon.folder().join(name));
    let [flush, flush_2, make, release] = files.each_ref().map(|file| text(file));
    for (number, file) in [(0, flush), (1, flush_2)] {
        let waits = format!("{}{file}", params::FLUSH_WAITS);
        Faulty::new(&runtime, number)
            .create(&waits)
            .expect("the pool is made");
    }
    let holder = Faulty::new(&runtime, 2);
    holder
        .create(&format!("{}{release}", params::RELEASES_AT))
        .expect("the pool is made");
    let held = holder.start(Method::Hold, None);
    let _ = memory(&runtime, MIB);
    let waits = format!("{}{make}", params::CREATE_WAITS).into_bytes();
    let request = GetOrCreatePool::new(MODULE_NAME, "endless", PoolId::NULL, waits);
    let admin = runtime.admin();
    let making = admin.async_get_or_create_pool(PoolQuery::Dynamic, &request);
    until("the creation is known", || {
        admin.status().expect("a status").changing_count == 1
    });
    let shown = daemon.run(&["runtime", "status"]).success();
    let line = "changing    pool endless of module chimaera_faulty, which is being made";
    assert!(shown.contains(line), "{shown}");

    let stop = RunningCommand::start(daemon.command(&["runtime", "stop"]));
    let process = format!("the daemon with process id {}", daemon.process_id());
    stop.wait_for(&[
        &process,
        "pool faulty 6666.0 of module chimaera_faulty, which is being flushed",
        "pool faulty 6666.1 of module chimaera_faulty, which is being flushed",
        "pool faulty 6666.2 of module chimaera_faulty, whose tasks in flight have to complete",
        "pool endless of module chimaera_faulty, which is being made",
    ]);
    // Pools that can be ended are ended.
    assert!(daemon.log().contains("pool stopped: 8000.0"));
    for file in &files[..2] {
        std::fs::write(file, "").expect("a file");
    }
    stop.wait_for(&[&process, "6666.2"]);
    for file in &files[2..] {
        std::fs::write(file, "").expect("a file");
    }
    assert_eq!(stop.exit_code(), Some(0));
    held.wait().expect("it was released");
    drop(making);
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn a_pool_that_waits_for_an_order_is_told_apart_from_one_that_waits_for_tasks() {
    let mut daemon = Daemon::start();
    let file = daemon.folder().join("go on");
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&runtime, &file);
    let admin = runtime.admin();
    let flush = admin.async_flush(Some(PoolId::new(6666, 0).into()));
    until("the flush has begun", || {
        daemon.log().contains("as asked: a flush waits")
    });
    let destroy = admin.async_destroy_pool(PoolId::new(6666, 0));
    let in_use =
        "pool faulty 6666.0 of module chimaera_faulty, which an order that came before still uses";
    until("the status tells", || {
        let shown = daemon.run(&["runtime", "status"]).success();
        shown.contains(in_use)
    });
    assert_eq!(daemon.status()["changing"][0]["step"], "in_use");
    let stop = RunningCommand::start(daemon.command(&["runtime", "stop"]));
    stop.wait_for(&[in_use]);
    std::fs::write(&file, "").expect("a file");
    flush.wait().expect("it is flushed");
    destroy.wait().expect("it is destroyed");
    assert_eq!(stop.exit_code(), Some(0));
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn a_stop_whose_daemon_is_killed_or_cut_short_says_that_it_has_not_finished() {
    let kills: [fn(&Daemon); 2] = [
        |daemon| daemon.signal(Signal::SIGKILL),
        |daemon| daemon.insist(Signal::SIGTERM),
    ];
    for end in kills {
        let mut daemon = Daemon::start();
        Faulty::whose_flush_waits(&daemon.connect(), Path::new("/nowhere/at all"));
        let first = RunningCommand::start(daemon.command(&["runtime", "stop"]));
        first.wait_for(&["which is being flushed"]);
        // The daemon refuses this one's connection.
        let second = RunningCommand::start(daemon.command(&["runtime", "stop"]));
        second.wait_for(&["waiting for the daemon with process id"]);
        end(&daemon);
        for stop in [first, second] {
            stop.wait_for(&["has ended without finishing", "may be lost"]);
            assert_eq!(stop.exit_code(), Some(FAILED));
        }
        assert_ne!(daemon.wait().0, Some(0));
    }
}
