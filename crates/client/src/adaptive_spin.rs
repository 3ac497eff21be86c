//! Adaptive spinning: how long a thread polls for something before it sleeps.
//!
//! Spinning costs processor time; sleeping costs the time of a wake-up, which is often as much as a device takes. So
//! the time to spin is learned: if a sleep turns out to be short, the next wait spins longer, up to [`MAX_SPIN`]; if it
//! is longer than that, the next wait spins for the default time.
//!
//! If the worker waits for the processor that this thread spins on, spinning keeps it from running. Then the thread
//! yields the processor instead, once. If that did not help, or is known not to help because a stranger takes the
//! processor ([`Yields`]), the thread sleeps.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chimaera_shm::LaneMemory;
use chimaera_shm::processor::{self, YieldedTo, Yields};

/// Polls between two reads of the clock, each after a pause: every poll takes the cache line from the other side, which
/// is about to write it.
const POLLS_PER_CLOCK_READ: u32 = 32;

/// How long to spin if nothing else was learned.
const DEFAULT_SPIN: Duration = Duration::from_micros(100);

/// The longest time that spinning is worth while.
const MAX_SPIN: Duration = Duration::from_millis(1);

/// What spinning depends on: processor and clock.
pub(crate) trait SpinContext {
    /// Whether the worker runs on the processor of this thread.
    fn is_beside_worker(&self) -> bool;

    /// The time.
    fn now(&self) -> Instant;

    /// Yields the processor to other threads.
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

/// The result of spinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpinOutcome {
    /// What was waited for is ready.
    Ready,
    /// It did not become ready in the time to spin.
    TimedOut,
    /// It is not ready, and spinning would keep the worker from making it so.
    BlocksWorker,
}

/// How long to spin before sleeping, learned from what sleeps took.
#[derive(Debug)]
pub(crate) struct AdaptiveSpin {
    nanos: AtomicU32,
    learns: bool,
    yields: Yields,
}

impl AdaptiveSpin {
    /// Spins for a fixed time, or as long as is learned if that is `None`.
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

