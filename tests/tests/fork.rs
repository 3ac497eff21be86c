//! Processes that fork: the connection is the parent's alone, whichever of the two ends first, and
//! so is a runtime that it embeds.

use std::path::Path;
use std::process::Command;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Runtime};
use chimaera_tests::{
    ClientProcess, Daemon, MIB, Watchdog, disk_folder, is_in_state, library_folder, memory,
    program, text, until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const POOL_BYTES: u64 = 64 * MIB;

fn start(socket: &Path, arguments: &[&str]) -> ClientProcess {
    let mut command = Command::new(program("chimaera-test-forks"));
    command.args(arguments).env("CHIMAERA_SOCKET", socket);
    ClientProcess::run(command)
}

fn process(text: &str) -> Pid {
    Pid::from_raw(text.parse().expect("a process id"))
}

fn kill_process(client: &ClientProcess) {
    let process = Pid::from_raw(client.process_id().cast_signed());
    kill(process, Signal::SIGKILL).expect("it runs");
}

/// Has a process with children do something with a pool of memory, and succeed.
fn run(arguments: &[&str]) {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let _pool = memory(&runtime, POOL_BYTES);
    let mut client = start(&daemon.socket(), arguments);
    client.expect("done");
    client.succeed();
    until("the end of its sessions", || daemon.sessions() == 1);
    runtime.admin().ping().expect("nobody else is concerned");
}

#[test]
fn a_child_that_returns_leaves_its_parents_connection_alone() {
    run(&["end", "memory", "return"]);
}

#[test]
fn a_child_that_exits_leaves_its_parents_connection_alone() {
    run(&["end", "memory", "exit"]);
    run(&["end", "memory", "at-once"]);
}

#[test]
fn a_child_is_refused_until_it_connects_anew_and_then_both_work() {
    run(&["work", "memory"]);
}

#[test]
fn a_child_that_no_handler_ran_in_is_refused_too() {
    run(&["raw", "memory"]);
}

#[test]
fn a_child_waits_for_no_lock_of_its_parents_threads() {
    let daemon = Daemon::start();
    let mut client = start(&daemon.socket(), &["while-locked"]);
    client.expect("connected");
    daemon.signal(Signal::SIGSTOP);
    until("the daemon stands still", || {
        is_in_state(&format!("/proc/{}", daemon.process_id()), 'T')
    });
    client.go_on();
    client.expect("done");
    daemon.signal(Signal::SIGCONT);
    client.succeed();
}

#[test]
fn a_child_that_outlives_its_parent_holds_no_session_and_can_connect() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let _pool = memory(&runtime, POOL_BYTES);
    let mut client = start(&daemon.socket(), &["outlive", "memory"]);
    client.expect("child");
    kill_process(&client);
    until("the end of the parent's session", || daemon.sessions() == 1);
    client.go_on();
    client.expect("done");
    until("the end of the child's session", || daemon.sessions() == 1);
}

/// The child was made without any handler, and so holds a copy of the connection's socket.
#[test]
fn a_session_ends_with_its_process_though_a_child_holds_its_socket() {
    let daemon = Daemon::start();
    let mut parent = start(&daemon.socket(), &["leave-a-raw-child"]);
    let child = process(&parent.expect("child"));
    assert_eq!(daemon.sessions(), 1);
    kill_process(&parent);
    until("the end of the session", || daemon.sessions() == 0);
    kill(child, None).expect("the child lives");
}

/// Whether socket and pool of an embedded runtime can be used at once when it has ended, while a
/// child of its process lives.
fn embed(how: &str) {
    let _watchdog = Watchdog::start();
    let folder = disk_folder();
    let (socket, file) = (folder.path().join("socket"), folder.path().join("pool"));
    let (socket, file) = (text(&socket), text(&file));
    let plugins = text(library_folder()).to_owned();
    let mut client = start(Path::new(socket), &["embed", &plugins, socket, file, how]);
    let child = process(&client.expect("child"));
    if how == "killed" {
        kill_process(&client);
    } else {
        client.expect("ended");
    }
    let start = || {
        Runtime::embed()
            .with_module(chimaera_bdev_runtime::module())
            .listen(socket)
            .workers(1)
            .start()
    };
    if how == "killed" {
        // The signal was sent; the process ends when it does.
        until("the end of the process", || start().is_ok());
    }
    let runtime = start().expect("the socket is free");
    let pool = Client::new(&runtime, PoolId::new(8000, 0));
    let options = CreateOptions::file();
    pool.create(PoolQuery::Dynamic, file, &options)
        .expect("the file is free");
    kill(child, None).expect("the child lives");
    client.go_on();
    if how != "killed" {
        client.succeed();
    }
}

#[test]
fn an_embedded_runtime_that_ended_leaves_nothing_with_a_child() {
    embed("ended");
}

#[test]
fn an_embedded_runtime_that_was_killed_leaves_nothing_with_a_child() {
    embed("killed");
}
