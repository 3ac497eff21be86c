//! Who waits for a record of a lane: tasks that found it full, in the order in which they came.
//!
//! A task that waits has a **seat**. It waits there with a waker until it is **told** that a record may
//! be had, and comes for it: it is polled, and submits. What counts is how many records are
//! *available*, free or to be freed by a harvest, and not who made them so:
//!
//! ```text
//!          join                 tell                  comes, and submits
//! (none) ────────► WAITS ─────────────────► TOLD ────────────────────────► (left)
//!                    ▲                      │  │
//!                    ├── comes too late ────┘  │ does not come for long
//!                    │                         ▼
//!                    └── comes ───────────── LATE
//! ```
//!
//! Laws of this module:
//! - As long as somebody waits, at least as many seats are told as records are available. So
//!   each record that becomes available tells one seat, and whoever was told and leaves without a
//!   record, by being dropped or submitted elsewhere, passes it on. All of this is one rule, applied
//!   anew by [`Queue::tell`] after every change.
//! - Who is told need not come: a future may be kept and not polled. After [`PATIENCE`] it is late,
//!   keeps its seat, and counts no more, so that nobody waits for ever behind it.
//! - First come, first served: a record is taken only by who has fewer seats before it, late ones
//!   left out, than records are available. Who has no seat comes after all seats.
//! - Nothing is lost between looking and waiting. Who joins is seen to wait, fences, then looks for
//!   records; who makes a record available does so, fences, then looks whether somebody waits. Of two
//!   fences one comes first, and whoever's comes second sees what the other did.
//! - Wakers are cloned, woken and dropped while the queue is not locked.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::desk::Wakers;
use crate::sync::{AtomicBool, Guard, Mutex, Ordering};

/// How long a record waits for who was told of it, before another is told. Much longer than an
/// executor takes to poll what was woken.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// The queue of a lane.
pub(crate) struct Queue {
    /// Whether there are seats. Written with the line locked, read with every task.
    waiting: AtomicBool,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    last_ticket: u64,
    seats: BTreeMap<u64, Seat>,
    /// Seats that are told.
    told: usize,
}

enum Seat {
    Waits(Waker),
    Told(Instant),
    Late,
}

/// A seat's number. Lower ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// What joining came to.
pub(crate) struct Joined {
    pub(crate) ticket: Ticket,
    /// Whether it is this seat's turn already.
    pub(crate) may_go: bool,
    /// Whether nobody waited before.
    pub(crate) is_first: bool,
    /// To be dropped when nothing is locked.
    pub(crate) _replaced: Option<Waker>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            waiting: AtomicBool::new(false),
            line: Mutex::default(),
        }
    }

    /// Whether somebody waits. Who asks in order to tell has made a record available just before, by
    /// a `SeqCst` operation or followed by such a fence; or is the thread that submits, which on a
    /// lane of its own is also the one that joins.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        // The model checker takes `SeqCst` operations for weaker than they are.
        #[cfg(loom)]
        Guard::FreeThenLook.fence();
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether a record may be taken by who has this seat, or none yet.
    pub(crate) fn may_go(&self, ticket: Option<Ticket>, available: usize) -> bool {
        self.line.lock().may_go(ticket, available)
    }

    /// Takes a seat at the end, or keeps the one that there is, and waits there with this waker.
    pub(crate) fn join(
        &self,
        ticket: Option<Ticket>,
        waker: Waker,
        available: impl FnOnce() -> usize,
    ) -> Joined {
        let mut line = self.line.lock();
        let is_first = line.seats.is_empty();
        let ticket = ticket.unwrap_or_else(|| {
            line.last_ticket += 1;
            Ticket(line.last_ticket)
        });
        let before = line.seats.insert(ticket.0, Seat::Waits(waker));
        let replaced = match before {
            Some(Seat::Waits(waker)) => Some(waker),
            Some(Seat::Told(_)) => {
                line.told -= 1;
                None
            }
            Some(Seat::Late) | None => None,
        };
        self.waiting.store(true, Ordering::Relaxed);
        // Pairs with what comes before `is_waiting`.
        Guard::JoinThenLook.fence();
        let may_go = line.may_go(Some(ticket), available());
        Joined {
            ticket,
            may_go,
            is_first,
            _replaced: replaced,
        }
    }

    /// Gives a seat up, with a record or without, and tells whoever is to be told now.
    #[must_use = "it is dropped when nothing is locked"]
    pub(crate) fn leave(
        &self,
        ticket: Ticket,
        available: impl FnOnce() -> usize,
        wakers: &mut Wakers,
    ) -> Option<Waker> {
        let mut line = self.line.lock();
        let seat = line.seats.remove(&ticket.0);
        if matches!(seat, Some(Seat::Told(_))) {
            line.told -= 1;
        }
        if line.seats.is_empty() {
            self.waiting.store(false, Ordering::Relaxed);
        } else if Guard::PassOn.is_kept() {
            line.tell(available(), wakers);
        }
        match seat {
            Some(Seat::Waits(waker)) => Some(waker),
            _ => None,
        }
    }

    /// Takes the waker out of a seat that was not told.
    pub(crate) fn take_waker(&self, ticket: Ticket) -> Option<Waker> {
        match self.line.lock().seats.get_mut(&ticket.0)? {
            Seat::Waits(waker) => Some(std::mem::replace(waker, Waker::noop().clone())),
            Seat::Told(_) | Seat::Late => None,
        }
    }

    /// Tells seats of the records that are available.
    #[cold]
    pub(crate) fn tell(&self, available: impl FnOnce() -> usize, wakers: &mut Wakers) {
        let mut line = self.line.lock();
        // Under the lock: of two that tell at the same time, the second counts what both have freed.
        line.tell(available(), wakers);
    }

    /// Tells everybody: nothing is to be waited for any more.
    pub(crate) fn tell_all(&self, wakers: &mut Wakers) {
        self.line.lock().tell(usize::MAX, wakers);
    }

    /// Passes over those who were told a while before and have not come.
    pub(crate) fn pass_over(
        &self,
        now: Instant,
        available: impl FnOnce() -> usize,
        wakers: &mut Wakers,
    ) {
        let mut line = self.line.lock();
        let Line { seats, told, .. } = &mut *line;
        for seat in seats.values_mut() {
            if *told == 0 {
                break;
            }
            if let Seat::Told(since) = seat
                && now.saturating_duration_since(*since) >= PATIENCE
                && Guard::PassOver.is_kept()
            {
                *seat = Seat::Late;
                *told -= 1;
            }
        }
        line.tell(available(), wakers);
    }
}

