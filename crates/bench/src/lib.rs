//! Measures Chimaera against the machine's own limits and against its peers.
//!
//! Reading order: a `case` is something measured beside a yardstick; `runner` runs its rounds; `cases` has
//! them all; `report` draws what came out. `docs/BENCHMARKS.md` says what is measured against what, and what
//! was seen.
//!
//! Laws of this crate:
//! - Every figure stands beside one of the same round, and the ratio is what counts: machines
//!   differ, and shared ones differ from minute to minute.
//! - A target that is missed, a round that is dropped and a peer that is absent are reported.
//! - The daemon is a process of its own with its default policy; only its worker is pinned.

#![deny(unsafe_code)]

mod bench;
mod case;
mod cases;
mod connection;
mod curves;
mod daemon;
mod error;
mod machine;
#[expect(unsafe_code, reason = "it maps memory and sleeps on its words")]
mod memory;
mod own_pool;
mod partner;
mod peers;
#[expect(unsafe_code, reason = "it prepares processes between fork and exec")]
mod process;
mod report;
mod result;
mod runner;
mod shared;
mod timing;
mod together;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub use case::Unit;
pub use error::{Error, Result};
pub use partner::{PARTNER_COMMAND, run_partner};
pub use peers::Absent;
pub use report::to_html;
pub use result::{CaseResult, Chart, Conditions, Curve, Dropped, Percentiles, Results};

use bench::Bench;
use case::Case;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of cases, or beginnings of names; all if there are none.
    pub cases: Vec<String>,
    /// Few and short rounds.
    pub quick: bool,
    /// Whether the curves of the report are measured too.
    pub curves: bool,
    /// The folder in which file pools of some hundred MiB are made.
    pub folder: PathBuf,
    /// Once this is set, the run ends early.
    pub stop: Arc<AtomicBool>,
}

/// What a run reports while it goes on.
#[derive(Debug)]
pub enum RunProgress<'a> {
    /// A case begins.
    Begin {
        /// How many are done.
        done: usize,
        /// How many there are.
        of: usize,
        /// What is measured.
        title: &'a str,
    },
    /// A case is done. The results up to now, of which it is the last.
    Done(&'a Results),
}

/// Names and titles of all cases.
#[must_use]
pub fn list() -> Vec<(String, String)> {
    let all = cases::all().into_iter();
    all.map(|case| (case.name, case.title)).collect()
}

/// Runs cases. The calling thread is pinned from then on. A run takes minutes, even a quick one. Once
/// [`Options::stop`] is set, it ends after the round that is being measured, with what there is.
///
/// # Errors
/// A name that no case has; a machine with one processor; a daemon that does not start. A case
/// that fails does not end the others: its result says why.
pub fn run(options: &Options, mut progress: impl FnMut(RunProgress<'_>)) -> Result<Results> {
    let begin = Instant::now();
    let chosen = choose(&options.cases)?;
    let bench = Rc::new(Bench::new(options)?);
    let mut results = Results {
        conditions: Conditions {
            machine: machine::describe(),
            quick: options.quick,
            client_processor: bench.processors.client,
            worker_processor: bench.processors.worker,
            seconds: 0.0,
            interrupted_before: chosen.len(),
        },
        cases: Vec::new(),
        curves: Vec::new(),
        absent: bench.peers.absent(),
    };
    for case in &chosen {
        if bench.is_stopped() {
            break;
        }
        progress(RunProgress::Begin {
            done: results.cases.len(),
            of: chosen.len(),
            title: &case.title,
        });
        let result = runner::run(&bench, case).unwrap_or_else(|error| failed(case, &error));
        results.cases.push(result);
        results.conditions.interrupted_before -= 1;
        results.conditions.seconds = begin.elapsed().as_secs_f64();
        progress(RunProgress::Done(&results));
    }
    if options.curves && !bench.is_stopped() {
        progress(RunProgress::Begin {
            done: chosen.len(),
            of: chosen.len(),
            title: "Curves for the report",
        });
        results.curves = curves::measure(&bench)?;
        results.conditions.seconds = begin.elapsed().as_secs_f64();
    }
    Ok(results)
}

fn choose(names: &[String]) -> Result<Vec<Case>> {
    let all = cases::all();
    for name in names {
        if !all.iter().any(|case| case.name.starts_with(name)) {
            return Err(
                format!("no case is called \"{name}\": see `chimaera bench --list`").into(),
            );
        }
    }
    let is_chosen =
        |case: &Case| names.is_empty() || names.iter().any(|name| case.name.starts_with(name));
    Ok(all.into_iter().filter(is_chosen).collect())
}

fn failed(case: &Case, error: &Error) -> CaseResult {
    CaseResult {
        name: case.name.clone(),
        title: case.title.clone(),
        unit: case.unit,
        value: None,
        yardstick: case.yardstick.to_owned(),
        yardstick_value: None,
        ratio: None,
        target: case.target.to_string(),
        advantage: None,
        met: None,
        met_by_medians: None,
        rounds_kept: 0,
        rounds_dropped: 0,
        dropped_because: Dropped::default(),
        floor_ns: None,
        percentiles: None,
        peers: Vec::new(),
        failure: Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names: Vec<String> = list().into_iter().map(|case| case.0).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(count > 0);
    }

    #[test]
    fn cases_are_chosen_by_the_beginning_of_their_names() -> Result<()> {
        assert_eq!(choose(&[])?.len(), list().len());
        assert_eq!(choose(&["empty-task-depth-32".to_owned()])?.len(), 1);
        assert!(choose(&["ram-".to_owned()])?.len() > 1);
        assert!(choose(&["nonsense".to_owned()]).is_err());
        Ok(())
    }
}
