//! A daemon in the background: what it keeps of where it was started, its log, and its last words.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_tests::exit::{IN_THE_WAY, NOT_FOUND, WRONG_USAGE};
use chimaera_tests::{BackgroundDaemon, ProgramOutput, Watchdog, finish, program, text, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Runs the program in this folder.
fn run_in(folder: &Path, arguments: &[&str]) -> ProgramOutput {
    let mut command = Command::new(program("chimaera"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("CHIMAERA_SOCKET")
        .env_remove("CHIMAERA_LOG");
    finish(command)
}

fn start(folder: &Path) -> BackgroundDaemon {
    std::fs::create_dir_all(folder.join("plugins")).expect("a folder");
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
    BackgroundDaemon::at(&folder.join("socket"))
}

fn stop(folder: &Path, daemon: &BackgroundDaemon) {
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
    // It says that it is ready before it lets go.
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

    // If it cannot open the log, it goes on with the old one, and says so there.
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
    let said = run_in(folder.path(), &start).failure(IN_THE_WAY);
    assert!(said.contains("symbolic link"), "{said}");
    assert_eq!(read(&precious), "mine");
    let _listener = UnixListener::bind(folder.path().join("other")).expect("listens");
    for (log, words) in [(".", "it is a folder"), ("other", "or a socket")] {
        let start = [&start[..], &["--log", log]].concat();
        let said = run_in(folder.path(), &start).failure(IN_THE_WAY);
        assert!(said.contains(words), "{said}");
    }
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
fn a_start_that_is_refused_leaves_the_log_of_the_daemon_that_runs_as_it_is() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let daemon = start(folder.path());
    let log = folder.path().join("log");
    until("it serves", || read(&log).contains("serving"));
    let before = read(&log);
    let again = [
        "runtime", "start", "--detach", "--socket", "socket", "--log",
    ];
    // Where a daemon serves, no other is begun.
    let of_its_own = [&again[..], &["log.2"]].concat();
    let _ = run_in(folder.path(), &of_its_own).failure(IN_THE_WAY);
    assert!(!folder.path().join("log.2").exists());
    // Where only the lock shows that one serves, the new daemon itself is refused.
    let socket = folder.path().join("socket");
    std::fs::rename(&socket, folder.path().join("elsewhere")).expect("renamed");
    let the_same = [&again[..], &["log"]].concat();
    let said = run_in(folder.path(), &the_same).failure(IN_THE_WAY);
    assert!(said.contains("was removed"), "{said}");
    std::fs::rename(folder.path().join("elsewhere"), &socket).expect("renamed");
    assert_eq!(read(&log), before);
    stop(folder.path(), &daemon);
}

#[test]
fn what_a_daemon_is_to_use_and_is_not_there_is_refused_before_anything_is_made() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("a file");
    for detach in [&[][..], &["--detach"]] {
        for (options, code, words) in [
            (
                &["--pin", "0,4711"][..],
                WRONG_USAGE,
                "processor 4711: this process may use 0",
            ),
            (
                &["--plugin-dir", "nowhere"],
                NOT_FOUND,
                "--plugin-dir nowhere is not there",
            ),
            (
                &["--plugin-dir", "file"],
                NOT_FOUND,
                "--plugin-dir file is not a folder",
            ),
            (
                &["--socket", "nowhere/socket"],
                NOT_FOUND,
                "nowhere is not there: make it",
            ),
            (
                &["--socket", "file/socket"],
                NOT_FOUND,
                "file is not a folder",
            ),
            (
                &["--socket", "/proc/socket"],
                NOT_FOUND,
                "choose a socket in a folder where",
            ),
        ] {
            // An option that is given twice counts as it was given last.
            let socket = match options[0] {
                "--socket" => &[][..],
                _ => &["--socket", "socket"],
            };
            let start = [&["runtime", "start"], socket, options, detach].concat();
            let said = run_in(folder.path(), &start).failure(code);
            assert!(said.contains(words), "{said}");
            let left: Vec<_> = std::fs::read_dir(folder.path())
                .expect("a folder")
                .collect();
            assert_eq!(left.len(), 1, "{left:?}");
        }
    }
}

#[test]
fn a_socket_is_named_so_that_it_can_be_found_and_shows_what_it_is() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let socket = "red\u{1b}[31m";
    let start = ["runtime", "start", "--detach", "--socket", socket];
    let said = run_in(folder.path(), &start).success();
    let daemon = BackgroundDaemon::at(&folder.path().join(socket));
    let stop = ["runtime", "stop", "--socket", socket];
    let stopped = run_in(folder.path(), &stop).success();
    let shown = format!("{}/red\\u{{1b}}[31m", text(folder.path()));
    assert!(said.contains(&format!("ready on {shown} ")), "{said}");
    assert!(stopped.contains(&format!(" at {shown}\n")), "{stopped}");
    until("the process ends", || daemon.is_gone());
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
