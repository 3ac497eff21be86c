//! A daemon that answers a request late or not at all: that request fails, and nothing else.

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use chimaera_client::proto::control::{self, ControlReply, NO_REQUEST};
use chimaera_client::{Buffer, ConnectOptions, Error, Runtime, Status};
use chimaera_shm::packet;
use chimaera_testing::{FakeHost, Fate, Watchdog};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use support::{ECHO, FILL, LOCATE, call, module, submit_buffer};

const SEGMENT: usize = 16 << 20;

/// Connects with little patience. A machine under load can be slower than that, so calls that are to succeed are
/// retried with [`again`].
fn connect() -> (FakeHost, Runtime) {
    loop {
        let (host, socket) = FakeHost::start(module);
        let options = ConnectOptions::new()
            .buffer_bytes(SEGMENT as u64)
            .control_patience(Duration::from_millis(200));
        match options.from_socket(socket) {
            Ok(runtime) => return (host, runtime),
            Err(error) => assert_eq!(error.status(), Status::Busy, "{error}"),
        }
    }
}

fn again<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> T {
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert_eq!(error.status(), Status::Busy, "{error}"),
        }
    }
}

fn echoes(runtime: &Runtime, argument: u64) {
    let values = again(|| runtime.call(&call(ECHO, argument)));
    assert_eq!(values[0], argument);
}

/// Has a lane opened, and leaves little room for buffers.
fn fill_the_first_segment(runtime: &Runtime) -> Buffer {
    echoes(runtime, 1);
    again(|| runtime.allocate_buffer(SEGMENT / 4 * 3))
}

/// Checks that the host reads and writes the memory of the client.
fn is_usable(runtime: &Runtime, len: usize) {
    let buffer = again(|| runtime.allocate_buffer(len));
    let (filled, buffer) = submit_buffer(runtime, FILL, 0xA5, buffer)
        .wait()
        .expect("fill");
    assert_eq!(filled, len as u64);
    assert!(buffer.iter().all(|&byte| byte == 0xA5));
    let (address, _) = submit_buffer(runtime, LOCATE, 0, buffer)
        .wait()
        .expect("locate");
    assert_ne!(address, 0);
}

#[test]
fn a_daemon_that_does_not_answer_is_told_as_such_and_the_connection_goes_on() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    host.next([Fate::Late]);
    let error = runtime.call(&call(ECHO, 1)).expect_err("no answer");
    assert_eq!(error.status(), Status::Busy);
    for part in ["did not answer for 200ms", "try again"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(runtime.is_connected());
    // The daemon has opened the lane: the second answer is for the same.
    echoes(&runtime, 2);
    assert_eq!(host.lane_count(), 1);
    // The first answer comes now, and is not mistaken for the answer to another thread's request.
    assert_eq!(host.send_late_answers(), 1);
    thread::scope(|scope| {
        for argument in 3..9 {
            let runtime = &runtime;
            scope.spawn(move || echoes(runtime, argument));
        }
    });
    assert!(runtime.is_connected());
}

#[test]
fn requests_that_were_lost_or_answered_late_many_times_are_carried_out_once() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    host.next([Fate::Late, Fate::Lost, Fate::Late]);
    for _ in 0..3 {
        let error = runtime.call(&call(ECHO, 1)).expect_err("no answer");
        assert_eq!(error.status(), Status::Busy);
    }
    assert_eq!(host.send_late_answers(), 2);
    echoes(&runtime, 1);
    assert_eq!(host.lane_count(), 1);
}

#[test]
fn memory_whose_registration_was_not_answered_has_its_index_all_the_same() {
    let _watchdog = Watchdog::start();
    for fate in [Fate::Late, Fate::Lost] {
        let (host, runtime) = connect();
        let _first = fill_the_first_segment(&runtime);
        host.next([fate]);
        let error = runtime.allocate_buffer(SEGMENT).expect_err("no answer");
        assert_eq!(error.status(), Status::Busy, "{error}");
        // A buffer that fits needs no registration.
        is_usable(&runtime, SEGMENT / 8);
        is_usable(&runtime, SEGMENT);
        assert_eq!(host.segment_count(), 2);
        host.send_late_answers();
        is_usable(&runtime, 2 * SEGMENT);
        assert_eq!(host.segment_count(), 3);
    }
}

