//! The daemon as its operator sees it: how it starts, how it ends, and who learns of that.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use chimaera_bdev_client::{Buffer, Client, Error, PoolId, PoolQuery, Runtime, Status, Task};
use chimaera_client::{ConnectOptions, Values};
use chimaera_faulty_runtime::Method;
use chimaera_tests::exit::{IN_THE_WAY, NO_RUNTIME, WRONG_USAGE};
use chimaera_tests::{
    BackgroundDaemon, ClientProcess, Daemon, Faulty, PATIENCE, Watchdog, block_on, chimaera,
    finish, is_ignored, json, program, skipped, text, thread_sleeps, until, within,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

#[track_caller]
fn assert_lost<T: std::fmt::Debug>(result: Result<T, impl Into<Error>>) {
    let error: Error = result.expect_err("the daemon is gone").into();
    assert_eq!(error.status(), Status::ConnectionLost, "{error}");
    assert!(error.to_string().contains("connect again"), "{error}");
}

#[test]
fn a_second_daemon_on_a_socket_is_refused_and_does_not_disturb_the_first() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let text = daemon.run(&["runtime", "start"]).failure(IN_THE_WAY);
    let named = format!(
        "another runtime with process id {} serves",
        daemon.process_id()
    );
    assert!(text.contains(&named), "{text}");
    let text = daemon.run(&["runtime", "start", "--detach"]);
    let text = text.failure(IN_THE_WAY);
    for words in ["did not start", &named] {
        assert!(text.contains(words), "{text}");
    }
    runtime.admin().ping().expect("the first goes on");
    daemon.connect().admin().ping().expect("and takes clients");
}

#[test]
fn a_file_in_the_sockets_place_is_not_removed() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("precious");
    std::fs::write(&path, "not a socket").expect("a file");
    let refused = chimaera(&["runtime", "start", "--socket", text(&path)]);
    let refused = refused.failure(IN_THE_WAY);
    assert!(refused.contains("is not a socket"), "{refused}");
    assert_eq!(
        std::fs::read_to_string(&path).expect("the file"),
        "not a socket"
    );
}

#[test]
fn each_signal_to_end_stops_the_daemon_in_good_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        if is_ignored(signal) {
            skipped(signal.as_str(), "it is ignored by whoever started this");
            continue;
        }
        let mut daemon = Daemon::start();
        let runtime = daemon.connect();
        runtime.admin().ping().expect("it serves");
        daemon.signal(signal);
        let (code, log) = daemon.wait();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopped"), "{log}");
        let left: Vec<_> = std::fs::read_dir(daemon.folder())
            .expect("its folder")
            .collect();
        assert!(left.is_empty(), "{signal} leaves {left:?}");
        within("learning of the end", move || {
            until("the connection ends", || !runtime.is_connected());
            assert_lost(runtime.admin().ping());
        });
    }
}

#[test]
fn a_second_signal_ends_a_daemon_that_waits_for_a_module() {
    let mut daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    let mut held = faulty.start(Method::Hold, None);
    until("the request is held", || {
        faulty.about_held(Method::CountHeld, faulty.pool_id()) == 1
    });
    daemon.signal(Signal::SIGTERM);
    until("new tasks are refused", || {
        faulty.call(Method::Complete).is_err()
    });
    assert!(!held.is_complete());
    daemon.insist(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(1));
    assert_lost(held.wait_timeout(PATIENCE).expect("it ends"));
}

#[test]
fn stopping_ends_the_connections_of_clients_that_are_there() {
    let mut daemon = Daemon::start();
    let clients: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for client in &clients {
        client.admin().ping().expect("it serves");
    }
    let said = daemon.run(&["runtime", "stop"]).success();
    let (process, socket) = (daemon.process_id(), daemon.socket());
    let expected = format!(
        "stopped the daemon with process id {process} at {}\n",
        socket.display()
    );
    assert_eq!(said, expected);
    assert!(!daemon.socket().exists(), "nobody can connect any more");
    assert_eq!(daemon.wait().0, Some(0));
    for client in clients {
        until("the connection ends", || !client.is_connected());
        assert_lost(client.admin().ping());
        assert_lost(Client::new(&client, PoolId::new(1, 2)).allocate_blocks(PoolQuery::Local, 1));
    }
    daemon.run(&["runtime", "stop"]).failure(NO_RUNTIME);
}

