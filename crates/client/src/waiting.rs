//! How long a thread looks for something before it sleeps.
//!
//! Looking costs the processor, sleeping costs the time that it takes to be woken, which is often
//! as much as a device takes. So the time to look is learned: what was slept for and came soon is
//! waited for by looking the next time, up to [`LONGEST`]; what took longer than that is slept for.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Looks between two looks at the clock, each after a pause: every look takes the line away from
/// the other side, which is about to write it.
const LOOKS_PER_CLOCK: u32 = 32;

/// How long to look where nothing else was learned.
const DEFAULT: Duration = Duration::from_micros(100);

/// The longest that looking is worth while.
const LONGEST: Duration = Duration::from_millis(1);

/// How long to look before sleeping.
#[derive(Debug)]
pub(crate) struct Patience {
    nanos: AtomicU32,
    learns: bool,
}

impl Patience {
    /// Looks for so long, or as is learned if that is `None`; not at all where the other side could
    /// not run meanwhile.
    pub(crate) fn new(fixed: Option<Duration>) -> Self {
        let (spin, learns) = if one_processor() {
            (Duration::ZERO, false)
        } else {
            (fixed.unwrap_or(DEFAULT), fixed.is_none())
        };
        Self {
            nanos: AtomicU32::new(u32::try_from(spin.as_nanos()).unwrap_or(u32::MAX)),
            learns,
        }
    }

    fn spin_time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed).into())
    }

    /// Looks until `ready`, or until patience ends. Returns whether it is ready.
    #[inline]
    pub(crate) fn spin(&self, ready: impl Fn() -> bool) -> bool {
        self.spin_until(ready, None)
    }

    /// As [`Self::spin`], with a deadline of the caller's.
    #[inline]
    pub(crate) fn spin_until(&self, ready: impl Fn() -> bool, deadline: Option<Instant>) -> bool {
        if ready() {
            return true;
        }
        let spin = self.spin_time();
        if spin.is_zero() {
            return false;
        }
        let mut end = None;
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                hint::spin_loop();
                if ready() {
                    return true;
                }
            }
            let now = Instant::now();
            let end = *end.get_or_insert_with(|| {
                let end = now + spin;
                deadline.map_or(end, |deadline| deadline.min(end))
            });
            if now >= end {
                return false;
            }
        }
    }

    /// Learns from a sleep, which came after a [`Self::spin`] that was of no use. Threads that share
    /// this may overwrite one another's: any of them is as good.
    pub(crate) fn learn_from_sleep(&self, slept: Duration) {
        if !self.learns {
            return;
        }
        let waited = self.spin_time() + slept;
        let spin = if waited < LONGEST {
            (waited * 2).min(LONGEST)
        } else {
            DEFAULT
        };
        self.nanos.store(spin.as_nanos() as u32, Ordering::Relaxed);
    }
}

/// Whether the machine has a single processor. Not whether this thread may use one only: the
/// daemon may use the others.
fn one_processor() -> bool {
    // A list of ranges: "0" or "0-7,9".
    std::fs::read_to_string("/sys/devices/system/cpu/online")
        .is_ok_and(|online| !online.contains(['-', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sleeps_lengthen_looking_and_long_ones_end_that() {
        let patience = Patience::new(None);
        if one_processor() {
            return;
        }
        assert_eq!(patience.spin_time(), DEFAULT);
        patience.learn_from_sleep(Duration::from_micros(150));
        assert_eq!(patience.spin_time(), Duration::from_micros(500));
        patience.learn_from_sleep(Duration::from_micros(450));
        assert_eq!(patience.spin_time(), LONGEST);
        patience.learn_from_sleep(Duration::from_millis(5));
        assert_eq!(patience.spin_time(), DEFAULT);
    }

    #[test]
    fn a_time_that_was_asked_for_stays() {
        for fixed in [Duration::ZERO, Duration::from_micros(7)] {
            let patience = Patience::new(Some(fixed));
            patience.learn_from_sleep(Duration::from_micros(150));
            assert!(patience.spin_time() <= fixed);
        }
    }
}
