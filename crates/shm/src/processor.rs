//! Which processor a thread has, and what comes of yielding it to the other side of a lane.
//!
//! Two sides that share a processor cannot both run: as long as one looks for what the other is to
//! do, the other does not do it. So each says in the lane where it runs, and whoever finds that the
//! other waits for the very processor that it looks on gives it up ([`give_up`]) instead.
//!
//! What that costs is not known beforehand, since others may want the processor too: a switch to
//! the other side and back takes a microsecond or two, a stranger's turn some milliseconds.
//! [`Yields`] learns which it is from what yields take.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where a thread runs that does not know, or not any more.
pub const UNKNOWN: u32 = 0;

/// The processor that this thread runs on, counted from 1; [`UNKNOWN`] where the system does not
/// say. May be another by the time that it is looked at. Costs a few instructions.
#[inline]
#[must_use]
pub fn current() -> u32 {
    match nix::sched::sched_getcpu() {
        Ok(processor) => processor as u32 + 1,
        Err(_) => UNKNOWN,
    }
}

/// Lets whoever else waits for this thread's processor run first.
pub fn give_up() {
    std::thread::yield_now();
}

/// What a switch to the other side and back is taken to take before any was seen: more than it does
/// anywhere, far less than a stranger's turn.
const FIRST_GUESS: Duration = Duration::from_micros(10);

/// The most that it is taken to take. To be woken takes less than that, so whose turns are longer is
/// not worth queueing up behind.
const MAX_SWITCH: Duration = Duration::from_micros(100);

/// A yield beyond so many times what a switch takes went to a stranger.
const STRANGER_SWITCHES: u32 = 8;

/// How long a stranger is made room for no more, in multiples of the turn that it took. So yields
/// to strangers take at most one part in this and one of the time, however long their turns.
const PAUSE_TURNS: u32 = 8;

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Who had the processor while it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YieldedTo {
    /// Nobody: it came back sooner than a switch takes.
    Nobody,
    /// The other side, as far as one can tell.
    Neighbour,
    /// Somebody who keeps it until it is taken away.
    Stranger,
}

/// What yields have come to. Threads that share this may overwrite what another has just learned:
/// it is as good.
#[derive(Debug)]
pub struct Yields {
    start: Instant,
    /// What a switch to the other side and back takes.
    switch_ns: AtomicU32,
    /// What a stranger's last turn has led to, and when it is over, as time since `start`.
    pause_ns: AtomicU64,
    resume_ns: AtomicU64,
}

impl Yields {
    /// Nothing is known yet.
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

    /// Learns from a yield. `found` says whether what was waited for was there afterwards.
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
            // Down at once: no stranger makes a switch shorter. Up by steps, since one may have had
            // his turn before the other side had its own.
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

    /// Somebody who yields whenever that is worth while, in a time of their own.
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

        /// Yields, which takes so long.
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
        // An answer that came from elsewhere meanwhile is no switch to reckon by for long.
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
                    // Whoever has the processor now and then before the stranger has it.
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
