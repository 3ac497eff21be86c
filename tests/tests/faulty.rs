//! A module that does everything wrong: the host goes on, and each task ends, once, with a
//! status that says what happened.

use std::time::Duration;

use chimaera_bdev_client::{Client, CreateOptions, Error, PoolId, PoolQuery, Runtime, Status};
use chimaera_client::proto::admin::GetOrCreatePool;
use chimaera_faulty_runtime::{MODULE_NAME, Method, RELEASED, params};
use chimaera_tests::{ClientProcess, Daemon, Faulty, MIB, PATIENCE, text, until, within};

#[track_caller]
fn assert_status<T: std::fmt::Debug>(result: Result<T, impl Into<Error>>, status: Status) -> Error {
    let error: Error = match result {
        Ok(value) => panic!("{value:?} instead of {status:?}"),
        Err(error) => error.into(),
    };
    assert_eq!(error.status(), status, "{error}");
    error
}

/// The host serves on, this client and others, this module and others.
#[track_caller]
fn assert_goes_on(daemon: &Daemon, faulty: &Faulty) {
    faulty.call(Method::Complete).expect("the pool goes on");
    let other = daemon.connect();
    let bdev = Client::new(&other, PoolId::new(8000, 0));
    bdev.create(PoolQuery::Dynamic, "other", &CreateOptions::ram(MIB))
        .expect("other pools go on");
    let blocks = bdev.allocate_blocks(PoolQuery::Local, 4096);
    bdev.free_blocks(PoolQuery::Local, &blocks.expect("a block"))
        .expect("a free");
}

/// The host counts what it handed to a pool and what came back. If any task had ended twice or
/// never, these would not meet, and this would not return.
fn destroy(runtime: &Runtime, pool: PoolId) -> Result<(), Error> {
    let admin = runtime.admin();
    within("destroying a pool", move || admin.destroy_pool(pool))
}

#[test]
fn a_module_that_panics_while_a_pool_is_made_leaves_no_pool() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::new(&runtime, 0);
    let cases = [
        (
            params::CREATE_PANIC,
            Status::ModulePanicked,
            "as asked, while creating",
        ),
        (params::CREATE_BOMB, Status::ModulePanicked, "no message"),
        (params::CREATE_ERROR, Status::NoSpace, "as asked: no space"),
        (
            params::CREATE_OK_AS_ERROR,
            Status::Aborted,
            "an error that is none",
        ),
        (
            params::CREATE_PANIC,
            Status::ModulePanicked,
            "pool faulty 6666.0, module chimaera_faulty: the module panicked",
        ),
        (
            params::CREATE_NO_RUNTIME,
            Status::Aborted,
            "as asked (the module failed with the status NoRuntime",
        ),
        (
            params::CREATE_SILENT,
            Status::NoSpace,
            "creating the pool \"faulty 6666.0\": not enough free space",
        ),
        (
            params::CREATE_CONTROLS,
            Status::NoSpace,
            "as asked\\n\\u{1b}[2J\\u{0}",
        ),
        (
            params::ID_NULL,
            Status::Aborted,
            "the id 0.0, which stands for none: a mistake in the module",
        ),
        (
            params::ID_PANIC,
            Status::ModulePanicked,
            "as asked, about the id",
        ),
    ];
    for (params, status, words) in cases {
        let error = assert_status(faulty.create(params), status);
        assert!(error.to_string().contains(words), "{error}");
        assert_status(faulty.call(Method::Complete), Status::PoolNotFound);
        assert_eq!(runtime.admin().list_pools().expect("a list"), []);
    }
    assert!(faulty.create("").expect("id and name are free").created);
    assert_goes_on(&daemon, &faulty);
}

#[test]
fn a_module_does_not_speak_for_the_runtime() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    for &status in Status::ALL {
        let told = match status.is_of_runtime() {
            true => Status::Aborted,
            false => status,
        };
        assert_status(faulty.fail_with(status), told);
    }
    assert_goes_on(&daemon, &faulty);
}

