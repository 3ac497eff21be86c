//! `chimaera bench`: runs the benchmark suite, and shows its progress and results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chimaera_bdev_client::Error;
use chimaera_bench::{CaseResult, Dropped, Options, Results, RunProgress};
use chimaera_thread as thread;
use comfy_table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use crate::args::{BenchArguments, GlobalArguments};
use crate::failure::CommandFailure;
use crate::output_file::write_output;
use crate::{output, program};

/// What `bench --list --json` prints of a case.
#[derive(Serialize)]
struct CaseReport {
    name: String,
    title: String,
}

pub(crate) fn run(
    arguments: &BenchArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    if arguments.list && global.json {
        let cases: Vec<_> = chimaera_bench::list()
            .into_iter()
            .map(|(name, title)| CaseReport { name, title })
            .collect();
        return output::json(&cases);
    }
    if arguments.list {
        let mut table = output::table(&["CASE", "WHAT IS MEASURED"], 2);
        for (name, title) in chimaera_bench::list() {
            table.add_row([name, title]);
        }
        output::lines(table.trim_fmt());
        return Ok(());
    }
    check(arguments)?;
    let options = Options {
        cases: arguments.cases.clone(),
        quick: arguments.quick,
        curves: arguments.report.is_some(),
        folder: arguments.folder.clone(),
        stop: stop_on_signal()?,
    };
    // Checked before anything is measured: a long run should not end with a file that cannot be written.
    for path in [&arguments.figures, &arguments.report]
        .into_iter()
        .flatten()
    {
        write_output(path, "")?;
    }
    let bar = progress_bar();
    let mut not_written = None;
    let results = chimaera_bench::run(&options, |progress| match progress {
        RunProgress::Begin { done, of, title } => {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(title.to_owned());
        }
        RunProgress::Done(results) => {
            if bar.is_hidden() {
                tell(results);
            }
            if let Some(path) = &arguments.figures {
                not_written = write_output(path, &results.to_json()).err();
            }
        }
    });
    bar.finish_and_clear();
    let results = results.map_err(failed)?;
    if global.json {
        output::json_text(results.to_json().trim_end());
    } else {
        show(&results);
    }
    if let Some(failure) = not_written {
        return Err(failure);
    }
    if let Some(path) = &arguments.report {
        write_output(path, &chimaera_bench::to_html(&results))?;
    }
    match results.conditions.interrupted_before {
        0 => Ok(()),
        cases => Err(CommandFailure::new(format!(
            "interrupted: {cases} cases were not run"
        ))),
    }
}

/// Refuses arguments with which nothing can be measured.
fn check(arguments: &BenchArguments) -> Result<(), CommandFailure> {
    let cases = chimaera_bench::list();
    let is_case = |name: &str| cases.iter().any(|(case, _)| case.starts_with(name));
    if let Some(name) = arguments.cases.iter().find(|name| !is_case(name)) {
        let list = program::command_alone(&["bench", "--list"]);
        return Err(CommandFailure::usage(format!(
            "no case's name begins with \"{name}\": `{list}` names them"
        )));
    }
    if !arguments.folder.is_dir() {
        return Err(CommandFailure::not_found(format!(
            "--folder {} is no folder that is there: name one on the file system to be measured",
            arguments.folder.display()
        )));
    }
    Ok(())
}

/// A flag that is set when a signal asks the program to end. The second signal ends it at once. Must be called before
/// there are other threads, so that they inherit the blocked signals.
fn stop_on_signal() -> Result<Arc<AtomicBool>, CommandFailure> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals
        .thread_block()
        .map_err(|error| CommandFailure::new(format!("cannot block signals: {error}")))?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let wait = move || {
        if signals.wait().is_ok() {
            // Relaxed: it says nothing of anything else.
            told.store(true, Ordering::Relaxed);
            output::note("interrupted: ending after this round");
        }
        if signals.wait().is_ok() {
            std::process::exit(1);
        }
    };
    thread::spawn("chimaera-signals", wait)
        .map_err(|refused| CommandFailure::new(refused.to_string()))?;
    Ok(stop)
}

