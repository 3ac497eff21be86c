//! Lanes: one per thread, reused, shared when there are more threads than lanes.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use chimaera_client::proto::limits::{LANE_DEPTH, MAX_LANES};
use chimaera_client::{Runtime, Task};
use chimaera_testing::{FakeHost, Verdict, Watchdog};
use support::{ECHO, FILL, HOLD, call, echo, module, submit, submit_buffer, while_lanes_are_owned};

#[test]
fn threads_that_end_leave_their_lanes_to_others() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    for round in 0..20 {
        let runtime = runtime.clone();
        thread::spawn(move || assert_eq!(echo(&runtime, round), round))
            .join()
            .expect("thread");
    }
    assert_eq!(host.lane_count(), 1);
    let barrier = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                echo(&runtime, 1);
                barrier.wait();
            });
        }
    });
    assert_eq!(
        host.lane_count(),
        3,
        "threads at the same time have lanes of their own"
    );
}

#[test]
fn more_threads_than_lanes_share() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let threads = MAX_LANES as u64 + 16;
    let barrier = Barrier::new(threads as usize);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (runtime, barrier) = (&runtime, &barrier);
            scope.spawn(move || {
                echo(runtime, 0);
                barrier.wait();
                for round in 0..30 {
                    let number = thread << 32 | round;
                    assert_eq!(echo(runtime, number), number);
                }
                let tasks: Vec<_> = (0..150)
                    .map(|n| submit(runtime, ECHO, thread + n))
                    .collect();
                for (n, task) in (0..).zip(tasks) {
                    assert_eq!(task.wait().expect("echo"), thread + n);
                }
            });
        }
    });
    assert_eq!(host.lane_count(), MAX_LANES);
}

#[test]
fn one_lane_can_be_used_by_many_threads_in_every_way() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    // All lanes have owners, so that the threads below share them.
    while_lanes_are_owned(&runtime, MAX_LANES, || {
        thread::scope(|scope| {
            for user in 0..8 {
                let runtime = &runtime;
                scope.spawn(move || use_in_every_way(runtime, user));
            }
        });
    });
}

fn use_in_every_way(runtime: &Runtime, user: u64) {
    for round in 0..20 {
        let tasks: Vec<Task<u64>> = (0..100).map(|n| submit(runtime, ECHO, n)).collect();
        let number = user << 32 | round;
        assert_eq!(echo(runtime, number), number);
        let mut buffer = runtime.allocate_buffer(LANE_DEPTH * 4).expect("buffer");
        let parts = (0..LANE_DEPTH * 4).map(|n| (call(FILL, n as u64), n..n + 1));
        let mut count = 0;
        runtime
            .call_parts_receiving((&mut buffer).into(), parts, |part, values| {
                assert_eq!((part, values[0]), (count, 1));
                count += 1;
            })
            .expect("fills");
        assert!(buffer.iter().enumerate().all(|(n, &byte)| byte == n as u8));
        let dropped = submit_buffer(runtime, FILL, 1, buffer);
        drop(dropped);
        for (n, task) in (0..).zip(tasks) {
            assert_eq!(task.wait().expect("echo"), n);
        }
    }
}

#[test]
fn several_runtimes_in_one_thread_do_not_mix() {
    let _watchdog = Watchdog::start();
    let hosts: Vec<_> = (0..3u64)
        .map(|which| {
            FakeHost::connect(move |task, buffer| match task.method {
                ECHO => Verdict::ok(&[which]),
                _ => module(task, buffer),
            })
        })
        .collect();
    for _ in 0..10 {
        for (which, (_, runtime)) in (0..).zip(&hosts) {
            assert_eq!(echo(runtime, 77), which);
        }
    }
}

#[test]
fn handles_move_between_threads() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let (sender, receiver) = std::sync::mpsc::channel::<(u64, Task<u64>)>();
    thread::scope(|scope| {
        scope.spawn(|| {
            for (number, task) in receiver {
                assert_eq!(task.wait().expect("echo"), number);
            }
        });
        for number in 0..5000 {
            sender
                .send((number, submit(&runtime, ECHO, number)))
                .expect("sends");
        }
        drop(sender);
    });
}

