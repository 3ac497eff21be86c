//! Runs the rounds of a case and says what they come to.
//!
//! Laws:
//! - The floor is measured before and after each round, in the processes that the round uses.
//! - A round in which the floor moved, or in which others used the machine, is counted and left
//!   out. If none is left, the figures of all are shown and nothing is said of the target.

use std::rc::Rc;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round};
use crate::error::Result;
use crate::machine::Usage;
use crate::result::{CaseResult, Percentiles};
use crate::timing::{histogram, median};

/// A round whose floor changes by more than this factor from before to after says nothing.
const STEADY: f64 = 1.25;

/// Share of a processor that others may use during a round.
const OTHERS_SHARE: f64 = 0.10;

/// What can be told apart of others' use: a tick of the kernel's accounting for each processor.
const OTHERS_UNSEEN_SECONDS: f64 = 0.02;

/// A round and what the machine did meanwhile.
#[derive(Debug)]
struct Witnessed {
    round: Round,
    floor: f64,
    is_kept: bool,
}

/// Measures a case.
pub(crate) fn run(bench: &Rc<Bench>, case: &Case) -> Result<CaseResult> {
    let mut measure = (case.prepare)(bench)?;
    let wanted = match (case.effort, bench.is_quick) {
        (Effort::Quick, true) => 3,
        (Effort::Quick, false) => 11,
        (Effort::Slow, true) => 2,
        (Effort::Slow, false) => 5,
        (Effort::Counted, true) => 1,
        (Effort::Counted, false) => 3,
    };
    let mut rounds = Vec::new();
    let mut kept = 0;
    // As many again may be dropped, as long as there is time.
    while kept < wanted && (rounds.len() < wanted || rounds.len() < 2 * wanted && bench.has_time())
    {
        let round = witness(bench, case.effort, &mut measure)?;
        kept += usize::from(round.is_kept);
        rounds.push(round);
    }
    Ok(sum_up(case, &rounds))
}

fn witness(bench: &Bench, effort: Effort, measure: &mut Measure) -> Result<Witnessed> {
    if effort == Effort::Counted {
        return Ok(Witnessed {
            round: measure()?,
            floor: f64::NAN,
            is_kept: true,
        });
    }
    bench.settle();
    let (usage, begin) = (Usage::now(), Instant::now());
    let before = bench.partner.ping_pong()?;
    let round = measure()?;
    bench.settle();
    let after = bench.partner.ping_pong()?;
    let others = Usage::now().others_since(usage);
    let allowed = OTHERS_SHARE * begin.elapsed().as_secs_f64() + OTHERS_UNSEEN_SECONDS;
    Ok(Witnessed {
        round,
        floor: f64::midpoint(before, after),
        is_kept: before.max(after) <= STEADY * before.min(after) && others <= allowed,
    })
}

fn sum_up(case: &Case, rounds: &[Witnessed]) -> CaseResult {
    let kept = rounds.iter().filter(|round| round.is_kept).count();
    let counted: Vec<&Witnessed> = rounds
        .iter()
        .filter(|round| round.is_kept || kept == 0)
        .collect();
    let middle = |pick: &dyn Fn(&Witnessed) -> Option<f64>| {
        let mut values: Vec<f64> = counted.iter().filter_map(|round| pick(round)).collect();
        median(&mut values)
    };
    let ratio = middle(&|one| Some(one.round.value / one.round.yardstick?));
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
        value: middle(&|one| Some(one.round.value)),
        yardstick: case.yardstick.to_owned(),
        yardstick_value: middle(&|one| one.round.yardstick),
        ratio,
        target: case.target.to_string(),
        advantage: ratio.map(|ratio| case.target.advantage_of(ratio)),
        met: ratio
            .filter(|_| kept > 0)
            .map(|ratio| case.target.is_met_by(ratio)),
        rounds_kept: kept,
        rounds_dropped: rounds.len() - kept,
        floor_ns: middle(&|one| Some(one.floor).filter(|floor| floor.is_finite())),
        percentiles: percentiles(&latencies),
        peers,
        failure: None,
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
            is_kept,
        }
    }

    #[test]
    fn dropped_rounds_are_counted_and_left_out() {
        let rounds = [
            round(150.0, 100.0, true),
            round(900.0, 100.0, false),
            round(170.0, 100.0, true),
            round(160.0, 100.0, true),
        ];
        let result = sum_up(&case(), &rounds);
        assert_eq!((result.rounds_kept, result.rounds_dropped), (3, 1));
        assert_eq!(result.value, Some(160.0));
        assert_eq!(result.ratio, Some(1.6));
        assert_eq!(result.met, Some(true));
        assert_eq!(result.peers, [("a peer", 1600.0)]);
        assert_eq!(result.percentiles.map(|all| all.max), Some(170));
    }

    #[test]
    fn a_target_that_is_not_met_is_reported() {
        let result = sum_up(&case(), &[round(170.0, 100.0, true)]);
        assert_eq!(result.met, Some(false));
    }

    #[test]
    fn without_a_steady_round_nothing_is_said_of_the_target() {
        let result = sum_up(&case(), &[round(150.0, 100.0, false)]);
        assert_eq!(result.value, Some(150.0));
        assert_eq!((result.met, result.rounds_kept), (None, 0));
    }

    #[test]
    fn without_a_yardstick_there_is_no_ratio() {
        let mut alone = round(150.0, 100.0, true);
        alone.round.yardstick = None;
        let result = sum_up(&case(), &[alone]);
        assert_eq!(result.value, Some(150.0));
        assert_eq!((result.ratio, result.met), (None, None));
    }
}
