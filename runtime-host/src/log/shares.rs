//! How much of the log the users of clients may fill with their faults.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Lines that a user's clients may cause in each [`PERIOD`].
const LINES: u32 = 8;

const PERIOD: Duration = Duration::from_secs(10);

/// Users that are told apart. There are more only where somebody makes them up.
const MAX_USERS: usize = 1024;

/// Counts lines per user.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    by_user: HashMap<u32, Share>,
}

#[derive(Debug)]
struct Share {
    begin: Instant,
    lines: u32,
    skipped: u64,
}

/// Lines that were not logged. Shows as the end of the next one that is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Skipped(u64);

impl Shares {
    /// Whether a line about this user's client may be logged now.
    pub(crate) fn admit(&mut self, user: u32, now: Instant) -> Option<Skipped> {
        if self.by_user.len() == MAX_USERS && !self.by_user.contains_key(&user) {
            self.by_user.clear();
        }
        let share = self.by_user.entry(user).or_insert(Share {
            begin: now,
            lines: 0,
            skipped: 0,
        });
        if now.saturating_duration_since(share.begin) >= PERIOD {
            share.begin = now;
            share.lines = 0;
        }
        if share.lines == LINES {
            share.skipped += 1;
            return None;
        }
        share.lines += 1;
        Some(Skipped(std::mem::take(&mut share.skipped)))
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} more like this before, of the same user)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_share_of_the_log_and_takes_none_of_anothers() {
        let mut shares = Shares::default();
        let begin = Instant::now();
        for _ in 0..LINES {
            assert_eq!(shares.admit(1, begin), Some(Skipped(0)));
        }
        for _ in 0..100 {
            assert_eq!(shares.admit(1, begin), None);
        }
        assert_eq!(shares.admit(2, begin), Some(Skipped(0)));
        assert_eq!(shares.admit(1, begin + PERIOD), Some(Skipped(100)));
        assert_eq!(shares.admit(1, begin + PERIOD), Some(Skipped(0)));
    }

    #[test]
    fn users_without_number_take_no_memory_without_number() {
        let mut shares = Shares::default();
        let now = Instant::now();
        for user in 0..10 * MAX_USERS as u32 {
            assert!(shares.admit(user, now).is_some());
        }
        assert!(shares.by_user.len() <= MAX_USERS);
    }
}
