//! A lane without a daemon: moments that tests against a host meet too seldom.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use chimaera_proto::limits::{LANE_DEPTH, MIN_SEGMENT_BYTES};
use chimaera_proto::status::result_from_word;
use chimaera_proto::task::DESCRIPTOR_WORDS;
use chimaera_proto::{Descriptor, PoolId, PoolQuery, Status};
use chimaera_shm::{Doorbell, LaneMemory, PublishOrder, Record, Segment, Taken, barrier};
use chimaera_testing::{SystemCallFilter, skipped};

use crate::adaptive_spin::AdaptiveSpin;
use crate::call::Call;
use crate::connection::ClientConnection;
use crate::control::{ControlSocket, DEFAULT_REPLY_TIMEOUT};

use crate::lane::ClientLane;
use crate::lane::claim::Flight;
use crate::lane::handle::Collected;
use crate::lane::submitter::LaneKind;

/// A connection to nobody, and its other end, which stays open as long as it is kept.
fn connection(segment: &Arc<Segment>) -> (Arc<ClientConnection>, UnixStream) {
    link_with(segment, PublishOrder::Fence)
}

fn link_with(segment: &Arc<Segment>, order: PublishOrder) -> (Arc<ClientConnection>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let control =
        ControlSocket::from_socket(OwnedFd::from(ours), DEFAULT_REPLY_TIMEOUT).expect("socket");
    let home = chimaera_fork::Home::new(1).expect("a home");
    let connection =
        ClientConnection::new(home, control, Arc::clone(segment), order, None).expect("connection");
    (Arc::new(connection), theirs)
}

/// A lane of the calling thread's own.
fn lane(connection: &Arc<ClientConnection>) -> ClientLane {
    let lane = ClientLane::new(
        0,
        LaneKind::Owned,
        Doorbell::new().expect("bell"),
        AdaptiveSpin::new(Some(Duration::from_micros(10))),
        Arc::clone(connection),
    );
    lane.submitter.own();
    lane
}

fn segment() -> Arc<Segment> {
    Arc::new(Segment::create("test", MIN_SEGMENT_BYTES).expect("segment"))
}

fn call(number: u64) -> Call {
    Call {
        pool: PoolId::ADMIN,
        instance: 0,
        query: PoolQuery::Local,
        method: 0,
        arguments: [number, 0, 0],
    }
}

/// Submits a task that its submitter waits for.
fn submit(lane: &ClientLane, number: u64) -> Flight {
    lane.submit(&call(number), None).expect("submits")
}

/// Submits a task with a handle.
fn attach(lane: &ClientLane, number: u64) -> Flight {
    let attached = lane.submit_attached(&call(number), None, |payload| payload.call = call(number));
    attached.expect("submits")
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(10))
}

#[test]
fn sequences_wrap_without_mistaking_one_task_for_another() {
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let first = (1 << 32) - 100;
    lane.begin_at(first);
    let (memory, done) = (segment.lane(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = first;
            while !done.load(Ordering::Acquire) {
                // An entry that no lap has used yet does not hold what it would hold here.
                let mut words = [0; DESCRIPTOR_WORDS];
                if memory.take(next, &mut words) == Taken::Task {
                    let task = Descriptor::parse(&words).expect("a descriptor");
                    memory.complete(task.record.into(), next as u32, 0, &task.arguments);
                    next += 1;
                    memory.wake_sleepers(u64::MAX);
                }
                thread::yield_now();
            }
        });
        for number in 0..1000 {
            let flight = submit(&lane, number);
            assert!(lane.wait_until_complete(flight, soon()));
            assert_eq!(lane.finish(flight, |record| record.value(0)), number);
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn a_record_that_rested_for_very_long_does_not_look_complete() {
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let mut last = [0; LANE_DEPTH];
    for number in 0..LANE_DEPTH as u64 {
        let flight = submit(&lane, number);
        lane.memory.complete(flight.record, flight.wire(), 0, &[]);
        last[flight.record] = flight.sequence;
    }
    (0..LANE_DEPTH).for_each(|record| {
        let sequence = last[record];
        lane.release(Flight { record, sequence });
    });
    for (record, sequence) in last.into_iter().enumerate() {
        lane.begin_at(sequence + (1 << 32));
        let flight = submit(&lane, 0);
        assert_eq!((flight.record, flight.wire()), (record, sequence as u32));
        assert!(!lane.memory.is_complete(record, flight.wire()));
    }
}

#[test]
fn no_task_is_missed_at_the_moment_of_the_loss() {
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let mut in_time = 0;
    for round in 0..20_000u64 {
        let lane = lane(&connection);
        lane.begin_at(1 + round);
        let go = AtomicUsize::new(0);
        // Both threads begin when both are there, each after a delay of its own.
        let begin = |delay: u64| {
            go.fetch_add(1, Ordering::SeqCst);
            while go.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            (0..delay).for_each(|_| std::hint::spin_loop());
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                begin(round % 7);
                lane.complete_all_as_lost();
            });
            begin(round % 5);
            if let Ok(flight) = lane.submit(&call(round), None) {
                assert!(
                    lane.wait_until_complete(flight, soon()),
                    "a task was missed"
                );
                let word = lane.finish(flight, Record::status_word);
                let failure = result_from_word(word).expect_err("lost");
                assert_eq!(failure.status, Status::ConnectionLost);
                in_time += 1;
            }
        });
        if round >= 2000 && in_time > 100 {
            break;
        }
    }
    assert!(in_time > 0, "no round was of use");
}

