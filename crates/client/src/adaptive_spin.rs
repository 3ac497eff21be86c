//! How long a thread looks for something before it sleeps.
//!
//! Looking costs the processor, sleeping costs the time that it takes to be woken, which is often
//! as much as a device takes. So the time to spin_on is learned: what was slept for and came soon is
//! waited for by looking the next time, up to [`MAX_SPIN`]; what took longer than that is slept for.
//!
//! Where the worker waits for the processor that this thread looks on, looking keeps it from coming.
//! Then the processor is given up instead, once, and if that was of no use, or is known to be of none
//! because a stranger takes it ([`Yields`]), the thread sleeps.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chimaera_shm::LaneMemory;
use chimaera_shm::processor::{self, YieldedTo, Yields};

/// Looks between two looks at the clock, each after a pause: every spin_on takes the line away from
/// the other side, which is about to write it.
const LOOKS_PER_CLOCK: u32 = 32;

/// How long to spin_on where nothing else was learned.
const DEFAULT_SPIN: Duration = Duration::from_micros(100);

/// The longest that looking is worth while.
const MAX_SPIN: Duration = Duration::from_millis(1);

/// Where a thread waits.
pub(crate) trait SpinContext {
    /// Whether the worker runs on the processor of this thread.
    fn is_beside_worker(&self) -> bool;

    /// The time.
    fn now(&self) -> Instant;

    /// Lets others have the processor first.
    fn give_up_processor(&self);
}

impl SpinContext for LaneMemory {
    fn is_beside_worker(&self) -> bool {
        self.waits_beside_worker()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn give_up_processor(&self) {
        processor::give_up();
    }
}

/// What came of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpinOutcome {
    /// It is ready.
    Ready,
    /// It is not, for as long as patience lasted.
    TimedOut,
    /// It is not, and looking would keep it from becoming so.
    BlocksWorker,
}

/// How long to spin_on before sleeping.
#[derive(Debug)]
pub(crate) struct AdaptiveSpin {
    nanos: AtomicU32,
    learns: bool,
    yields: Yields,
}

impl AdaptiveSpin {
    /// Looks for so long, or as is learned if that is `None`.
    pub(crate) fn new(fixed: Option<Duration>) -> Self {
        let nanos = fixed.unwrap_or(DEFAULT_SPIN).as_nanos();
        Self {
            nanos: AtomicU32::new(u32::try_from(nanos).unwrap_or(u32::MAX)),
            learns: fixed.is_none(),
            yields: Yields::new(Instant::now()),
        }
    }

