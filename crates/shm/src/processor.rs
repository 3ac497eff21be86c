//! Which processor a thread runs on, and what comes of yielding it to the other side of a lane.
//!
//! Two sides that share a processor cannot both run: as long as one polls for what the other is to do, the other does
//! not do it. So each notes in the lane where it runs, and a side that finds the other waiting for the very processor
//! that it polls on yields that ([`give_up`]) instead.
//!
//! What a yield costs is not known beforehand, since other threads may want the processor too: a switch to the other
//! side and back takes a microsecond or two, a stranger's time slice some milliseconds. [`Yields`] learns from how long
//! yields take which of them it was.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Stands for a processor that is not known, or not known any more.
pub const UNKNOWN: u32 = 0;

/// The processor that this thread runs on, counted from 1; [`UNKNOWN`] where the system does not
/// say. The thread may have moved by the time that the caller looks at it. Costs a few instructions.
#[inline]
#[must_use]
pub fn current() -> u32 {
    match nix::sched::sched_getcpu() {
        Ok(processor) => processor as u32 + 1,
        Err(_) => UNKNOWN,
    }
}

/// Yields this thread's processor to another thread that waits for it.
pub fn give_up() {
    std::thread::yield_now();
}

/// The assumed time of a switch to the other side and back before one was measured: longer than any takes, far shorter
/// than a stranger's time slice.
const FIRST_GUESS: Duration = Duration::from_micros(10);

/// The longest time that is assumed for a switch. Being woken takes less, so it is not worth queueing behind a thread
/// whose turns are longer.
const MAX_SWITCH: Duration = Duration::from_micros(100);

/// A yield that takes longer than this many switches went to a stranger.
const STRANGER_SWITCHES: u32 = 8;

/// The pause in yielding after a stranger's turn, in multiples of that turn. So of the time, yields to strangers take
/// at most one part in this plus one, however long their turns are.
const PAUSE_TURNS: u32 = 8;

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Which thread ran while the processor was yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YieldedTo {
    /// Nobody: it came back sooner than a switch takes.
    Nobody,
    /// The other side, as far as one can tell.
    Neighbour,
    /// Another program's thread, which keeps the processor until the scheduler takes it away.
    Stranger,
}

/// What was learned from yields. Threads that share this may overwrite what another has just learned, which is as
/// good.
#[derive(Debug)]
pub struct Yields {
    start: Instant,
    /// What a switch to the other side and back takes.
    switch_ns: AtomicU32,
    /// The pause after a stranger's last turn, and when it is over, as time since `start`.
    pause_ns: AtomicU64,
    resume_ns: AtomicU64,
}

