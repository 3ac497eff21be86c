//! The client's examples: each runs on a daemon and, where there is none, on a runtime of its
//! own, and leaves neither pools nor files behind.

use std::path::Path;
use std::process::Command;

use chimaera_tests::{Daemon, finish, library_folder, program};
use tempfile::TempDir;

/// The examples, with arguments that make them quick, and a word of what they say.
const EXAMPLES: [(&str, &[&str], &str); 5] = [
    ("asynchronous", &[], "block 7 begins with 7"),
    ("benchmark_loop", &["20"], "256 KiB:"),
    ("file_workflow", &[], "data integrity: pass"),
    ("forked_workers", &["3"], "3 workers wrote and read"),
    ("ram_workflow", &["8"], "data integrity: pass"),
];

#[test]
fn every_example_is_run_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client-bdev/examples");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("the examples")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| path.file_stem().expect("a name").to_owned())
        .collect();
    names.sort();
    assert_eq!(names, EXAMPLES.map(|(name, ..)| name));
}

/// Runs an example with its temporary files in a folder of its own.
fn run(example: &str, arguments: &[&str], words: &str, socket: &Path) {
    let temporary = TempDir::new().expect("a folder");
    let mut command = Command::new(program("examples").join(example));
    command
        .args(arguments)
        .env("CHIMAERA_SOCKET", socket)
        .env("CHIMAERA_PLUGIN_PATH", library_folder())
        .env("TMPDIR", temporary.path());
    let said = finish(command).success();
    assert!(said.contains(words), "{example}: {said}");
    let left: Vec<_> = std::fs::read_dir(temporary.path())
        .expect("a folder")
        .collect();
    assert!(left.is_empty(), "{example} leaves {left:?}");
}

#[test]
fn examples_run_on_a_daemon_and_leave_it_as_it_was() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    for (example, arguments, words) in EXAMPLES {
        run(example, arguments, words, &daemon.socket());
        // It was the daemon that did it: the module is loaded there, and the pool gone.
        let module = &daemon.status()["modules"][0];
        assert_eq!(module["name"], "chimaera_bdev", "{example}");
        assert!(module["version"].is_string(), "{example}: {module}");
        let pools = runtime.admin().list_pools().expect("a list");
        assert_eq!(pools, [], "{example}");
    }
}

#[test]
fn examples_run_without_a_daemon() {
    let folder = TempDir::new().expect("a folder");
    let nowhere = folder.path().join("nobody.sock");
    for (example, arguments, words) in EXAMPLES {
        run(example, arguments, words, &nowhere);
    }
}
