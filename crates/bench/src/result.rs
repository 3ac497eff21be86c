//! What was measured, as it is handed on.

use serde::Serialize;

use crate::case::Unit;

/// A run of the suite.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The machine and the kind of run.
    pub conditions: Conditions,
    /// One entry for each case that was run.
    pub cases: Vec<CaseResult>,
    /// Curves for the report; none if no report was asked for.
    pub curves: Vec<Curve>,
    /// Who could not be measured against.
    pub absent: Vec<Absent>,
}

/// Where and how figures came about.
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
}

/// A peer that is not there.
#[derive(Debug, Serialize)]
pub struct Absent {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What came of a case.
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
    /// What the ratio is to be.
    pub target: String,
    /// How far the target is exceeded: 2 is twice as good as it asks, 0.5 half as good.
    #[serde(skip)]
    pub advantage: Option<f64>,
    /// Whether it is; none if nothing can be said.
    pub met: Option<bool>,
    /// Rounds that count.
    pub rounds_kept: usize,
    /// Rounds in which the floor moved, or others used the machine.
    pub rounds_dropped: usize,
    /// Round trip of a bare cache line meanwhile, in nanoseconds.
    pub floor_ns: Option<f64>,
    /// Latencies of single calls in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentiles: Option<Percentiles>,
    /// Others who did the same thing, in the same unit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<(&'static str, f64)>,
    /// Why there is no figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
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
    /// Who.
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
            rounds_kept: 10,
            rounds_dropped: 1,
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
        assert_eq!(all["absent"][0]["name"], "fio");
    }
}
