//! The end of a daemon, seen by those who work with it meanwhile.

use std::process::Command;

use chimaera_bdev_client::{CreateOptions, PoolId, PoolQuery, Status};
use chimaera_client::proto::admin::GetOrCreatePool;
use chimaera_faulty_runtime::{MODULE_NAME, params};
use chimaera_tests::exit::{FAILED, NO_RUNTIME};
use chimaera_tests::{
    ClientProcess, Daemon, Faulty, MIB, RunningCommand, assert_refused, client, disk_folder,
    finish, json, memory, program, skipped, text, until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// What clients may be told of a daemon that stops: that it does, or that it has.
fn is_about_the_end(said: &str) -> bool {
    let status = said.split(' ').next().unwrap_or_default();
    ["ShuttingDown", "ConnectionLost", "NoDaemon"].contains(&status)
}

#[test]
fn whoever_works_while_the_daemon_stops_learns_that_and_never_that_a_pool_is_missing() {
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let mut told = Vec::new();
    for round in 0..6 {
        let mut daemon = Daemon::start_with(&["--workers", "2"]);
        let runtime = daemon.connect();
        let _ = memory(&runtime, 64 * MIB);
        let options = CreateOptions::file().size(16 * MIB);
        let pool = client(&runtime, 1);
        pool.create(PoolQuery::Dynamic, text(&file), &options)
            .expect("the pool is made");
        drop((pool, runtime));

        let start = |arguments: &[&str]| ClientProcess::start(&daemon.socket(), arguments);
        let mut clients: Vec<_> = ["memory", text(&file), "memory", text(&file)]
            .map(|pool| start(&["write-until-refused", pool]))
            .into();
        clients.extend((0..2).map(|_| start(&["connect-until-refused"])));
        for client in &mut clients {
            client.line();
        }
        if round % 2 == 0 {
            daemon.signal(Signal::SIGTERM);
        } else {
            let _ = daemon.run(&["runtime", "stop"]).success();
        }
        for mut client in clients {
            let said = client.line();
            assert!(is_about_the_end(&said), "{said}");
            client.succeed();
            told.push(said);
        }
        let (code, log) = daemon.wait();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("pool stopped:"), "{log}");
        assert!(!log.contains("destroy"), "{log}");
    }
    let refused = told.iter().filter(|said| said.starts_with("ShuttingDown"));
    assert!(refused.count() > 0, "{told:?}");
}

#[test]
fn a_workload_that_loses_its_daemon_to_a_stop_ends_as_the_help_says() {
    let folder = disk_folder();
    let (file, journal) = (folder.path().join("pool"), folder.path().join("journal"));
    for round in 0..4 {
        let mut daemon = Daemon::start_with(&["--workers", "2"]);
        if round == 0 {
            let _ = daemon.create_file_pool(&file, "32MiB").success();
        } else {
            let open = ["pool", "create", text(&file), "--type", "file"];
            let _ = daemon.run(&open).success();
        }
        let place = ["--pool", text(&file), "--journal", text(&journal)];
        let run = ["verify", "run", "--seconds", "60", "--threads", "4"];
        let run = daemon.command(&[&run[..], &place].concat());
        let grown = |from| std::fs::metadata(&journal).map_or(0, |data| data.len()) > from;
        let before = std::fs::metadata(&journal).map_or(0, |data| data.len());
        let run = std::thread::spawn(move || finish(run));
        until("the workload works", || grown(before + 5_000));
        let _ = daemon.run(&["runtime", "stop"]).success();
        let said = run.join().expect("no panic").failure(NO_RUNTIME);
        assert!(said.contains("the daemon went away"), "{said}");
        assert_eq!(daemon.wait().0, Some(0));
    }
    let daemon = Daemon::start();
    let _ = daemon
        .run(&["pool", "create", text(&file), "--type", "file"])
        .success();
    let check = [
        "verify",
        "check",
        "--pool",
        text(&file),
        "--journal",
        text(&journal),
    ];
    let _ = daemon.run(&check).success();
}

#[test]
fn a_daemon_with_little_address_space_is_stopped_like_any_other() {
    let tool = Command::new("prlimit").arg("--version").output();
    if !tool.is_ok_and(|output| output.status.success()) {
        return skipped(
            "a limit on the address space",
            "there is no program prlimit",
        );
    }
    let mut served = 0;
    for mebibytes in [16, 24, 28, 31, 32, 34, 38, 48, 64, 96, 128, 256] {
        let mut command = Command::new("prlimit");
        command.arg(format!("--as={}", mebibytes << 20));
        command.arg(program("chimaera"));
        command.args(["runtime", "start", "--workers", "1"]);
        let folder = TempDir::new().expect("a folder");
        match Daemon::try_start(command, folder) {
            Err(refused) => assert_eq!(served, 0, "{mebibytes} MiB: {refused:?}"),
            Ok(mut daemon) => {
                served += 1;
                let stop = daemon.run(&["runtime", "stop"]);
                if stop.code != Some(0) {
                    let advice = format!("`kill {}` stops it", daemon.process_id());
                    if !stop.stderr.contains(&advice) {
                        panic!("{mebibytes} MiB: {stop:?}, {:?}", daemon.wait());
                    }
                    daemon.signal(Signal::SIGTERM);
                }
                assert_eq!(daemon.wait().0, Some(0), "{mebibytes} MiB");
            }
        }
    }
    assert!(served > 2, "{served}");
}

