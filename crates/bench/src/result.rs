//! What was measured, as the program writes it.

use std::fmt;
use std::ops::Add;

use serde::Serialize;

use crate::case::Unit;
use crate::peers::Absent;

/// A run of the suite.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The machine and the kind of run.
    pub conditions: Conditions,
    /// One entry for each case that was run.
    pub cases: Vec<CaseResult>,
    /// Curves for the report; none if no report was asked for.
    pub curves: Vec<Curve>,
    /// Peers that could not be measured.
    pub absent: Vec<Absent>,
}

/// Where and how figures were measured.
#[derive(Debug, Serialize)]
pub struct Conditions {
    /// Processors and kernel.
    pub machine: String,
    /// Whether rounds were short and few.
    pub quick: bool,
    /// Processor of this process.
    pub client_processor: usize,
    /// Processor of the daemon's worker, and of the yardsticks' other process.
    pub worker_processor: usize,
    /// Seconds that the run took.
    pub seconds: f64,
    /// Cases that were not run, because it was interrupted before.
    pub interrupted_before: usize,
}

/// The result of a case.
#[derive(Debug, Serialize)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// What was measured, for people.
    pub title: String,
    /// Unit of the figures.
    pub unit: Unit,
    /// The median of the rounds.
    pub value: Option<f64>,
    /// What stood beside it.
    pub yardstick: String,
    /// The median of that.
    pub yardstick_value: Option<f64>,
    /// The median of the rounds' ratios of value to yardstick.
    pub ratio: Option<f64>,
    /// What the ratio should be.
    pub target: String,
    /// How far the target is exceeded: 2 is twice as good as it asks, 0.5 half as good.
    #[serde(skip)]
    pub advantage: Option<f64>,
    /// Whether the target is met; `None` if that is not known.
    pub met: Option<bool>,
    /// Whether the ratio of the two medians, which may be of different rounds, would meet it.
    #[serde(skip)]
    pub met_by_medians: Option<bool>,
    /// Rounds that count.
    pub rounds_kept: usize,
    /// Rounds that were dropped.
    pub rounds_dropped: usize,
    /// Why they were dropped.
    pub dropped_because: Dropped,
    /// Round trip of a bare cache line meanwhile, in nanoseconds.
    pub floor_ns: Option<f64>,
    /// Latencies of single calls in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentiles: Option<Percentiles>,
    /// Figures of peers that did the same work, in the same unit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<(&'static str, f64)>,
    /// Why there is no figure, or what failed in a round that was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Ratios that differ by no more than this from that of the medians need no explanation.
const SAME_RATIO: f64 = 1.05;

impl CaseResult {
    /// Why the ratio is not that of the two figures beside it, where the difference shows.
    #[must_use]
    pub fn explanation(&self) -> Option<String> {
        let (ratio, of_medians) = (self.ratio?, self.value? / self.yardstick_value?);
        let apart = (ratio / of_medians).max(of_medians / ratio);
        let says_otherwise = self.met.is_some() && self.met_by_medians != self.met;
        (apart > SAME_RATIO || says_otherwise).then(|| {
            format!(
                "the ratio is the median of the rounds' own ratios; the two medians, each of other rounds, \
                 stand {of_medians:.2} to 1"
            )
        })
    }
}

/// Rounds that were dropped, by reason. Each counts once, by the first reason that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Something in them failed.
    pub failed: usize,
    /// Other programs, or other machines on the same hardware, used the processors.
    pub others_used_the_machine: usize,
    /// The floor was not the same before and after.
    pub floor_changed: usize,
}

impl Dropped {
    /// All of them.
    #[must_use]
    pub fn total(self) -> usize {
        self.failed + self.others_used_the_machine + self.floor_changed
    }
}

