//! More tasks than a lane has room for: nobody's thread is blocked, everybody gets a turn, and what was not
//! submitted did nothing.

mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use chimaera_client::proto::limits::{LANE_DEPTH, MAX_LANES};
use chimaera_client::{ConnectOptions, Runtime, Status, Task};
use chimaera_testing::{FakeHost, MIB, Polled, Watchdog, block_on, thread_sleeps, until};
use support::{ECHO, FILL, HOLD, call, module, submit, submit_buffer, while_lanes_are_owned};

/// Fills the thread's lane with tasks that the host holds.
fn fill(host: &FakeHost, runtime: &Runtime) -> Vec<Task<u64>> {
    fill_lane(host, runtime, 1)
}

/// As [`fill`], on a thread that has another lane than the one that was filled before.
fn fill_more(host: &FakeHost, runtime: &Runtime) -> Vec<Task<u64>> {
    fill_lane(host, runtime, 2)
}

fn fill_lane(host: &FakeHost, runtime: &Runtime, lanes: usize) -> Vec<Task<u64>> {
    let tasks: Vec<_> = (0..LANE_DEPTH as u64)
        .map(|n| submit(runtime, HOLD, n))
        .collect();
    host.wait_for_held(lanes * LANE_DEPTH);
    assert!(tasks.iter().all(Task::is_submitted));
    tasks
}

#[test]
fn calls_return_at_once_however_many_are_in_flight() {
    let _watchdog = Watchdog::start();
    // The host completes nothing: a call that waited for it would never return.
    let (mut host, runtime) = FakeHost::connect(module);
    let tasks: Vec<_> = (0..200).map(|n| submit(&runtime, HOLD, n)).collect();
    let submitted = tasks.iter().filter(|task| task.is_submitted()).count();
    assert_eq!(submitted, LANE_DEPTH);
    assert!(!tasks.iter().any(Task::is_complete));
    host.kill();
    for task in tasks {
        let error = task.wait().expect_err("the host is gone");
        assert_eq!(error.status(), Status::ConnectionLost);
    }
}

#[test]
fn more_tasks_than_records_are_carried_out_in_any_order_of_waiting() {
    let _watchdog = Watchdog::start();
    for count in [65, 128, 129, 1000] {
        for (is_reversed, is_awaited) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let (host, runtime) = FakeHost::connect(module);
            let mut tasks: Vec<_> = (0..count)
                .map(|n| (n, submit(&runtime, if n < 64 { HOLD } else { ECHO }, n)))
                .collect();
            host.release_held();
            if is_reversed {
                tasks.reverse();
            }
            for (number, task) in tasks {
                let result = if is_awaited {
                    block_on(task)
                } else {
                    task.wait()
                };
                assert_eq!(result.expect("echo"), number);
            }
        }
    }
}

#[test]
fn a_task_that_finds_no_room_keeps_its_buffer_until_it_is_submitted() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let held = fill(&host, &runtime);
    let buffer = || runtime.allocate_buffer(100).expect("a buffer");
    let kept = submit_buffer(&runtime, FILL, 7, buffer());
    let taken_back = submit_buffer(&runtime, FILL, 8, buffer());
    assert!(!kept.is_submitted() && !kept.is_complete());
    assert_eq!(kept.request(), Some(call(FILL, 7)));
    let mut buffer = taken_back
        .take_back()
        .expect("it was not submitted")
        .expect("the buffer comes back");
    buffer.fill(1);
    host.release_held();
    let (len, filled) = kept.wait().expect("fills");
    assert_eq!((len, filled.len()), (100, 100));
    assert!(filled.iter().all(|&byte| byte == 7));
    assert!(buffer.iter().all(|&byte| byte == 1), "nothing was done");
    // What was submitted cannot be taken back.
    let task = held.into_iter().next().expect("tasks").take_back();
    assert_eq!(task.expect_err("submitted").wait().expect("echo"), 0);
}

