//! Rounds: a case is counted until its smallest count came out twice.

use crate::Result;

/// Intervals in a round of a client's case. Together their tasks use each entry of a lane once: what a client
/// does once in a lap is then counted with them.
pub(crate) const INTERVALS: usize = 2;

/// Tasks in an interval.
pub(crate) const INTERVAL_TASKS: usize = chimaera_proto::limits::LANE_DEPTH / INTERVALS;

/// The most rounds that a case may need.
const MAX_ROUNDS: usize = 8;

/// The counts of a case.
///
/// The smallest counts: what comes on top of it is a worker's look at the clock and the doorbells, which
/// depends on the time. It has to come out twice, since one may be chance.
#[derive(Clone, Debug, Default)]
pub(crate) struct CaseRounds {
    counts: Vec<u64>,
}

impl CaseRounds {
    pub(crate) fn add(&mut self, count: u64) {
        self.counts.push(count);
    }

    /// The smallest, if it came out twice.
    pub(crate) fn settled(&self) -> Option<u64> {
        let least = *self.counts.iter().min()?;
        let times = self.counts.iter().filter(|&&count| count == least).count();
        (times > 1).then_some(least)
    }

    /// Whether another round is needed.
    ///
    /// # Errors
    /// There were too many rounds without a result.
    pub(crate) fn goes_on(&self, case: &str) -> Result<bool> {
        if self.settled().is_some() {
            return Ok(false);
        }
        if self.counts.len() < MAX_ROUNDS {
            return Ok(true);
        }
        Err(format!("{case} does not take the same twice: {:?}", self.counts).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(counts: &[u64]) -> CaseRounds {
        CaseRounds {
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
        for count in 0..MAX_ROUNDS as u64 {
            assert!(rounds.goes_on("case").expect("not yet"));
            rounds.add(count);
        }
        let error = rounds.goes_on("case").expect_err("is enough");
        assert!(error.to_string().starts_with("case"));
    }
}