    /// Spins until `ready`, or until the time to spin has passed.
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
                    // The worker is on another processor by now, or is still waking up.
                    None => may_yield = false,
                    Some(spun) => return spun,
                }
            }
            for _ in 0..POLLS_PER_CLOCK_READ {
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

    /// Yields the processor, if it is to be expected that the worker gets it. `None` if nobody wanted it, so that
    /// spinning may continue.
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
            // The worker had its turn, and cannot do more at present; or a stranger had it.
            YieldedTo::Neighbour | YieldedTo::Stranger => Some(SpinOutcome::BlocksWorker),
        }
    }

    /// Learns from a sleep that followed a [`Self::spin`]. Threads that share this may overwrite what others have
    /// learned: either is as good.
    pub(crate) fn learn_from_sleep(&self, spun: SpinOutcome, slept: Duration) {
        if !self.learns || spun != SpinOutcome::TimedOut {
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
    /// The simulated duration of a read of the clock, with the polls before it.
    const LOOK: Duration = Duration::from_micros(1);

    /// A processor and a clock that are simulated.
    struct SimulatedProcessor {
        start: Instant,
        elapsed: Cell<Duration>,
        is_beside: Cell<bool>,
        /// The duration of a yield, and whether the worker runs meanwhile.
        turn: Cell<(Duration, bool)>,
        yields: Cell<u32>,
        /// When the worker, on a processor of its own, has answered.
        answered_at: Cell<Duration>,
        answered: Cell<bool>,
    }

    impl SimulatedProcessor {
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

        /// Spins for an answer that has not come yet.
        fn wait(&self, spin: &AdaptiveSpin) -> SpinOutcome {
            self.answered.set(false);
            let ready = || self.answered.get() || self.elapsed.get() >= self.answered_at.get();
            spin.spin(self, ready)
        }

        fn pass(&self, time: Duration) {
            self.elapsed.set(self.elapsed.get() + time);
        }
    }

    impl SpinContext for SimulatedProcessor {
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

    fn adaptive_spin(here: &SimulatedProcessor) -> AdaptiveSpin {
        AdaptiveSpin {
            yields: Yields::new(here.start),
            ..AdaptiveSpin::new(None)
        }
    }

    #[test]
    fn a_thread_that_shares_with_the_worker_yields_once_for_each_answer() {
        let here = SimulatedProcessor::new(true);
        let spin = adaptive_spin(&here);
        for count in 1..=1000 {
            assert_eq!(here.wait(&spin), SpinOutcome::Ready);
            assert_eq!(here.yields.get(), count);
        }
    }

    #[test]
    fn a_thread_with_a_processor_of_its_own_never_yields() {
        let here = SimulatedProcessor::new(false);
        let spin = adaptive_spin(&here);
        here.turn.set((SLICE, false));
        for _ in 0..1000 {
            here.answered_at.set(here.elapsed.get() + 10 * LOOK);
            assert_eq!(here.wait(&spin), SpinOutcome::Ready);
        }
        here.answered_at.set(Duration::MAX);
        assert_eq!(here.wait(&spin), SpinOutcome::TimedOut);
        assert_eq!(here.yields.get(), 0);
    }

    #[test]
    fn a_turn_of_the_worker_without_an_answer_is_slept_for() {
        let here = SimulatedProcessor::new(true);
        let spin = adaptive_spin(&here);
        assert_eq!(here.wait(&spin), SpinOutcome::Ready);
        here.turn.set((SWITCH, false));
        assert_eq!(here.wait(&spin), SpinOutcome::BlocksWorker);
        assert_eq!(here.yields.get(), 2);
        // Such a sleep says nothing of how long spinning is worth while.
        spin.learn_from_sleep(SpinOutcome::BlocksWorker, Duration::from_micros(150));
        assert_eq!(spin.spin_time(), DEFAULT_SPIN);
    }

    #[test]
    fn one_yield_is_all_if_nobody_wants_the_processor() {
        let here = SimulatedProcessor::new(true);
        let spin = adaptive_spin(&here);
        here.turn.set((SWITCH / 10, false));
        let begin = here.elapsed.get();
        assert_eq!(here.wait(&spin), SpinOutcome::TimedOut);
        assert!(here.elapsed.get() - begin >= DEFAULT_SPIN, "it spins on");
        assert_eq!(here.yields.get(), 1);
    }

    #[test]
    fn a_stranger_on_the_processor_is_learned_and_tried_again_later() {
        let here = SimulatedProcessor::new(true);
        let spin = adaptive_spin(&here);
        assert_eq!(here.wait(&spin), SpinOutcome::Ready);
        here.turn.set((SLICE, false));
        assert_eq!(here.wait(&spin), SpinOutcome::BlocksWorker);
        let begin = here.elapsed.get();
        let mut waits = 0;
        while here.yields.get() == 2 {
            assert_eq!(here.wait(&spin), SpinOutcome::BlocksWorker);
            waits += 1;
        }
        let lasted = here.elapsed.get() - begin;
        assert!(lasted >= 4 * SLICE, "yields again after {lasted:?}");
        assert!(waits > 1000);
        // The stranger goes.
        here.turn.set((SWITCH, true));
        here.pass(Duration::from_secs(1));
        for _ in 0..1000 {
            assert_eq!(here.wait(&spin), SpinOutcome::Ready);
        }
        assert_eq!(here.yields.get(), 3 + 1000);
    }

    #[test]
    fn a_deadline_that_has_passed_is_not_yielded_beyond() {
        let here = SimulatedProcessor::new(true);
        let deadline = Some(here.start);
        let spun = adaptive_spin(&here).spin_until(&here, || false, deadline);
        assert_eq!((spun, here.yields.get()), (SpinOutcome::TimedOut, 0));
    }

    #[test]
    fn short_sleeps_lengthen_spinning_and_long_ones_end_that() {
        let spin = AdaptiveSpin::new(None);
        assert_eq!(spin.spin_time(), DEFAULT_SPIN);
        spin.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_micros(150));
        assert_eq!(spin.spin_time(), Duration::from_micros(500));
        spin.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_micros(450));
        assert_eq!(spin.spin_time(), MAX_SPIN);
        spin.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_millis(5));
        assert_eq!(spin.spin_time(), DEFAULT_SPIN);
    }

    #[test]
    fn a_time_that_was_asked_for_stays() {
        for fixed in [Duration::ZERO, Duration::from_micros(7)] {
            let spin = AdaptiveSpin::new(Some(fixed));
            spin.learn_from_sleep(SpinOutcome::TimedOut, Duration::from_micros(150));
            assert_eq!(spin.spin_time(), fixed);
        }
    }
}