#[test]
fn dropping_what_was_not_submitted_gives_its_buffer_back_and_does_nothing() {
    let _watchdog = Watchdog::start();
    let options = ConnectOptions::new().buffer_bytes(4 * MIB);
    let (host, runtime) = FakeHost::connect_with(options, module);
    let held = fill(&host, &runtime);
    let large = 3 << 20;
    for polled in [false, true] {
        let buffer = runtime.allocate_buffer(large).expect("a buffer");
        let mut task = submit_buffer(&runtime, FILL, 1, buffer);
        if polled {
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut task).poll(&mut context).is_pending());
        }
        drop(task);
    }
    // No other segment was needed, so each was freed before the next.
    assert_eq!(host.segment_count(), 1);
    host.release_held();
    for (number, task) in held.into_iter().enumerate() {
        assert_eq!(task.wait().expect("echo"), number as u64);
    }
}

#[test]
fn those_who_wait_are_woken_one_for_each_record_in_order() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut held = fill(&host, &runtime);
    let mut waiting: Vec<_> = (0..4)
        .map(|n| Polled::new(submit(&runtime, ECHO, n)))
        .collect();
    host.release_held();
    // All tasks in flight complete, which makes a record available for each waiting one.
    for polled in &mut waiting {
        polled.wait_until_woken();
    }
    for (number, polled) in waiting.iter_mut().enumerate() {
        let mut result = match polled.poll() {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        };
        // Submitted now, and perhaps not complete yet.
        assert!(result.is_some() || polled.future.is_submitted());
        until("the task completes", || {
            result = result.take().or_else(|| polled.future.try_wait());
            result.is_some()
        });
        assert_eq!(result.expect("complete").expect("echo"), number as u64);
    }
    assert_eq!(held.pop().expect("tasks").wait().expect("echo"), 63);
}

#[test]
fn asking_whether_a_task_is_complete_leaves_the_seat_to_the_poll_before() {
    let _watchdog = Watchdog::start();
    for asked_with_room in [false, true] {
        let (host, runtime) = FakeHost::connect(module);
        let _held = fill(&host, &runtime);
        let mut polled = Polled::new(submit(&runtime, HOLD, 7));
        thread::scope(|scope| {
            scope.spawn(|| {
                let _held = (!asked_with_room).then(|| fill_more(&host, &runtime));
                // With room on this thread's lane it is submitted there.
                assert!(!polled.future.is_complete());
                assert_eq!(polled.future.is_submitted(), asked_with_room);
            });
        });
        if asked_with_room {
            host.wait_for_held(LANE_DEPTH + 1);
            // A wait that times out leaves the seat as well.
            let timeout = Duration::from_millis(1);
            assert!(polled.future.wait_timeout(timeout).is_none());
        }
        assert!(!polled.is_woken());
        host.release_held();
        polled.wait_until_woken();
    }
}

#[test]
fn a_wait_that_times_out_leaves_the_poll_before_to_be_woken() {
    let _watchdog = Watchdog::start();
    for timeout in [Duration::ZERO, Duration::from_millis(1)] {
        for is_compound in [false, true] {
            let (host, runtime) = FakeHost::connect(module);
            let _held = fill(&host, &runtime);
            let mut task = submit(&runtime, ECHO, 7);
            if is_compound {
                task = Task::of_steps(task);
            }
            let mut polled = Polled::new(task);
            assert!(polled.future.wait_timeout(timeout).is_none());
            host.release_held();
            polled.wait_until_woken();
            assert_eq!(polled.future.wait().expect("echo"), 7);
        }
    }
}

#[test]
fn a_thread_that_blocks_for_a_task_on_a_shared_lane_keeps_its_turn() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let waits = AtomicI32::new(0);
    // Each lane has an owner, so that the waiter's is shared.
    let wakes = while_lanes_are_owned(&runtime, MAX_LANES, || {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let held = fill(&host, &runtime);
                let polled = Polled::new(submit(&runtime, ECHO, 7));
                let wakes = Arc::clone(&polled.wakes);
                waits.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
                assert_eq!(polled.future.wait().expect("echo"), 7);
                drop(held);
                wakes.get()
            });
            until("the task is waited for", || {
                thread_sleeps(waits.load(Ordering::SeqCst))
            });
            host.release_held();
            waiter.join().expect("no panic")
        })
    });
    // The wait has taken over the poll's seat, so the poll's waker was not told in its place.
    assert_eq!(wakes, 0);
}
