//! Waiting for whichever task ends first.

mod support;

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use chimaera_client::proto::limits::LANE_DEPTH;
use chimaera_client::{ConnectOptions, Status, TaskSet};
use chimaera_testing::{FakeHost, Watchdog, block_on};
use support::{ECHO, FAIL, HOLD, module, submit};

#[test]
fn whichever_ends_first_comes_first() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut tasks = TaskSet::new();
    assert!(tasks.wait_any().is_none() && tasks.try_wait_any().is_none());
    tasks.push(submit(&runtime, HOLD, 1));
    tasks.push(submit(&runtime, ECHO, 2));
    assert_eq!(tasks.wait_any().expect("one has ended").expect("echo"), 2);
    assert!(tasks.try_wait_any().is_none());
    assert_eq!(tasks.len(), 1);
    tasks.push(submit(&runtime, FAIL, Status::NoSpace.code().into()));
    let failed = tasks.wait_any().expect("another has ended");
    assert_eq!(failed.expect_err("fails").status(), Status::NoSpace);
    host.release_held();
    assert_eq!(tasks.wait_any().expect("the last").expect("held"), 1);
    assert!(tasks.is_empty());
}

#[test]
fn a_set_sleeps_until_a_task_of_any_connection_ends() {
    let _watchdog = Watchdog::start();
    let options = || ConnectOptions::new().spin(Duration::ZERO);
    let (first_host, first) = FakeHost::connect_with(options(), module);
    let (second_host, second) = FakeHost::connect_with(options(), module);
    let mut tasks = TaskSet::new();
    tasks.push(submit(&first, HOLD, 1));
    tasks.push(submit(&second, HOLD, 2));
    first_host.wait_for_held(1);
    second_host.wait_for_held(1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let result = tasks.wait_any().expect("there are tasks");
            (result.expect("held"), tasks.len())
        });
        // Both hosts sleep as well, so that nothing happens by chance.
        while !(first_host.is_parked() && second_host.is_parked()) {
            thread::yield_now();
        }
        second_host.release_held();
        assert_eq!(waiting.join().expect("no panic"), (2, 1));
    });
    first_host.release_held();
    assert_eq!(tasks.wait_any().expect("the other").expect("held"), 1);
}

#[test]
fn a_set_may_hold_more_than_a_lane_and_loses_none() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let mut tasks = TaskSet::default();
    let count = 5 * LANE_DEPTH as u64;
    tasks.extend((0..count).map(|number| submit(&runtime, ECHO, number)));
    let mut seen = HashSet::new();
    while let Some(result) = tasks.wait_any() {
        assert!(seen.insert(result.expect("echo")));
    }
    assert_eq!(seen, (0..count).collect());
}

#[test]
fn a_set_is_awaited_and_keeps_every_result_of_a_wait_that_is_given_up() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut tasks = TaskSet::default();
    assert!(block_on(tasks.async_wait_any()).is_none());
    tasks.extend((0..LANE_DEPTH as u64).map(|number| submit(&runtime, HOLD, number)));
    tasks.extend((100..400).map(|number| submit(&runtime, ECHO, number)));
    host.wait_for_held(LANE_DEPTH);
    // Polled once, and dropped.
    let mut context = Context::from_waker(Waker::noop());
    assert!(pin!(tasks.async_wait_any()).poll(&mut context).is_pending());
    host.release_held();
    let mut seen = HashSet::new();
    while let Some(result) = block_on(tasks.async_wait_any()) {
        assert!(seen.insert(result.expect("echo")));
    }
    assert_eq!(seen, (0..LANE_DEPTH as u64).chain(100..400).collect());
}

#[test]
fn a_connection_without_room_does_not_hold_up_the_tasks_of_others() {
    let _watchdog = Watchdog::start();
    for is_awaited in [false, true] {
        let (_full_host, full) = FakeHost::connect(module);
        let (host, runtime) = FakeHost::connect(module);
        let fill = |runtime| (0..LANE_DEPTH as u64).map(move |n| submit(runtime, HOLD, n));
        let held: Vec<_> = fill(&full).chain(fill(&runtime)).collect();
        let mut tasks = TaskSet::new();
        tasks.push(submit(&full, ECHO, 1));
        tasks.extend((2..5).map(|number| submit(&runtime, ECHO, number)));
        host.wait_for_held(LANE_DEPTH);
        host.release_held();
        for number in 2..5 {
            let result = if is_awaited {
                block_on(tasks.async_wait_any())
            } else {
                tasks.wait_any()
            };
            let result = result.expect("there are tasks");
            assert_eq!(result.expect("echo"), number);
        }
        assert!(tasks.try_wait_any().is_none() && tasks.len() == 1);
        drop(held);
    }
}
