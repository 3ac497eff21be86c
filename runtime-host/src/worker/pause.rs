//! The pause before a container whose `poll` has panicked is polled again.
//!
//! It is polled again since it may hold requests that only it can complete. But a panic in every call must not take the
//! worker's time from others.

use std::time::{Duration, Instant};

const MIN_PAUSE: Duration = Duration::from_millis(1);

const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Until when a container is not polled on this worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pause {
    end: Instant,
    len: Duration,
    /// How many of the pool's tasks had completed on this worker when the pause began.
    completed: u64,
}

impl Pause {
    /// The pause after a panic. It is twice as long as the last one if no task of the pool has completed since: a
    /// container that gets forward, one request with each panic, is not held up.
    pub(super) fn after(last: Option<Self>, completed: u64, now: Instant) -> Self {
        let len = match last {
            Some(last) if last.completed == completed => (last.len * 2).min(MAX_PAUSE),
            _ => MIN_PAUSE,
        };
        Self {
            end: now + len,
            len,
            completed,
        }
    }

    pub(super) fn lasts(&self, now: Instant) -> bool {
        now < self.end
    }

    pub(super) fn end(&self) -> Instant {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_while_nothing_completes_and_has_an_end() {
        let mut now = Instant::now();
        let mut pause = Pause::after(None, 3, now);
        let mut lens = vec![pause.len];
        while pause.len < MAX_PAUSE {
            assert!(pause.lasts(now));
            now = pause.end();
            assert!(!pause.lasts(now));
            pause = Pause::after(Some(pause), 3, now);
            lens.push(pause.len);
        }
        assert!(lens.is_sorted_by(|one, next| one < next), "{lens:?}");
        assert_eq!(Pause::after(Some(pause), 3, now).len, MAX_PAUSE);
        let grown = Pause::after(Some(Pause::after(None, 3, now)), 3, now);
        assert_eq!(Pause::after(Some(grown), 4, now).len, MIN_PAUSE);
    }
}
