//! Every interleaving of the lane's protocols, and proof that each ordering is needed.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p chimaera-shm --release loom`

use chimaera_proto::task::DESCRIPTOR_WORDS;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::barrier::PublishOrder;
use crate::lane::{LaneMemory, Taken};
use crate::sync::{Guard, break_guard};

const DEPTH: usize = 2;
type Lane = LaneMemory<DEPTH>;

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

fn task(sequence: u32) -> [u64; DESCRIPTOR_WORDS] {
    let mut words = [u64::from(sequence) * 1000; DESCRIPTOR_WORDS];
    words[0] = u64::from(sequence);
    words
}

/// A doorbell as the kernel gives it: rings are not lost, and may come together.
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self {
            rung: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    fn ring(&self) {
        *self.rung.lock().expect("lock") = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().expect("lock");
        while !*rung {
            rung = self.changed.wait(rung).expect("lock");
        }
        *rung = false;
    }
}

/// Tasks are taken once, in order and whole, and complete whole, on a ring that goes round.
fn tasks_travel_whole() {
    let lane = Arc::new(Lane::zeroed());
    let worker = thread::spawn({
        let lane = Arc::clone(&lane);
        move || {
            for expected in 1..=3u64 {
                let mut words = [0; DESCRIPTOR_WORDS];
                loop {
                    match lane.take(expected, &mut words) {
                        Taken::Task => break,
                        Taken::Nothing => thread::yield_now(),
                        Taken::Violation { found } => panic!("found {found} at {expected}"),
                    }
                }
                assert_eq!(words, task(expected as u32));
                lane.complete(0, expected as u32, 7, &[words[1] + 1]);
            }
        }
    });
    for sequence in 1..=3u32 {
        lane.publish(sequence, &task(sequence));
        while !lane.is_complete(0, sequence) {
            thread::yield_now();
        }
        let completion = lane.completion(0);
        assert_eq!(
            (completion.status_word, completion.values[0]),
            (7, u64::from(sequence) * 1000 + 1)
        );
    }
    worker.join().expect("worker");
}

/// A worker that parks whenever it finds nothing still takes every task.
fn no_task_is_left_in_a_parked_lane() {
    let lane = Arc::new(Lane::zeroed());
    let bell = Arc::new(Bell::new());
    let client = thread::spawn({
        let (lane, bell) = (Arc::clone(&lane), Arc::clone(&bell));
        move || {
            for sequence in 1..=2 {
                lane.publish(sequence, &task(sequence));
                if lane.must_ring(PublishOrder::Fence) {
                    bell.ring();
                }
            }
        }
    });
    let mut expected = 1;
    while expected <= 2 {
        match lane.take(expected, &mut [0; DESCRIPTOR_WORDS]) {
            Taken::Task => expected += 1,
            Taken::Nothing => {
                lane.begin_park();
                Lane::fence_before_parking();
                if lane.finish_park(expected) {
                    bell.wait();
                    lane.unpark();
                }
            }
            Taken::Violation { found } => panic!("found {found} at {expected}"),
        }
    }
    client.join().expect("client");
}

/// The host's barrier in the model: between the worker's call and its return, the client passes through a full fence,
/// wherever it is.
struct Barrier {
    asked: AtomicBool,
    passed: AtomicBool,
}

impl Barrier {
    /// The worker's side. `waits` is what makes it a barrier.
    fn call(&self, waits: bool) {
        fence(Ordering::SeqCst);
        self.asked.store(true, Ordering::Release);
        while waits && !self.passed.load(Ordering::Acquire) {
            thread::yield_now();
        }
        fence(Ordering::SeqCst);
    }

    /// What the kernel makes the client do, at whatever instruction it has reached.
    fn pass(&self) {
        while !self.asked.load(Ordering::Acquire) {
            thread::yield_now();
        }
        fence(Ordering::SeqCst);
        self.passed.store(true, Ordering::Release);
    }
}

