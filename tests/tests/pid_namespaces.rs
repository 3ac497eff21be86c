//! Daemons and commands that do not see each other's processes, as in containers.

use std::ffi::OsStr;
use std::process::Command;

use chimaera_tests::exit::{IN_THE_WAY, NO_RUNTIME};
use chimaera_tests::{
    Daemon, ProgramOutput, RunningCommand, finish, library_folder, program, skipped,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const ELSEWHERE: &str = "in another pid namespace";

/// A program in a pid namespace of its own, below this one.
fn inside(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(program);
    command
}

fn is_possible(what: &str) -> bool {
    let is_possible = finish(inside("true")).code == Some(0);
    if !is_possible {
        skipped(what, "unshare --pid does not work here");
    }
    is_possible
}

/// A command for a daemon, given in another pid namespace.
fn command_inside(daemon: &Daemon, words: &[&str]) -> Command {
    let command = daemon.command(words);
    let mut inside = inside(command.get_program());
    inside.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside
}

fn run_inside(daemon: &Daemon, words: &[&str]) -> ProgramOutput {
    finish(command_inside(daemon, words))
}

#[test]
fn a_daemon_whose_process_is_not_seen_is_said_to_be_elsewhere() {
    if !is_possible("a daemon in another pid namespace") {
        return;
    }
    let mut daemon = Daemon::start();
    let said = run_inside(&daemon, &["runtime", "start"]).failure(IN_THE_WAY);
    assert!(
        said.contains(&format!("another runtime {ELSEWHERE}")),
        "{said}"
    );
    let said = run_inside(&daemon, &["runtime", "status"]).success();
    let line = format!(
        "process id  {}, in its own pid namespace",
        daemon.process_id()
    );
    assert!(said.contains(&line), "{said}");

    daemon.signal(Signal::SIGSTOP);
    let told = RunningCommand::start(command_inside(&daemon, &["pool", "list"]));
    told.wait_for(&["waiting for the answer of the daemon", ELSEWHERE]);
    daemon.signal(Signal::SIGCONT);
    assert_eq!(told.exit_code(), Some(0));

    // Nobody can reach it; each command says the same, and none sends to another.
    std::fs::remove_file(daemon.socket()).expect("there is a socket");
    for (command, code) in [
        ("start", IN_THE_WAY),
        ("status", NO_RUNTIME),
        ("stop", NO_RUNTIME),
    ] {
        let said = run_inside(&daemon, &["runtime", command]).failure(code);
        for words in [ELSEWHERE, "was removed", "end it there"] {
            assert!(said.contains(words), "{command}: {words}: {said}");
        }
        assert!(!said.contains("runtime start"), "{command}: {said}");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn a_daemon_below_this_namespace_is_named_by_its_number_here_when_its_socket_is_gone() {
    if !is_possible("a daemon in a pid namespace of its own") {
        return;
    }
    let mut command = inside(program("chimaera"));
    command
        .args(["runtime", "start", "--plugin-dir"])
        .arg(library_folder());
    let mut daemon = Daemon::start_by(command, TempDir::new().expect("a folder"));
    let parent = daemon.process_id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let process: i32 = children
        .expect("it runs")
        .trim()
        .parse()
        .expect("it has one");
    let lock = daemon.socket().with_extension("sock.lock");
    let own = std::fs::read_to_string(lock).expect("it is there");
    assert_eq!(own.trim(), "1", "its number there");

    std::fs::remove_file(daemon.socket()).expect("there is a socket");
    for (words, code) in [
        (&["runtime", "start"][..], IN_THE_WAY),
        (&["runtime", "start", "--detach"], IN_THE_WAY),
        (&["runtime", "status"], NO_RUNTIME),
        (&["pool", "list"], NO_RUNTIME),
        (&["runtime", "stop"], NO_RUNTIME),
    ] {
        let said = daemon.run(words).failure(code);
        let advice = format!("`kill {process}` stops it in good order");
        assert!(said.contains(&advice), "{words:?}: {said}");
    }
    kill(Pid::from_raw(process), Signal::SIGTERM).expect("it runs");
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn what_a_crash_left_is_nobodys_from_everywhere() {
    if !is_possible("a lock that is looked at from another pid namespace") {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.signal(Signal::SIGKILL);
    let _ = daemon.wait();
    let said = run_inside(&daemon, &["runtime", "status"]).failure(NO_RUNTIME);
    assert!(!said.contains(ELSEWHERE), "{said}");
    assert!(said.contains("runtime start"), "{said}");
}
