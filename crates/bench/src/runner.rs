//! Runs the rounds of a case and sums them up.
//!
//! Laws:
//! - The floor is measured before and after each round, in the processes that the round uses.
//! - A round in which the floor moved, in which others used the machine or in which something failed is left
//!   out, and counted with the reason. If none is left, the figures of all rounds are shown, and whether the
//!   target is met is left open.

use std::rc::Rc;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round};
use crate::error::Result;
use crate::machine::ProcessorUsage;
use crate::result::{CaseResult, Dropped, Percentiles};
use crate::timing::{histogram, median};

/// A round whose floor changes by more than this factor from before to after says nothing.
const STEADY: f64 = 1.25;

/// Share of a processor that others may use during a round.
const OTHERS_SHARE: f64 = 0.10;

/// The least use by others that can be seen: a tick of the kernel's accounting for each processor.
const OTHERS_UNSEEN_SECONDS: f64 = 0.02;

/// The most rounds that may fail: a case that fails this often fails again, and may take long to do so.
const MAX_FAILURES: usize = 2;

/// A round and what the machine did meanwhile.
#[derive(Debug)]
struct Witnessed {
    round: Round,
    floor: f64,
    /// Counts nothing if the round is kept.
    dropped: Dropped,
}

impl Witnessed {
    fn is_kept(&self) -> bool {
        self.dropped.total() == 0
    }
}

/// All rounds of a case.
#[derive(Debug, Default)]
struct MeasuredRounds {
    whole: Vec<Witnessed>,
    failures: usize,
    last_failure: Option<String>,
}

impl MeasuredRounds {
    fn add(&mut self, round: Result<Witnessed>) {
        match round {
            Ok(round) => self.whole.push(round),
            Err(error) => {
                self.failures += 1;
                self.last_failure = Some(error.to_string());
            }
        }
    }

    fn count(&self) -> usize {
        self.whole.len() + self.failures
    }

    fn kept(&self) -> usize {
        self.whole.iter().filter(|round| round.is_kept()).count()
    }

    fn dropped(&self) -> Dropped {
        let failed = Dropped {
            failed: self.failures,
            ..Dropped::default()
        };
        let whole = self.whole.iter().map(|round| round.dropped);
        whole.fold(failed, std::ops::Add::add)
    }
}

/// Measures a case.
pub(crate) fn run(bench: &Rc<Bench>, case: &Case) -> Result<CaseResult> {
    let mut measure = (case.prepare)(bench)?;
    let wanted = match (case.effort, bench.is_quick) {
        (Effort::Quick, true) => 3,
        (Effort::Quick, false) => 11,
        (Effort::Slow, true) => 2,
        (Effort::Peers, true) => 1,
        (Effort::Slow | Effort::Peers, false) => 5,
        (Effort::Counted, true) => 1,
        (Effort::Counted, false) => 3,
    };
    let mut rounds = MeasuredRounds::default();
    // As many rounds again may be dropped, as long as there is time.
    while rounds.kept() < wanted
        && !(bench.is_stopped() && rounds.count() > 0)
        && rounds.failures < MAX_FAILURES
        && (rounds.count() < wanted || rounds.count() < 2 * wanted && bench.has_time())
    {
        rounds.add(witness(bench, case.effort, &mut measure));
    }
    Ok(sum_up(case, &rounds))
}

fn witness(bench: &Bench, effort: Effort, measure: &mut Measure) -> Result<Witnessed> {
    if effort == Effort::Counted {
        return Ok(Witnessed {
            round: measure()?,
            floor: f64::NAN,
            dropped: Dropped::default(),
        });
    }
    bench.settle();
    let (usage, begin) = (ProcessorUsage::now(), Instant::now());
    let before = bench.partner.ping_pong()?;
    let round = measure()?;
    bench.settle();
    let after = bench.partner.ping_pong()?;
    let others = ProcessorUsage::now().others_since(usage);
    Ok(Witnessed {
        round,
        floor: f64::midpoint(before, after),
        dropped: judge(before, after, others, begin.elapsed().as_secs_f64()),
    })
}

/// Why a round is dropped, if it is: from the floor before and after, and from the processor time that others
/// used meanwhile. Use by others is the first reason, since it is what moves a floor.
fn judge(before: f64, after: f64, others_seconds: f64, seconds: f64) -> Dropped {
    let is_alone = others_seconds <= OTHERS_SHARE * seconds + OTHERS_UNSEEN_SECONDS;
    let is_steady = before.max(after) <= STEADY * before.min(after);
    Dropped {
        failed: 0,
        others_used_the_machine: usize::from(!is_alone),
        floor_changed: usize::from(is_alone && !is_steady),
    }
}