#[test]
fn a_pool_that_takes_itself_for_the_admin_pool_is_not_made() {
    let daemon = Daemon::start();
    let params = params::ID_ADMIN.as_bytes().to_vec();
    let request = GetOrCreatePool::new(MODULE_NAME, "admin", PoolId::NULL, params);
    let admin = daemon.connect().admin();
    let made = admin.get_or_create_pool(PoolQuery::Dynamic, &request);
    let error = assert_status(made, Status::Busy);
    let words = "which is the admin pool's in every runtime: a mistake in the module";
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_module_that_panics_while_it_compares_parameters_keeps_its_pool() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    let error = assert_status(faulty.create("others"), Status::ModulePanicked);
    let words = "panicked while comparing parameters: other parameters make this module panic";
    assert!(error.to_string().contains(words), "{error}");
    assert!(!faulty.create("").expect("the pool is there").created);
    assert_goes_on(&daemon, &faulty);
}

#[test]
fn each_task_that_a_module_mistreats_ends_with_a_status_and_no_other_does() {
    let daemon = Daemon::start_with(&["--workers", "2"]);
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    let cases = [
        (Method::Panic, Status::ModulePanicked),
        (Method::PanicWithBomb, Status::ModulePanicked),
        (Method::PanicInPoll, Status::ModulePanicked),
        (Method::PanicElsewhere, Status::ModulePanicked),
        (Method::TooManyValues, Status::ModulePanicked),
        (Method::Drop, Status::Aborted),
    ];
    for (method, status) in cases {
        let failing = || faulty.start(method, None);
        assert_status(failing().wait(), status);
        assert_status(faulty.call(method), status);
        // In the midst of others, which all end well.
        let tasks: Vec<_> = (0..200)
            .map(|index| match index % 4 {
                0 => failing(),
                1 => faulty.start(Method::CompleteElsewhere, None),
                _ => faulty.start(Method::Complete, None),
            })
            .collect();
        for (index, task) in tasks.into_iter().enumerate() {
            match (index % 4, task.wait()) {
                (0, result) => drop(assert_status(result, status)),
                (1, result) => assert_eq!(result.expect("completed elsewhere").0[0], 7),
                (_, result) => drop(result.expect("completed")),
            }
        }
    }
    let refused = runtime.call(&chimaera_client::Call {
        pool: faulty.pool_id(),
        instance: 0,
        query: PoolQuery::Local,
        method: 4711,
        arguments: [0; 3],
    });
    assert_status(refused, Status::UnknownMethod);
    assert_goes_on(&daemon, &faulty);
    destroy(&runtime, faulty.pool_id()).expect("every task has ended once");
}

#[test]
fn a_poll_that_panics_each_time_fills_neither_the_log_nor_the_workers_time_and_may_recover() {
    // One worker has both pools.
    let daemon = Daemon::start_with(&["--workers", "1"]);
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    let stuck = faulty.start(Method::PanicInEveryPoll, None);
    let told = || daemon.log().matches("as asked, in every poll").count();
    until("some of its panics are logged", || told() >= 5);
    assert!(!stuck.is_complete(), "a request that is kept stays open");
    assert_goes_on(&daemon, &faulty);
    let [panics, ..] = faulty.call(Method::PollWell).expect("the pool goes on");
    // After so many the pause is ten seconds long.
    assert!(panics < 30, "{panics} panics");
    stuck.wait().expect("it is polled again");
    destroy(&runtime, faulty.pool_id()).expect("the pool goes");
}

#[test]
fn the_log_tells_some_of_the_panics_that_a_client_can_cause_without_end() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    for _ in 0..500 {
        assert_status(faulty.call(Method::Panic), Status::ModulePanicked);
    }
    // Panics of other pools are logged as if those had not been.
    let other = Faulty::created(&runtime, 1);
    assert_status(other.call(Method::Panic), Status::ModulePanicked);
    until("another pool's panic is logged", || {
        let log = daemon.log();
        let of_other = |line: &&str| line.contains("(6666.1): panicked at");
        log.lines().filter(of_other).count() == 1
    });
    // Lines come in order.
    let log = daemon.log();
    let told = log.matches("(6666.0): panicked at").count();
    assert!((1..250).contains(&told), "{told}");
}

#[test]
fn buffers_come_back_with_tasks_that_failed() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    buffer.fill(0x77);
    for method in [Method::Panic, Method::Drop, Method::PanicElsewhere] {
        let task = faulty.start(method, Some(buffer));
        let refused = task.wait().expect_err("as asked");
        buffer = refused.buffer.expect("the buffer comes back");
        assert!(buffer.iter().all(|&byte| byte == 0x77));
    }
}

