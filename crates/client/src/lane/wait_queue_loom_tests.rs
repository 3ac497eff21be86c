//! All interleavings of joining, freeing and leaving, and proof that each step is needed.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p chimaera-client --release --lib loom_`

use std::sync::atomic::AtomicBool as PlainBool;
use std::task::Wake;

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;
use crate::lane::sync::leave_out;
use crate::wakers::wake_all;

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

struct Lane {
    queue: WaitQueue,
    free: AtomicUsize,
}

/// A waker that remembers that it was woken. It is no part of the model.
#[derive(Default)]
struct Woken(PlainBool);

impl Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Lane {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: WaitQueue::new(),
            free: AtomicUsize::new(free),
        })
    }

    fn available(&self) -> usize {
        self.free.load(Ordering::Acquire)
    }

    fn free(&self) {
        self.free.fetch_add(1, Ordering::SeqCst);
        if self.queue.is_waiting() {
            let mut wakers = Wakers::new();
            self.queue.notify(|| self.available(), &mut wakers);
            wake_all(wakers);
        }
    }

    fn join(&self) -> (Ticket, std::sync::Arc<Woken>, bool) {
        let woken = std::sync::Arc::<Woken>::default();
        let waker = Waker::from(std::sync::Arc::clone(&woken));
        let joined = self.queue.join(None, waker, || self.available());
        (joined.ticket, woken, joined.may_submit)
    }

    fn leave(&self, ticket: Ticket) {
        let mut wakers = Wakers::new();
        drop(self.queue.leave(ticket, || self.available(), &mut wakers));
        wake_all(wakers);
    }
}

/// A task that joins while a record is freed may submit at once, or is notified.
fn joining_meets_freeing() {
    let lane = Lane::new(0);
    let freeing = thread::spawn({
        let lane = Arc::clone(&lane);
        move || lane.free()
    });
    let (_, woken, may_submit) = lane.join();
    freeing.join().expect("frees");
    assert!(
        may_submit || woken.0.load(Ordering::Relaxed),
        "nobody was told"
    );
}

/// A task that is dropped, at any moment, keeps no record from the next one.
fn leaving_meets_freeing() {
    let lane = Lane::new(0);
    let (first, ..) = lane.join();
    let (_, second, _) = lane.join();
    let freeing = thread::spawn({
        let lane = Arc::clone(&lane);
        move || lane.free()
    });
    lane.leave(first);
    freeing.join().expect("frees");
    assert!(second.0.load(Ordering::Relaxed), "nobody was told");
}

/// Two threads that free a record each at the same time notify two seats.
fn freeing_meets_freeing() {
    let lane = Lane::new(0);
    let sitters = [lane.join(), lane.join()];
    let freeing = thread::spawn({
        let lane = Arc::clone(&lane);
        move || lane.free()
    });
    lane.free();
    freeing.join().expect("frees");
    for (_, woken, _) in sitters {
        assert!(woken.0.load(Ordering::Relaxed), "somebody was not told");
    }
}

/// A notified seat that is not used holds nobody up.
fn staying_away_meets_freeing() {
    let lane = Lane::new(0);
    let (_, first, _) = lane.join();
    let (_, second, _) = lane.join();
    let freeing = thread::spawn({
        let lane = Arc::clone(&lane);
        move || lane.free()
    });
    let watching = |later| {
        let mut wakers = Wakers::new();
        let now = Instant::now() + later;
        lane.queue.pass_over(now, || lane.available(), &mut wakers);
        wake_all(wakers);
    };
    watching(SEAT_TIMEOUT);
    freeing.join().expect("frees");
    watching(SEAT_TIMEOUT);
    assert!(first.0.load(Ordering::Relaxed));
    assert!(second.0.load(Ordering::Relaxed), "nobody else was told");
}

#[test]
fn loom_a_task_that_joins_while_a_record_is_freed_is_notified() {
    model(joining_meets_freeing);
}

#[test]
fn loom_a_task_that_is_dropped_passes_the_notification_on() {
    model(leaving_meets_freeing);
}

#[test]
fn loom_two_records_notify_two_seats() {
    model(freeing_meets_freeing);
}

#[test]
fn loom_a_seat_that_is_not_used_is_passed_over() {
    model(staying_away_meets_freeing);
}

#[test]
#[should_panic(expected = "nobody was told")]
fn loom_joining_needs_its_fence() {
    leave_out(QueueStep::JoinThenLook);
    model(joining_meets_freeing);
}

#[test]
#[should_panic(expected = "nobody was told")]
fn loom_freeing_needs_its_fence() {
    leave_out(QueueStep::FreeThenLook);
    model(joining_meets_freeing);
}

#[test]
#[should_panic(expected = "nobody was told")]
fn loom_leaving_needs_to_pass_on() {
    leave_out(QueueStep::PassOn);
    model(leaving_meets_freeing);
}

#[test]
#[should_panic(expected = "nobody else was told")]
fn loom_staying_away_needs_to_be_passed_over() {
    leave_out(QueueStep::PassOver);
    model(staying_away_meets_freeing);
}