#[test]
fn a_killed_daemon_leaves_a_socket_that_the_next_one_takes_over() {
    let folder = Daemon::start().kill_and_leave();
    let socket = folder.path().join("chimaera.sock");
    assert!(socket.exists(), "a killed daemon cannot clean up");
    let refused = chimaera(&["pool", "list", "--socket", text(&socket)]);
    let refused = refused.failure(NO_RUNTIME);
    assert!(refused.contains("no daemon listens there"), "{refused}");
    let next = Daemon::start_in(folder, &[] as &[&str]);
    next.connect().admin().ping().expect("the next one serves");
    assert_eq!(next.sessions(), 0);
}

/// A way to wait for a module, with its name and the number of requests that the module holds then.
type WayToWait = (&'static str, u64, fn(Faulty, Runtime));

/// Each has a pool and a connection of its own, and ends when the daemon is gone.
const WAYS_TO_WAIT: [WayToWait; 6] = [
    ("a call", 1, |holder, _| {
        assert_lost(holder.call(Method::Hold));
    }),
    ("a wait", 1, |holder, runtime| {
        let refused = hold(&holder, &runtime).wait().expect_err("lost");
        assert!(refused.buffer.is_some(), "the buffer comes back");
        assert_lost(Err::<(), _>(refused));
    }),
    ("a wait with a timeout", 1, |holder, runtime| {
        let mut task = hold(&holder, &runtime);
        assert_lost(task.wait_timeout(PATIENCE * 2).expect("no timeout"));
    }),
    ("a future", 1, |holder, runtime| {
        assert_lost(block_on(hold(&holder, &runtime)));
    }),
    (
        "a wait for a place in a full lane",
        64,
        |holder, runtime| {
            let tasks: Vec<_> = (0..64).map(|_| hold(&holder, &runtime)).collect();
            assert_lost(holder.start(Method::Complete, None).wait());
            tasks.into_iter().for_each(|task| assert_lost(task.wait()));
        },
    ),
    (
        "a destruction that waits for a request",
        1,
        |holder, runtime| {
            let _held = hold(&holder, &runtime);
            assert_lost(runtime.admin().destroy_pool(holder.pool_id()));
        },
    ),
];

/// Has the module keep a request with a buffer.
fn hold(holder: &Faulty, runtime: &Runtime) -> Task<(Values, Option<Buffer>)> {
    let buffer = runtime.allocate_buffer(4096).expect("a buffer");
    holder.start(Method::Hold, Some(buffer))
}

#[test]
fn whoever_waits_when_the_daemon_is_killed_learns_that_the_connection_is_lost() {
    let mut daemon = Daemon::start_with(&["--workers", "2"]);
    let runtime = daemon.connect();
    let holder = Faulty::created(&runtime, 0);
    let key = Faulty::created(&runtime, 1);
    let mut waiting = Vec::new();
    for (number, (what, count, wait)) in (10..).zip(WAYS_TO_WAIT) {
        let pool = Faulty::created(&runtime, number);
        let connection = daemon.connect();
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).expect("listens");
            let holder = Faulty::new(&connection, number);
            within(what, move || wait(holder, connection));
        });
        let id = told.recv_timeout(PATIENCE).expect("it begins");
        until("the requests are held", || {
            key.about_held(Method::CountHeld, pool.pool_id()) == count
        });
        until("the client sleeps", || thread_sleeps(id));
        waiting.push((what, thread));
    }
    // One that spins instead of sleeping.
    let spinning = ConnectOptions::new().spin(PATIENCE * 2);
    let spinning = spinning.connect_to(daemon.socket()).expect("connects");
    let thread = thread::spawn(move || {
        assert_lost(Faulty::new(&spinning, 0).call(Method::Hold));
    });
    until("the request is held", || {
        key.about_held(Method::CountHeld, holder.pool_id()) == 1
    });
    waiting.push(("a call that spins", thread));

    daemon.kill();
    for (what, thread) in waiting {
        within(what, move || thread.join()).unwrap_or_else(|_| panic!("{what} failed"));
    }
    until("the connection ends", || !runtime.is_connected());
    assert_lost(holder.call(Method::Complete));
    assert_lost(runtime.admin().status());
}

