//! The connection: its beginning, its refusals, and the daemon's death in the middle.

mod support;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use chimaera_client::proto::limits::{LANE_DEPTH, LAYOUT_VERSION, PROTOCOL_VERSION};
use chimaera_client::{ConnectOptions, Runtime, Status};
use chimaera_testing::{FakeHost, Watchdog, block_on};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use support::{ECHO, FILL, HOLD, call, echo, module, submit, submit_buffer};

#[test]
fn no_daemon_is_an_error_that_says_what_to_do() {
    let _watchdog = Watchdog::start();
    let error = Runtime::connect_to("/nonexistent/chimaera.sock").expect_err("nobody there");
    assert!(error.is_no_daemon());
    assert_eq!(error.status(), Status::NoRuntime);
    let text = error.to_string();
    for part in ["/nonexistent/chimaera.sock", "name the socket", "start"] {
        assert!(text.contains(part), "{text}");
    }
    // This call does not read the variable.
    assert!(!text.contains("CHIMAERA_SOCKET"), "{text}");
}

#[test]
fn a_daemon_that_says_nothing_is_named_by_its_socket() {
    let _watchdog = Watchdog::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("silent.sock");
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    let address = UnixAddr::new(&path).expect("an address");
    bind(listener.as_raw_fd(), &address).expect("bound");
    listen(&listener, Backlog::new(4).expect("a number")).expect("it listens");
    let error = ConnectOptions::new()
        .control_patience(Duration::from_millis(50))
        .connect_to(&path)
        .expect_err("nobody answers");
    assert_eq!(error.status(), Status::Busy);
    let said = format!(
        "connecting to the runtime at {}: the daemon did not answer for 50ms",
        path.display()
    );
    assert!(error.to_string().starts_with(&said), "{error}");
}

