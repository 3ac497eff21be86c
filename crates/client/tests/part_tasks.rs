//! Parts of one buffer that are in flight at the same time, without a thread that blocks for them.

mod support;

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use chimaera_client::proto::limits::LANE_DEPTH;
use chimaera_client::{Buffer, Call, ConnectOptions, Runtime, Status, Task, TaskError};
use chimaera_testing::{FakeHost, MIB, Watchdog, block_on};
use support::{ECHO, FAIL, FILL, HOLD, call, module, submit};

/// Parts of a byte each, filled with their numbers.
fn filling(count: usize) -> impl Iterator<Item = (Call, Range<usize>)> + Send + 'static {
    (0..count).map(|part| (call(FILL, part as u64), part..part + 1))
}

/// Carries parts out; gives the number of those that were done.
fn parts_task(
    runtime: &Runtime,
    buffer: Buffer,
    parts: impl Iterator<Item = (Call, Range<usize>)> + Send + 'static,
) -> Task<(usize, Buffer)> {
    let runtime = runtime.clone();
    Task::of_steps(async move {
        let mut count = 0;
        let ended = runtime.submit_parts(buffer, parts, |part, _| {
            assert_eq!(part, count);
            count += 1;
        });
        match ended.await {
            Ok(buffer) => Ok((count, buffer)),
            Err((error, buffer)) => Err(TaskError::new(
                error.error.during(format_args!("part {}", error.part)),
                buffer,
            )),
        }
    })
}

fn is_filled(bytes: &[u8]) -> bool {
    let mut bytes = bytes.iter().enumerate();
    bytes.all(|(part, &byte)| byte == part as u8)
}

#[test]
fn parts_are_carried_out_in_every_way_of_waiting() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    for count in [0, 1, LANE_DEPTH, 10 * LANE_DEPTH + 1] {
        let buffer = || runtime.allocate_buffer(count).expect("a buffer");
        let mut asked = parts_task(&runtime, buffer(), filling(count));
        let polled = parts_task(&runtime, buffer(), filling(count));
        let waited = parts_task(&runtime, buffer(), filling(count));
        let results = [
            waited.wait(),
            block_on(polled),
            loop {
                if let Some(result) = asked.try_wait() {
                    break result;
                }
                thread::yield_now();
            },
        ];
        for result in results {
            let (done, buffer) = result.expect("fills");
            assert_eq!((done, buffer.len()), (count, count));
            assert!(is_filled(&buffer));
        }
    }
}

#[test]
fn the_first_part_that_fails_ends_it_and_the_buffer_comes_back() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let count = 3 * LANE_DEPTH;
    for bad in [0, 5, LANE_DEPTH, count - 1] {
        // A part is begun when the iterator is asked for it.
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let parts = filling(count).map(move |(good, range)| {
            counted.fetch_add(1, Ordering::Relaxed);
            if range.start == bad || range.start == bad + 1 {
                return (call(FAIL, Status::NoSpace.code().into()), range);
            }
            (good, range)
        });
        let buffer = runtime.allocate_buffer(count).expect("a buffer");
        let error = parts_task(&runtime, buffer, parts).wait();
        let error = error.expect_err("a part fails");
        assert_eq!(error.status(), Status::NoSpace);
        assert_eq!(error.error.operation(), format!("part {bad}"));
        let buffer = error.into_buffer().expect("it comes back");
        assert_eq!(buffer.len(), count);
        assert!(is_filled(&buffer[..bad]));
        let begun = begun.load(Ordering::Relaxed);
        assert!(begun <= bad + LANE_DEPTH, "{begun} parts were begun");
    }
}

#[test]
fn a_buffer_that_is_given_up_is_freed_when_its_last_part_has_ended() {
    let _watchdog = Watchdog::start();
    let options = ConnectOptions::new().buffer_bytes(4 * MIB);
    let (host, runtime) = FakeHost::connect_with(options, module);
    let large = 3 << 20;
    let buffer = runtime.allocate_buffer(large).expect("a buffer");
    let parts = (0..10).map(move |part| (call(HOLD, part), 0..large));
    let task = parts_task(&runtime, buffer, parts);
    let last = submit(&runtime, HOLD, 10);
    host.wait_for_held(11);
    drop(task);
    // The host may still read and write the first buffer, so this one has to lie elsewhere.
    let other = runtime.allocate_buffer(large).expect("a buffer");
    assert_eq!(host.segment_count(), 2);
    host.release_held();
    // The host completes what it holds in order.
    assert_eq!(last.wait().expect("held"), 10);
    runtime.reap();
    let again = runtime.allocate_buffer(large).expect("a buffer");
    assert_eq!(host.segment_count(), 2, "the buffer was freed");
    drop((again, other));
}

#[test]
fn parts_wait_for_room_one_at_a_time_however_many_there_are() {
    const MAX_UNSUBMITTED: usize = 16 * 1024;
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let held: Vec<_> = (0..LANE_DEPTH as u64)
        .map(|n| submit(&runtime, HOLD, n))
        .collect();
    host.wait_for_held(LANE_DEPTH);
    // One task less than may wait.
    let waiting: Vec<_> = (1..MAX_UNSUBMITTED as u64)
        .map(|n| submit(&runtime, ECHO, n))
        .collect();
    let buffer = || runtime.allocate_buffer(1000).expect("a buffer");
    let parts = parts_task(&runtime, buffer(), filling(1000));
    assert!(!parts.is_complete());
    let refused = parts_task(&runtime, buffer(), filling(1000)).wait();
    let refused = refused.expect_err("too many wait");
    assert_eq!(refused.status(), Status::Busy);
    assert!(!refused.to_string().contains("in use"), "{refused}");
    assert!(refused.buffer.is_some());
    host.release_held();
    for (number, task) in (0..).zip(held) {
        assert_eq!(task.wait().expect("echo"), number);
    }
    let (done, buffer) = parts.wait().expect("fills");
    assert_eq!(done, 1000);
    assert!(is_filled(&buffer));
    for (number, task) in (1..).zip(waiting) {
        assert_eq!(task.wait().expect("echo"), number);
    }
}

#[test]
fn nothing_is_begun_before_the_future_is_polled_and_loss_gives_the_buffer_back() {
    let _watchdog = Watchdog::start();
    let (mut host, runtime) = FakeHost::connect(module);
    let buffer = runtime.allocate_buffer(10).expect("a buffer");
    let parts = (0..10).map(|part| {
        let method = if part < 3 { ECHO } else { HOLD };
        (call(method, part as u64), part..part + 1)
    });
    let mut done = 0;
    let mut future = pin!(runtime.submit_parts(buffer, parts, |_, _| done += 1));
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    host.wait_for_held(7);
    host.kill();
    let (error, buffer) = loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            break result.expect_err("the host is gone");
        }
        thread::yield_now();
    };
    assert_eq!(error.error.status(), Status::ConnectionLost);
    assert_eq!(error.part, 3);
    assert_eq!(buffer.expect("it comes back").len(), 10);
}
