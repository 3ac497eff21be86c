//! The cases of a client.

use std::path::Path;

use crate::answers::Answers;
use crate::limits::Figure;
use crate::rounds::{CaseRounds, INTERVAL_TASKS, INTERVALS};
use crate::steps::Steps;
use crate::subject::Subject;
use crate::{Error, Result};

/// An empty call and waiting for it, where the completion is there at once.
pub const CALL: &str = "client-call";
/// Submitting an empty task.
pub const SUBMIT: &str = "client-submit";
/// Collecting an empty task that has completed.
pub const COLLECT: &str = "client-collect";
/// Reading 4 KiB, as [`CALL`].
pub const READ: &str = "client-read-4KiB";
/// Writing 4 KiB, as [`CALL`].
pub const WRITE: &str = "client-write-4KiB";

/// Counts all cases. `nothing` is what two marks take with nothing in between.
pub(crate) fn count(program: &Path, nothing: u64) -> Result<Vec<Figure>> {
    [CALL, SUBMIT, COLLECT, READ, WRITE]
        .into_iter()
        .map(|case| count_case(program, case, nothing))
        .collect()
}

fn count_case(program: &Path, case: &'static str, nothing: u64) -> Result<Figure> {
    let subject = Subject::start(program, case)?;
    let first = subject.id();
    let mut steps = Steps::seize(subject, first)?;
    let ready = steps.subject().go()?;
    let mut answers = Answers::start(steps.subject().socket()?)?;
    let mut interval = || {
        let count = steps.count_interval(&ready.copying, || answers.complete_all())?;
        Ok::<_, Error>(count - nothing)
    };
    // The first task, with which the lane is opened.
    interval()?;
    let mut rounds = CaseRounds::default();
    while rounds.goes_on(case)? {
        let mut count = 0;
        for _ in 0..INTERVALS {
            count += interval()?;
        }
        rounds.add(count);
    }
    Figure::new(case, &rounds, INTERVALS * INTERVAL_TASKS)
}
