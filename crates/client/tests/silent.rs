//! A daemon that does not answer one thread: what other threads can do without the daemon does not wait.

mod support;

use std::thread;

use chimaera_client::{ConnectOptions, Runtime};
use chimaera_testing::{FakeHost, Fate, Watchdog};
use support::{ECHO, call, module};

const SEGMENT: usize = 16 << 20;

fn connect() -> (FakeHost, Runtime) {
    let options = ConnectOptions::new().buffer_bytes(SEGMENT as u64);
    FakeHost::connect_with(options, module)
}

fn echoes(runtime: &Runtime, argument: u64) {
    let values = runtime.call(&call(ECHO, argument)).expect("an echo");
    assert_eq!(values[0], argument);
}

#[test]
fn buffers_that_fit_come_and_go_while_memory_is_being_registered() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    let large = runtime.allocate_buffer(SEGMENT / 4).expect("room");
    let _rest = runtime.allocate_buffer(SEGMENT / 2).expect("room");
    host.next([Fate::Late]);
    thread::scope(|scope| {
        let grows = scope.spawn(|| runtime.allocate_buffer(SEGMENT));
        host.wait_for_late(1);
        // The buffer came from the segment, and goes back to it.
        drop(large);
        let again = runtime.allocate_buffer(SEGMENT / 4).expect("room");
        // Makes a region for small buffers, which takes a part of the segment.
        drop(again);
        let small = runtime.allocate_buffer(1000).expect("room");
        drop(small);
        assert!(!grows.is_finished(), "nobody has answered yet");
        assert_eq!(host.send_late_answers(), 1);
        grows.join().expect("no panic").expect("it is registered");
    });
    assert_eq!(host.segment_count(), 2);
}

#[test]
fn threads_end_and_begin_while_a_lane_is_being_opened() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = connect();
    let (go, ends) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        let (begin, begun) = std::sync::mpsc::channel();
        let first = scope.spawn({
            let runtime = &runtime;
            move || {
                echoes(runtime, 1);
                begin.send(()).expect("listens");
                ends.recv().expect("told");
            }
        });
        begun.recv().expect("it has a lane");
        host.next([Fate::Late]);
        let opens = scope.spawn(|| echoes(&runtime, 2));
        host.wait_for_late(1);
        go.send(()).expect("listens");
        first.join().expect("it ends, and leaves its lane");
        scope
            .spawn(|| echoes(&runtime, 3))
            .join()
            .expect("it takes that lane");
        assert!(!opens.is_finished(), "nobody has answered yet");
        assert_eq!(host.send_late_answers(), 1);
        opens.join().expect("it has its lane");
    });
    assert_eq!(host.lane_count(), 2);
}