/// Gives a note of the last case's result, where there is no progress bar.
fn tell(results: &Results) {
    let Some(case) = results.cases.last() else {
        return;
    };
    let done = results.cases.len();
    let of = done + results.conditions.interrupted_before;
    let value = case
        .value
        .map_or("-".to_owned(), |value| case.unit.show(value));
    let ratio = case
        .ratio
        .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    output::note(format_args!(
        "{done}/{of}  {}: {value}, ratio {ratio}",
        case.name
    ));
}

/// The hidden command that is the second process of some cases.
pub(crate) fn partner(processor: usize) -> Result<(), CommandFailure> {
    chimaera_bench::run_partner(processor).map_err(failed)
}

/// The failure for an error of the suite's. Errors of a client's and of the system's have exit codes of their own.
fn failed(error: chimaera_bench::Error) -> CommandFailure {
    let error = match error.downcast::<Error>() {
        Ok(error) => return (*error).into(),
        Err(error) => error,
    };
    match error.downcast::<std::io::Error>() {
        Ok(error) => CommandFailure::system("cannot measure")(*error),
        Err(error) => CommandFailure::new(error.to_string()),
    }
}

/// A line that says what is being measured. It is shown on terminals only.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(results: &Results) {
    let heading = [
        "CASE",
        "MEASURED",
        "YARDSTICK",
        "IS",
        "RATIO",
        "TARGET",
        "MET",
        "ROUNDS",
    ];
    let mut table = output::table(&heading, 8);
    for case in &results.cases {
        add_row(&mut table, case);
    }
    output::lines(table.trim_fmt());
    for case in &results.cases {
        if let Some(failure) = &case.failure {
            output::line(format_args!("{}: {failure}", case.name));
        }
        if let Some(explanation) = case.explanation() {
            output::line(format_args!("{}: {explanation}", case.name));
        }
    }
    let dropped = results.cases.iter().map(|case| case.dropped_because);
    if let Some(why) = why_dropped(dropped.fold(Dropped::default(), |all, one| all + one)) {
        output::line(why);
    }
    for absent in &results.absent {
        output::line(format_args!("absent: {}: {}", absent.name, absent.reason));
    }
    let conditions = &results.conditions;
    output::line(format_args!(
        "{}; client on processor {}, worker on {}; {:.0} s",
        conditions.machine,
        conditions.client_processor,
        conditions.worker_processor,
        conditions.seconds
    ));
    let met = |wanted| {
        results
            .cases
            .iter()
            .filter(|case| case.met == wanted)
            .count()
    };
    output::line(format_args!(
        "targets: {} met, {} not met, {} not known",
        met(Some(true)),
        met(Some(false)),
        met(None)
    ));
}

fn add_row(table: &mut Table, case: &CaseResult) {
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| case.unit.show(value));
    let rounds = case.rounds_kept + case.rounds_dropped;
    table.add_row([
        case.name.clone(),
        figure(case.value),
        case.yardstick.clone(),
        figure(case.yardstick_value),
        case.ratio
            .map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
        case.target.clone(),
        match case.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "?",
        }
        .to_owned(),
        match case.dropped_because {
            dropped if dropped.total() == 0 => format!("{} of {rounds}", case.rounds_kept),
            dropped => format!("{} of {rounds} ({dropped})", case.rounds_kept),
        },
    ]);
}

/// What the short reasons in the table mean. `None` if no round was dropped.
fn why_dropped(dropped: Dropped) -> Option<String> {
    let reasons = [
        (dropped.failed, "something failed (failed)"),
        (
            dropped.others_used_the_machine,
            "others used the machine (others)",
        ),
        (dropped.floor_changed, "the floor changed (floor)"),
    ];
    let reasons: Vec<String> = reasons
        .iter()
        .filter(|reason| reason.0 > 0)
        .map(|(count, reason)| format!("{count} because {reason}"))
        .collect();
    (!reasons.is_empty()).then(|| format!("rounds dropped: {}", reasons.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_only_if_there_are_any() {
        assert_eq!(why_dropped(Dropped::default()), None);
        let dropped = Dropped {
            floor_changed: 2,
            failed: 1,
            ..Dropped::default()
        };
        assert_eq!(
            why_dropped(dropped).as_deref(),
            Some(
                "rounds dropped: 1 because something failed (failed), 2 because the floor changed \
                 (floor)"
            )
        );
    }
}
