//! Tests of jobs.

use super::*;
use std::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(30);

fn jobs(max_threads: usize) -> Jobs {
    Jobs::start(
        "chimaera-job",
        max_threads,
        Share::all(max_threads),
        &Arc::default(),
    )
    .expect("a thread")
}

/// Runs a job that waits until the returned sender is dropped.
fn occupy(jobs: &Jobs) -> std::sync::mpsc::Sender<()> {
    let (release, released) = channel::<()>();
    let (begin, begun) = channel();
    jobs.run(move || {
        begin.send(()).expect("listens");
        let _ = released.recv();
    });
    begun.recv_timeout(PATIENCE).expect("it begins");
    release
}

fn numbered(jobs: &Jobs, count: usize) -> Receiver<usize> {
    let (done, finished) = channel();
    for number in 0..count {
        let done = done.clone();
        jobs.run(move || done.send(number).expect("listens"));
    }
    finished
}

#[test]
fn jobs_that_wait_for_each_other_run_at_the_same_time() {
    let jobs = jobs(32);
    let (first, second) = (channel(), channel());
    let (done, finished) = channel();
    let other = done.clone();
    jobs.run(move || {
        first.0.send(()).expect("send");
        second.1.recv().expect("receive");
        done.send(()).expect("send");
    });
    jobs.run(move || {
        first.1.recv().expect("receive");
        second.0.send(()).expect("send");
        other.send(()).expect("send");
    });
    for _ in 0..2 {
        finished.recv_timeout(PATIENCE).expect("both run");
    }
}

#[test]
fn jobs_beyond_the_threads_are_done_in_their_turn() {
    let jobs = jobs(2);
    let (one, two) = (occupy(&jobs), occupy(&jobs));
    let finished = numbered(&jobs, 5);
    assert!(finished.try_recv().is_err(), "every thread is taken");
    drop(one);
    for number in 0..5 {
        assert_eq!(finished.recv_timeout(PATIENCE), Ok(number));
    }
    drop(two);
}

#[test]
fn jobs_that_were_left_are_done_after_the_end() {
    let jobs = jobs(1);
    let one = occupy(&jobs);
    let finished = numbered(&jobs, 3);
    let shared = Arc::downgrade(&jobs.shared);
    drop(jobs);
    drop(one);
    for number in 0..3 {
        assert_eq!(finished.recv_timeout(PATIENCE), Ok(number));
    }
    let end = std::time::Instant::now() + PATIENCE;
    while shared.strong_count() != 0 {
        assert!(std::time::Instant::now() < end, "the thread ends");
        std::thread::yield_now();
    }
}

#[test]
fn a_job_that_panics_takes_nothing_along() {
    /// A panic's payload that panics when it is dropped.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose, while going");
        }
    }
    let jobs = jobs(2);
    let (done, finished) = channel();
    for index in 0..8 {
        let done = done.clone();
        jobs.run(move || {
            done.send(index).expect("send");
            std::panic::panic_any(Bomb);
        });
    }
    for _ in 0..8 {
        finished.recv_timeout(PATIENCE).expect("all run");
    }
}
