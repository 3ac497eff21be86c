//! What the system refuses has the exit code that says so, whichever command was refused.

use std::process::Command;

use chimaera_tests::exit::{IN_THE_WAY, NO_SPACE, NOT_FOUND, NOT_PERMITTED};
use chimaera_tests::{Daemon, NOBODY, Sandbox, disk_folder, finish, program, skipped, text};

#[test]
fn a_file_that_is_not_there_or_is_something_else_has_a_code() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let nowhere = folder.path().join("nowhere/file");
    let notes = folder.path().join("notes");
    std::fs::write(&notes, "what somebody wrote\n").expect("writes");
    let (nowhere, notes) = (text(&nowhere), text(&notes));
    let ram = ["--type", "ram", "--size"];
    let _ = daemon
        .run(&[&["pool", "create", "ram"], &ram[..], &["1MiB"]].concat())
        .success();
    let module = [
        "pool",
        "create",
        "x",
        "--module",
        "chimaera_echo",
        "--params-file",
    ];
    for (command, code) in [
        ([&module[..], &[nowhere]].concat(), NOT_FOUND),
        ([&module[..], &[text(folder.path())]].concat(), IN_THE_WAY),
        (vec!["pool", "map", "ram", "--svg", nowhere], NOT_FOUND),
        (
            vec!["pool", "map", "ram", "--svg", text(folder.path())],
            IN_THE_WAY,
        ),
        (
            vec!["verify", "check", "--pool", "ram", "--journal", notes],
            IN_THE_WAY,
        ),
        (
            [&["pool", "create", "large"], &ram[..], &["4EiB"]].concat(),
            NO_SPACE,
        ),
    ] {
        let said = daemon.run(&command).failure(code);
        assert!(said.starts_with("chimaera: "), "{said}");
    }
}

#[test]
fn what_a_measurement_lacks_has_a_code() {
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        return skipped("the exit code of bench", "it needs two processors");
    }
    let folder = disk_folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("writes");
    for temporary in ["/nowhere", text(&file)] {
        let mut command = Command::new(program("chimaera"));
        command
            .args(["bench", "--quick", "--case", "empty-task-depth-1"])
            .env("TMPDIR", temporary);
        let said = finish(command).failure(NOT_FOUND);
        assert!(said.contains("cannot measure"), "{said}");
    }
}

#[test]
fn what_a_user_may_not_write_has_a_code() {
    let Some(sandbox) = Sandbox::new("the exit code of what is not permitted") else {
        return;
    };
    let said = sandbox.shell(
        NOBODY,
        "cd /run && program/chimaera chimod new ag --sdk https://example.org/x",
    );
    let said = said.failure(NOT_PERMITTED);
    assert!(said.contains("cannot write /run/ag"), "{said}");
    let said = sandbox.shell(
        NOBODY,
        "XDG_RUNTIME_DIR=/nowhere /run/program/chimaera runtime start --detach",
    );
    let said = said.failure(NOT_PERMITTED);
    assert!(said.contains("/nowhere cannot be used"), "{said}");
}
