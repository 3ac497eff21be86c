//! How often a worker may call a barrier.
//!
//! A barrier is called for all lanes that are parked together, and interrupts every client that
//! runs. The clients decide when lanes fall quiet: a client that rings its lanes in turn, each
//! after a pause, would have a barrier called for each of its tasks, at the cost of all other clients.
//! So some time passes between two barriers, while lanes that fall quiet are gathered, and still polled.

use std::time::{Duration, Instant};

/// The pause after a barrier, in multiples of what the barrier took. So barriers take at most one part in this plus one
/// of a worker's time, whatever the machine and the clients are like.
const PAUSE_BARRIERS: u32 = 16;

/// The longest pause. A barrier in which the worker had to wait for its processor says nothing about how long barriers
/// take.
const MAX_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Barriers {
    due: Instant,
}

impl Barriers {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// Whether the next barrier may be called.
    pub(super) fn are_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Notes a barrier.
    pub(super) fn note(&mut self, begin: Instant, end: Instant) {
        let took = end.saturating_duration_since(begin);
        self.due = end + (took * PAUSE_BARRIERS).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that rings one lane after another, so that at every moment one has just fallen
    /// quiet.
    #[test]
    fn barriers_take_a_bounded_share_of_the_time_whatever_clients_do() {
        const STEP: Duration = Duration::from_nanos(100);
        const LASTS: Duration = Duration::from_micros(3);
        let begin = Instant::now();
        let (mut now, mut barriers) = (begin, Barriers::new(begin));
        let mut count = 0;
        while now - begin < Duration::from_millis(10) {
            if barriers.are_due(now) {
                barriers.note(now, now + LASTS);
                now += LASTS;
                count += 1;
            }
            now += STEP;
        }
        let share = (LASTS * count).as_secs_f64() / (now - begin).as_secs_f64();
        assert!(
            share <= 1.0 / f64::from(PAUSE_BARRIERS),
            "{count} barriers, {share}"
        );
        assert!(
            count > 100,
            "{count} barriers: lanes are parked all the same"
        );
    }

    #[test]
    fn the_first_is_due_at_once_and_none_is_put_off_for_long() {
        let now = Instant::now();
        let mut barriers = Barriers::new(now);
        assert!(barriers.are_due(now));
        barriers.note(now, now + Duration::from_secs(10));
        let end = now + Duration::from_secs(10);
        assert!(!barriers.are_due(end));
        assert!(barriers.are_due(end + MAX_PAUSE));
    }
}
