//! What a worker asks of the kernel: nothing while it is busy, nobody is parked and its processor is its
//! own, and little else.
//!
//! Its calls are counted one by one. Where a figure depends on others leaving it its processor, it
//! is looked for in many short windows: what the worker does of its own accord is in all of them.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chimaera_client::{Runtime, Task};
use chimaera_tests::{Daemon, SystemCall, Trace, skipped, within, workers};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Tasks of a window. Some milliseconds: shorter than a turn of somebody else's on the processor.
const WINDOW: usize = 5_000;

/// How long a window is looked for in which the worker was not disturbed.
const MAX_SEARCH: Duration = Duration::from_secs(30);

/// Tasks in flight on each lane.
const DEPTH: usize = 16;

/// As `runtime-host/src/worker/idle.rs` has it.
const DOORBELL_INTERVAL: Duration = Duration::from_micros(25);

/// As `runtime-host/src/worker/barriers.rs` has them.
const PAUSE_BARRIERS: u32 = 16;
const MAX_PAUSE: Duration = Duration::from_millis(1);

/// Of x86-64, the kind of machine on which calls are told apart.
const SCHED_YIELD: i64 = 24;
const EPOLL_WAIT: i64 = 232;
const EPOLL_PWAIT: i64 = 281;
const MEMBARRIER: i64 = 324;

/// These tests have the same two processors, one after another.
static PROCESSORS: Mutex<()> = Mutex::new(());

/// A daemon with one worker whose calls are noted, this thread having another processor. None, with
/// the reason said, where the machine does not permit it.
fn watched(what: &str, polling: &str) -> Option<(Daemon, Trace)> {
    watched_on(what, polling, false)
}

/// The same, this thread having the worker's processor if it `shares` it.
fn watched_on(what: &str, polling: &str, shares: bool) -> Option<(Daemon, Trace)> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("this thread's processors");
    let all: Vec<usize> = (0..CpuSet::count())
        .filter(|&one| allowed.is_set(one).unwrap_or(false))
        .collect();
    let (mine, workers_own) = match all[..] {
        [one, ..] if shares => (one, one),
        [mine, workers_own, ..] => (mine, workers_own),
        _ => {
            skipped(what, "it needs two processors");
            return None;
        }
    };
    let pin = workers_own.to_string();
    let daemon = Daemon::start_with(&["--workers", "1", "--polling", polling, "--pin", &pin]);
    match Trace::of(&workers(&daemon, 1)[0]) {
        Ok(trace) => {
            // Not before: what notes the calls may run anywhere.
            let mut set = CpuSet::new();
            set.set(mine).expect("a processor");
            sched_setaffinity(Pid::from_raw(0), &set).expect("one that it may use");
            Some((daemon, trace))
        }
        Err(reason) => {
            skipped(what, &reason);
            None
        }
    }
}

/// Several lanes, each with tasks in flight. A thread has a lane of its own in every connection.
struct Traffic {
    clients: Vec<Runtime>,
    in_flight: VecDeque<Task<()>>,
}

impl Traffic {
    fn begin(daemon: &Daemon, lanes: usize) -> Self {
        let clients: Vec<_> = (0..lanes).map(|_| daemon.connect()).collect();
        let mut traffic = Self {
            clients,
            in_flight: VecDeque::new(),
        };
        (0..lanes * DEPTH).for_each(|turn| traffic.submit(turn));
        traffic
    }

    fn submit(&mut self, turn: usize) {
        let client = &self.clients[turn % self.clients.len()];
        let task = client.admin().async_ping();
        self.in_flight.push_back(task);
    }

    fn window(&mut self) -> Duration {
        let begin = Instant::now();
        for turn in 0..WINDOW {
            let oldest = self.in_flight.pop_front().expect("in flight");
            oldest.wait().expect("completes");
            self.submit(turn);
        }
        begin.elapsed()
    }
}

fn is_look(call: &SystemCall) -> bool {
    matches!(call.number, EPOLL_WAIT | EPOLL_PWAIT)
}