impl Line {
    fn may_go(&self, ticket: Option<Ticket>, available: usize) -> bool {
        let end = ticket.map_or(u64::MAX, |ticket| ticket.0);
        let before = self
            .seats
            .range(..end)
            .filter(|(_, seat)| !matches!(seat, Seat::Late));
        before.take(available).count() < available
    }

    fn tell(&mut self, available: usize, wakers: &mut Wakers) {
        if self.told >= available {
            return;
        }
        let now = Instant::now();
        for seat in self.seats.values_mut() {
            if let Seat::Waits(_) = seat
                && let Seat::Waits(waker) = std::mem::replace(seat, Seat::Told(now))
            {
                wakers.push(waker);
                self.told += 1;
                if self.told == available {
                    return;
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::desk::wake_all;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Sitter {
        ticket: Ticket,
        woken: Arc<Count>,
    }

    impl Sitter {
        fn join(queue: &Queue) -> Self {
            let woken = Arc::<Count>::default();
            let ticket = queue
                .join(None, Waker::from(Arc::clone(&woken)), || 0)
                .ticket;
            Self { ticket, woken }
        }

        fn is_woken(&self) -> bool {
            self.woken.0.load(Ordering::SeqCst) != 0
        }
    }

    fn woken(sitters: &[Sitter]) -> Vec<usize> {
        (0..sitters.len())
            .filter(|&n| sitters[n].is_woken())
            .collect()
    }

    fn tell(queue: &Queue, available: usize) {
        let mut wakers = Wakers::new();
        queue.tell(|| available, &mut wakers);
        wake_all(wakers);
    }

    fn leave(queue: &Queue, ticket: Ticket, available: usize) {
        let mut wakers = Wakers::new();
        drop(queue.leave(ticket, || available, &mut wakers));
        wake_all(wakers);
    }

    #[test]
    fn each_record_tells_one_seat_in_order() {
        let queue = Queue::new();
        let sitters: Vec<_> = (0..4).map(|_| Sitter::join(&queue)).collect();
        tell(&queue, 1);
        assert_eq!(woken(&sitters), [0]);
        // The same record tells nobody else.
        tell(&queue, 1);
        assert_eq!(woken(&sitters), [0]);
        tell(&queue, 3);
        assert_eq!(woken(&sitters), [0, 1, 2]);
    }

    #[test]
    fn who_leaves_after_being_told_passes_it_on() {
        let queue = Queue::new();
        let sitters: Vec<_> = (0..3).map(|_| Sitter::join(&queue)).collect();
        tell(&queue, 1);
        leave(&queue, sitters[0].ticket, 1);
        assert_eq!(woken(&sitters), [0, 1]);
        // With the record: there is nothing to pass on.
        leave(&queue, sitters[1].ticket, 0);
        assert_eq!(woken(&sitters), [0, 1]);
        assert!(queue.is_waiting());
        leave(&queue, sitters[2].ticket, 0);
        assert!(!queue.is_waiting());
    }

    #[test]
    fn nobody_overtakes() {
        let queue = Queue::new();
        let sitters: Vec<_> = (0..3).map(|_| Sitter::join(&queue)).collect();
        tell(&queue, 2);
        let seat = |n: usize| Some(sitters[n].ticket);
        assert!(queue.may_go(seat(0), 2) && queue.may_go(seat(1), 2));
        assert!(!queue.may_go(seat(2), 2) && !queue.may_go(None, 3));
        assert!(queue.may_go(seat(2), 3) && queue.may_go(None, 4));
        assert!(!queue.may_go(seat(0), 0));
    }

    #[test]
    fn who_comes_too_late_keeps_its_seat() {
        let queue = Queue::new();
        let sitters: Vec<_> = (0..2).map(|_| Sitter::join(&queue)).collect();
        tell(&queue, 1);
        // It comes, and the record was taken by somebody who did not ask.
        let again = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&again));
        let joined = queue.join(Some(sitters[0].ticket), waker, || 0);
        assert!(!joined.may_go && joined.ticket == sitters[0].ticket);
        tell(&queue, 1);
        assert_eq!(again.0.load(Ordering::SeqCst), 1);
        assert!(!sitters[1].is_woken());
    }

    #[test]
    fn who_does_not_come_is_passed_over_and_keeps_its_seat() {
        let queue = Queue::new();
        let sitters: Vec<_> = (0..3).map(|_| Sitter::join(&queue)).collect();
        tell(&queue, 1);
        let pass_over = |now| {
            let mut wakers = Wakers::new();
            queue.pass_over(now, || 1, &mut wakers);
            wake_all(wakers);
        };
        pass_over(Instant::now());
        assert_eq!(woken(&sitters), [0]);
        pass_over(Instant::now() + PATIENCE);
        assert_eq!(woken(&sitters), [0, 1]);
        assert!(queue.may_go(Some(sitters[1].ticket), 1));
        assert!(!queue.may_go(Some(sitters[2].ticket), 1));
        assert!(queue.may_go(Some(sitters[0].ticket), 1));
    }
}

/// Every interleaving of joining, freeing and leaving, and proof that each step is needed.
///
/// `RUSTFLAGS="--cfg loom" cargo test -p chimaera-client --release --lib loom_`
#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::atomic::AtomicBool as PlainBool;
    use std::task::Wake;

    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    use super::*;
    use crate::desk::wake_all;
    use crate::sync::break_guard;

    fn model(test: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(test);
    }

    struct Lane {
        queue: Queue,
        free: AtomicUsize,
    }

    /// What the model's executor would poll. The model checker has nothing to do with it.
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
                queue: Queue::new(),
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
                self.queue.tell(|| self.available(), &mut wakers);
                wake_all(wakers);
            }
        }

        fn join(&self) -> (Ticket, std::sync::Arc<Woken>, bool) {
            let woken = std::sync::Arc::<Woken>::default();
            let waker = Waker::from(std::sync::Arc::clone(&woken));
            let joined = self.queue.join(None, waker, || self.available());
            (joined.ticket, woken, joined.may_go)
        }

        fn leave(&self, ticket: Ticket) {
            let mut wakers = Wakers::new();
            drop(self.queue.leave(ticket, || self.available(), &mut wakers));
            wake_all(wakers);
        }
    }

    /// Who joins while a record is freed goes, or is told.
    fn joining_meets_freeing() {
        let lane = Lane::new(0);
        let freeing = thread::spawn({
            let lane = Arc::clone(&lane);
            move || lane.free()
        });
        let (_, woken, may_go) = lane.join();
        freeing.join().expect("frees");
        assert!(may_go || woken.0.load(Ordering::Relaxed), "nobody was told");
    }

    /// Who is dropped at any moment keeps no record from who comes after it.
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

    /// Two who free at the same time tell two.
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

    /// Who is told and stays away, while one who came takes its record, holds nobody up.
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
        watching(PATIENCE);
        freeing.join().expect("frees");
        watching(PATIENCE);
        assert!(first.0.load(Ordering::Relaxed));
        assert!(second.0.load(Ordering::Relaxed), "nobody else was told");
    }

    #[test]
    fn loom_who_joins_while_a_record_is_freed_is_told() {
        model(joining_meets_freeing);
    }

    #[test]
    fn loom_who_is_dropped_passes_it_on() {
        model(leaving_meets_freeing);
    }

    #[test]
    fn loom_two_records_tell_two() {
        model(freeing_meets_freeing);
    }

    #[test]
    fn loom_who_stays_away_is_passed_over() {
        model(staying_away_meets_freeing);
    }

    #[test]
    #[should_panic(expected = "nobody was told")]
    fn loom_joining_needs_its_fence() {
        break_guard(Guard::JoinThenLook);
        model(joining_meets_freeing);
    }

    #[test]
    #[should_panic(expected = "nobody was told")]
    fn loom_freeing_needs_its_fence() {
        break_guard(Guard::FreeThenLook);
        model(joining_meets_freeing);
    }

    #[test]
    #[should_panic(expected = "nobody was told")]
    fn loom_leaving_needs_to_pass_on() {
        break_guard(Guard::PassOn);
        model(leaving_meets_freeing);
    }

    #[test]
    #[should_panic(expected = "nobody else was told")]
    fn loom_staying_away_needs_to_be_passed_over() {
        break_guard(Guard::PassOver);
        model(staying_away_meets_freeing);
    }
}