#[test]
fn a_module_that_fails_to_flush_says_so_and_its_pool_goes_all_the_same() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let cases = [
        (
            params::FLUSH_PANIC,
            Status::ModulePanicked,
            "while flushing",
        ),
        (params::FLUSH_ERROR, Status::IoError, "cannot flush"),
    ];
    for (number, (params, status, words)) in (0..).zip(cases) {
        let faulty = Faulty::new(&runtime, number);
        faulty.create(params).expect("the pool is made");
        let admin = runtime.admin();
        for flushed in [
            admin.flush(Some(faulty.pool_id().into())),
            admin.flush(None),
            destroy(&runtime, faulty.pool_id()),
        ] {
            let error = assert_status(flushed, status);
            assert!(error.to_string().contains(words), "{error}");
            let says_gone = error.to_string().contains("The pool is gone all the same");
            assert_eq!(
                says_gone,
                error.operation().starts_with("destroying pool"),
                "{error}"
            );
            if status == Status::ModulePanicked {
                let whose = format!("pool faulty {}, module chimaera_faulty: ", faulty.pool_id());
                assert_eq!(
                    error.to_string().matches("pool faulty").count(),
                    1,
                    "{error}"
                );
                assert!(error.to_string().contains(&whose), "{error}");
            }
        }
        assert_status(faulty.call(Method::Complete), Status::PoolNotFound);
        assert_eq!(admin.list_pools().expect("a list"), []);
        assert!(faulty.create("").expect("id and name are free").created);
        assert_goes_on(&daemon, &faulty);
        destroy(&runtime, faulty.pool_id()).expect("the pool goes");
        destroy(&runtime, PoolId::new(8000, 0)).expect("the pool goes");
    }
}

#[test]
fn a_daemon_that_cannot_flush_its_pools_says_so_at_its_end() {
    let unflushed = "pool faulty 6666.1 (6666.1): as asked: cannot flush";
    for stop in ["command", "signal"] {
        let mut daemon = Daemon::start();
        let runtime = daemon.connect();
        for (number, params) in (0..).zip(["", params::FLUSH_ERROR, ""]) {
            let faulty = Faulty::new(&runtime, number);
            faulty.create(params).expect("the pool is made");
        }
        if stop == "command" {
            let text = daemon.run(&["runtime", "stop"]).failure(1);
            assert!(text.contains(unflushed), "{text}");
        } else {
            daemon.signal(nix::sys::signal::Signal::SIGTERM);
        }
        let (code, log) = daemon.wait();
        assert_eq!(code, Some(1), "{stop}: {log}");
        assert!(log.contains(unflushed), "{stop}: {log}");
        assert_eq!(log.matches("pool stopped").count(), 3, "{stop}: {log}");
    }
}

#[test]
fn a_module_that_panics_at_its_beginning_or_end_stops_neither() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::new(&runtime, 0);
    for params in [params::WAKE_PANIC, params::DROP_PANIC] {
        faulty.create(params).expect("the pool is made");
        assert_goes_on(&daemon, &faulty);
        destroy(&runtime, faulty.pool_id()).expect("the pool goes");
    }
    assert!(faulty.create("").expect("id and name are free").created);
}

#[test]
fn a_wake_up_file_that_wakes_nobody_is_told_of_as_a_mistake_of_its_module() {
    let daemon = Daemon::start_with(&["--workers", "1"]);
    let runtime = daemon.connect();
    let faulty = Faulty::new(&runtime, 0);
    faulty.create(params::WAKE_FILE).expect("the pool is made");
    let named = "pool \"faulty 6666.0\", module chimaera_faulty: worker 0 cannot be woken";
    until("the log tells of it", || daemon.log().contains(named));
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains(named)).expect("told");
    assert!(
        line.contains("a mistake in module chimaera_faulty: `wake_fd` has to give an eventfd"),
        "{line}"
    );
    assert!(!line.contains("max_user_watches"), "{line}");
    assert_goes_on(&daemon, &faulty);
}