#[test]
fn another_version_is_told_as_such() {
    let _watchdog = Watchdog::start();
    let (_host, socket) = FakeHost::start_as((77, 1), module);
    let error = Runtime::from_socket(socket).expect_err("another version");
    assert_eq!(error.status(), Status::Unsupported);
    let own = format!("this program speaks {PROTOCOL_VERSION} with {LAYOUT_VERSION}");
    for words in [
        "protocol version 77 with layout version 1",
        &own,
        "of one release",
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(!error.is_no_daemon());
}

#[test]
fn a_refusal_gives_the_daemons_reason() {
    let _watchdog = Watchdog::start();
    let (_host, socket) = FakeHost::start(module);
    let options = ConnectOptions::new().client_name("refuse me");
    let error = options.from_socket(socket).expect_err("refused");
    assert_eq!(error.status(), Status::PermissionDenied);
    assert!(error.to_string().contains("ask the operator"), "{error}");
}

/// Says when it was dropped.
struct Kept(Arc<AtomicBool>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_is_kept_alive_goes_after_the_connection() {
    let _watchdog = Watchdog::start();
    let (host, socket) = FakeHost::start(module);
    let gone = Arc::new(AtomicBool::new(false));
    // Dropped in this order: first the host, whose threads end once the connection is closed.
    let kept = (host, Kept(Arc::clone(&gone)));
    let options = ConnectOptions::new().keep_alive(Box::new(kept));
    let runtime = options.from_socket(socket).expect("connects");
    assert_eq!(echo(&runtime, 3), 3);
    let clone = runtime.clone();
    drop(runtime);
    assert!(!gone.load(Ordering::SeqCst));
    assert_eq!(echo(&clone, 4), 4);
    drop(clone);
    assert!(gone.load(Ordering::SeqCst));
}

#[test]
fn the_connection_stays_until_the_last_handle_goes_and_no_longer() {
    let _watchdog = Watchdog::start();
    let (host, socket) = FakeHost::start(module);
    let gone = Arc::new(AtomicBool::new(false));
    let options = ConnectOptions::new().keep_alive(Box::new(Kept(Arc::clone(&gone))));
    let runtime = options.from_socket(socket).expect("connects");
    // One is waited for, one given up while it is in flight, one harvested and given up.
    let (waited, given_up) = (submit(&runtime, HOLD, 1), submit(&runtime, HOLD, 2));
    let harvested = submit(&runtime, ECHO, 3);
    let many: Vec<_> = (0..2 * LANE_DEPTH as u64)
        .map(|n| submit(&runtime, ECHO, n))
        .collect();
    drop((runtime, many));
    // Long enough for what would be closed too early to be closed.
    thread::sleep(Duration::from_millis(30));
    assert!(!gone.load(Ordering::SeqCst));
    drop(given_up);
    host.release_held();
    assert_eq!(waited.wait().expect("held"), 1);
    assert!(!gone.load(Ordering::SeqCst));
    drop(harvested);
    while !gone.load(Ordering::SeqCst) {
        thread::yield_now();
    }
}

fn lost(status: Status) {
    assert_eq!(status, Status::ConnectionLost);
}

#[test]
fn whoever_spins_sleeps_or_awaits_learns_of_the_daemons_death() {
    let _watchdog = Watchdog::start();
    for spin in [
        Duration::ZERO,
        Duration::from_micros(30),
        Duration::from_secs(5),
    ] {
        let options = ConnectOptions::new().spin(spin);
        let (mut host, runtime) = FakeHost::connect_with(options, module);
        thread::scope(|scope| {
            scope.spawn(|| lost(runtime.call(&call(HOLD, 1)).expect_err("lost").status()));
            scope.spawn(|| lost(submit(&runtime, HOLD, 1).wait().expect_err("lost").status()));
            scope.spawn(|| {
                let task = submit(&runtime, HOLD, 1);
                lost(block_on(task).expect_err("lost").status());
            });
            scope.spawn(|| {
                let buffer = runtime.allocate_buffer(10).expect("buffer");
                let mut task = submit_buffer(&runtime, HOLD, 1, buffer);
                let error = task
                    .wait_timeout(Duration::MAX)
                    .expect("ended")
                    .expect_err("lost");
                assert_eq!(error.status(), Status::ConnectionLost);
                assert_eq!(
                    error.into_buffer().expect("the buffer comes back").len(),
                    10
                );
            });
            host.wait_for_held(4);
            host.kill();
        });
        assert!(!runtime.is_connected());
        lost(runtime.call(&call(ECHO, 1)).expect_err("lost").status());
    }
}

#[test]
fn a_submitter_without_a_record_learns_of_the_daemons_death() {
    let _watchdog = Watchdog::start();
    let (mut host, runtime) = FakeHost::connect(module);
    thread::scope(|scope| {
        scope.spawn(|| {
            let tasks: Vec<_> = (0..LANE_DEPTH as u64)
                .map(|n| submit(&runtime, HOLD, n))
                .collect();
            lost(runtime.call(&call(HOLD, 1)).expect_err("lost").status());
            for task in tasks {
                lost(task.wait().expect_err("lost").status());
            }
        });
        host.wait_for_held(LANE_DEPTH);
        host.kill();
    });
}

#[test]
fn no_task_is_missed_when_the_daemon_dies_under_load() {
    let _watchdog = Watchdog::start();
    for round in 0..60 {
        let (mut host, runtime) = FakeHost::connect(module);
        thread::scope(|scope| {
            for thread in 0..2 {
                let runtime = &runtime;
                scope.spawn(move || load_until_lost(runtime, thread));
            }
            while host.lane_count() < 2 {
                thread::yield_now();
            }
            for _ in 0..round * 50 {
                std::hint::spin_loop();
            }
            host.kill();
        });
        // From now on every call fails at once.
        lost(runtime.call(&call(ECHO, 1)).expect_err("lost").status());
        let buffer = runtime
            .allocate_buffer(8)
            .expect("present segments still serve");
        let error = runtime
            .submit(call(FILL, 1), Some(buffer), support::with_buffer)
            .wait()
            .expect_err("lost");
        assert_eq!(error.into_buffer().expect("comes back").len(), 8);
    }
}

fn load_until_lost(runtime: &Runtime, thread: u64) {
    loop {
        let mut failed = 0;
        let tasks: Vec<_> = (0..100)
            .map(|n| runtime.submit(call(ECHO, n), None, |finished| Ok(finished.values()?[0])))
            .collect();
        for task in tasks {
            match task.wait() {
                Ok(number) => assert!(number < 100),
                Err(error) => {
                    lost(error.status());
                    failed += 1;
                }
            }
        }
        match runtime.call(&call(ECHO, thread)) {
            Ok(values) => assert!(failed == 0 && values[0] == thread),
            Err(error) => return lost(error.status()),
        }
    }
}

#[test]
fn a_thread_without_a_lane_is_told_of_the_loss_too() {
    let _watchdog = Watchdog::start();
    let (mut host, runtime) = FakeHost::connect(module);
    host.kill();
    lost(runtime.call(&call(ECHO, 1)).expect_err("lost").status());
    let error = runtime
        .allocate_buffer(1 << 30)
        .expect_err("cannot be registered");
    lost(error.status());
}

#[test]
fn the_last_handle_closes_the_connection_before_it_returns() {
    let _watchdog = Watchdog::start();
    for ending in 0..3 {
        let (host, socket) = FakeHost::start(module);
        let gone = Arc::new(AtomicBool::new(false));
        let options = ConnectOptions::new().keep_alive(Box::new(Kept(Arc::clone(&gone))));
        let runtime = options.from_socket(socket).expect("connects");
        let last = submit(&runtime, HOLD, 1);
        host.wait_for_held(1);
        if ending == 2 {
            host.release_held();
            // Needs the record of the last one, whose completion is harvested for that.
            let many: Vec<_> = (0..2 * LANE_DEPTH as u64)
                .map(|n| submit(&runtime, ECHO, n))
                .collect();
            drop(many);
        }
        drop(runtime);
        assert!(!gone.load(Ordering::SeqCst));
        match ending {
            0 => {
                host.release_held();
                assert_eq!(last.wait().expect("held"), 1);
            }
            1 => drop(last),
            _ => assert_eq!(last.wait().expect("held"), 1),
        }
        assert!(gone.load(Ordering::SeqCst), "ending {ending}");
    }
}

#[test]
fn handles_may_end_on_many_threads_while_the_runtime_goes() {
    let _watchdog = Watchdog::start();
    for round in 0..200 {
        let (_host, runtime) = FakeHost::connect(module);
        thread::scope(|scope| {
            for thread in 0..4u64 {
                let runtime = runtime.clone();
                scope.spawn(move || {
                    let mut tasks: Vec<_> = (0..90)
                        .map(|n| {
                            let buffer = runtime.allocate_buffer(64).expect("buffer");
                            submit_buffer(&runtime, FILL, n, buffer)
                        })
                        .collect();
                    drop(runtime);
                    let others = tasks.split_off(45);
                    let elsewhere = thread::spawn(move || {
                        for (n, task) in (45..).zip(others) {
                            match (n + round + thread) % 3 {
                                0 => drop(task),
                                1 => drop(block_on(task).expect("fill")),
                                _ => drop(task.wait().expect("fill")),
                            }
                        }
                    });
                    for task in tasks {
                        let (len, buffer) = task.wait().expect("fill");
                        assert_eq!(len, buffer.len() as u64);
                    }
                    if round % 2 == 0 {
                        elsewhere.join().expect("no panic");
                    }
                });
            }
            drop(runtime);
        });
    }
}