#[test]
fn the_environment_names_the_socket_where_no_argument_does() {
    let daemon = Daemon::start();
    let with_variable = |socket: &Path, arguments: &[&str]| {
        let mut command = Command::new(program("chimaera"));
        command.args(arguments).env("CHIMAERA_SOCKET", socket);
        finish(command)
    };
    let status = with_variable(&daemon.socket(), &["runtime", "status", "--json"]).success();
    assert_eq!(json(&status)["process_id"], daemon.process_id());
    let nowhere = daemon.folder().join("nowhere");
    with_variable(&nowhere, &["runtime", "status"]).failure(NO_RUNTIME);
    let socket = daemon.socket();
    let argument = ["runtime", "status", "--socket", text(&socket)];
    let _ = with_variable(&nowhere, &argument).success();

    // A daemon is started there too, and clients find it.
    let socket = daemon.folder().join("second.sock");
    let _ = with_variable(&socket, &["runtime", "start", "--detach"]).success();
    let detached = BackgroundDaemon::at(&socket);
    let mut client = ClientProcess::start(&socket, &["find-a-runtime"]);
    assert_eq!(client.expect("connected"), detached.process_id.to_string());
    client.succeed();
}

#[test]
fn a_detached_daemon_serves_in_the_background_until_it_is_stopped() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("socket");
    let run = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--socket", text(&socket)]);
        chimaera(&all)
    };
    let named_log = folder.path().join("named");
    for (log, arguments) in [
        (folder.path().join("socket.log"), &[][..]),
        (named_log.clone(), &["--log", text(&named_log)]),
    ] {
        let mut start = vec!["runtime", "start", "--detach", "--polling", "powersave"];
        start.extend(arguments);
        let said = run(&start).success();
        let detached = BackgroundDaemon::at(&socket);
        assert!(said.starts_with("ready on"), "{said}");
        assert!(
            said.contains(&format!("process id {}", detached.process_id)),
            "{said}"
        );
        let log = std::fs::read_to_string(log).expect("the log");
        assert!(log.contains("serving"), "{log}");
        let client = Runtime::connect_to(&socket).expect("it serves");
        client.admin().ping().expect("it serves");
        let _ = run(&["runtime", "stop"]).success();
        until("the process ends", || detached.is_gone());
        assert!(!socket.exists());
    }
    run(&["runtime", "start", "--log", "x"]).failure(WRONG_USAGE);
}

#[test]
fn of_daemons_started_at_once_one_serves_and_the_others_say_why_not() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("socket");
    let start = ["runtime", "start", "--detach", "--socket", text(&socket)];
    let codes: Vec<_> = thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| chimaera(&start).code))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().expect("no panic"))
            .collect()
    });
    let _detached = BackgroundDaemon::at(&socket);
    let serving = codes.iter().filter(|&&code| code == Some(0)).count();
    let refused = codes.iter().filter(|&&code| code == Some(IN_THE_WAY));
    assert_eq!((serving, refused.count()), (1, 3), "{codes:?}");
    let runtime = Runtime::connect_to(&socket).expect("one serves");
    runtime.admin().ping().expect("one serves");
    let _ = chimaera(&["runtime", "stop", "--socket", text(&socket)]).success();
}
