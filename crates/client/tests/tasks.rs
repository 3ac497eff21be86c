//! Tasks: waiting in every way, more handles than records, handles dropped in flight.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use chimaera_client::proto::limits::LANE_DEPTH;
use chimaera_client::{ConnectOptions, Runtime, Status};
use chimaera_testing::{FakeHost, MIB, WakeCount, Watchdog, block_on, until};
use support::{ECHO, FAIL, FILL, HOLD, call, echo, module, submit, submit_buffer};

#[test]
fn a_call_gives_what_the_module_gave() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    for number in 0..10_000 {
        assert_eq!(echo(&runtime, number), number);
    }
}

#[test]
fn a_failure_says_what_to_what() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let error = runtime
        .call(&call(FAIL, u64::from(Status::NoSpace.code())))
        .expect_err("fails");
    assert_eq!(error.status(), Status::NoSpace);
    let text = error.to_string();
    assert!(
        text.contains("9000.0") && text.contains("not enough free space"),
        "{text}"
    );
}

#[test]
fn the_client_rings_a_host_that_sleeps() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    for number in 0..50 {
        while !host.is_parked() {
            thread::yield_now();
        }
        assert_eq!(echo(&runtime, number), number);
    }
}

#[test]
fn any_number_of_handles_can_be_held_before_waiting() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    for round in 0..5 {
        let tasks: Vec<_> = (0..1000)
            .map(|n| submit(&runtime, ECHO, n + round))
            .collect();
        for (number, task) in tasks.into_iter().enumerate().rev() {
            assert_eq!(task.wait().expect("echo"), number as u64 + round);
        }
    }
}

#[test]
fn many_handles_carry_their_buffers() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let tasks: Vec<_> = (0..1000)
        .map(|n| {
            submit_buffer(
                &runtime,
                FILL,
                n,
                runtime.allocate_buffer(100).expect("buffer"),
            )
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        let (len, buffer) = task.wait().expect("fills");
        assert_eq!((len, buffer.len()), (100, 100));
        assert!(buffer.iter().all(|&byte| byte == number as u8));
    }
}

#[test]
fn a_full_lane_waits_for_whichever_completes() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    // All but one record are taken by tasks that do not end.
    let held: Vec<_> = (1..LANE_DEPTH as u64)
        .map(|n| submit(&runtime, HOLD, n))
        .collect();
    let tasks: Vec<_> = (0..200).map(|n| submit(&runtime, ECHO, n)).collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.wait().expect("echo"), number as u64);
    }
    host.release_held();
    for (number, task) in (1..).zip(held) {
        assert_eq!(task.wait().expect("released"), number);
    }
}

#[test]
fn a_submitter_that_sleeps_for_a_record_is_woken() {
    let _watchdog = Watchdog::start();
    for spin in [0, 30] {
        let options = ConnectOptions::new().spin(Duration::from_micros(spin));
        let (host, runtime) = FakeHost::connect_with(options, module);
        let held: Vec<_> = (0..LANE_DEPTH as u64)
            .map(|n| submit(&runtime, HOLD, n))
            .collect();
        host.wait_for_held(LANE_DEPTH);
        let host = &host;
        thread::scope(|scope| {
            scope.spawn(move || {
                // Mostly long enough for the other thread to fall asleep; the test holds in either case.
                thread::sleep(Duration::from_millis(20));
                host.release_held();
            });
            assert_eq!(echo(&runtime, 5), 5);
        });
        for (number, task) in held.into_iter().enumerate() {
            assert_eq!(task.wait().expect("released"), number as u64);
        }
    }
}

#[test]
fn a_task_can_be_waited_for_a_while_and_asked() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut task = submit(&runtime, HOLD, 7);
    assert!(!task.is_complete());
    assert!(task.try_wait().is_none());
    let begin = Instant::now();
    assert!(task.wait_timeout(Duration::from_millis(5)).is_none());
    assert!(begin.elapsed() >= Duration::from_millis(5));
    assert!(task.wait_timeout(Duration::ZERO).is_none());
    host.release_held();
    let value = task
        .wait_timeout(Duration::MAX)
        .expect("ended")
        .expect("echo");
    assert_eq!(value, 7);

    let mut task = submit(&runtime, ECHO, 8);
    let value = loop {
        if let Some(result) = task.try_wait() {
            break result.expect("echo");
        }
        thread::yield_now();
    };
    assert_eq!(value, 8);
}

#[test]
fn a_task_that_timed_out_can_be_harvested_and_waited_for_elsewhere() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut task = submit(&runtime, HOLD, 7);
    assert!(task.wait_timeout(Duration::from_millis(1)).is_none());
    host.release_held();
    let more: Vec<_> = (0..500).map(|n| submit(&runtime, ECHO, n)).collect();
    // Each needs a record, and the first task's is freed only by a harvest.
    while !more.iter().all(chimaera_client::Task::is_complete) {
        thread::yield_now();
    }
    assert!(task.is_complete());
    thread::spawn(move || assert_eq!(task.wait().expect("echo"), 7))
        .join()
        .expect("waits");
    drop(more);
}