impl Yields {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            start: now,
            switch_ns: AtomicU32::new(FIRST_GUESS.as_nanos() as u32),
            pause_ns: AtomicU64::new(0),
            resume_ns: AtomicU64::new(0),
        }
    }

    /// Whether the other side can be expected to get a processor that is given up now.
    #[must_use]
    pub fn are_worthwhile(&self, now: Instant) -> bool {
        self.since_start(now) >= self.resume_ns.load(Ordering::Relaxed)
    }

    /// What a switch to the other side and back takes.
    #[must_use]
    pub fn switch(&self) -> Duration {
        Duration::from_nanos(self.switch_ns.load(Ordering::Relaxed).into())
    }

    /// Learns from a yield. `found` says whether what the caller waits for was there afterwards.
    pub fn learn(&self, begin: Instant, end: Instant, found: bool) -> YieldedTo {
        let (took, switch) = (end.saturating_duration_since(begin), self.switch());
        let turn = if took > switch * STRANGER_SWITCHES {
            YieldedTo::Stranger
        } else if took * 2 < switch {
            YieldedTo::Nobody
        } else {
            YieldedTo::Neighbour
        };
        if found {
            // Down at once: no stranger makes a switch shorter. Up in steps, since a stranger may have had a turn
            // before the other side had its own.
            let learned = took.min(switch * 2).min(MAX_SWITCH);
            self.switch_ns
                .store(learned.as_nanos().max(1) as u32, Ordering::Relaxed);
        }
        if turn == YieldedTo::Stranger {
            let twice = Duration::from_nanos(2 * self.pause_ns.load(Ordering::Relaxed));
            let pause = (took * PAUSE_TURNS).max(twice).min(MAX_PAUSE).as_nanos() as u64;
            self.pause_ns.store(pause, Ordering::Relaxed);
            self.resume_ns
                .store(self.since_start(end) + pause, Ordering::Relaxed);
        } else if found {
            self.pause_ns.store(0, Ordering::Relaxed);
        }
        turn
    }

    fn since_start(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCH: Duration = Duration::from_micros(2);
    const SLICE: Duration = Duration::from_millis(3);

    /// A thread that yields whenever that is worth while, in simulated time.
    struct Yielder {
        yields: Yields,
        begin: Instant,
        now: Instant,
    }

    impl Yielder {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                yields: Yields::new(now),
                begin: now,
                now,
            }
        }

        fn elapsed(&self) -> Duration {
            self.now - self.begin
        }

        /// Yields, which takes as long as `took`.
        fn yields(&mut self, took: Duration, found: bool) -> YieldedTo {
            let begin = self.now;
            self.now += took;
            self.yields.learn(begin, self.now, found)
        }

        fn is_worthwhile(&self) -> bool {
            self.yields.are_worthwhile(self.now)
        }
    }

    #[test]
    fn one_who_shares_with_the_other_side_alone_goes_on_yielding() {
        let mut one = Yielder::new();
        for _ in 0..1000 {
            assert!(one.is_worthwhile());
            one.yields(SWITCH, true);
        }
        assert_eq!(one.yields.switch(), SWITCH);
        // The other side had nothing to say this time.
        assert_eq!(one.yields(SWITCH, false), YieldedTo::Neighbour);
        assert!(one.is_worthwhile());
    }

    #[test]
    fn who_yields_while_nobody_waits_is_told_so() {
        let mut one = Yielder::new();
        assert_eq!(one.yields(SWITCH / 8, false), YieldedTo::Nobody);
        one.yields(SWITCH, true);
        assert_eq!(one.yields(SWITCH / 8, false), YieldedTo::Nobody);
        // An answer that came from another processor meanwhile misleads only for a few yields.
        one.yields(SWITCH / 8, true);
        for _ in 0..3 {
            one.yields(SWITCH, true);
        }
        assert_eq!(one.yields(SWITCH, false), YieldedTo::Neighbour);
    }

    #[test]
    fn a_stranger_is_noticed_at_once_and_given_less_and_less() {
        for found in [false, true] {
            let mut one = Yielder::new();
            one.yields(SWITCH, true);
            assert_eq!(one.yields(SLICE, found), YieldedTo::Stranger);
            let (mut given, mut turns) = (SLICE, 1);
            while one.elapsed() < Duration::from_secs(10) {
                if one.is_worthwhile() {
                    // Also where the other side has its turn before the stranger (`found`).
                    assert_eq!(one.yields(SLICE, found), YieldedTo::Stranger);
                    (given, turns) = (given + SLICE, turns + 1);
                } else {
                    one.now += SWITCH;
                }
            }
            assert!(turns > 10, "it is tried again: {turns} times");
            let share = given.as_secs_f64() / one.elapsed().as_secs_f64();
            assert!(share < 1.0 / f64::from(PAUSE_TURNS), "{share} of the time");
        }
    }

    #[test]
    fn a_stranger_who_has_gone_is_forgotten() {
        let mut one = Yielder::new();
        for _ in 0..5 {
            one.yields(SLICE, false);
        }
        one.now += MAX_PAUSE;
        assert!(one.is_worthwhile());
        one.yields(SWITCH, true);
        assert!(one.is_worthwhile());
        assert_eq!(one.yields.switch(), SWITCH);
        // The next one is met as the first one was.
        one.yields(SLICE, false);
        one.now += SLICE * PAUSE_TURNS;
        assert!(one.is_worthwhile());
    }

    #[test]
    fn work_that_takes_the_other_side_longer_is_learned() {
        const WORK: Duration = Duration::from_micros(80);
        let mut one = Yielder::new();
        one.yields(SWITCH, true);
        let mut taken_for_a_stranger = 0;
        for _ in 0..100 {
            while !one.is_worthwhile() {
                one.now += SWITCH;
            }
            taken_for_a_stranger += u32::from(one.yields(WORK, true) == YieldedTo::Stranger);
        }
        assert!(taken_for_a_stranger < 5, "{taken_for_a_stranger} times");
    }

    #[test]
    fn what_a_switch_takes_does_not_grow_to_a_strangers_turn() {
        let mut one = Yielder::new();
        for _ in 0..100 {
            one.yields(SLICE, true);
        }
        assert_eq!(one.yields(SLICE, true), YieldedTo::Stranger);
    }

    #[test]
    fn a_thread_knows_where_it_runs() {
        assert_ne!(current(), UNKNOWN);
    }
}
