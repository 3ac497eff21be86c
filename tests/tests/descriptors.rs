//! File descriptors that run out, in the client, in the daemon, in a program that embeds the runtime: what needs one
//! fails with a clear error, what needs none goes on, and when there are some again everything works as before.

use std::process::Command;
use std::thread;
use std::time::Duration;

use chimaera_bdev_client::{Error, PoolQuery, Runtime, Status};
use chimaera_tests::exit::FAILED;
use chimaera_tests::{
    ClientProcess, Daemon, MIB, client, descriptors, finish, limit_descriptors, limit_for, memory,
    program, text, until,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const QUERY: PoolQuery = PoolQuery::Local;

#[test]
fn a_client_without_descriptors_says_so_and_goes_on_with_its_connection() {
    let daemon = Daemon::start();
    let _pool = memory(&daemon.connect(), 64 * MIB);
    let mut client = ClientProcess::start(&daemon.socket(), &["starve"]);
    client.expect("done");
    client.succeed();
}

/// Runs something with each limit from this one on, until it has worked five times in a row. Each failure before must
/// be a clear error.
fn with_every_limit(least: u64, mut run: impl FnMut(u64) -> String) {
    let mut worked = 0;
    for limit in least..least + 100 {
        let outcome = run(limit);
        if outcome == "worked" {
            worked += 1;
            if worked == 5 {
                assert!(limit > least + 5, "there was no shortage");
                return;
            }
        } else {
            let is_clear = outcome.starts_with("OutOfResources ")
                && (outcome.contains("file descriptor") || outcome.contains("Too many open files"));
            assert!(is_clear, "with a limit of {limit}: {outcome}");
            assert_eq!(worked, 0, "with {limit}, but not with fewer: {outcome}");
        }
    }
    panic!("a hundred descriptors are not enough");
}

/// What a client process says that runs this command at the daemon's socket.
fn outcome(daemon: &Daemon, command: &str, limit: u64) -> String {
    let file = daemon.folder().join("pool");
    let arguments = [command, &limit.to_string(), text(&file)];
    let mut client = ClientProcess::start(&daemon.socket(), &arguments);
    let outcome = client.expect("outcome");
    client.succeed();
    outcome
}

#[test]
fn a_client_works_or_says_why_not_whatever_its_limit() {
    let daemon = Daemon::start();
    with_every_limit(3, |limit| outcome(&daemon, "work-with", limit));
}

#[test]
fn a_program_that_embeds_the_runtime_works_or_says_why_not_whatever_its_limit() {
    let daemon = Daemon::start();
    with_every_limit(3, |limit| {
        let outcome = outcome(&daemon, "embed-with", limit);
        // It has neither a daemon nor an operator.
        let is_of_a_daemon = ["the daemon", "operator"]
            .iter()
            .any(|words| outcome.contains(words));
        assert!(!is_of_a_daemon, "{outcome}");
        outcome
    });
}

#[test]
fn a_daemon_starts_or_names_the_limit_whatever_it_is() {
    for limit in 1.. {
        let folder = TempDir::new().expect("a folder");
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={limit}:{limit}"))
            .arg(program("chimaera"))
            .args(["runtime", "start", "--workers", "1"]);
        match Daemon::try_start(command, folder) {
            // The system's loader fails like this: it needs descriptors to find libraries.
            Err(refused) if refused.code == Some(127) => {}
            Err(refused) => {
                assert!(limit < 32, "so many must do: {}", refused.log);
                assert_eq!(refused.code, Some(FAILED), "{limit}: {}", refused.log);
                assert!(
                    refused.log.contains("raise `ulimit -n`"),
                    "{limit}: {}",
                    refused.log
                );
            }
            Ok(mut daemon) => {
                let file = daemon.folder().join("pool");
                let said = daemon.create_file_pool(&file, "1MiB").success();
                assert!(said.starts_with("created"), "{limit}: {said}");
                daemon.signal(Signal::SIGTERM);
                return assert_eq!(daemon.wait().0, Some(0));
            }
        }
    }
}

#[test]
fn a_daemon_serves_or_says_why_not_whatever_its_limit_and_keeps_nothing_of_what_failed() {
    const MANY: u64 = 500;
    let daemon = Daemon::start();
    let process = daemon.process_id();
    assert_eq!(outcome(&daemon, "work-with", MANY), "worked");
    let at_rest = settled(&daemon);
    with_every_limit(0, |more| {
        // What it keeps in reserve may have another number by now.
        limit_descriptors(process, limit_for(&descriptors(process), more));
        let outcome = outcome(&daemon, "work-with", MANY);
        until("the daemon lets go of what the client had", || {
            descriptors(process).len() == at_rest.len()
        });
        outcome
    });
    limit_descriptors(process, MANY);
    assert_eq!(daemon.sessions(), 0);
    assert_eq!(daemon.status()["pools"], 0, "{}", daemon.status());
}

/// The daemon's descriptors once its clients are gone.
fn settled(daemon: &Daemon) -> Vec<u64> {
    until("the end of the sessions", || daemon.sessions() == 0);
    let process = daemon.process_id();
    let mut last = descriptors(process);
    until("the daemon is at rest", || {
        thread::sleep(Duration::from_millis(20));
        let before = std::mem::replace(&mut last, descriptors(process));
        before == last
    });
    last
}

#[test]
fn clients_that_find_no_room_learn_why_and_those_that_are_there_work_on() {
    let daemon = Daemon::start();
    let process = daemon.process_id();
    drop(memory(&daemon.connect(), MIB));
    let before_all = settled(&daemon);
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let works = || {
        pool.allocate_blocks(QUERY, 4096)
            .and_then(|blocks| pool.free_blocks(QUERY, &blocks))
    };
    works().expect("the daemon serves");
    let at_rest = descriptors(process);
    let enough = limit_descriptors(process, limit_for(&at_rest, 0));
    for _ in 0..40 {
        assert_no_room(&Runtime::connect_to(daemon.socket()).expect_err("there is no room"));
        works().expect("who is there works on");
    }
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let error = Runtime::connect_to(daemon.socket()).expect_err("there is no room");
                assert_no_room(&error);
            });
        }
        let new_lane = scope.spawn(works).join().expect("no panic");
        assert_no_room(&new_lane.expect_err("there is no doorbell"));
    });
    // Operators are answered all the same.
    let status = daemon.run(&["runtime", "status"]).success();
    assert!(status.contains("no file descriptor left"), "{status}");
    assert!(runtime.is_connected());

    limit_descriptors(process, enough);
    // On the same connection.
    let new_lane = thread::scope(|scope| scope.spawn(works).join().expect("no panic"));
    new_lane.expect("a lane again");
    drop(Runtime::connect_to(daemon.socket()).expect("room again"));
    until("the log says that it is over", || {
        daemon.log().contains("is over")
    });
    let log = daemon.log();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(
        (lines("are refused for"), lines("is over")),
        (1, 1),
        "{log}"
    );
    drop((pool, runtime));
    until("nothing stays open", || descriptors(process) == before_all);
}

