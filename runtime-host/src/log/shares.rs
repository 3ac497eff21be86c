//! Shares of the log: how many lines one user, or one pool, may cause by its faults.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// The most lines that one user or pool may cause by faults in each [`PERIOD`].
const MAX_LINES: u32 = 8;

const PERIOD: Duration = Duration::from_secs(10);

/// The most users or pools that are told apart. There are more only if somebody makes them up.
const MAX_SHARES: usize = 1024;

/// Counts lines per user, or per pool.
#[derive(Debug)]
pub(crate) struct Shares {
    /// What the numbers identify, in a word.
    whose: &'static str,
    max_lines: u32,
    by_number: HashMap<u64, Share>,
}

#[derive(Debug)]
struct Share {
    begin: Instant,
    lines: u32,
    skipped: u64,
}

/// Lines that were not logged. Shown at the end of the next line that is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    count: u64,
    whose: &'static str,
}

impl Shares {
    /// Shares of those that `whose` names, for example "user".
    pub(crate) fn per(whose: &'static str) -> Self {
        Self::with_lines(whose, MAX_LINES)
    }

    /// Shares of so many lines in each period.
    pub(crate) fn with_lines(whose: &'static str, max_lines: u32) -> Self {
        Self {
            whose,
            max_lines,
            by_number: HashMap::new(),
        }
    }

    /// Whether a line caused by the user or pool with this number may be logged now; `Some` says what was skipped
    /// before it.
    pub(crate) fn admit(&mut self, number: u64, now: Instant) -> Option<Skipped> {
        if self.by_number.len() == MAX_SHARES && !self.by_number.contains_key(&number) {
            self.by_number.clear();
        }
        let share = self.by_number.entry(number).or_insert(Share {
            begin: now,
            lines: 0,
            skipped: 0,
        });
        if now.saturating_duration_since(share.begin) >= PERIOD {
            share.begin = now;
            share.lines = 0;
        }
        if share.lines == self.max_lines {
            share.skipped += 1;
            return None;
        }
        share.lines += 1;
        Some(Skipped {
            count: std::mem::take(&mut share.skipped),
            whose: self.whose,
        })
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, whose } = self;
        match count {
            0 => Ok(()),
            _ => write!(
                f,
                " (and {count} more like this before, of the same {whose})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_share_of_the_log_and_takes_none_of_anothers() {
        let mut shares = Shares::per("user");
        let skipped = |count| {
            Some(Skipped {
                count,
                whose: "user",
            })
        };
        let begin = Instant::now();
        for _ in 0..MAX_LINES {
            assert_eq!(shares.admit(1, begin), skipped(0));
        }
        for _ in 0..100 {
            assert_eq!(shares.admit(1, begin), None);
        }
        assert_eq!(shares.admit(2, begin), skipped(0));
        assert_eq!(shares.admit(1, begin + PERIOD), skipped(100));
        assert_eq!(shares.admit(1, begin + PERIOD), skipped(0));
    }

    #[test]
    fn users_without_number_take_no_memory_without_number() {
        let mut shares = Shares::per("user");
        let now = Instant::now();
        for user in 0..10 * MAX_SHARES as u64 {
            assert!(shares.admit(user, now).is_some());
        }
        assert!(shares.by_number.len() <= MAX_SHARES);
    }
}
