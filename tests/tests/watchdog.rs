//! Whoever runs a daemon learns of a module that does not come back from a call: by the log, and by the status.

use std::path::{Path, PathBuf};

use chimaera_faulty_runtime::{Method, params};
use chimaera_tests::exit::HANGING;
use chimaera_tests::{Daemon, Faulty, json, until};

/// A daemon with one worker and a pool whose calls wait for a file, and that file.
fn daemon_and_file() -> (Daemon, PathBuf) {
    let daemon = Daemon::start_with(&["--workers", "1"]);
    let file = daemon.folder().join("go on");
    (daemon, file)
}

fn wait_for_line(daemon: &Daemon, words: &str) -> String {
    let line = || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(words));
        line.map(str::to_owned)
    };
    until("the log says it", || line().is_some());
    line().expect("it is there")
}

const POOL: &str = "module chimaera_faulty, pool \"faulty 6666.0\" (6666.0): ";

/// Has a worker hang in a call, which the log then names.
fn hang_in(method: Method, call: &str) {
    let (daemon, file) = daemon_and_file();
    let runtime = daemon.connect();
    let faulty = Faulty::new(&runtime, 0);
    let waits = format!("{}{}", params::CALLS_WAIT, file.display());
    faulty.create(&waits).expect("the pool is made");
    let task = faulty.start(method, None);
    let line = wait_for_line(&daemon, "has not come to an end for");
    assert!(line.contains(&format!("{POOL}{call} ")), "{line}");
    assert!(line.contains(" on chimaera-worker-0 (thread "), "{line}");
    assert!(line.contains("that worker serves nobody"), "{line}");
    assert!(!task.is_complete(), "the client sees nothing of it");
    go_on(&daemon, &file, call);
    task.wait().expect("it completes");
    let status = daemon.run(&["runtime", "status"]).success();
    assert!(!status.contains("hanging"), "{status}");
}

fn go_on(daemon: &Daemon, file: &Path, call: &str) {
    std::fs::write(file, "").expect("a file");
    let words = format!("{POOL}{call} has come to an end after");
    let _ = wait_for_line(daemon, &words);
}

#[test]
fn a_worker_that_hangs_as_it_submits_is_named() {
    hang_in(Method::WaitInSubmit, "submitting tasks");
}

#[test]
fn a_worker_that_hangs_as_it_polls_is_named() {
    hang_in(Method::WaitInPoll, "polling");
}

/// What the status says, which has the exit code for something that hangs and no further error.
fn status_of_hanging(daemon: &Daemon, options: &[&str]) -> String {
    let said = daemon.run(&[&["runtime", "status"], options].concat());
    assert_eq!(said.code, Some(HANGING), "{said:?}");
    assert_eq!(said.stderr, "");
    said.stdout
}

#[test]
fn a_flush_that_hangs_is_named_in_log_and_status() {
    let (daemon, file) = daemon_and_file();
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&runtime, &file);
    let flush = runtime.admin().async_flush(None);
    let line = wait_for_line(&daemon, "flushing has not come to an end for");
    assert!(line.contains(POOL), "{line}");
    assert!(line.contains(" on chimaera-job (thread "), "{line}");
    let said = status_of_hanging(&daemon, &[]);
    let words = "pool faulty 6666.0 (6666.0) of module chimaera_faulty: flushing, for ";
    assert!(said.contains(words), "{said}");
    let said = status_of_hanging(&daemon, &["--json"]);
    let hang = &json(&said)["hanging"][0];
    assert_eq!(hang["pool"], "faulty 6666.0");
    assert_eq!(hang["id"], "6666.0");
    assert_eq!(hang["module"], "chimaera_faulty");
    assert_eq!(hang["call"], "flush");
    assert_eq!(hang["thread"], "chimaera-job");
    assert_eq!(hang["worker"], false);
    assert!(hang["seconds"].as_u64() >= Some(5), "{hang}");
    go_on(&daemon, &file, "flushing");
    flush.wait().expect("flushed");
    let _ = daemon.run(&["runtime", "status"]).success();
}