fn sum_up(case: &Case, rounds: &MeasuredRounds) -> CaseResult {
    let kept = rounds.kept();
    let counted: Vec<&Witnessed> = rounds
        .whole
        .iter()
        .filter(|round| round.is_kept() || kept == 0)
        .collect();
    let middle = |pick: &dyn Fn(&Witnessed) -> Option<f64>| {
        let mut values: Vec<f64> = counted.iter().filter_map(|round| pick(round)).collect();
        median(&mut values)
    };
    let ratio = middle(&|one| Some(one.round.value / one.round.yardstick?));
    let value = middle(&|one| Some(one.round.value));
    let yardstick_value = middle(&|one| one.round.yardstick);
    let mut latencies = histogram();
    for one in counted
        .iter()
        .filter_map(|one| one.round.latencies.as_ref())
    {
        let _ = latencies.add(one);
    }
    let mut peers: Vec<(&'static str, f64)> = Vec::new();
    for &(name, _) in counted.iter().flat_map(|one| &one.round.peers) {
        let of_peer = |one: &Witnessed| {
            let mut named = one.round.peers.iter().filter(|peer| peer.0 == name);
            named.next().map(|peer| peer.1)
        };
        if peers.iter().all(|peer| peer.0 != name)
            && let Some(value) = middle(&of_peer)
        {
            peers.push((name, value));
        }
    }
    CaseResult {
        name: case.name.clone(),
        title: case.title.clone(),
        unit: case.unit,
        value,
        yardstick: case.yardstick.to_owned(),
        yardstick_value,
        ratio,
        target: case.target.to_string(),
        advantage: ratio.map(|ratio| case.target.advantage_of(ratio)),
        met: ratio
            .filter(|_| kept > 0)
            .map(|ratio| case.target.is_met_by(ratio)),
        met_by_medians: value
            .zip(yardstick_value)
            .filter(|_| kept > 0)
            .map(|(value, yardstick)| case.target.is_met_by(value / yardstick)),
        rounds_kept: kept,
        rounds_dropped: rounds.dropped().total(),
        dropped_because: rounds.dropped(),
        floor_ns: middle(&|one| Some(one.floor).filter(|floor| floor.is_finite())),
        percentiles: percentiles(&latencies),
        peers,
        failure: rounds.last_failure.clone(),
    }
}

fn percentiles(latencies: &Histogram<u64>) -> Option<Percentiles> {
    let at = |quantile: f64| latencies.value_at_quantile(quantile);
    (!latencies.is_empty()).then(|| Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p99_9: at(0.999),
        p99_99: at(0.9999),
        max: latencies.max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Target, Unit};

    fn case() -> Case {
        Case {
            name: "a-case".into(),
            title: "A case".into(),
            unit: Unit::Nanoseconds,
            yardstick: "a yardstick",
            target: Target::AtMost(1.6),
            effort: Effort::Quick,
            prepare: Box::new(|_| Err("it is not run".into())),
        }
    }

    fn round(value: f64, yardstick: f64, is_kept: bool) -> Witnessed {
        let mut latencies = histogram();
        latencies.saturating_record(value as u64);
        let mut round = Round::new(value, yardstick).with_latencies(latencies);
        round.peers.push(("a peer", 10.0 * value));
        Witnessed {
            round,
            floor: 100.0,
            dropped: judge(100.0, if is_kept { 100.0 } else { 200.0 }, 0.0, 1.0),
        }
    }

    fn whole(rounds: impl Into<Vec<Witnessed>>) -> MeasuredRounds {
        MeasuredRounds {
            whole: rounds.into(),
            ..MeasuredRounds::default()
        }
    }

    #[test]
    fn a_round_is_dropped_for_one_reason() {
        let reasons = |before, after, others| {
            let dropped = judge(before, after, others, 1.0);
            (dropped.others_used_the_machine, dropped.floor_changed)
        };
        assert_eq!(reasons(100.0, 120.0, 0.1), (0, 0));
        assert_eq!(reasons(100.0, 130.0, 0.1), (0, 1));
        assert_eq!(reasons(130.0, 100.0, 0.1), (0, 1));
        assert_eq!(reasons(100.0, 100.0, 0.2), (1, 0));
        assert_eq!(reasons(100.0, 130.0, 0.2), (1, 0));
    }

    #[test]
    fn rounds_that_fail_are_counted_and_say_why() {
        let mut rounds = whole([round(150.0, 100.0, true), round(150.0, 100.0, false)]);
        rounds.add(Err("the server went away".into()));
        let result = sum_up(&case(), &rounds);
        assert_eq!((result.rounds_kept, result.rounds_dropped), (1, 2));
        let reasons = result.dropped_because;
        assert_eq!((reasons.failed, reasons.floor_changed), (1, 1));
        assert_eq!(result.failure.as_deref(), Some("the server went away"));
        assert_eq!((result.value, result.met), (Some(150.0), Some(true)));

        let mut rounds = MeasuredRounds::default();
        rounds.add(Err("it is not there".into()));
        let result = sum_up(&case(), &rounds);
        assert_eq!((result.value, result.ratio, result.met), (None, None, None));
    }

    #[test]
    fn dropped_rounds_are_counted_and_left_out() {
        let rounds = [
            round(150.0, 100.0, true),
            round(900.0, 100.0, false),
            round(170.0, 100.0, true),
            round(160.0, 100.0, true),
        ];
        let result = sum_up(&case(), &whole(rounds));
        assert_eq!((result.rounds_kept, result.rounds_dropped), (3, 1));
        assert_eq!(result.dropped_because.floor_changed, 1);
        assert_eq!(result.value, Some(160.0));
        assert_eq!(result.ratio, Some(1.6));
        assert_eq!(result.met, Some(true));
        assert_eq!(result.peers, [("a peer", 1600.0)]);
        assert_eq!(result.percentiles.map(|all| all.max), Some(170));
    }

    #[test]
    fn a_target_that_is_not_met_is_reported() {
        let result = sum_up(&case(), &whole([round(170.0, 100.0, true)]));
        assert_eq!(result.met, Some(false));
    }

    #[test]
    fn without_a_steady_round_nothing_is_said_of_the_target() {
        let result = sum_up(&case(), &whole([round(150.0, 100.0, false)]));
        assert_eq!(result.value, Some(150.0));
        assert_eq!((result.met, result.rounds_kept), (None, 0));
    }

    #[test]
    fn without_a_yardstick_there_is_no_ratio() {
        let mut alone = round(150.0, 100.0, true);
        alone.round.yardstick = None;
        let result = sum_up(&case(), &whole([alone]));
        assert_eq!(result.value, Some(150.0));
        assert_eq!((result.ratio, result.met), (None, None));
    }
}
