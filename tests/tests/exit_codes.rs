//! What fails has the exit code that says how, whichever command it is, and a text that says what to do.

use std::process::Command;

use chimaera_tests::exit::{
    IN_THE_WAY, NO_RUNTIME, NO_SPACE, NOT_FOUND, NOT_PERMITTED, WRONG_USAGE,
};
use chimaera_tests::{
    Daemon, LoopDevice, MIB, NOBODY, ProgramOutput, Sandbox, SmallFileSystem, chimaera,
    disk_folder, finish, program, skipped, text,
};

/// Runs `pool create` with these arguments.
fn create(daemon: &Daemon, arguments: &[&str]) -> ProgramOutput {
    daemon.run(&[&["pool", "create"], arguments].concat())
}

#[test]
fn a_pool_that_is_there_or_in_use_has_a_code_and_says_what_differs() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let file = text(&file);
    let sized = [file, "--type", "file", "--size", "1MiB"];
    let other_size = [file, "--type", "file", "--size", "2MiB"];
    let said = create(&daemon, &sized).success();
    assert!(said.starts_with("created pool"), "{said}");
    let said = create(&daemon, &sized).success();
    assert!(said.starts_with("exists with these parameters"), "{said}");
    let said = create(&daemon, &other_size).failure(IN_THE_WAY);
    assert!(
        said.contains("--size is 1048576, asked for 2097152"),
        "{said}"
    );
    let link = folder.path().join("link");
    std::fs::hard_link(file, &link).expect("a link");
    create(&daemon, &[text(&link), "--type", "file"]).failure(IN_THE_WAY);
    assert_eq!(daemon.status()["pools"], 1);
    assert!(daemon.run(&["pool", "list"]).success().contains(file));
}

#[test]
fn a_creation_that_makes_no_sense_has_a_code_and_creates_nothing() {
    let daemon = Daemon::start();
    create(&daemon, &["/dev/null", "--type", "file"]).failure(WRONG_USAGE);
    for wrong in [
        &["p", "--type", "ram"][..],
        &["p"],
        &["p", "--type", "tape", "--size", "1MiB"],
        &["p", "--type", "ram", "--size", "much"],
        &["p", "--type", "ram", "--size", "-1"],
        &["p", "--type", "ram", "--size", "1MiB", "--id", "x"],
        &["p", "--type", "file", "--overwrite", "--read-only"],
        &["p", "--type", "file", "--alignment", "100"],
        &["p", "--type", "file", "--io-depth", "0"],
    ] {
        let said = create(&daemon, wrong).failure(WRONG_USAGE);
        assert!(said.contains("error:"), "{said}");
    }
    // What the parser of arguments cannot know, and what only the daemon does.
    let ram =
        |option: &[&'static str]| [&["p", "--type", "ram", "--size", "1MiB"], option].concat();
    for (wrong, words) in [
        (vec!["p", "--type", "ram", "--size", "0"], "--size is 0"),
        (
            vec!["p", "--type", "ram", "--size", "1KiB"],
            "--size is 1024 bytes",
        ),
        (
            vec!["p", "--type", "file", "--size", "1KiB"],
            "--size is 1024 bytes",
        ),
        (ram(&["--read-only"]), "--read-only is for pools on files"),
        (ram(&["--overwrite"]), "--overwrite is for pools on files"),
        (
            ram(&["--io-depth", "1"]),
            "--io-depth is for pools on files",
        ),
        (
            ram(&["--alignment", "512"]),
            "--alignment is for pools on files",
        ),
        (
            ram(&["--io-engine", "auto"]),
            "--io-engine is for pools on files",
        ),
        (
            vec!["", "--type", "ram", "--size", "1MiB"],
            "from 1 to 4096 bytes",
        ),
    ] {
        let said = create(&daemon, &wrong).failure(WRONG_USAGE);
        assert!(said.contains(words), "{said}");
    }
    let long = "x".repeat(17 << 10);
    let said = create(&daemon, &["p", "--module", "m", "--params", &long]).failure(WRONG_USAGE);
    assert!(said.contains("--params has 17408 bytes"), "{said}");
    assert_eq!(daemon.status()["pools"], 0);
}

#[test]
fn a_command_line_that_makes_no_sense_has_a_code() {
    let said = chimaera(&["bench", "--case", "nonsense"]).failure(WRONG_USAGE);
    assert!(said.contains(" bench --list`"), "{said}");
    chimaera(&["bench", "--folder", "/nowhere"]).failure(NOT_FOUND);
    chimaera(&["nonsense"]).failure(WRONG_USAGE);
    chimaera(&[]).failure(WRONG_USAGE);
    chimaera(&["runtime", "start", "--workers", "0"]).failure(WRONG_USAGE);
}

#[test]
fn what_is_not_there_has_a_code_and_a_hint() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let _ = daemon.create_file_pool(&file, "1MiB").success();
    let file = text(&file);
    daemon.run(&["pool", "stats", "nobody"]).failure(NOT_FOUND);
    daemon
        .run(&["pool", "destroy", "nobody"])
        .failure(NOT_FOUND);
    for look in ["flush", "blocks", "map"] {
        daemon.run(&["pool", look, "nobody"]).failure(NOT_FOUND);
    }
    let journal = folder.path().join("journal");
    let of_nobody = ["--pool", "nobody", "--journal", text(&journal)];
    for verify in [&["run", "--seconds", "1"][..], &["check"]] {
        let all = [&["verify"], verify, &of_nobody].concat();
        let said = daemon.run(&all).failure(NOT_FOUND);
        let hint = format!("/nobody --type file --socket {}`", text(&daemon.socket()));
        assert!(
            said.contains(" pool create /") && said.contains(&hint),
            "{said}"
        );
    }
    let of_the_pool = ["--pool", file, "--journal", text(&journal)];
    let said = daemon.run(&[&["verify", "check"][..], &of_the_pool].concat());
    let said = said.failure(NOT_FOUND);
    assert!(said.contains("cannot open the journal"), "{said}");
    assert!(!journal.exists(), "nothing was verified");
    let absent = folder.path().join("absent");
    let said = create(&daemon, &[text(&absent), "--type", "file"]).failure(NOT_FOUND);
    assert!(said.contains("does not exist"), "{said}");
}

