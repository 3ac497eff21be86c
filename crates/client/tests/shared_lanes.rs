//! Lists of calls on lanes that several threads share, each longer than a lane: whoever waits for room holds
//! none that another waits for.

mod support;

use std::sync::Barrier;
use std::thread;

use chimaera_client::proto::limits::{LANE_DEPTH, MAX_LANES};
use chimaera_client::{Buffer, Call, Runtime};
use chimaera_testing::{FakeHost, Watchdog, block_on};
use support::{ECHO, FILL, SUM, call, echo, module, while_lanes_are_owned};

/// Threads on each shared lane, and shared lanes of a connection.
const SHARERS: usize = 3;
const SHARED_LANES: usize = 8;

const PARTS: usize = 6 * LANE_DEPTH + 1;

/// Has threads share lanes, all others being taken, and all of them begin at the same time.
fn share_lanes(work: impl Fn(&Runtime, usize) + Sync) {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let sharers = SHARERS * SHARED_LANES;
    let begin = Barrier::new(sharers);
    while_lanes_are_owned(&runtime, MAX_LANES - SHARED_LANES, || {
        thread::scope(|scope| {
            for number in 0..sharers {
                let (runtime, begin, work) = (&runtime, &begin, &work);
                scope.spawn(move || {
                    // Each has its lane before any goes on.
                    echo(runtime, 0);
                    begin.wait();
                    work(runtime, number);
                });
            }
        });
    });
    assert_eq!(host.lane_count(), MAX_LANES);
}

/// What a thread fills this byte with.
fn byte(thread: usize, part: usize) -> u8 {
    (thread * 31 + part * 7) as u8
}

fn fills(thread: usize) -> impl Iterator<Item = (Call, std::ops::Range<usize>)> {
    (0..PARTS).map(move |n| (call(FILL, byte(thread, n).into()), n..n + 1))
}

fn sums() -> impl Iterator<Item = (Call, std::ops::Range<usize>)> {
    (0..PARTS).map(|n| (call(SUM, 0), n..n + 1))
}

/// Counts parts, which end in order, and looks at what each gave.
fn in_order(expected: impl Fn(usize) -> u64) -> impl FnMut(usize, &chimaera_client::Values) {
    let mut count = 0;
    move |part, values| {
        assert_eq!((part, values[0]), (count, expected(part)));
        count += 1;
    }
}

fn check(thread: usize, buffer: &Buffer) {
    for (part, &found) in buffer.iter().enumerate() {
        assert_eq!(found, byte(thread, part), "part {part} of thread {thread}");
    }
}

fn blocking(runtime: &Runtime, thread: usize) {
    let mut buffer = runtime.allocate_buffer(PARTS).expect("a buffer");
    buffer.fill(0);
    runtime
        .call_parts_receiving((&mut buffer).into(), fills(thread), in_order(|_| 1))
        .expect("fills");
    check(thread, &buffer);
    let sum = |part| byte(thread, part).into();
    runtime
        .call_parts_sending((&buffer).into(), sums(), in_order(sum))
        .expect("sums");
}

fn awaiting(runtime: &Runtime, thread: usize) {
    let mut buffer = runtime.allocate_buffer(PARTS).expect("a buffer");
    buffer.fill(0);
    let filled = runtime.submit_parts(buffer, fills(thread), in_order(|_| 1));
    let buffer = block_on(filled).map_err(|(error, _)| error).expect("fills");
    check(thread, &buffer);
    let sum = move |part| byte(thread, part).into();
    let summed = runtime.submit_parts(buffer, sums(), in_order(sum));
    let buffer = block_on(summed).map_err(|(error, _)| error).expect("sums");
    check(thread, &buffer);
}

#[test]
fn lists_that_block_end_beside_one_another() {
    share_lanes(blocking);
}

#[test]
fn lists_that_are_awaited_end_beside_one_another() {
    share_lanes(awaiting);
}

#[test]
fn lists_that_block_and_lists_that_are_awaited_end_beside_one_another() {
    share_lanes(|runtime, number| {
        // The threads of a lane take turns: threads are given lanes one after another.
        for round in 0..4 {
            match (number / SHARED_LANES + round) % 2 {
                0 => blocking(runtime, number),
                _ => awaiting(runtime, number),
            }
        }
    });
}

#[test]
fn lists_whose_calls_are_made_between_calls_end_beside_one_another() {
    share_lanes(|runtime, number| {
        let mut buffer = runtime.allocate_buffer(PARTS).expect("a buffer");
        let parts = fills(number).inspect(|(_, range)| {
            let number = range.start as u64;
            assert_eq!(runtime.call(&call(ECHO, number)).expect("echo")[0], number);
        });
        runtime
            .call_parts_receiving((&mut buffer).into(), parts, in_order(|_| 1))
            .expect("fills");
        check(number, &buffer);
    });
}
