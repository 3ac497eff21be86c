//! `chimaera verify`: proves that a pool keeps across crashes what it promises.
//!
//! [`chimaera_verify`] does the work. This module reads the arguments, prints, and chooses the exit codes.

mod report;

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use chimaera_bdev_client::{BlockType, Client, Error, PoolInfo, Status};
use chimaera_verify::{
    Findings, JournalId, PoolIdentity, PoolModel, RunFailure, RunSummary, VerifyError, Workload,
    WorkloadJournal,
};

use crate::args::{
    GlobalArguments, VerifyCheckArguments, VerifyCommand, VerifyPoolArguments, VerifyRunArguments,
};
use crate::connection::connect;
use crate::failure::CommandFailure;
use crate::output;
use crate::pool::{find_block_device, open_found};
use crate::program;
use crate::size::show_size;

/// The most bytes of blocks that a run holds at a time, unless `--space` says otherwise.
const MAX_DEFAULT_SPACE_BYTES: u64 = 256 << 20;

/// The most violations that are shown one by one.
const MAX_SHOWN_VIOLATIONS: usize = 20;

pub(crate) fn run(command: &VerifyCommand, global: &GlobalArguments) -> Result<(), CommandFailure> {
    match command {
        VerifyCommand::Run(arguments) => run_workload(arguments, global),
        VerifyCommand::Check(arguments) => check_pool(arguments, global),
    }
}

fn run_workload(
    arguments: &VerifyRunArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let (pool, verified) = open_verified(&arguments.pool)?;
    let path = &arguments.pool.journal;
    let new_id = JournalId::random().map_err(CommandFailure::system("cannot read /dev/urandom"))?;
    let mut journal = WorkloadJournal::open(path, new_id)?;
    journal.keep_for(verified)?;
    let held = journal.model().bytes();
    let default = || -> Result<u64, CommandFailure> {
        let free = pool.get_stats()?.remaining_size;
        Ok(((free + held) / 2).min(MAX_DEFAULT_SPACE_BYTES))
    };
    let workload = Workload {
        // The parser of the arguments takes no 0.
        threads: NonZeroU8::new(arguments.threads).unwrap_or(NonZeroU8::MIN),
        seed: arguments.seed.unwrap_or(new_id.0 as u64),
        space_bytes: arguments.space.map_or_else(default, Ok)?,
    };
    check_space(workload.space_bytes)?;
    output::note(format_args!(
        "the journal {} says what must be there: if this run is cut short, run `{}`",
        path.display(),
        check_command(&arguments.pool)
    ));
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let (summary, error) =
        match chimaera_verify::run(&pool, journal, workload, |_| Instant::now() >= end) {
            Ok(summary) => (Some(Box::new(summary)), None),
            Err(RunFailure { error, summary }) => (summary, Some(error)),
        };
    match &summary {
        Some(summary) if global.json => {
            output::json(&report::VerifyRunReport::new(summary, workload.seed))?;
        }
        Some(summary) => show_run(summary, workload.seed),
        None => {}
    }
    match error {
        None => Ok(()),
        Some(error) => Err(CommandFailure::from(error).explain_loss(format_args!(
            "the journal {} says what must be there: once a daemon has the pool open again, run `{}`",
            path.display(),
            check_command(&arguments.pool)
        ))),
    }
}

/// Refuses a run that has no room for a block: it would verify nothing.
fn check_space(space_bytes: u64) -> Result<(), CommandFailure> {
    let least = BlockType::Kib4.size();
    if space_bytes >= least {
        return Ok(());
    }
    let error = Error::new(Status::NoSpace, "verifying the pool");
    Err(error
        .with_account(format!(
            "half of what is free are {space_bytes} bytes, less than a block has ({least}): free some of the pool, or \
             use a larger one"
        ))
        .into())
}

/// A client of the pool to be verified, and the pool's identity.
fn open_verified(verified: &VerifyPoolArguments) -> Result<(Client, PoolIdentity), CommandFailure> {
    let runtime = connect(&verified.daemon)?;
    let info = find_block_device(&runtime, &verified.pool, &verified.daemon)?;
    let client = open_found(&runtime, &info)?;
    let PoolInfo { id, name, .. } = info;
    Ok((client, PoolIdentity { id, name }))
}