/// Whether the thread with this id sleeps.
fn sleeps(thread: nix::unistd::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    stat.is_ok_and(|stat| stat.contains(") S "))
}

#[test]
fn a_daemon_that_dies_between_completing_and_waking_leaves_nobody_asleep() {
    let segment = segment();
    let (connection, _nobody) = connection(&segment);
    let (tell, told) = std::sync::mpsc::channel();
    let (done, finished) = std::sync::mpsc::channel();
    let waiter = thread::spawn(move || {
        let lane = Arc::new(lane(&connection));
        let flight = submit(&lane, 1);
        let own = nix::unistd::gettid();
        tell.send((Arc::clone(&lane), flight, own)).expect("told");
        lane.finish_asleep(flight, |_| ());
        let _ = done.send(());
    });
    let (lane, flight, sleeper) = told.recv().expect("it submits");
    let has_announced = || lane.memory.look_for_waiters(flight.bit()).0 != 0;
    let end = Instant::now() + Duration::from_secs(30);
    while !(has_announced() && sleeps(sleeper)) {
        assert!(Instant::now() < end, "it never sleeps");
        std::thread::yield_now();
    }
    // The first thing that a daemon does, and no more.
    let word = 0;
    lane.memory
        .complete(flight.record, flight.wire(), word, &[]);
    lane.complete_all_as_lost();
    let woken = finished.recv_timeout(Duration::from_secs(30));
    lane.memory.wake_sleepers(flight.bit());
    assert!(woken.is_ok(), "it is not woken");
    waiter.join().expect("it ends");
}

/// Lends the lane to another thread, which submits and waits for a record, then runs `help`. The other thread must be
/// woken by that.
fn starve(lane: &ClientLane, help: impl FnOnce()) {
    lane.submitter.disown();
    thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            lane.submitter.own();
            submit(lane, 99);
            lane.submitter.disown();
        });
        while !lane.flags.is_starved() {
            thread::yield_now();
        }
        // The submitter looks once more before it sleeps. Time to do so makes the test sharper, and is not needed for
        // it to be right.
        thread::sleep(Duration::from_millis(5));
        help();
        let end = soon().expect("a time");
        while !submitter.is_finished() {
            if Instant::now() > end {
                // The scope would join it for ever.
                let _ = std::io::Write::write_all(&mut std::io::stderr(), b"never woken\n");
                std::process::abort();
            }
            thread::yield_now();
        }
    });
    lane.submitter.own();
}

#[test]
fn a_starved_submitter_is_woken_by_an_owner_who_frees_a_record() {
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let flights: Vec<_> = (0..LANE_DEPTH as u64).map(|n| submit(&lane, n)).collect();
    for flight in &flights {
        // No bell is rung for these: whoever waited was woken before.
        lane.memory.complete(flight.record, flight.wire(), 0, &[]);
    }
    starve(&lane, || lane.release(flights[5]));
}