#[test]
fn every_command_without_a_runtime_has_a_code_and_says_how_to_start_one() {
    let folder = disk_folder();
    let nobody = folder.path().join("nobody.sock");
    for command in [
        &["runtime", "status"][..],
        &["runtime", "stop"],
        &["pool", "list"],
        &["pool", "stats", "p"],
        &["pool", "destroy", "p"],
        &["pool", "flush", "p"],
        &["pool", "blocks", "p"],
        &["pool", "map", "p"],
        &["verify", "check", "--pool", "p", "--journal", "j"],
        &["pool", "create", "p", "--type", "ram", "--size", "1MiB"],
    ] {
        let mut all = command.to_vec();
        all.extend(["--socket", text(&nobody)]);
        let said = chimaera(&all).failure(NO_RUNTIME);
        // A command that works as it stands there.
        let start = format!(
            "`{} runtime start --socket {}`",
            program("chimaera").display(),
            nobody.display()
        );
        assert!(said.contains(&start), "{said}");
    }
}

#[test]
fn what_the_daemon_may_not_write_and_what_has_no_space_have_codes() {
    let daemon = Daemon::start();
    match LoopDevice::attach_with(MIB, &["--read-only"]) {
        Ok(device) => {
            create(&daemon, &[text(device.path()), "--type", "file"]).failure(NOT_PERMITTED);
        }
        Err(reason) => skipped("exit code 6", &reason),
    }
    match SmallFileSystem::mount("nr_inodes=1") {
        Ok(full) => {
            let path = full.folder().join("pool");
            create(&daemon, &[text(&path), "--type", "file", "--size", "1MiB"]).failure(NO_SPACE);
        }
        Err(reason) => skipped("exit code 7", &reason),
    }
    assert_eq!(daemon.status()["pools"], 0);
}

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