    fn spin_time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed).into())
    }

    /// Looks until `ready`, or until patience ends.
    #[inline]
    pub(crate) fn spin(&self, here: &impl SpinContext, ready: impl Fn() -> bool) -> SpinOutcome {
        self.spin_until(here, ready, None)
    }

    /// As [`Self::spin`], with a deadline of the caller's.
    #[inline]
    pub(crate) fn spin_until(
        &self,
        here: &impl SpinContext,
        ready: impl Fn() -> bool,
        deadline: Option<Instant>,
    ) -> SpinOutcome {
        if ready() {
            return SpinOutcome::Ready;
        }
        self.spin_on(here, ready, deadline)
    }

    fn spin_on(
        &self,
        here: &impl SpinContext,
        ready: impl Fn() -> bool,
        deadline: Option<Instant>,
    ) -> SpinOutcome {
        let spin = self.spin_time();
        if spin.is_zero() {
            return SpinOutcome::TimedOut;
        }
        let (mut end, mut may_yield) = (None, true);
        loop {
            if may_yield && here.is_beside_worker() {
                match self.yield_to_worker(here, &ready, deadline) {
                    // The worker is elsewhere by now, or on its way from its sleep.
                    None => may_yield = false,
                    Some(looked) => return looked,
                }
            }
            for _ in 0..LOOKS_PER_CLOCK {
                hint::spin_loop();
                if ready() {
                    return SpinOutcome::Ready;
                }
            }
            let now = here.now();
            let end = *end.get_or_insert_with(|| {
                let end = now + spin;
                deadline.map_or(end, |deadline| deadline.min(end))
            });
            if now >= end {
                return SpinOutcome::TimedOut;
            }
        }
    }

    /// Lets the worker have the processor, if it is to be expected that it is the one to get it. None
    /// if nobody wanted it, so that one may spin_on on.
    #[cold]
    fn yield_to_worker(
        &self,
        here: &impl SpinContext,
        ready: &impl Fn() -> bool,
        deadline: Option<Instant>,
    ) -> Option<SpinOutcome> {
        let begin = here.now();
        if deadline.is_some_and(|deadline| begin >= deadline) {
            return Some(SpinOutcome::TimedOut);
        }
        if !self.yields.are_worthwhile(begin) {
            return Some(SpinOutcome::BlocksWorker);
        }
        here.give_up_processor();
        let is_ready = ready();
        let turn = self.yields.learn(begin, here.now(), is_ready);
        match turn {
            _ if is_ready => Some(SpinOutcome::Ready),
            YieldedTo::Nobody => None,
            // It had its turn, and cannot do more for us now; or did not get it.
            YieldedTo::Neighbour | YieldedTo::Stranger => Some(SpinOutcome::BlocksWorker),
        }
    }

    /// Learns from a sleep, which came after a [`Self::spin`] that was of no use. Threads that share
    /// this may overwrite one another's: any of them is as good.
    pub(crate) fn learn_from_sleep(&self, looked: SpinOutcome, slept: Duration) {
        if !self.learns || looked != SpinOutcome::TimedOut {
            return;
        }
        let waited = self.spin_time() + slept;
        let spin = if waited < MAX_SPIN {
            (waited * 2).min(MAX_SPIN)
        } else {
            DEFAULT_SPIN
        };
        self.nanos.store(spin.as_nanos() as u32, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SWITCH: Duration = Duration::from_micros(2);
    const SLICE: Duration = Duration::from_millis(3);
    /// What looking at the clock is taken to take, with the looks before it.
    const LOOK: Duration = Duration::from_micros(1);

    /// Where a thread waits, in a time of its own.
    struct Model {
        start: Instant,
        elapsed: Cell<Duration>,
        is_beside: Cell<bool>,
        /// What a yield takes, and whether the worker has its turn in it.
        turn: Cell<(Duration, bool)>,
        yields: Cell<u32>,
        /// The worker, where it runs by itself, has answered by then.
        answered_at: Cell<Duration>,
        answered: Cell<bool>,
    }

    impl Model {
        fn new(is_beside: bool) -> Self {
            Self {
                start: Instant::now(),
                elapsed: Cell::default(),
                is_beside: Cell::new(is_beside),
                turn: Cell::new((SWITCH, true)),
                yields: Cell::default(),
                answered_at: Cell::new(Duration::MAX),
                answered: Cell::default(),
            }
        }

        /// Waits for an answer, which has not come yet.
        fn wait(&self, patience: &AdaptiveSpin) -> SpinOutcome {
            self.answered.set(false);
            let ready = || self.answered.get() || self.elapsed.get() >= self.answered_at.get();
            patience.spin(self, ready)
        }

        fn pass(&self, time: Duration) {
            self.elapsed.set(self.elapsed.get() + time);
        }
    }

    impl SpinContext for Model {
        fn is_beside_worker(&self) -> bool {
            self.is_beside.get()
        }

        fn now(&self) -> Instant {
            self.pass(LOOK);
            self.start + self.elapsed.get()
        }

        fn give_up_processor(&self) {
            let (took, is_the_workers) = self.turn.get();
            self.pass(took);
            self.answered.set(is_the_workers);
            self.yields.set(self.yields.get() + 1);
        }
    }

    fn patience(here: &Model) -> AdaptiveSpin {
        AdaptiveSpin {
            yields: Yields::new(here.start),
            ..AdaptiveSpin::new(None)
        }
    }

    #[test]
    fn who_shares_with_the_worker_yields_once_for_each_answer() {
        let here = Model::new(true);
        let patience = patience(&here);
        for count in 1..=1000 {
            assert_eq!(here.wait(&patience), SpinOutcome::Ready);
            assert_eq!(here.yields.get(), count);
        }
    }

    #[test]
    fn who_has_a_processor_to_itself_never_yields() {
        let here = Model::new(false);
        let patience = patience(&here);
        here.turn.set((SLICE, false));
        for _ in 0..1000 {
            here.answered_at.set(here.elapsed.get() + 10 * LOOK);
            assert_eq!(here.wait(&patience), SpinOutcome::Ready);
        }
        here.answered_at.set(Duration::MAX);
        assert_eq!(here.wait(&patience), SpinOutcome::TimedOut);
        assert_eq!(here.yields.get(), 0);
    }

    #[test]
    fn a_turn_of_the_worker_without_an_answer_is_slept_for() {
        let here = Model::new(true);
        let patience = patience(&here);
        assert_eq!(here.wait(&patience), SpinOutcome::Ready);
        here.turn.set((SWITCH, false));
        assert_eq!(here.wait(&patience), SpinOutcome::BlocksWorker);
        assert_eq!(here.yields.get(), 2);
        // It says nothing of how long looking is worth while.
        patience.learn_from_sleep(SpinOutcome::BlocksWorker, Duration::from_micros(150));
        assert_eq!(patience.spin_time(), DEFAULT_SPIN);
    }

    #[test]
    fn where_nobody_wants_the_processor_one_yield_is_all() {
        let here = Model::new(true);
        let patience = patience(&here);
        here.turn.set((SWITCH / 10, false));
        let begin = here.elapsed.get();
        assert_eq!(here.wait(&patience), SpinOutcome::TimedOut);
        assert!(here.elapsed.get() - begin >= DEFAULT_SPIN, "it looks on");
        assert_eq!(here.yields.get(), 1);
    }

    #[test]
    fn a_stranger_on_the_processor_is_learned_and_tried_again_later() {
        let here = Model::new(true);
        let patience = patience(&here);
        assert_eq!(here.wait(&patience), SpinOutcome::Ready);
        here.turn.set((SLICE, false));
        assert_eq!(here.wait(&patience), SpinOutcome::BlocksWorker);
        let begin = here.elapsed.get();
        let mut waits = 0;
        while here.yields.get() == 2 {
            assert_eq!(here.wait(&patience), SpinOutcome::BlocksWorker);
            waits += 1;
        }
        let lasted = here.elapsed.get() - begin;
        assert!(lasted >= 4 * SLICE, "yields again after {lasted:?}");
        assert!(waits > 1000);
        // The stranger goes.
        here.turn.set((SWITCH, true));
        here.pass(Duration::from_secs(1));
        for _ in 0..1000 {
            assert_eq!(here.wait(&patience), SpinOutcome::Ready);
        }
        assert_eq!(here.yields.get(), 3 + 1000);
    }

    #[test]
    fn a_deadline_that_has_passed_is_not_yielded_beyond() {
        let here = Model::new(true);
        let deadline = Some(here.start);
        let looked = patience(&here).spin_until(&here, || false, deadline);
        assert_eq!((looked, here.yields.get()), (SpinOutcome::TimedOut, 0));
    }

    #[test]
    fn short_sleeps_lengthen_looking_and_long_ones_end_that() {
        let patience = AdaptiveSpin::new(None);
        assert_eq!(patience.spin_time(), DEFAULT_SPIN);
        patience.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_micros(150));
        assert_eq!(patience.spin_time(), Duration::from_micros(500));
        patience.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_micros(450));
        assert_eq!(patience.spin_time(), MAX_SPIN);
        patience.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_millis(5));
        assert_eq!(patience.spin_time(), DEFAULT_SPIN);
    }

    #[test]
    fn a_time_that_was_asked_for_stays() {
        for fixed in [Duration::ZERO, Duration::from_micros(7)] {
            let patience = AdaptiveSpin::new(Some(fixed));
            patience.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_micros(150));
            assert_eq!(patience.spin_time(), fixed);
        }
    }
}