#[test]
fn a_starved_submitter_is_woken_when_a_complete_task_is_given_back() {
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let flights: Vec<_> = (0..LANE_DEPTH as u64).map(|n| submit(&lane, n)).collect();
    for flight in &flights {
        lane.memory.complete(flight.record, flight.wire(), 0, &[]);
    }
    starve(&lane, || lane.end_wait(flights[7]));
    assert!(matches!(lane.collect(flights[7]), Collected::Harvested(_)));
}

#[test]
fn a_starved_submitter_is_woken_by_the_worker_and_harvests() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let flights: Vec<_> = (0..LANE_DEPTH as u64).map(|n| attach(&lane, n)).collect();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    assert!(!lane.set_waker(flights[9], &Waker::from(Arc::clone(&count))));
    let complete = |flight: Flight| {
        lane.memory.complete(flight.record, flight.wire(), 0, &[9]);
        LaneMemory::<LANE_DEPTH>::fence_before_looking();
        if lane.memory.look_for_waiters(flight.bit()).1 {
            segment.ring_bell();
        }
    };
    starve(&lane, || complete(flights[8]));
    starve(&lane, || complete(flights[9]));
    assert_eq!(
        count.0.load(Ordering::SeqCst),
        1,
        "a harvested task's waker is woken"
    );
    for flight in [flights[8], flights[9]] {
        assert!(lane.is_complete(flight));
        match lane.collect(flight) {
            Collected::Harvested(task) => assert_eq!(task.record.value(0), 9),
            Collected::AtRecord => panic!("its record was needed"),
        }
    }
}

#[test]
fn a_starved_submitter_is_woken_where_the_bell_would_not_ring_any_more() {
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let flights: Vec<_> = (0..LANE_DEPTH as u64).map(|n| attach(&lane, n)).collect();
    assert!(!lane.set_waker(flights[3], Waker::noop()));
    starve(&lane, || {
        let mut wakers = Vec::new();
        lane.memory
            .complete(flights[3].record, flights[3].wire(), 0, &[]);
        // The bell's thread takes the waker before the worker looks for waiters.
        lane.collect_wakers(&mut wakers);
        assert_eq!(wakers.len(), 1);
        assert!(!lane.memory.look_for_waiters(flights[3].bit()).1);
    });
}

#[test]
fn a_waker_that_panics_does_not_part_a_submitter_from_its_task() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            // A panic without its message.
            std::panic::resume_unwind(Box::new(()));
        }
    }
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let flights: Vec<_> = (0..LANE_DEPTH as u64).map(|n| attach(&lane, n)).collect();
    assert!(!lane.set_waker(flights[4], &Waker::from(Arc::new(Panics))));
    lane.memory
        .complete(flights[4].record, flights[4].wire(), 0, &[]);
    // The task may touch what its submitter has lent it until the submitter has waited for it.
    let flight = submit(&lane, 99);
    assert_eq!(flight.record, flights[4].record);
}

#[test]
fn a_sandbox_that_refuses_barriers_leaves_no_task_without_its_end() {
    if !barrier::is_available() {
        return skipped("refused barriers", "no expedited membarrier(2)");
    }
    let segment = segment();
    let (connection, _other_end) = link_with(&segment, PublishOrder::HostBarrier);
    let lane = lane(&connection);
    let flight = submit(&lane, 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            let filtered = SystemCallFilter::refusing_barriers().apply_to_thread();
            filtered.expect("the system takes the filter");
            assert!(!barrier::is_available(), "no host may promise it");
            lane.complete_all_as_lost();
        });
        assert!(
            lane.wait_until_complete(flight, soon()),
            "a task was missed"
        );
    });
}

#[test]
fn a_waker_that_panics_when_it_is_dropped_does_not_part_a_handle_from_its_task() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            if !thread::panicking() {
                // A panic without its message.
                std::panic::resume_unwind(Box::new(()));
            }
        }
    }
    let segment = segment();
    let (connection, _other_end) = connection(&segment);
    let lane = lane(&connection);
    let flight = attach(&lane, 1);
    let panics = Arc::new(Panics);
    let waker = Waker::from(Arc::clone(&panics));
    assert!(!lane.set_waker(flight, &waker));
    // The handle table has the last one.
    drop((panics, waker));
    assert!(matches!(lane.collect(flight), Collected::AtRecord));
}