#[test]
fn a_busy_worker_without_parked_lanes_makes_no_system_call() {
    let _alone = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((daemon, trace)) = watched("calls of a busy worker", "performance") else {
        return;
    };
    let least = within("traffic on three lanes", move || {
        let mut traffic = Traffic::begin(&daemon, 3);
        let (begin, mut least) = (Instant::now(), usize::MAX);
        while least != 0 && begin.elapsed() < MAX_SEARCH {
            let before = trace.count();
            traffic.window();
            least = least.min(trace.count() - before);
        }
        least
    });
    assert_eq!(least, 0, "calls in {WINDOW} tasks, at least");
}

#[test]
fn with_a_lane_parked_a_busy_worker_looks_at_its_bells_now_and_then() {
    let _alone = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((daemon, trace)) = watched("calls beside a parked lane", "balanced") else {
        return;
    };
    within("traffic beside a parked lane", move || {
        let quiet = daemon.connect();
        quiet.admin().ping().expect("completes");
        let mut traffic = Traffic::begin(&daemon, 2);
        let (mut calls, mut tasks, mut time) = (0, 0, Duration::ZERO);
        for _ in 0..10 {
            let before = trace.count();
            let elapsed = traffic.window();
            let looks = trace
                .calls(before)
                .iter()
                .filter(|call| is_look(call))
                .count();
            let most = elapsed.as_nanos() / DOORBELL_INTERVAL.as_nanos() + 2;
            assert!(looks as u128 <= most, "{looks} looks in {elapsed:?}");
            (calls, tasks, time) = (calls + looks, tasks + WINDOW, time + elapsed);
        }
        assert_ne!(calls, 0, "nobody listens to the parked lane's bell");
        let each = 1_000_000 * calls / tasks;
        let _ = writeln!(
            std::io::stderr(),
            "beside a parked lane: {each} looks per million tasks, one in {:?}",
            time / calls as u32
        );
        let rung = quiet.admin().async_ping();
        let end = Instant::now() + Duration::from_secs(30);
        while !rung.is_complete() {
            assert!(Instant::now() < end, "a ring is not heard");
            traffic.window();
        }
    });
}

/// With this policy a worker polls for 10 ms, and its client, on the same processor, would wait for as long. The test
/// does not say how often the worker yields: where other programs compete for the processor it sleeps instead, and not
/// after each task; and counting makes each call as slow as such a program would.
#[test]
fn a_worker_gives_way_to_a_client_on_its_own_processor_with_every_policy() {
    const TASKS: usize = 2000;
    let _alone = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((daemon, trace)) = watched_on("giving way", "performance", true) else {
        return;
    };
    within("tasks on one processor", move || {
        let client = daemon.connect();
        client.admin().ping().expect("completes");
        let begin = Instant::now();
        let mut yields = 0;
        while yields == 0 && begin.elapsed() < MAX_SEARCH {
            let before = trace.count();
            (0..TASKS).for_each(|_| client.admin().ping().expect("completes"));
            let calls = trace.calls(before);
            yields += calls
                .iter()
                .filter(|call| call.number == SCHED_YIELD)
                .count();
        }
        assert_ne!(yields, 0, "it never gives way");
    });
}

/// Each of its lanes falls quiet at another moment, and parking one costs all clients a barrier.
#[test]
fn a_client_that_rings_many_lanes_in_turn_has_no_barrier_called_for_each_of_them() {
    const LANES: usize = 64;
    const ROUNDS: usize = 20;
    let _alone = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    let what = "barriers for lanes rung in turn";
    let Some((daemon, trace)) = watched(what, "powersave") else {
        return;
    };
    within("ringing lanes in turn", move || {
        let clients: Vec<_> = (0..LANES).map(|_| daemon.connect()).collect();
        let ring_all = || {
            for client in &clients {
                client.admin().ping().expect("completes");
            }
        };
        ring_all();
        let before = trace.count();
        (0..ROUNDS).for_each(|_| ring_all());
        let mut barriers = trace.calls(before);
        barriers.retain(|call| call.number == MEMBARRIER && call.took.is_some());
        if barriers.is_empty() {
            return skipped(what, "this system has no membarrier(2)");
        }
        for pair in barriers.windows(2) {
            // Seen from outside it took no longer than to the worker.
            let took = pair[0].took.expect("it is over");
            let pause = pair[1].begin - (pair[0].begin + took);
            let least = (took * PAUSE_BARRIERS).min(MAX_PAUSE);
            assert!(pause >= least, "{pause:?} after one that took {took:?}");
        }
    });
}
