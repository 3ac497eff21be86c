//! The socket of a daemon and the lock beside it, as somebody else may find or leave them.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use chimaera_tests::exit::{IN_THE_WAY, NO_RUNTIME, WRONG_USAGE};
use chimaera_tests::{Daemon, ProgramOutput, chimaera, finish, program, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

fn start(socket: &Path) -> ProgramOutput {
    chimaera(&["runtime", "start", "--socket", text(socket)])
}

fn lock_of(socket: &Path) -> std::path::PathBuf {
    format!("{}.lock", text(socket)).into()
}

fn left(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect()
}

/// A daemon in the background, killed on drop if it still runs then.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.0));
        if name.is_ok_and(|name| name.trim() == "chimaera") {
            let _ = kill(Pid::from_raw(self.0.cast_signed()), Signal::SIGKILL);
        }
    }
}

#[test]
fn a_second_daemon_is_refused_where_the_lock_was_removed_but_somebody_answers() {
    let daemon = Daemon::start();
    std::fs::remove_file(lock_of(&daemon.socket())).expect("there is a lock");
    let said = start(&daemon.socket()).failure(IN_THE_WAY);
    let named = format!("process id {}", daemon.process_id());
    assert!(said.contains(&named), "{said}");
    daemon.connect().admin().ping().expect("the first goes on");
    assert_eq!(left(daemon.folder()), ["chimaera.sock"]);
}

#[test]
fn a_daemon_whose_socket_was_removed_is_named_by_start_and_stop() {
    let mut daemon = Daemon::start();
    let runtime = daemon.connect();
    std::fs::remove_file(daemon.socket()).expect("there is a socket");
    let advice = format!("kill {}", daemon.process_id());
    let said = start(&daemon.socket()).failure(IN_THE_WAY);
    assert!(
        said.contains(&advice) && said.contains("was removed"),
        "{said}"
    );
    let said = daemon.run(&["runtime", "stop"]).failure(NO_RUNTIME);
    assert!(
        said.contains(&advice) && said.contains("was removed"),
        "{said}"
    );
    runtime.admin().ping().expect("who is connected stays so");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
    assert!(left(daemon.folder()).is_empty());
}

#[test]
fn a_daemon_whose_folder_was_removed_is_named_by_every_command_as_long_as_it_runs() {
    let mut daemon = Daemon::start();
    let socket = daemon.socket();
    let list = ["pool", "list"];
    std::fs::remove_file(&socket).expect("there is a socket");
    std::fs::remove_file(lock_of(&socket)).expect("there is a lock");
    std::fs::remove_dir(daemon.folder()).expect("nothing else is there");
    let advice = format!("`kill {}` stops it in good order", daemon.process_id());
    for command in [&list[..], &["runtime", "status"], &["runtime", "stop"]] {
        let said = daemon.run(command).failure(NO_RUNTIME);
        assert!(said.contains(&advice), "{said}");
        assert!(!said.contains("runtime start"), "{said}");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
    let said = daemon.run(&list).failure(NO_RUNTIME);
    for words in ["no daemon listens there", "make it", "then start one"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_daemon_that_ends_leaves_the_socket_and_the_lock_of_its_successor() {
    let mut first = Daemon::start();
    let socket = first.socket();
    // Both gone, as when somebody cleans up.
    std::fs::remove_file(&socket).expect("there is a socket");
    std::fs::remove_file(lock_of(&socket)).expect("there is a lock");
    let mut command = Command::new(program("chimaera"));
    command.args(["runtime", "start", "--detach", "--socket", text(&socket)]);
    let _ = finish(command).success();
    let runtime = first.connect();
    let second = runtime.daemon().process_id;
    let _killed = Killed(second);
    assert_ne!(second, first.process_id());

    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().0, Some(0));
    runtime.admin().ping().expect("the second goes on");
    let said = first.run(&["runtime", "stop"]).success();
    assert!(said.contains(&second.to_string()), "{said}");
}

#[test]
fn files_that_others_put_in_place_of_a_daemons_own_stay() {
    let mut daemon = Daemon::start();
    let socket = daemon.socket();
    for path in [socket.clone(), lock_of(&socket)] {
        std::fs::remove_file(&path).expect("it is there");
        std::fs::write(&path, "precious").expect("a file");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
    for path in [socket.clone(), lock_of(&socket)] {
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "precious");
    }
}

#[test]
fn a_lock_that_is_a_link_or_no_file_is_not_touched() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("socket");
    let target = folder.path().join("precious");
    symlink(&target, lock_of(&socket)).expect("a link");
    let said = start(&socket).failure(IN_THE_WAY);
    let words = "socket.lock is not a regular file: remove it";
    assert!(said.contains(words), "{said}");
    assert!(!target.exists(), "the link was followed");
    std::fs::remove_file(lock_of(&socket)).expect("a link");

    let fifo = nix::unistd::mkfifo(&lock_of(&socket), nix::sys::stat::Mode::S_IRWXU);
    fifo.expect("a pipe");
    let said = start(&socket).failure(IN_THE_WAY);
    assert!(said.contains(words), "{said}");
    std::fs::remove_file(lock_of(&socket)).expect("a pipe");

    std::fs::create_dir(lock_of(&socket)).expect("a folder");
    let said = start(&socket).failure(IN_THE_WAY);
    assert!(said.contains(words), "{said}");
    std::fs::remove_dir(lock_of(&socket)).expect("a folder");

    let _listener = UnixListener::bind(lock_of(&socket)).expect("listens");
    let said = start(&socket).failure(IN_THE_WAY);
    assert!(said.contains(words), "{said}");
    assert_eq!(left(folder.path()), ["socket.lock"]);
}

#[test]
fn the_socket_of_another_program_is_not_removed() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("listens");
    let said = start(&socket).failure(IN_THE_WAY);
    assert!(said.contains("another program"), "{said}");
    assert_eq!(left(folder.path()), ["socket"]);
}

#[test]
fn a_path_that_is_too_long_is_refused_with_its_limit_and_leaves_nothing() {
    let folder = TempDir::new().expect("a folder");
    let missing = 108 - folder.path().as_os_str().len() - 1;
    let long = folder.path().join("x".repeat(missing));
    for start in [&["runtime", "start"][..], &["runtime", "start", "--detach"]] {
        let said = chimaera(&[start, &["--socket", text(&long)]].concat()).failure(WRONG_USAGE);
        assert!(said.contains("107") && said.contains("108 bytes"), "{said}");
        assert!(left(folder.path()).is_empty(), "{:?}", left(folder.path()));
    }
    let said = chimaera(&["pool", "list", "--socket", text(&long)]);
    assert!(said.failure(WRONG_USAGE).contains("107 bytes"));

    // One byte less is a path like any other.
    let longest = folder.path().join("x".repeat(missing - 1));
    let start = ["runtime", "start", "--detach", "--socket", text(&longest)];
    let _ = chimaera(&start).success();
    let _ = chimaera(&["runtime", "stop", "--socket", text(&longest)]).success();
}