#[test]
fn an_operator_stops_a_daemon_that_has_no_descriptor_left() {
    let mut daemon = Daemon::start();
    let runtime = daemon.connect();
    let _ = memory(&runtime, MIB);
    let process = daemon.process_id();
    limit_descriptors(process, limit_for(&descriptors(process), 0));
    for _ in 0..8 {
        let status = daemon.status();
        assert_eq!(status["sessions"], 2, "{status}");
        assert_no_room(&Runtime::connect_to(daemon.socket()).expect_err("there is no room"));
    }
    let _ = daemon.run(&["runtime", "stop"]).success();
    assert_eq!(daemon.wait().0, Some(0));
}

#[track_caller]
fn assert_no_room(error: &Error) {
    assert_eq!(error.status(), Status::OutOfResources, "{error}");
    for words in ["the daemon has no file descriptor left", "ulimit -n"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_command_without_descriptors_says_so() {
    let daemon = Daemon::start();
    let mut is_short = false;
    for limit in 4..12 {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n $1 && shift && exec \"$@\"", "sh"])
            .arg(limit.to_string())
            .arg(program("chimaera"))
            .args(["pool", "list", "--socket"])
            .arg(daemon.socket());
        let finished = finish(command);
        // The system's loader needs a descriptor for each library, and has words of its own.
        let is_loaders = finished.code == Some(127);
        if finished.code != Some(0) && !is_loaders {
            is_short = true;
            assert_eq!(finished.code, Some(1), "{finished:?}");
            assert!(
                finished.stderr.contains("no file descriptor left"),
                "{finished:?}"
            );
        }
    }
    assert!(is_short, "every limit was enough");
}