#[test]
fn a_daemon_that_is_stopping_says_so_to_all_who_ask_for_more() {
    let mut daemon = Daemon::start();
    let file = daemon.folder().join("go on");
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&daemon.connect(), &file);
    let pool = memory(&runtime, MIB);
    let blocks = pool.allocate_blocks(PoolQuery::Local, 4096).expect("space");

    let first = daemon.command(&["runtime", "stop"]);
    let first = std::thread::spawn(move || finish(first));
    let shutting_down = |result| {
        assert_refused::<()>(result, Status::ShuttingDown, &["shutting down"]);
    };
    until("tasks are refused", || pool.get_stats().is_err());
    let freed = pool.free_blocks(PoolQuery::Local, &blocks);
    shutting_down(freed);
    let admin = runtime.admin();
    let ram = CreateOptions::ram(MIB);
    shutting_down(
        client(&runtime, 7)
            .create(PoolQuery::Dynamic, "new", &ram)
            .map(drop),
    );
    shutting_down(admin.destroy_pool(PoolId::new(8000, 0)));
    shutting_down(admin.flush(None));
    shutting_down(admin.find_pool("no such pool").map(drop));
    // Requests that can be answered still are.
    until("both pools are on their way", || {
        admin.list_pools().expect("a list").is_empty()
    });
    let status = admin.status().expect("a status");
    assert_eq!(status.process_id, daemon.process_id());
    assert!(status.is_stopping);
    let said = daemon.run(&["pool", "list"]).failure(NO_RUNTIME);
    let named = format!("process id {} is stopping", daemon.process_id());
    assert!(said.contains(&named), "{said}");

    let more: Vec<_> = (0..32).map(|_| admin.async_stop_runtime()).collect();
    // A worker takes a lane's tasks in order: it has taken those before, and so they will be answered.
    admin.status().expect("a status");
    let third = daemon.command(&["runtime", "stop"]);
    let third = std::thread::spawn(move || finish(third));
    assert!(!first.is_finished(), "it waits for the pool");
    std::fs::write(&file, "").expect("a file");
    for stopped in more {
        stopped.wait().expect("all are told when it has stopped");
    }
    let said = first.join().expect("no panic").success();
    let named = format!("process id {}", daemon.process_id());
    assert!(said.contains(&named), "{said}");
    // It may have come when there was nothing to stop any more, or so late that it got no answer, and the first one had
    // read what the daemon left in its lock file, and removed it.
    let third = third.join().expect("no panic");
    match third.code {
        Some(1) => assert!(
            third.stderr.contains("its lock file was removed"),
            "{third:?}"
        ),
        Some(NO_RUNTIME) => assert!(third.stderr.contains("no daemon"), "{third:?}"),
        _ => assert!(third.success().contains(&named)),
    }
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn creations_that_hang_keep_a_daemon_neither_from_answering_nor_from_ending_what_it_can() {
    let mut daemon = Daemon::start();
    let file = daemon.folder().join("go on");
    let runtime = daemon.connect();
    let _ = memory(&runtime, MIB);
    let waits = format!("{}{}", params::CREATE_WAITS, text(&file));
    // More than there are threads for them.
    let hanging: Vec<_> = (0..40)
        .map(|number| {
            let (name, params) = (format!("hanging {number}"), waits.as_bytes().to_vec());
            GetOrCreatePool::new(MODULE_NAME, &name, PoolId::NULL, params)
        })
        .map(|pool| {
            runtime
                .admin()
                .async_get_or_create_pool(PoolQuery::Dynamic, &pool)
        })
        .collect();
    assert_eq!(daemon.status()["pools"], 1);
    let listed = daemon.run(&["pool", "list"]).success();
    assert!(listed.contains("memory"), "{listed}");

    let stop = daemon.command(&["runtime", "stop"]);
    let stop = std::thread::spawn(move || finish(stop));
    until("the pool that can be ended is", || {
        daemon.log().contains("pool stopped")
    });
    let hangs = "stopping waits for pools, being made: hanging";
    until("the log says what hangs", || daemon.log().contains(hangs));
    assert!(daemon.log().contains("(module chimaera_faulty)"));
    std::fs::write(&file, "").expect("a file");
    let _ = stop.join().expect("no panic").success();
    for task in hanging {
        if let Err(error) = task.wait() {
            assert_eq!(error.status(), Status::ShuttingDown, "{error}");
        }
    }
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn a_pool_that_is_never_flushed_keeps_no_other_from_it_and_the_log_names_it() {
    let mut daemon = Daemon::start();
    let file = daemon.folder().join("go on");
    let disk = disk_folder();
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&daemon.connect(), &file);
    // This pool would have to wait for the other, if pools were ended one after another.
    let options = CreateOptions::file().size(8 * MIB);
    let on_file = text(&disk.path().join("pool")).to_owned();
    let pool = client(&runtime, 1);
    pool.create(PoolQuery::Dynamic, &on_file, &options)
        .expect("the pool is made");
    let kept = pool.allocate_blocks(PoolQuery::Local, 4096).expect("space");

    daemon.signal(Signal::SIGTERM);
    let stopped = format!("{on_file}\n");
    until("the other pool is flushed and ended", || {
        let log = daemon.log();
        log.contains("pool stopped: 8000.1") && log.contains(&stopped)
    });
    let hangs = "stopping waits for pools, being ended: faulty 6666.0 (module chimaera_faulty)";
    until("the log names it", || daemon.log().contains(hangs));
    // The operator insists: what could be flushed has been.
    daemon.insist(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(FAILED));
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 1);
    pool.create(PoolQuery::Dynamic, &on_file, &CreateOptions::file())
        .expect("the pool is found");
    let found = pool.all_blocks(PoolQuery::Local);
    let found: Result<Vec<_>, _> = found.map(|owned| owned.map(|owned| owned.block)).collect();
    assert_eq!(kept, found.expect("a list"));
}

