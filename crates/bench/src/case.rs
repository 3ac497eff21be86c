//! A case: something measured, the yardstick beside it, and the ratio that they should have.

use std::fmt;
use std::rc::Rc;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bench::Bench;
use crate::error::Result;

/// Separates, in a title, the work from the peer beside which it is done. Cases of the same work have the
/// same title up to here.
pub(crate) const BESIDE: &str = ", beside ";

/// A line of the suite.
pub(crate) struct Case {
    /// The name by which it is chosen.
    pub(crate) name: String,
    /// What is measured, for people.
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// What stands beside it, in the same unit.
    pub(crate) yardstick: &'static str,
    pub(crate) target: Target,
    pub(crate) effort: Effort,
    pub(crate) prepare: Prepare,
}

/// Makes what a case measures with, once before its rounds.
pub(crate) type Prepare = Box<dyn Fn(&Rc<Bench>) -> Result<Measure>>;

/// One round.
pub(crate) type Measure = Box<dyn FnMut() -> Result<Round>>;

/// What a round gives.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) value: f64,
    /// `None` where the yardstick is absent.
    pub(crate) yardstick: Option<f64>,
    /// Latencies of single calls, where the value is one.
    pub(crate) latencies: Option<Histogram<u64>>,
    /// Figures of peers that did the same work, in the case's unit.
    pub(crate) peers: Vec<(&'static str, f64)>,
}

impl Round {
    pub(crate) fn new(value: f64, yardstick: f64) -> Self {
        Self {
            value,
            yardstick: Some(yardstick),
            latencies: None,
            peers: Vec::new(),
        }
    }

    pub(crate) fn with_latencies(mut self, latencies: Histogram<u64>) -> Self {
        self.latencies = Some(latencies);
        self
    }
}

/// What the ratio of value to yardstick should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(crate) fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
        }
    }

    /// How far a ratio exceeds the target: 2 is twice as good as it asks.
    pub(crate) fn advantage_of(self, ratio: f64) -> f64 {
        match self {
            Self::AtMost(limit) => limit / ratio,
            Self::AtLeast(limit) => ratio / limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}

/// What a round costs, and what disturbs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Many rounds; a floor that moves or others at work spoil one.
    Quick,
    /// As above, but a round takes long, so there are few.
    Slow,
    /// As above, and several peers do the same work in each round.
    Peers,
    /// A round counts something that other programs do not change, such as memory: none is dropped.
    Counted,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Time.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Operations per second.
    #[serde(rename = "1/s")]
    PerSecond,
    /// Bandwidth.
    #[serde(rename = "B/s")]
    BytesPerSecond,
    /// Memory.
    #[serde(rename = "B")]
    Bytes,
}

/// Times below this are shown as too short to measure: no clock tells them from zero.
const MIN_NANOSECONDS: f64 = 0.005;

impl Unit {
    /// A figure as people read it.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        if self == Self::Nanoseconds && value.abs() < MIN_NANOSECONDS {
            return "below what can be measured".to_owned();
        }
        let steps: &[(f64, &str)] = match self {
            Self::Nanoseconds => &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")],
            Self::PerSecond => &[(1e6, " M/s"), (1e3, " k/s"), (1.0, " /s")],
            Self::BytesPerSecond => &[(1e9, " GB/s"), (1e6, " MB/s"), (1.0, " B/s")],
            Self::Bytes => &[(1_048_576.0, " MiB"), (1024.0, " KiB"), (1.0, " B")],
        };
        let &(scale, name) = steps
            .iter()
            .find(|(scale, _)| value.abs() >= *scale)
            .unwrap_or(&steps[steps.len() - 1]);
        let scaled = value / scale;
        let decimals = match scaled.abs() {
            x if scale == 1.0 && x >= 10.0 => 0,
            x if x >= 100.0 => 0,
            x if x >= 10.0 => 1,
            _ => 2,
        };
        format!("{scaled:.decimals$}{name}")
    }

    /// Whether less of it is better.
    #[must_use]
    pub fn less_is_better(self) -> bool {
        matches!(self, Self::Nanoseconds | Self::Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_unit_that_suits_them() {
        assert_eq!(Unit::Nanoseconds.show(155.4), "155 ns");
        assert_eq!(Unit::Nanoseconds.show(0.5), "0.50 ns");
        for nothing in [0.0, 0.004] {
            let shown = Unit::Nanoseconds.show(nothing);
            assert_eq!(shown, "below what can be measured");
        }
        assert_eq!(Unit::Nanoseconds.show(71_234.0), "71.2 µs");
        assert_eq!(Unit::PerSecond.show(6_123_456.0), "6.12 M/s");
        assert_eq!(Unit::BytesPerSecond.show(9.87e9), "9.87 GB/s");
        assert_eq!(Unit::Bytes.show(65_536.0), "64.0 KiB");
        assert_eq!(Unit::Bytes.show(0.0), "0.00 B");
    }

    #[test]
    fn a_target_has_a_direction() {
        assert!(Target::AtMost(1.6).is_met_by(1.6));
        assert!(!Target::AtMost(1.6).is_met_by(1.61));
        assert!(Target::AtLeast(0.85).is_met_by(0.85));
        assert!(!Target::AtLeast(0.85).is_met_by(0.84));
        assert!(!Target::AtLeast(0.85).is_met_by(f64::NAN));
    }
}
