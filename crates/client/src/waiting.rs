//! How long a thread looks for something before it sleeps.

use std::hint;
use std::time::{Duration, Instant};

/// Looks between two looks at the clock, each after a pause: every look takes the line away from
/// the other side, which is about to write it.
const LOOKS_PER_CLOCK: u32 = 32;

/// How long to look before sleeping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    spin: Duration,
}

impl Patience {
    /// Looks for about this long; not at all where the other side could not run meanwhile.
    pub(crate) fn new(spin: Duration) -> Self {
        Self {
            spin: if one_processor() {
                Duration::ZERO
            } else {
                spin
            },
        }
    }

    /// Looks until `ready`, or until patience ends. Returns whether it is ready.
    #[inline]
    pub(crate) fn spin(self, ready: impl Fn() -> bool) -> bool {
        self.spin_until(ready, None)
    }

    /// As [`Self::spin`], with a deadline of the caller's.
    #[inline]
    pub(crate) fn spin_until(self, ready: impl Fn() -> bool, deadline: Option<Instant>) -> bool {
        if ready() {
            return true;
        }
        if self.spin.is_zero() {
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
                let end = now + self.spin;
                deadline.map_or(end, |deadline| deadline.min(end))
            });
            if now >= end {
                return false;
            }
        }
    }
}

/// Whether the machine has a single processor. Not whether this thread may use one only: the
/// daemon may use the others.
fn one_processor() -> bool {
    // A list of ranges: "0" or "0-7,9".
    std::fs::read_to_string("/sys/devices/system/cpu/online")
        .is_ok_and(|online| !online.contains(['-', ',']))
}