#[test]
fn memory_that_is_too_small_for_the_next_buffer_is_registered_before_another() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    let _first = fill_the_first_segment(&runtime);
    host.next([Fate::Late]);
    let error = runtime.allocate_buffer(SEGMENT).expect_err("no answer");
    assert_eq!(error.status(), Status::Busy, "{error}");
    is_usable(&runtime, 3 * SEGMENT);
    assert_eq!(host.segment_count(), 3);
    is_usable(&runtime, SEGMENT);
    assert_eq!(host.segment_count(), 3);
}

#[test]
fn memory_that_was_refused_leaves_its_index_to_other_memory() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    let _first = fill_the_first_segment(&runtime);
    host.next([Fate::Refused(Status::OutOfMemory)]);
    let error = runtime.allocate_buffer(8 * SEGMENT).expect_err("refused");
    assert_eq!(error.status(), Status::OutOfMemory, "{error}");
    is_usable(&runtime, SEGMENT);
    assert_eq!(host.segment_count(), 2);
}

#[test]
fn a_daemon_without_descriptors_may_have_the_memory_already() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    let _first = fill_the_first_segment(&runtime);
    host.next([Fate::Late, Fate::Refused(Status::OutOfResources)]);
    for expected in [Status::Busy, Status::OutOfResources] {
        let error = runtime.allocate_buffer(SEGMENT).expect_err("not now");
        assert_eq!(error.status(), expected, "{error}");
    }
    is_usable(&runtime, SEGMENT);
    assert_eq!(host.segment_count(), 2);
}

#[test]
fn an_answer_to_what_was_not_asked_ends_the_connection() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    host.next([Fate::Numbered(1 << 40)]);
    for _ in 0..2 {
        let error = runtime.call(&call(ECHO, 1)).expect_err("a violation");
        assert_eq!(error.status(), Status::ProtocolViolation);
        assert!(error.to_string().contains("was not asked"), "{error}");
    }
}

/// A daemon's end of a connection, and the client's.
fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("socketpair")
}

fn turn_away(socket: &OwnedFd) {
    let refusal = ControlReply::Refused {
        status: Status::OutOfResources,
        reason: "there is no room: come back later".to_owned(),
    };
    let packet = control::encode(NO_REQUEST, &refusal).expect("encodes");
    packet::send(socket, &packet, None).expect("sends");
}

fn learns_why(socket: OwnedFd) {
    let error = Runtime::from_socket(socket).expect_err("turned away");
    assert_eq!(error.status(), Status::OutOfResources, "{error}");
    assert!(error.to_string().contains("come back later"), "{error}");
}

#[test]
fn a_client_that_is_turned_away_learns_why_before_and_after_saying_hello() {
    let _watchdog = Watchdog::start();
    let (ours, theirs) = pair();
    turn_away(&ours);
    drop(ours);
    learns_why(theirs);

    let (ours, theirs) = pair();
    let client = thread::spawn(|| learns_why(theirs));
    let mut sockets = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
    poll(&mut sockets, PollTimeout::NONE).expect("polls");
    turn_away(&ours);
    // The hello was not read, of which the system tells the client before the refusal.
    drop(ours);
    client.join().expect("the client learns why");
}

#[test]
fn threads_that_wait_behind_one_another_share_the_time_that_they_wait() {
    const THREADS: usize = 4;
    let _watchdog = Watchdog::start();
    let (host, socket) = FakeHost::start(module);
    let options = ConnectOptions::new()
        .buffer_bytes(SEGMENT as u64)
        .control_patience(Duration::from_secs(2));
    let runtime = options.from_socket(socket).expect("it answers");
    let _full = runtime.allocate_buffer(SEGMENT / 4 * 3).expect("room");
    let each_waits = |what: &(dyn Fn() -> Error + Sync)| {
        host.next((0..THREADS).map(|_| Fate::Late));
        let begin = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    begin.wait();
                    assert_eq!(what().status(), Status::Busy);
                });
            }
        });
        // The threads behind the first one have no time left for a request of their own. On a loaded machine one may
        // begin so late that it has some; only threads that wait one after another send a request each.
        host.answer_all();
        let requests = host.send_late_answers();
        assert!((1..THREADS).contains(&requests), "{requests} requests");
    };
    each_waits(&|| runtime.allocate_buffer(SEGMENT).expect_err("no answer"));
    each_waits(&|| runtime.call(&call(ECHO, 1)).expect_err("no answer"));
    echoes(&runtime, 2);
    is_usable(&runtime, SEGMENT);
}
