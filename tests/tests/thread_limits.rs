//! Limits on threads, met in the middle of the work: what cannot be done for want of a thread says so, and
//! everything else goes on, above all stopping.

use std::path::Path;

use chimaera_bdev_client::{CreateOptions, PoolId, PoolQuery, Runtime, Status};
use chimaera_tests::exit::FAILED;
use chimaera_tests::{
    ClientProcess, ControlGroup, Daemon, Denial, FailedStart, Faulty, MIB, ThreadLimit,
    assert_refused, client, disk_folder, finish, library_folder, memory, program, skipped, text,
    until,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// What a refusal for want of a thread names.
const THREAD_LIMITS: [&str; 2] = ["ulimit -u", "pids.max"];

/// A daemon that gets no further thread.
fn daemon_without_threads() -> Option<(Daemon, Denial)> {
    let limit = match ThreadLimit::new() {
        Ok(limit) => limit,
        Err(reason) => {
            skipped("a daemon without threads", &reason);
            return None;
        }
    };
    let folder = TempDir::new().expect("a folder");
    let mut command = limit.command(&program("chimaera"));
    command.args(["runtime", "start", "--workers", "2", "--plugin-dir"]);
    command.arg(library_folder());
    let daemon = Daemon::start_by(command, folder);
    let denial = limit.deny(daemon.process_id());
    Some((daemon, denial))
}

/// Makes, uses and ends pools of a daemon that gets no further thread.
fn work_without_threads(runtime: &Runtime, folder: &Path) {
    let file = folder.join("pool");
    let on_file = || {
        let options = CreateOptions::file().size(8 * MIB);
        client(runtime, 1).create(PoolQuery::Dynamic, text(&file), &options)
    };
    // A pool on a file needs a keeper.
    assert_refused(on_file(), Status::OutOfResources, &THREAD_LIMITS);
    assert!(!file.exists(), "what was not made leaves nothing");

    let pool = memory(runtime, MIB);
    let blocks = pool.allocate_blocks(PoolQuery::Local, 4096).expect("space");
    pool.free_blocks(PoolQuery::Local, &blocks).expect("frees");
    let admin = runtime.admin();
    assert_eq!(admin.status().expect("a status").pool_count, 1);
    admin.flush(None).expect("flushes");
    admin.destroy_pool(PoolId::new(8000, 0)).expect("destroys");
    // Left to whoever stops the daemon.
    let _ = Faulty::created(runtime, 0);
}

#[test]
fn a_daemon_that_gets_no_further_thread_works_and_is_stopped_over_its_socket() {
    let Some((mut daemon, _denial)) = daemon_without_threads() else {
        return;
    };
    work_without_threads(&daemon.connect(), daemon.folder());
    let _ = daemon.run(&["runtime", "stop"]).success();
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_daemon_that_gets_no_further_thread_works_and_is_stopped_by_a_signal() {
    let Some((mut daemon, _denial)) = daemon_without_threads() else {
        return;
    };
    let runtime = daemon.connect();
    work_without_threads(&runtime, daemon.folder());
    daemon.signal(Signal::SIGTERM);
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_daemon_makes_a_pool_on_a_file_once_it_gets_threads_again() {
    let Some((daemon, denial)) = daemon_without_threads() else {
        return;
    };
    let runtime = daemon.connect();
    work_without_threads(&runtime, daemon.folder());
    drop(denial);
    let file = daemon.folder().join("pool");
    let pool = client(&runtime, 2);
    let options = CreateOptions::file().size(8 * MIB);
    let made = pool.create(PoolQuery::Dynamic, text(&file), &options);
    made.expect("the pool is made");
    pool.flush(PoolQuery::Local).expect("it has its keeper");
}

#[test]
fn a_daemon_whose_control_group_is_full_works_and_is_stopped() {
    let group = match ControlGroup::of_threads() {
        Ok(group) => group,
        Err(reason) => return skipped("a full control group (pids.max)", &reason),
    };
    let mut daemon = Daemon::start_with(&["--workers", "2"]);
    group.take(daemon.process_id());
    group.deny();
    let runtime = daemon.connect();
    work_without_threads(&runtime, daemon.folder());
    group.allow();
    let file = daemon.folder().join("pool");
    let options = CreateOptions::file().size(8 * MIB);
    let made = client(&runtime, 2).create(PoolQuery::Dynamic, text(&file), &options);
    made.expect("the pool is made");
    group.deny();
    let _ = daemon.run(&["runtime", "stop"]).success();
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn futures_of_a_client_that_gets_no_thread_complete_and_have_one_once_there_is() {
    let limit = match ThreadLimit::new() {
        Ok(limit) => limit,
        Err(reason) => return skipped("futures without threads", &reason),
    };
    let daemon = Daemon::start();
    let _ = Faulty::created(&daemon.connect(), 0);
    let mut command = limit.command(&program("chimaera-test-client"));
    command
        .arg("poll-tasks")
        .env("CHIMAERA_SOCKET", daemon.socket());
    let mut client = ClientProcess::run(command);
    client.expect("ready");
    let denial = limit.deny(client.process_id());
    for _ in 0..3 {
        client.go_on();
        assert_eq!(client.expect("completed"), "without");
    }
    drop(denial);
    until("its connection has the thread", || {
        client.go_on();
        client.expect("completed") == "with"
    });
}

/// Daemons of users of their own, with one thread more each time.
#[test]
fn a_daemon_starts_with_all_of_its_threads_or_says_what_it_lacks_and_leaves_nothing() {
    for threads in 1.. {
        let limit = match ThreadLimit::counted() {
            Ok(limit) => limit,
            Err(reason) => return skipped("starts with few threads", &reason),
        };
        let folder = TempDir::new().expect("a folder");
        let mut command = limit.command_with(&program("chimaera"), threads);
        command.args(["runtime", "start", "--workers", "1"]);
        let FailedStart { code, log, folder } = match Daemon::try_start(command, folder) {
            Err(refused) => refused,
            Ok(mut daemon) => {
                assert!(threads > 1, "a daemon has threads");
                let _ = daemon.run(&["runtime", "stop"]).success();
                return assert_eq!(daemon.wait().0, Some(0));
            }
        };
        assert!(threads < 32, "so many threads must do: {log}");
        assert_eq!(code, Some(FAILED), "with {threads}: {log}");
        for word in THREAD_LIMITS {
            assert!(log.contains(word), "with {threads}: {log}");
        }
        assert!(!log.contains("panicked"), "with {threads}: {log}");
        let left: Vec<_> = std::fs::read_dir(&folder).expect("a folder").collect();
        assert!(left.is_empty(), "with {threads}: {left:?}");
    }
}

#[test]
fn a_daemon_in_the_background_that_gets_too_few_threads_says_so_to_whoever_starts_it() {
    let limit = match ThreadLimit::counted() {
        Ok(limit) => limit,
        Err(reason) => return skipped("starts in the background with few threads", &reason),
    };
    // With one there is no process for the daemon; with a few, it lacks one after the other.
    for threads in 1..=5 {
        let folder = TempDir::new().expect("a folder");
        let mut command = limit.command_with(&program("chimaera"), threads);
        command.args(["runtime", "start", "--workers", "1", "--detach", "--socket"]);
        command.arg(folder.path().join("socket"));
        let said = finish(command).failure(FAILED);
        for word in THREAD_LIMITS {
            assert!(said.contains(word), "with {threads}: {said}");
        }
        let log = std::fs::read_to_string(folder.path().join("socket.log"));
        assert_eq!(log.unwrap_or_default(), "", "with {threads}");
    }
}

#[test]
fn a_client_that_gets_no_thread_learns_why_and_connects_once_it_gets_one() {
    let limit = match ThreadLimit::new() {
        Ok(limit) => limit,
        Err(reason) => return skipped("a client without threads", &reason),
    };
    let daemon = Daemon::start();
    let mut command = limit.command(&program("chimaera-test-client"));
    command
        .arg("connect")
        .env("CHIMAERA_SOCKET", daemon.socket());
    let mut client = ClientProcess::run(command);
    client.expect("ready");
    let denial = limit.deny(client.process_id());
    client.go_on();
    let said = client.expect("OutOfResources");
    for word in THREAD_LIMITS {
        assert_eq!(
            said.matches(word).count(),
            2,
            "connected and embedded: {said}"
        );
    }
    assert_eq!(daemon.sessions(), 0, "it left no session");
    drop(denial);
    client.go_on();
    let _ = client.expect("connected;");
}

#[test]
fn a_workload_that_gets_too_few_threads_says_so_and_can_be_continued() {
    let limit = match ThreadLimit::counted() {
        Ok(limit) => limit,
        Err(reason) => return skipped("a workload with few threads", &reason),
    };
    let daemon = Daemon::start();
    let folder = disk_folder();
    let (pool, journal) = (folder.path().join("pool"), folder.path().join("journal"));
    let _ = daemon.create_file_pool(&pool, "32MiB").success();
    let place = ["--pool", text(&pool), "--journal", text(&journal)];
    let run = ["verify", "run", "--seconds", "1", "--threads", "8"];
    let run = [&run[..], &place].concat();
    let _ = daemon.run(&run).success();

    // Its own, that of its connection, and a few of the workload's.
    let mut limited = limit.command_with(&program("chimaera"), 5);
    limited.args(&run).arg("--socket").arg(daemon.socket());
    let said = finish(limited).failure(FAILED);
    for word in THREAD_LIMITS.iter().chain(&["--threads"]) {
        assert!(said.contains(word), "{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    let check = [&["verify", "check"][..], &place].concat();
    let _ = daemon.run(&check).success();
    let said = daemon.run(&run).success();
    assert!(said.contains("the journal was continued"), "{said}");
}