impl Add for Dropped {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            failed: self.failed + other.failed,
            others_used_the_machine: self.others_used_the_machine + other.others_used_the_machine,
            floor_changed: self.floor_changed + other.floor_changed,
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = [
            (self.failed, "failed"),
            (self.others_used_the_machine, "others"),
            (self.floor_changed, "floor"),
        ];
        let mut separator = "";
        for (count, reason) in reasons.into_iter().filter(|reason| reason.0 > 0) {
            write!(f, "{separator}{count} {reason}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Latencies in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p99_9: u64,
    #[serde(rename = "p99.99")]
    pub p99_99: u64,
    pub max: u64,
}

/// Figures over something that was varied.
#[derive(Debug, Serialize)]
pub struct Curve {
    /// The chart that it is part of.
    pub chart: Chart,
    /// What is drawn.
    pub name: &'static str,
    /// What was varied, and the figure.
    pub points: Vec<(f64, f64)>,
}

/// A chart of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chart {
    /// Operations per second over queue depth.
    RateOverDepth,
    /// Bytes per second over block size in bytes.
    BandwidthOverSize,
}

impl Results {
    /// As JSON, one case on a line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let lines: Vec<String> = self.cases.iter().map(json).collect();
        format!(
            "{{\"conditions\": {},\n\"absent\": {},\n\"curves\": {},\n\"cases\": [\n{}\n]}}\n",
            json(&self.conditions),
            json(&self.absent),
            json(&self.curves),
            lines.join(",\n")
        )
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these types have names for keys, and no maps")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Results {
        let case = |name: &str, met| CaseResult {
            name: name.to_owned(),
            title: format!("The case <{name}>"),
            unit: Unit::Nanoseconds,
            value: Some(155.0),
            yardstick: "ping-pong of a cache line".to_owned(),
            yardstick_value: Some(100.0),
            ratio: Some(1.55),
            target: "≤ 1.6".to_owned(),
            advantage: Some(1.03),
            met,
            met_by_medians: met,
            rounds_kept: 10,
            rounds_dropped: 3,
            dropped_because: Dropped {
                others_used_the_machine: 2,
                floor_changed: 1,
                ..Dropped::default()
            },
            floor_ns: Some(100.0),
            percentiles: Some(Percentiles {
                p50: 155,
                p90: 160,
                p99: 200,
                p99_9: 900,
                p99_99: 9000,
                max: 90_000,
            }),
            peers: vec![("fio libaio", 2500.0)],
            failure: None,
        };
        let mut failed = case("three", None);
        failed.value = None;
        failed.percentiles = None;
        failed.failure = Some("the \"disk\" is full".to_owned());
        Results {
            conditions: Conditions {
                machine: "2 processors".to_owned(),
                quick: true,
                client_processor: 0,
                worker_processor: 1,
                seconds: 40.0,
                interrupted_before: 0,
            },
            cases: vec![case("one", Some(true)), case("two", Some(false)), failed],
            curves: vec![Curve {
                chart: Chart::RateOverDepth,
                name: "empty task",
                points: vec![(1.0, 6e6), (32.0, 12e6)],
            }],
            absent: vec![Absent {
                name: "fio".to_owned(),
                reason: "it is not installed".to_owned(),
            }],
        }
    }

    #[test]
    fn json_has_a_case_on_each_line_and_says_what_is_not_met() {
        let text = sample().to_json();
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with("{\"name\""))
                .count(),
            3
        );
        let all: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let cases = &all["cases"];
        assert_eq!(cases[0]["met"], true);
        assert_eq!(cases[1]["met"], false);
        assert!(cases[2]["met"].is_null() && cases[2]["value"].is_null());
        for key in [
            "name",
            "unit",
            "value",
            "yardstick",
            "yardstick_value",
            "ratio",
            "target",
            "met",
            "rounds_kept",
            "rounds_dropped",
        ] {
            assert!(cases[0].get(key).is_some(), "{key}");
        }
        assert_eq!(cases[0]["percentiles"]["p99.9"], 900);
        let reasons = serde_json::json!(
            {"failed": 0, "others_used_the_machine": 2, "floor_changed": 1}
        );
        assert_eq!(cases[0]["dropped_because"], reasons);
        assert_eq!(all["absent"][0]["name"], "fio");
    }

    #[test]
    fn a_ratio_that_the_two_medians_contradict_is_explained() {
        let mut case = sample().cases.remove(0);
        assert_eq!(case.explanation(), None);
        case.ratio = Some(1.70);
        let text = case.explanation().expect("1.70 is not 155 / 100");
        assert!(text.contains("1.55 to 1"), "{text}");
        // Nearly the same, and on the other side of the target.
        case.ratio = Some(1.57);
        case.met_by_medians = Some(false);
        assert!(case.explanation().is_some());
        case.yardstick_value = None;
        assert_eq!(case.explanation(), None);
    }

    #[test]
    fn reasons_are_told_in_short() {
        let mut dropped = Dropped::default();
        assert_eq!((dropped.to_string(), dropped.total()), (String::new(), 0));
        dropped.floor_changed = 2;
        assert_eq!(dropped.to_string(), "2 floor");
        dropped = dropped
            + Dropped {
                failed: 1,
                ..Dropped::default()
            };
        assert_eq!(
            (dropped.to_string().as_str(), dropped.total()),
            ("1 failed, 2 floor", 3)
        );
    }
}
