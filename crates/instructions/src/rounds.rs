//! Rounds: a case is counted until its smallest count came out twice.

use crate::Result;

/// Intervals in a round of a client's case. Together their tasks use each entry of a lane once, for
/// what a client does once in a lap belongs to every task.
pub(crate) const INTERVALS: usize = 2;

/// Tasks in an interval.
pub(crate) const INTERVAL_TASKS: usize = chimaera_proto::limits::LANE_DEPTH / INTERVALS;

/// Rounds after which something is wrong.
const MOST: usize = 8;

/// The counts of a case.
///
/// The smallest is believed: what comes on top is a worker's look at the clock and the doorbells,
/// which depends on the time. But only if it came out twice, for a count that is chance is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds {
    counts: Vec<u64>,
}

impl Rounds {
    pub(crate) fn add(&mut self, count: u64) {
        self.counts.push(count);
    }

    /// The smallest, if it came out twice.
    pub(crate) fn settled(&self) -> Option<u64> {
        let least = *self.counts.iter().min()?;
        let times = self.counts.iter().filter(|&&count| count == least).count();
        (times > 1).then_some(least)
    }

    /// Whether another round is of use.
    ///
    /// # Errors
    /// There were so many that none will be.
    pub(crate) fn goes_on(&self, case: &str) -> Result<bool> {
        if self.settled().is_some() {
            return Ok(false);
        }
        if self.counts.len() < MOST {
            return Ok(true);
        }
        Err(format!("{case} does not take the same twice: {:?}", self.counts).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(counts: &[u64]) -> Rounds {
        Rounds {
            counts: counts.to_vec(),
        }
    }

    #[test]
    fn what_comes_out_once_is_not_believed() {
        assert_eq!(rounds(&[9, 5, 7, 5]).settled(), Some(5));
        assert_eq!(rounds(&[9, 5, 7, 9]).settled(), None);
        assert_eq!(rounds(&[]).settled(), None);
    }

    #[test]
    fn what_never_settles_is_an_error_after_a_while() {
        let mut rounds = rounds(&[]);
        for count in 0..MOST as u64 {
            assert!(rounds.goes_on("case").expect("not yet"));
            rounds.add(count);
        }
        let error = rounds.goes_on("case").expect_err("is enough");
        assert!(error.to_string().starts_with("case"));
    }
}
