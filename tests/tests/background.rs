//! A daemon in the background: what it keeps of where it was started, its log, and its last words.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_tests::exit::{FAILED, IN_THE_WAY, WRONG_USAGE};
use chimaera_tests::{Detached, Finished, Watchdog, finish, program, text, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Runs the program in this folder.
fn run_in(folder: &Path, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("chimaera"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("CHIMAERA_SOCKET")
        .env_remove("CHIMAERA_LOG");
    finish(command)
}

fn start(folder: &Path) -> Detached {
    // Every path is relative.
    let start = [
        "runtime",
        "start",
        "--detach",
        "--socket",
        "socket",
        "--log",
        "log",
        "--plugin-dir",
        "plugins",
    ];
    let _ = run_in(folder, &start).success();
    Detached::at(&folder.join("socket"))
}

fn stop(folder: &Path, daemon: &Detached) {
    let _ = run_in(folder, &["runtime", "stop", "--socket", "socket"]).success();
    until("the process ends", || daemon.is_gone());
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_detached_daemon_keeps_neither_folder_nor_session_nor_output_and_its_log_to_itself() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let daemon = start(folder.path());
    let proc = PathBuf::from(format!("/proc/{}", daemon.process_id));
    let link = |name: &str| std::fs::read_link(proc.join(name)).expect("it runs");
    // It says that it is ready first, and lets go then.
    until("its output is let go of", || {
        link("fd/1") == Path::new("/dev/null")
    });
    assert_eq!(link("cwd"), Path::new("/"));
    let stat = read(&proc.join("stat"));
    let session = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(3));
    assert_eq!(
        session,
        Some(daemon.process_id.to_string().as_str()),
        "{stat}"
    );
    let log = folder.path().join("log");
    let mode = std::fs::metadata(&log)
        .expect("the log")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // A pool's creation looks through the folders of plugins, too.
    let create = [
        "pool", "create", "ram", "--type", "ram", "--size", "1MiB", "--socket", "socket",
    ];
    let _ = run_in(folder.path(), &create).success();
    until("it is known who made it", || {
        let log = read(&log);
        log.contains("pool created") && log.contains(" of user ")
    });
    stop(folder.path(), &daemon);
}

#[test]
fn a_hangup_makes_a_detached_daemon_open_its_log_again() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let (log, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let daemon = start(folder.path());
    until("it serves", || read(&log).contains("serving"));
    std::fs::rename(&log, &old).expect("renamed");
    let hang_up = || kill(Pid::from_raw(daemon.process_id), Signal::SIGHUP).expect("it runs");
    hang_up();
    until("the new log begins", || read(&log).contains("opened again"));
    assert!(!read(&log).contains("serving"));
    assert!(!read(&old).contains("opened again"));

    // Where it cannot, it goes on with what it has, and says so there.
    std::fs::rename(&log, &old).expect("renamed");
    symlink("/dev/null", &log).expect("a link");
    hang_up();
    until("it complains", || read(&old).contains("symbolic link"));
    stop(folder.path(), &daemon);
    assert!(read(&old).ends_with("stopped\n"));
}

#[test]
fn a_log_is_not_where_a_link_leads() {
    let folder = TempDir::new().expect("a folder");
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "mine").expect("a file");
    symlink(&precious, folder.path().join("socket.log")).expect("a link");
    let start = ["runtime", "start", "--detach", "--socket", "socket"];
    let said = run_in(folder.path(), &start).failure(FAILED);
    assert!(said.contains("symbolic link"), "{said}");
    assert_eq!(read(&precious), "mine");
}

#[test]
fn a_daemon_that_does_not_start_tells_its_last_words_to_whoever_starts_it() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let daemon = start(folder.path());
    let again = ["runtime", "start", "--detach", "--socket", "socket"];
    let said = run_in(folder.path(), &again).failure(IN_THE_WAY);
    assert!(said.contains("another runtime with process id"), "{said}");
    let mut json = again.to_vec();
    json.push("--json");
    let said = run_in(folder.path(), &json).failure(IN_THE_WAY);
    let said = chimaera_tests::json(&said);
    let words = said["error"].as_str().expect("a text");
    assert!(words.contains("another runtime with process id"), "{said}");
    stop(folder.path(), &daemon);
}

#[test]
fn a_wrong_level_of_the_log_is_refused_with_the_right_ones() {
    let folder = TempDir::new().expect("a folder");
    for detach in [&[][..], &["--detach"]] {
        let mut command = Command::new(program("chimaera"));
        command
            .args([
                "runtime",
                "start",
                "--socket",
                text(&folder.path().join("socket")),
            ])
            .args(detach)
            .env("CHIMAERA_LOG", "info,modules=verbose");
        let said = finish(command).failure(WRONG_USAGE);
        for word in [
            "CHIMAERA_LOG",
            "\"modules=verbose\"",
            "off, error, warn, info",
            "debug",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}