#[test]
fn a_panic_between_parts_waits_for_those_in_flight() {
    /// Says when its stack frame unwinds whether the tasks had been released.
    struct Leaving<'a>(&'a AtomicBool, &'a AtomicBool);
    impl Drop for Leaving<'_> {
        fn drop(&mut self) {
            self.1
                .store(self.0.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut buffer = runtime.allocate_buffer(64).expect("buffer");
    let (released, waited) = (AtomicBool::new(false), AtomicBool::new(false));
    let (host, runtime) = (&host, &runtime);
    let unwound = thread::scope(|scope| {
        let user = scope.spawn(|| {
            let _leaving = Leaving(&released, &waited);
            let parts = (0..10).map(|n| {
                if n == 5 {
                    // A panic without its message.
                    std::panic::resume_unwind(Box::new(()));
                }
                (call(HOLD, 0), n..n + 1)
            });
            let _ = runtime.call_parts_receiving((&mut buffer).into(), parts, |_, _| ());
        });
        host.wait_for_held(5);
        // Time enough for the panic to leave the call too early.
        thread::sleep(Duration::from_millis(20));
        released.store(true, Ordering::SeqCst);
        host.release_held();
        user.join()
    });
    assert!(unwound.is_err());
    assert!(
        waited.load(Ordering::SeqCst),
        "the buffer was borrowed until the tasks ended"
    );
    echo(runtime, 1);
}

#[test]
fn a_thread_may_wait_while_the_one_that_submitted_goes_on() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    // More than a lane holds: so the submitter harvests what the other is about to take up.
    let (tasks, taken) = std::sync::mpsc::sync_channel::<(u64, Task<u64>)>(4 * LANE_DEPTH);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..20_000 {
                let task = submit(&runtime, ECHO, number);
                tasks.send((number, task)).expect("the other waits");
                if number % 3 == 0 {
                    assert_eq!(echo(&runtime, number), number);
                }
            }
            drop(tasks);
        });
        for (number, mut task) in taken {
            match number % 5 {
                0 => drop(task),
                1 => {
                    let result = task.wait_timeout(Duration::from_secs(10));
                    assert_eq!(result.expect("in time").expect("echo"), number);
                }
                _ => assert_eq!(task.wait().expect("echo"), number),
            }
        }
    });
}

#[test]
fn a_lane_goes_to_another_thread_with_tasks_of_the_first_in_flight() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let held = thread::scope(|scope| {
        let first = scope.spawn(|| {
            (0..5)
                .map(|n| submit(&runtime, HOLD, n))
                .collect::<Vec<_>>()
        });
        first.join().expect("no panic")
    });
    thread::scope(|scope| {
        let second = scope.spawn(|| {
            for number in 0..500 {
                assert_eq!(echo(&runtime, number), number);
            }
        });
        second.join().expect("no panic");
    });
    assert_eq!(host.lane_count(), 1);
    host.release_held();
    for (number, task) in (0..).zip(held) {
        assert_eq!(task.wait().expect("held"), number);
    }
}

#[test]
fn a_thread_that_is_ending_can_still_submit() {
    struct AtTheEnd(Runtime);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            assert_eq!(echo(&self.0, 7), 7);
        }
    }
    thread_local! {
        static LAST: std::cell::RefCell<Option<AtTheEnd>> = const { std::cell::RefCell::new(None) };
    }
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    for _ in 0..3 {
        let runtime = runtime.clone();
        let thread = thread::spawn(move || {
            // Set before the thread gets its lane, and so dropped after the lane is given up.
            LAST.set(Some(AtTheEnd(runtime.clone())));
            echo(&runtime, 1)
        });
        assert_eq!(thread.join().expect("no panic"), 1);
    }
    assert!(host.lane_count() <= 4, "{} lanes", host.lane_count());
}

#[test]
fn calls_may_be_made_between_parts() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let mut buffer = runtime.allocate_buffer(LANE_DEPTH * 3).expect("buffer");
    let mut other = runtime.allocate_buffer(LANE_DEPTH * 3).expect("buffer");
    let inner_parts = || {
        (0..LANE_DEPTH * 2).map(|n| {
            assert_eq!(echo(&runtime, n as u64), n as u64);
            (call(FILL, 1), n..n + 1)
        })
    };
    let parts = (0..LANE_DEPTH * 3).map(|n| {
        assert_eq!(echo(&runtime, n as u64), n as u64);
        if n % LANE_DEPTH == LANE_DEPTH - 1 {
            runtime
                .call_parts_receiving((&mut other).into(), inner_parts(), |_, _| ())
                .expect("fills");
        }
        (call(FILL, 7), n..n + 1)
    });
    runtime
        .call_parts_receiving((&mut buffer).into(), parts, |part, _| {
            assert_eq!(echo(&runtime, part as u64), part as u64);
        })
        .expect("fills");
    assert!(buffer.iter().all(|&byte| byte == 7));
}
