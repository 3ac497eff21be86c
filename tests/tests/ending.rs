//! Daemons that cannot come to their end: they end all the same, in time, and say what is left.

use std::path::Path;
use std::time::{Duration, Instant};

use chimaera_bdev_client::{CreateOptions, PoolId, PoolQuery, Status};
use chimaera_client::GetOrCreatePool;
use chimaera_faulty_runtime::{MODULE_NAME, Method, params};
use chimaera_tests::exit::FAILED;
use chimaera_tests::{Daemon, Faulty, MIB, RunningCommand, client, disk_folder, text, until};
use nix::sys::signal::Signal;

/// A file that is never there.
const NEVER: &str = "/nowhere/at all";

/// What a daemon started with these gives itself for its end.
const TIMEOUT: Duration = Duration::from_secs(2);
const ARGUMENTS: [&str; 4] = ["--workers", "1", "--stop-timeout", "2"];

/// How much longer the end of a daemon may take on a busy machine.
const SLACK: Duration = Duration::from_secs(8);

fn waits(how: &str) -> String {
    format!("{how}{NEVER}")
}

/// Begins to make a pool that is never made.
fn make_endlessly(daemon: &Daemon) {
    let runtime = daemon.connect();
    let request = GetOrCreatePool::new(
        MODULE_NAME,
        "endless",
        PoolId::NULL,
        waits(params::CREATE_WAITS).into_bytes(),
    );
    let admin = runtime.admin();
    std::mem::forget(admin.async_get_or_create_pool(PoolQuery::Dynamic, &request));
    until("it is being made", || {
        admin.status().expect("a status").changing_count == 1
    });
}

#[test]
fn a_daemon_whose_pools_hang_ends_in_time_flushes_the_others_and_names_each() {
    let disk = disk_folder();
    let file = disk.path().join("pool");
    let mut daemon = Daemon::start_with(&ARGUMENTS);
    let runtime = daemon.connect();
    let pool = client(&runtime, 1);
    pool.create(
        PoolQuery::Dynamic,
        text(&file),
        &CreateOptions::file().size(8 * MIB),
    )
    .expect("the pool is made");
    let kept = pool.allocate_blocks(PoolQuery::Local, 4096).expect("space");
    for (number, params) in [
        (0, waits(params::FLUSH_WAITS)),
        (1, waits(params::DROP_WAITS)),
        (2, String::new()),
    ] {
        let faulty = Faulty::new(&runtime, number);
        faulty.create(&params).expect("the pool is made");
    }
    let held = Faulty::new(&runtime, 2).start(Method::Hold, None);
    make_endlessly(&daemon);

    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    let (code, log) = daemon.wait();
    assert!(begun.elapsed() < TIMEOUT + SLACK, "{:?}", begun.elapsed());
    assert_eq!(code, Some(FAILED), "{log}");
    for named in [
        "\"faulty 6666.0\" (6666.0) of module chimaera_faulty was not flushed within 2 s, which is being flushed",
        "\"faulty 6666.1\" (6666.1) of module chimaera_faulty was flushed, and not closed within 2 s",
        "\"faulty 6666.2\" (6666.2) of module chimaera_faulty did not end within 2 s, whose tasks in flight",
        "of module chimaera_faulty was not made within 2 s",
    ] {
        let count = log.lines().filter(|line| line.contains("given up: pool"));
        assert_eq!(
            count.filter(|line| line.contains(named)).count(),
            1,
            "{named}: {log}"
        );
    }
    let error = held.wait().expect_err("the daemon is gone");
    assert_eq!(error.status(), Status::ConnectionLost);
    until("its client sees the end", || !runtime.is_connected());

    let next = Daemon::start_in(daemon.leave(), &ARGUMENTS);
    let runtime = next.connect();
    let pool = client(&runtime, 1);
    pool.create(PoolQuery::Dynamic, text(&file), &CreateOptions::file())
        .expect("the pool is found");
    let found: Result<Vec<_>, _> = pool
        .all_blocks(PoolQuery::Local)
        .map(|owned| owned.map(|owned| owned.block))
        .collect();
    assert_eq!(kept, found.expect("a list"));
}

#[test]
fn every_stop_of_a_daemon_that_gave_pools_up_fails_and_names_each() {
    let mut daemon = Daemon::start_with(&ARGUMENTS);
    let runtime = daemon.connect();
    Faulty::whose_flush_waits(&runtime, Path::new(NEVER));
    let failing = Faulty::new(&runtime, 1);
    failing
        .create(params::FLUSH_ERROR)
        .expect("the pool is made");
    let ordered = RunningCommand::start(daemon.command(&["runtime", "stop"]));
    until("it stops", || {
        runtime
            .admin()
            .list_pools()
            .is_ok_and(|pools| pools.is_empty())
    });
    let refused = RunningCommand::start(daemon.command(&["runtime", "stop", "--json"]));
    for stop in [ordered, refused] {
        stop.wait_for(&[
            &format!("process id {} has ended", daemon.process_id()),
            "may be lost",
            "pool faulty 6666.1 (6666.1): as asked: cannot flush",
            "6666.0) of module chimaera_faulty was not flushed within 2 s",
        ]);
        assert_eq!(stop.exit_code(), Some(FAILED));
        assert!(daemon.has_ended());
    }
    assert_eq!(daemon.wait().0, Some(FAILED));
}
