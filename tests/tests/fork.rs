//! Processes that fork: the connection is the parent's alone, whichever of the two ends first.

use std::process::Command;

use chimaera_tests::{ClientProcess, Daemon, program, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn start(daemon: &Daemon, arguments: &[&str]) -> ClientProcess {
    let mut command = Command::new(program("chimaera-test-forks"));
    command
        .args(arguments)
        .env("CHIMAERA_SOCKET", daemon.socket());
    ClientProcess::run(command)
}

fn process(text: &str) -> Pid {
    Pid::from_raw(text.parse().expect("a process id"))
}

/// The child was made without any handler, and so holds a copy of the connection's socket.
#[test]
fn a_session_ends_with_its_process_though_a_child_holds_its_socket() {
    let daemon = Daemon::start();
    let mut parent = start(&daemon, &["leave-a-raw-child"]);
    let child = process(&parent.expect("child"));
    assert_eq!(daemon.sessions(), 1);
    let parent_id = Pid::from_raw(parent.process_id().cast_signed());
    kill(parent_id, Signal::SIGKILL).expect("it runs");
    until("the end of the session", || daemon.sessions() == 0);
    kill(child, None).expect("the child lives");
}