/// The command that checks the pool.
fn check_command(verified: &VerifyPoolArguments) -> String {
    let journal = program::path(&verified.journal);
    let words = [
        "verify",
        "check",
        "--pool",
        &verified.pool,
        "--journal",
        &journal,
    ];
    program::command(&words, &verified.daemon)
}

fn show_run(summary: &RunSummary, seed: u64) {
    let RunSummary {
        before,
        counts,
        model,
    } = summary;
    if model.runs > 1 {
        output::line("the journal was continued; before that, there was in the pool");
        show_findings(before);
    }
    output::line(format_args!("ran with seed {seed}"));
    show_rows(&[
        (
            "allocated",
            format!(
                "{} blocks; {} times there was no space",
                counts.allocated, counts.without_space
            ),
        ),
        ("freed", format!("{} blocks", counts.freed)),
        (
            "written",
            format!(
                "{} generations ({})",
                counts.written_blocks,
                show_size(counts.written_bytes)
            ),
        ),
        ("read", format!("{} blocks, all intact", counts.read_blocks)),
        ("flushes", counts.flushes.to_string()),
    ]);
    show_model(model);
}

/// Shows what a journal promises.
fn show_model(model: &PoolModel) {
    output::line(format_args!("the journal {} promises", model.id));
    show_rows(&[
        (
            "flushed",
            format!(
                "{} blocks ({})",
                model.block_count(),
                show_size(model.bytes())
            ),
        ),
        ("runs", model.runs.to_string()),
        ("records", format!("{} of flushes", model.flushes)),
    ]);
}

fn check_pool(
    arguments: &VerifyCheckArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let (pool, verified) = open_verified(&arguments.pool)?;
    let model = chimaera_verify::read_journal(&arguments.pool.journal, &verified)?;
    let findings = chimaera_verify::check(&model, &pool)?;
    if global.json {
        output::json(&report::VerifyCheckReport::new(&model, &findings))?;
    } else {
        show_check(&model, &findings);
    }
    if findings.violations.is_empty() {
        return Ok(());
    }
    Err(CommandFailure::new(format!(
        "the pool has not what the journal promises: {} violations",
        findings.violations.len()
    )))
}

fn show_check(model: &PoolModel, findings: &Findings) {
    show_model(model);
    output::line("in the pool there is");
    show_findings(findings);
    for violation in findings.violations.iter().take(MAX_SHOWN_VIOLATIONS) {
        output::line(format_args!("VIOLATION: {violation}"));
    }
    let hidden = findings
        .violations
        .len()
        .saturating_sub(MAX_SHOWN_VIOLATIONS);
    if hidden > 0 {
        output::line(format_args!("and {hidden} more"));
    }
}

fn show_findings(findings: &Findings) {
    let rows = [
        (
            "intact",
            format!(
                "{} blocks ({}), {} of them with announced new contents",
                findings.intact,
                show_size(findings.bytes),
                findings.overwritten
            ),
        ),
        (
            "being freed",
            format!(
                "{} gone, {} still there",
                findings.gone,
                findings.still_there.len()
            ),
        ),
        ("recent", findings.recent.len().to_string()),
        ("of others", findings.of_others.to_string()),
        ("of unknown", findings.of_unknown.to_string()),
        ("violations", findings.violations.len().to_string()),
    ];
    show_rows(&rows);
}

fn show_rows(rows: &[(&str, String)]) {
    for (name, value) in rows {
        output::line(format_args!("  {name:<14}{value}"));
    }
}

/// Chooses the exit code of a failed run or check. A daemon or a pool that went away has a code of its own: that is
/// what a crash looks like to a client.
impl From<VerifyError> for CommandFailure {
    fn from(error: VerifyError) -> Self {
        let text = error.to_string();
        match error {
            VerifyError::Pool { error, .. } => match error.status() {
                Status::ConnectionLost | Status::ShuttingDown => Self::no_runtime(text),
                Status::PoolNotFound => Self::not_found(text),
                _ => error.into(),
            },
            VerifyError::JournalFile {
                action,
                path,
                error,
            } => Self::system(format_args!(
                "cannot {action} the journal {}",
                path.display()
            ))(error),
            VerifyError::NotARegularFile(_)
            | VerifyError::NotAJournal(_)
            | VerifyError::JournalInUse(_)
            | VerifyError::JournalOfAnotherPool { .. } => Self::in_the_way(text),
            VerifyError::NoThread(_) => Self::new(format!("{text}, or run with fewer `--threads`")),
            _ => Self::new(text),
        }
    }
}