#[test]
fn an_order_that_takes_long_says_that_it_waits() {
    let mut daemon = Daemon::start();
    let file = daemon.folder().join("go on");
    let waits = |at| format!("{at}{}", text(&file));
    let (makes, flushes) = (waits(params::CREATE_WAITS), waits(params::FLUSH_WAITS));
    let create = |name, params| {
        [
            "pool",
            "create",
            name,
            "--module",
            MODULE_NAME,
            "--params",
            params,
        ]
    };
    let _ = daemon.run(&create("flushed", &flushes)).success();
    let _ = daemon.run(&create("destroyed", &flushes)).success();
    let orders = [
        &create("made", &makes)[..],
        &["pool", "flush", "flushed"],
        &["pool", "destroy", "destroyed"],
    ];
    let waiting = orders.map(|order| RunningCommand::start(daemon.command(order)));
    let process = format!("process id {}", daemon.process_id());
    for order in &waiting {
        order.wait_for(&["waiting for the answer of the daemon", &process]);
    }
    std::fs::write(&file, "").expect("writes");
    for order in waiting {
        assert_eq!(order.exit_code(), Some(0));
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn a_daemon_that_is_suspended_is_named_and_waited_for_with_an_end() {
    let daemon = Daemon::start();
    let process = daemon.process_id();
    let resumes = format!("`kill -CONT {process}` resumes it");
    for command in [
        &["runtime", "status"][..],
        &["runtime", "status", "--json"],
        &["pool", "list"],
        &["runtime", "stop"],
    ] {
        daemon.signal(Signal::SIGSTOP);
        let told = RunningCommand::start(daemon.command(command));
        let line = told.wait_for(&["waiting for", &format!("process id {process}"), &resumes]);
        if command.contains(&"--json") {
            assert!(json(&line)["note"].is_string(), "{line}");
        }
        if command[1] == "list" {
            told.wait_for(&["did not answer for 20s", &resumes]);
            assert_eq!(told.exit_code(), Some(FAILED));
        } else {
            daemon.signal(Signal::SIGCONT);
            assert_eq!(told.exit_code(), Some(0), "{command:?}");
        }
    }
}

#[test]
fn a_client_that_is_suspended_does_not_keep_a_daemon_from_ending() {
    let mut daemon = Daemon::start();
    let _ = memory(&daemon.connect(), 64 * MIB);
    let mut client = ClientProcess::start(&daemon.socket(), &["write-until-refused", "memory"]);
    client.line();
    let process = Pid::from_raw(client.process_id().cast_signed());
    kill(process, Signal::SIGSTOP).expect("it runs");
    let _ = daemon.run(&["runtime", "stop"]).success();
    assert_eq!(daemon.wait().0, Some(0));
    kill(process, Signal::SIGCONT).expect("it is there");
    let said = client.line();
    assert!(is_about_the_end(&said), "{said}");
    client.succeed();
}