/// A client without a fence of its own, which the barrier meets before its `meeting`th step, is seen
/// by the worker that parks or sees that it has to ring.
fn no_task_is_left_behind_a_barrier(meeting: usize, waits: bool) {
    let lane = Arc::new(Lane::zeroed());
    let barrier = Arc::new(Barrier {
        asked: AtomicBool::new(false),
        passed: AtomicBool::new(false),
    });
    let client = thread::spawn({
        let (lane, barrier) = (Arc::clone(&lane), Arc::clone(&barrier));
        move || {
            let meets = |step| {
                if step == meeting {
                    barrier.pass();
                }
            };
            meets(0);
            lane.publish(1, &task(1));
            meets(1);
            let rings = lane.must_ring(PublishOrder::HostBarrier);
            meets(2);
            rings
        }
    });
    lane.begin_park();
    Lane::fence_before_parking();
    barrier.call(waits);
    let is_parked = lane.finish_park(1);
    let rings = client.join().expect("client");
    assert!(!is_parked || rings, "parked with a task, and nobody rings");
}

#[test]
fn loom_a_barrier_stands_for_the_clients_fence() {
    for meeting in 0..3 {
        model(move || no_task_is_left_behind_a_barrier(meeting, true));
    }
}

#[test]
#[should_panic]
fn loom_without_waiting_it_does_not() {
    for meeting in 0..3 {
        model(move || no_task_is_left_behind_a_barrier(meeting, false));
    }
}

/// A client that sleeps at once still learns of its completion.
fn no_sleeper_is_forgotten() {
    let lane = Arc::new(Lane::zeroed());
    let worker = thread::spawn({
        let lane = Arc::clone(&lane);
        move || {
            lane.complete(1, 1, 0, &[]);
            Lane::fence_before_looking();
            let (sleepers, _) = lane.look_for_waiters(1 << 1);
            lane.wake_sleepers(sleepers);
        }
    });
    while !lane.sleep(1, 1, None) {}
    worker.join().expect("worker");
}

/// A record that is watched is either seen complete at once, or its bell rings.
fn no_watcher_is_forgotten() {
    let lane = Arc::new(Lane::zeroed());
    let rung = Arc::new(AtomicBool::new(false));
    let worker = thread::spawn({
        let (lane, rung) = (Arc::clone(&lane), Arc::clone(&rung));
        move || {
            lane.complete(1, 1, 0, &[]);
            Lane::fence_before_looking();
            let (_, watched) = lane.look_for_waiters(1 << 1);
            rung.store(watched, Ordering::Relaxed);
        }
    });
    let complete = lane.watch(1, 1);
    worker.join().expect("worker");
    assert!(
        complete || rung.load(Ordering::Relaxed),
        "neither seen nor rung"
    );
}

/// The checks, each with the orderings that it must be seen to need.
macro_rules! checks {
    ($($check:ident needs { $($broken:ident: $guard:ident),+ })+) => {$(
        mod $check {
            use super::*;

            #[test]
            fn loom_holds() {
                model(super::$check);
            }

            $(
                #[test]
                #[should_panic]
                fn $broken() {
                    break_guard(Guard::$guard);
                    model(super::$check);
                }
            )+
        }
    )+};
}

checks! {
    tasks_travel_whole needs {
        loom_fails_without_publish: Publish,
        loom_fails_without_take: Take,
        loom_fails_without_complete: Complete,
        loom_fails_without_observe: Observe
    }
    no_task_is_left_in_a_parked_lane needs {
        loom_fails_without_the_clients_fence: PublishThenLook,
        loom_fails_without_the_workers_fence: ParkThenLook
    }
    no_sleeper_is_forgotten needs {
        loom_fails_without_the_clients_fence: AnnounceThenLook,
        loom_fails_without_the_workers_fence: CompleteThenLook
    }
    no_watcher_is_forgotten needs {
        loom_fails_without_the_clients_fence: AnnounceThenLook,
        loom_fails_without_the_workers_fence: CompleteThenLook
    }
}