#[test]
fn dropped_handles_leave_their_buffers_until_the_tasks_end() {
    let _watchdog = Watchdog::start();
    let options = ConnectOptions::new().buffer_bytes(4 * MIB);
    let (host, runtime) = FakeHost::connect_with(options, module);
    // A buffer that takes most of the segment: while it is not freed there is no room.
    let large = 3 << 20;
    let task = submit_buffer(
        &runtime,
        HOLD,
        0,
        runtime.allocate_buffer(large).expect("buffer"),
    );
    host.wait_for_held(1);
    drop(task);
    runtime.reap();
    let other = runtime.allocate_buffer(large).expect("another segment");
    assert_eq!(
        host.segment_count(),
        2,
        "the buffer in flight was not given away"
    );
    drop(other);
    host.release_held();
    // The host completes what it held after the first, perhaps not before the second is submitted;
    // the third finds it complete.
    echo(&runtime, 1);
    echo(&runtime, 2);
    echo(&runtime, 3);
    let both = [(); 2].map(|()| runtime.allocate_buffer(large).expect("freed"));
    assert_eq!(
        host.segment_count(),
        2,
        "the buffer was freed when its task was done"
    );
    drop(both);
}

#[test]
fn dropping_and_forgetting_handles_at_any_moment_breaks_nothing() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    for round in 0..3000u64 {
        let buffer = runtime.allocate_buffer(64).expect("buffer");
        let mut task = submit_buffer(&runtime, FILL, round, buffer);
        match round % 5 {
            0 => drop(task),
            1 if round < 500 => std::mem::forget(task),
            2 => {
                let _ = task.wait_timeout(Duration::from_nanos(round % 300));
            }
            3 => {
                let _ = block_on_once(&mut task);
            }
            _ => {
                let (_, buffer) = task.wait().expect("fills");
                assert!(buffer.iter().all(|&byte| byte == round as u8));
            }
        }
    }
}

fn block_on_once<T>(task: &mut chimaera_client::Task<T>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    std::pin::Pin::new(task).poll(&mut context).is_ready()
}

#[test]
fn a_bare_executor_can_await() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    block_on(async {
        for number in 0..2000 {
            assert_eq!(submit(&runtime, ECHO, number).await.expect("echo"), number);
        }
    });
}

#[test]
fn tokio_can_await_many_at_once() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("tokio");
    tokio.block_on(async {
        let tasks: Vec<_> = (0..200)
            .map(|n| tokio::spawn(submit(&runtime, if n < 20 { HOLD } else { ECHO }, n)))
            .collect();
        let mut slow = submit(&runtime, HOLD, 1);
        let timeout = tokio::time::timeout(Duration::from_millis(5), &mut slow);
        assert!(timeout.await.is_err());
        host.release_held();
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.expect("joins").expect("echo"), number as u64);
        }
        assert_eq!(slow.await.expect("echo"), 1);
    });
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut task = submit(&runtime, HOLD, 3);
    let counts: [Arc<WakeCount>; 2] = std::array::from_fn(|_| Arc::default());
    for count in &counts {
        let waker = Waker::from(Arc::clone(count));
        let poll = std::pin::Pin::new(&mut task).poll(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
    }
    host.release_held();
    until("the last waker is woken", || counts[1].get() != 0);
    assert_eq!(counts[0].get(), 0);
    match std::pin::Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => assert_eq!(result.expect("echo"), 3),
        Poll::Pending => panic!("it was woken because it is complete"),
    }
}

#[test]
fn a_waker_may_submit_itself() {
    struct Submit(Runtime, AtomicUsize);
    impl Wake for Submit {
        fn wake(self: Arc<Self>) {
            assert_eq!(echo(&self.0, 9), 9);
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let submits = Arc::new(Submit(runtime.clone(), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&submits));
    let mut tasks: Vec<_> = (0..LANE_DEPTH as u64)
        .map(|n| submit(&runtime, HOLD, n))
        .collect();
    for task in &mut tasks {
        let poll = std::pin::Pin::new(task).poll(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
    }
    host.wait_for_held(LANE_DEPTH);
    host.release_held();
    // Harvests on this thread, while the bell's watcher may do the same on its own.
    assert_eq!(echo(&runtime, 1), 1);
    while submits.1.load(Ordering::SeqCst) < LANE_DEPTH {
        thread::yield_now();
    }
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.wait().expect("echo"), number as u64);
    }
}

#[test]
fn a_waker_may_hold_the_last_handle() {
    struct Hold(#[expect(dead_code, reason = "held, not used")] chimaera_client::Task<u64>);
    impl Wake for Hold {
        fn wake(self: Arc<Self>) {}
    }
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let holding = || Waker::from(Arc::new(Hold(submit(&runtime, HOLD, 1))));
    let mut task = submit(&runtime, HOLD, 2);
    for _ in 0..3 {
        // The next poll replaces this waker, and so drops it.
        let poll = std::pin::Pin::new(&mut task).poll(&mut Context::from_waker(&holding()));
        assert!(poll.is_pending());
    }
    drop(task);
    let mut task = submit(&runtime, HOLD, 3);
    let poll = std::pin::Pin::new(&mut task).poll(&mut Context::from_waker(&holding()));
    assert!(poll.is_pending());
    host.release_held();
    assert_eq!(task.wait().expect("echo"), 3);
}

#[test]
fn handles_outlive_the_runtime() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let task = submit_buffer(
        &runtime,
        FILL,
        9,
        runtime.allocate_buffer(10).expect("buffer"),
    );
    let held = submit(&runtime, HOLD, 4);
    drop(runtime);
    host.release_held();
    let (_, buffer) = task.wait().expect("fills");
    assert_eq!(held.wait().expect("echo"), 4);
    assert_eq!(&buffer[..], &[9; 10], "the buffer outlives the connection");
}
