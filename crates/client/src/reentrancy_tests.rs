//! Calls of a signal handler that has interrupted its thread inside. The tests play both.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use chimaera_proto::Status;
use chimaera_proto::limits::LANE_DEPTH;

use crate::admin::PING;
use crate::error::Error;
use crate::reentrancy::{Inside, Outermost, is_inside, set_bits};
use crate::runtime::Runtime;
use crate::task::Task;
use crate::task_error::TaskError;
use crate::task_set::TaskSet;

fn runtime() -> Runtime {
    Runtime::embed().workers(1).start().expect("it starts")
}

#[track_caller]
fn assert_refused<T>(result: Result<T, impl Into<Error>>) {
    let error: Error = match result {
        Ok(_) => panic!("it is done inside"),
        Err(error) => error.into(),
    };
    assert_eq!(error.status(), Status::Busy, "{error}");
    assert!(error.to_string().contains("signal handler"), "{error}");
}

fn poll(task: &mut Task<()>) -> Poll<Result<(), TaskError>> {
    Pin::new(task).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until all records of this thread's lane are free at once.
fn all_records_come_back(runtime: &Runtime) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        runtime.reap();
        let tasks = (0..LANE_DEPTH).map(|_| runtime.admin().async_ping());
        let tasks: Vec<_> = tasks.collect();
        let are_submitted = tasks.iter().all(Task::is_submitted);
        tasks
            .into_iter()
            .for_each(|task| task.wait().expect("it answers"));
        if are_submitted {
            return;
        }
        assert!(Instant::now() < end, "records are lost");
        thread::yield_now();
    }
}

#[test]
fn calls_inside_are_refused_and_change_nothing() {
    let runtime = runtime();
    let admin = runtime.admin();
    let buffer = runtime.allocate_buffer(64).expect("memory");
    let mut begun = admin.async_ping();
    let mut set = TaskSet::new();
    set.push(admin.async_ping());
    let inside = Inside::enter();
    assert_refused(admin.ping());
    assert_refused(admin.list_pools());
    assert_refused(runtime.allocate_buffer(64));
    assert_refused(runtime.allocate_buffer(4 << 20));
    assert_refused(Runtime::connect_to("/nowhere"));
    assert_refused(set.wait_any().expect("there is one"));
    assert!(set.try_wait_any().is_none());
    assert!(begun.try_wait().is_none() && begun.request().is_none());
    assert!(begun.wait_timeout(Duration::MAX).is_none());
    match poll(&mut begun) {
        Poll::Ready(result) => assert_refused(result),
        Poll::Pending => panic!("an executor inside would wait for ever"),
    }
    let waker = &mut Context::from_waker(Waker::noop());
    match pin!(set.async_wait_any()).poll(waker) {
        Poll::Ready(result) => assert_refused(result.expect("there is one")),
        Poll::Pending => panic!("an executor inside would wait for ever"),
    }
    match pin!(runtime.submit_parts(buffer, [(PING, 0..1)], |_, _| ())).poll(waker) {
        Poll::Ready(result) => assert_refused(result.map_err(|(error, _)| error.error)),
        Poll::Pending => panic!("an executor inside would wait for ever"),
    }
    runtime.reap();
    let refused = admin.async_ping();
    drop(inside);
    assert_refused(refused.wait());
    begun.wait().expect("it answers");
    set.wait_any().expect("there is one").expect("it answers");
    all_records_come_back(&runtime);
}

#[test]
fn a_thread_inside_opens_no_lane() {
    let runtime = runtime();
    thread::scope(|scope| {
        scope.spawn(|| {
            let inside = Inside::enter();
            assert_refused(runtime.admin().ping());
            drop(inside);
            runtime.admin().ping().expect("it answers");
        });
    });
}

#[test]
fn tasks_that_are_dropped_inside_free_their_records_later() {
    let runtime = runtime();
    let begin = || -> Vec<_> {
        let tasks = (0..LANE_DEPTH).map(|_| runtime.admin().async_ping());
        tasks.collect()
    };
    for _ in 0..3 {
        let mut tasks = begin();
        let inside = Inside::enter();
        assert_refused(tasks.pop().expect("there are enough").wait());
        drop(tasks);
        drop(inside);
        all_records_come_back(&runtime);
    }
    // Tasks that were harvested.
    let tasks = begin();
    tasks.iter().for_each(|task| while !task.is_complete() {});
    begin()
        .into_iter()
        .for_each(|task| task.wait().expect("it answers"));
    let lane = runtime.lanes().current().expect("it has one");
    assert!(lane.handles.lock().has_harvested());
    let inside = Inside::enter();
    drop(tasks);
    drop(inside);
    runtime.reap();
    assert!(!lane.handles.lock().has_harvested());
    all_records_come_back(&runtime);
}

#[test]
fn a_connection_that_ends_finds_tasks_that_were_dropped_inside() {
    let runtime = runtime();
    let tasks: Vec<_> = (0..10).map(|_| runtime.admin().async_ping()).collect();
    let lane = std::sync::Arc::clone(runtime.lanes().current().expect("it has one"));
    let inside = Inside::enter();
    drop(tasks);
    drop(inside);
    drop(runtime);
    assert!(!lane.is_held());
}

#[test]
fn a_thread_with_a_lock_or_a_permit_is_inside() {
    assert!(!is_inside());
    let runtime = runtime();
    runtime.admin().ping().expect("it answers");
    let lane = runtime.lanes().current().expect("it has one");
    let handles = lane.handles.lock();
    assert!(is_inside());
    let inner = Inside::enter();
    drop(inner);
    assert!(is_inside(), "the outer one counts");
    drop(handles);
    assert!(!is_inside());
    let permit = lane.submitter.permit();
    assert_refused(runtime.admin().ping());
    let end = permit.end();
    assert_refused(runtime.admin().ping());
    drop(end);
    runtime.admin().ping().expect("it answers");
    // A panic leaves as well.
    let unwound = std::panic::catch_unwind(|| {
        let _inside = Outermost::enter();
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(unwound.is_err() && !is_inside());
}

#[test]
fn bits_are_set_beside_those_that_are() {
    let word = AtomicU64::new(0b1001);
    set_bits(&word, 0b0011);
    assert_eq!(word.load(Ordering::Relaxed), 0b1011);
    set_bits(&word, 1 << 63);
    assert_eq!(word.load(Ordering::Relaxed), 1 << 63 | 0b1011);
}
