//! What the program writes reaches whoever reads it, or its exit code says that it did not; and it is
//! what it seems to be.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use chimaera_echo_client::{Client as EchoClient, PoolId, PoolQuery};
use chimaera_tests::exit::{FAILED, IN_THE_WAY, NO_RUNTIME, NOT_FOUND, WRONG_USAGE};
use chimaera_tests::{Daemon, chimaera, disk_folder, finish, json, program, text, within};

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("a device that is always full")
        .into()
}

fn output(mut command: Command) -> Output {
    within("a command", move || command.output().expect("it runs"))
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let daemon = Daemon::start();
    let create = ["pool", "create", "p", "--type", "ram", "--size", "1MiB"];
    let _ = daemon.run(&create).success();
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["pool", "--help"],
        &["pool", "list"],
        &["pool", "list", "--json"],
        &["pool", "stats", "p"],
        &["pool", "map", "p"],
        &["pool", "blocks", "p"],
        &["pool", "flush", "p"],
        &["runtime", "status"],
        &["bench", "--list"],
    ] {
        let mut command = daemon.command(arguments);
        command.stdout(full()).stderr(Stdio::piped());
        let said = output(command);
        assert_eq!(said.status.code(), Some(FAILED), "{arguments:?}");
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(error.contains("No space left"), "{arguments:?}: {error}");
    }
    // What it was told to do, it did.
    let mut destroy = daemon.command(&["pool", "destroy", "p"]);
    destroy.stdout(full()).stderr(Stdio::piped());
    assert_eq!(output(destroy).status.code(), Some(FAILED));
    daemon.run(&["pool", "stats", "p"]).failure(NOT_FOUND);
}

#[test]
fn an_error_that_cannot_be_written_changes_no_exit_code() {
    for (arguments, code) in [
        (
            &["pool", "list", "--socket", "/nowhere/socket"][..],
            NO_RUNTIME,
        ),
        (&["pool", "inspect", "/nowhere"], NOT_FOUND),
        (&["nonsense"], WRONG_USAGE),
    ] {
        let mut command = Command::new(program("chimaera"));
        command.args(arguments).stdout(full()).stderr(full());
        assert_eq!(output(command).status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(program("chimaera"));
    command.arg("--help").stdout(writer).stderr(Stdio::piped());
    let said = output(command);
    assert_eq!(said.status.code(), Some(0));
    assert_eq!(said.stderr, b"");
}

#[test]
fn a_name_can_neither_move_the_cursor_nor_begin_a_line() {
    let daemon = Daemon::start();
    let name = "p\u{1b}[2J\nforged line\u{202e}";
    let create = ["pool", "create", name, "--type", "ram", "--size", "1MiB"];
    let looks = [
        &create[..],
        &["pool", "list"],
        &["pool", "flush", name],
        &["pool", "map", name],
        &["pool", "destroy", name],
    ];
    for look in looks {
        let said = daemon.run(look).success();
        let hidden =
            |line: &str| line.contains(['\u{1b}', '\u{202e}']) || line.starts_with("forged");
        assert!(!said.lines().any(hidden), "{look:?}: {said:?}");
    }
    let said = daemon.run(&["pool", "stats", name]).failure(NOT_FOUND);
    assert!(said.contains("\\u{1b}[2J\\nforged line"), "{said:?}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said:?}");
}

#[test]
fn json_may_be_asked_for_anywhere_and_errors_are_json_too() {
    let daemon = Daemon::start();
    let create = [
        "--json", "pool", "create", "p", "--type", "ram", "--size", "1MiB",
    ];
    let created = json(&daemon.run(&create).success());
    assert_eq!(created["name"], "p");
    for arguments in [
        &["pool", "--json", "stats", "p"][..],
        &["pool", "flush", "p", "--json"],
        &["pool", "map", "p", "--json"],
        &["--json", "pool", "destroy", "p"],
    ] {
        assert_eq!(
            json(&daemon.run(arguments).success())["name"],
            "p",
            "{arguments:?}"
        );
    }
    for (arguments, code) in [
        (&["--json", "pool", "stats", "p"][..], NOT_FOUND),
        (&["pool", "create", "--json"], WRONG_USAGE),
        (
            &["pool", "list", "--json", "--socket", "/nowhere/socket"],
            NO_RUNTIME,
        ),
        (&["--json", "pool", "inspect", "/nowhere"], NOT_FOUND),
    ] {
        let said = if arguments.contains(&"--socket") {
            chimaera(arguments)
        } else {
            daemon.run(arguments)
        };
        let error = json(&said.failure(code));
        assert_eq!(error["exit_code"], code, "{arguments:?}");
        assert!(error["error"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let stopped = json(&daemon.run(&["--json", "runtime", "stop"]).success());
    assert_eq!(stopped["process_id"], daemon.process_id());
}

#[test]
fn a_pool_of_another_module_is_only_touched_by_what_is_for_every_module() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let echo = EchoClient::new(&runtime, PoolId::NULL);
    let info = echo
        .create(PoolQuery::Dynamic, "echo", "")
        .expect("the echo module is there");
    for arguments in [
        &["pool", "stats", "echo"][..],
        &["pool", "map", "echo"],
        &["pool", "blocks", "echo"],
        &["verify", "check", "--pool", "echo", "--journal", "/nowhere"],
    ] {
        let said = daemon.run(arguments).failure(IN_THE_WAY);
        assert!(said.contains("is of the module chimaera_echo"), "{said}");
    }
    let said = daemon.run(&["pool", "flush", "echo"]).success();
    assert_eq!(said, "flushed pool echo\n");
    let said = daemon.run(&["pool", "destroy", "echo"]).success();
    assert!(said.contains(&info.id.to_string()), "{said}");
}

#[test]
fn a_journal_is_a_regular_file_and_somebodys_file_is_not_read_to_its_end() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let pool = folder.path().join("pool");
    let create = [
        "pool",
        "create",
        text(&pool),
        "--type",
        "file",
        "--size",
        "4MiB",
    ];
    let _ = daemon.run(&create).success();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let zeroes = folder.path().join("zeroes");
    symlink("/dev/zero", &zeroes).expect("a link");
    // Larger than memory, and takes no space.
    let sparse = folder.path().join("sparse");
    let file = File::create(&sparse).expect("a file");
    file.set_len(1 << 40).expect("sparse files");
    for (journal, why) in [
        (text(&fifo), "not a regular file"),
        (text(&zeroes), "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (text(&sparse), "not a journal"),
    ] {
        for verify in [
            &["verify", "check"][..],
            &["verify", "run", "--seconds", "1"],
        ] {
            let of_pool = ["--pool", text(&pool), "--journal", journal];
            let command = daemon.command(&[verify, &of_pool].concat());
            let said = finish(command).failure(FAILED);
            assert!(said.contains(why), "{journal}: {said}");
        }
    }
}