#[test]
fn destroying_a_pool_waits_for_the_requests_that_its_module_holds() {
    let daemon = Daemon::start_with(&["--workers", "2"]);
    let runtime = daemon.connect();
    let holder = Faulty::created(&runtime, 0);
    let key = Faulty::created(&runtime, 1);
    let held: Vec<_> = (0..5)
        .map(|_| {
            let buffer = runtime.allocate_buffer(4096).expect("a buffer");
            holder.start(Method::Hold, Some(buffer))
        })
        .collect();
    until("the requests are held", || {
        key.about_held(Method::CountHeld, holder.pool_id()) == 5
    });
    let mut destruction = runtime.admin().async_destroy_pool(holder.pool_id());
    // Once new tasks are refused, the pool waits for the old ones.
    until("new tasks are refused", || {
        holder.call(Method::Complete).is_err()
    });
    assert_status(holder.call(Method::Complete), Status::PoolNotFound);
    let early = destruction.wait_timeout(Duration::from_millis(50));
    assert!(early.is_none(), "destroyed with requests in flight");
    assert!(held.iter().all(|task| !task.is_complete()));
    // Its id is taken until it is gone, so a request to make the pool anew has to wait.
    assert_status(
        runtime.admin().destroy_pool(holder.pool_id()),
        Status::PoolNotFound,
    );

    assert_eq!(key.about_held(Method::Release, holder.pool_id()), 5);
    for task in held {
        let (values, buffer) = task.wait().expect("released");
        assert_eq!(values[0], u64::from(RELEASED));
        let buffer = buffer.expect("the buffer comes back");
        assert!(buffer.iter().all(|&byte| byte == RELEASED));
    }
    destruction
        .wait_timeout(PATIENCE)
        .expect("the last request has completed")
        .expect("the pool goes");
    assert!(holder.create("").expect("id and name are free").created);
    assert_goes_on(&daemon, &holder);
}

/// How many segments of its clients the daemon has mapped.
fn client_segments(daemon: &Daemon) -> usize {
    let path = format!("/proc/{}/maps", daemon.process_id());
    let maps = std::fs::read_to_string(path).expect("the daemon's memory can be looked at");
    let lines = maps.lines();
    lines
        .filter(|line| line.contains("memfd:chimaera-client"))
        .count()
}

#[test]
fn a_dead_clients_memory_is_kept_until_its_requests_end_and_no_longer() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let holder = Faulty::created(&runtime, 0);
    let key = Faulty::created(&runtime, 1);
    // The command that asks for the sessions has one itself for a while.
    let sessions = daemon.sessions();
    until("only the test's own segment is mapped", || {
        client_segments(&daemon) == 1
    });
    for end in [Method::Release, Method::DropHeld] {
        let mut client = ClientProcess::start(&daemon.socket(), &["hold", "0", "9"]);
        client.expect("holding");
        until("the requests are held", || {
            key.about_held(Method::CountHeld, holder.pool_id()) == 9
        });
        client.kill();
        until("the daemon learns of the client's death", || {
            daemon.sessions() == sessions
        });
        until(
            "the test's and the dead client's segments are mapped",
            || client_segments(&daemon) == 2,
        );
        let kept = "the module may still write there";
        assert_eq!(
            key.about_held(Method::CountHeld, holder.pool_id()),
            9,
            "{kept}"
        );
        assert_eq!(client_segments(&daemon), 2, "{kept}");
        // Writes into the dead client's memory, and completes into it.
        assert_eq!(key.about_held(end, holder.pool_id()), 9);
        until("the dead client's memory is let go of", || {
            client_segments(&daemon) == 1
        });
        assert_goes_on(&daemon, &holder);
    }
    destroy(&runtime, holder.pool_id()).expect("every task has ended once");
}

#[test]
fn stopping_a_daemon_waits_for_held_requests_and_gives_them_their_results() {
    let mut daemon = Daemon::start();
    let runtime = daemon.connect();
    let key = daemon.folder().join("key");
    let holder = Faulty::new(&runtime, 1);
    // A host that stops takes no further task of any pool, so a file tells the module to let go of what it holds.
    let releases = format!("{}{}", params::RELEASES_AT, text(&key));
    holder.create(&releases).expect("the pool is made");
    let other = Faulty::created(&runtime, 2);
    let held = holder.start(Method::Hold, None);
    until("the request is held", || {
        other.about_held(Method::CountHeld, holder.pool_id()) == 1
    });
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    until("new tasks are refused", || {
        other.call(Method::Complete).is_err()
    });
    assert_status(holder.call(Method::Complete), Status::ShuttingDown);
    assert!(!held.is_complete());
    std::fs::write(&key, "").expect("writes");
    let (values, _) = held.wait().expect("the result comes before the end");
    assert_eq!(values[0], u64::from(RELEASED));
    assert_eq!(daemon.wait().0, Some(0));
    assert_status(other.call(Method::Complete), Status::ConnectionLost);
}
