//! A workload against a pool, with a journal of what must outlive a crash.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_thread::{NoThread, ScopedJoinHandle, scope, spawn_scoped};

use super::check::Findings;
use super::error::VerifyError;
use super::journal::WorkloadJournal;
use super::model::PoolModel;
use super::pool::VerifiedPool;
use super::resume::resume;
use super::split_mix::SplitMix64;
use super::workload::Workload;
use super::workload_thread::{HeldBlock, RunCounts, SharedRun, WorkloadThread, lock};

/// What a run has done to a pool.
#[derive(Debug)]
pub struct RunSummary {
    /// What was in the pool before, of a journal that the run continued.
    pub before: Findings,
    /// How often it has done what.
    pub counts: RunCounts,
    /// What the journal promises after it.
    pub model: PoolModel,
}

/// A run that has failed.
#[derive(Debug)]
pub struct RunFailure {
    /// Why.
    pub error: VerifyError,
    /// What the run did until then. `None` if the workload had not begun.
    pub summary: Option<Box<RunSummary>>,
}

/// Checks the pool and continues its journal, then runs a workload until `is_over`. Every thread asks that before each
/// of its steps, with its own counts, and does one more if it is. Blocks until all threads have ended.
///
/// # Errors
/// The pool has broken a promise or is gone, or the journal cannot be written. The journal is then as good as after a
/// crash: a check or a further run can go on from it.
pub fn run(
    pool: &impl VerifiedPool,
    mut journal: WorkloadJournal,
    workload: Workload,
    is_over: impl Fn(RunCounts) -> bool + Sync,
) -> Result<RunSummary, RunFailure> {
    let (before, continued) = resume(pool, &mut journal, workload).map_err(|error| RunFailure {
        error,
        summary: None,
    })?;
    let shared = SharedRun {
        pool,
        id: journal.model().id,
        held: Mutex::new(ranges(&continued)),
        journal: Mutex::new(journal),
        stop: AtomicBool::new(false),
    };
    let outcomes = run_threads(&shared, workload, continued, is_over);
    let mut counts = RunCounts::default();
    let mut outcome = Ok(());
    for (result, of_thread) in outcomes {
        counts += of_thread;
        outcome = graver(outcome, result);
    }
    let summary = RunSummary {
        before,
        counts,
        model: lock(&shared.journal).model().clone(),
    };
    match outcome {
        Ok(()) => Ok(summary),
        Err(error) => Err(RunFailure {
            error,
            summary: Some(Box::new(summary)),
        }),
    }
}

/// The result that says more: when a daemon goes away, every thread loses it, and one of them may have found before
/// that the pool broke a promise.
fn graver(one: Result<(), VerifyError>, other: Result<(), VerifyError>) -> Result<(), VerifyError> {
    match (one, other) {
        (Err(one), Err(other)) if one.is_loss() => Err(other),
        (Err(one), _) => Err(one),
        (Ok(()), other) => other,
    }
}

/// How a thread of a workload ended, and what it did until then.
type ThreadOutcome = (Result<(), VerifyError>, RunCounts);

fn run_threads<P: VerifiedPool>(
    shared: &SharedRun<'_, P>,
    workload: Workload,
    continued: Vec<HeldBlock>,
    is_over: impl Fn(RunCounts) -> bool + Sync,
) -> Vec<ThreadOutcome> {
    let model = lock(&shared.journal).model().clone();
    let thread_count = workload.threads.get();
    let mut blocks = vec![Vec::new(); usize::from(thread_count)];
    for (index, held) in continued.into_iter().enumerate() {
        blocks[index % usize::from(thread_count)].push(held);
    }
    scope(|scope| {
        let threads: Vec<_> = (0..thread_count)
            .zip(blocks)
            .map(|(thread, held)| {
                let used = model
                    .threads
                    .get(&thread)
                    .map_or(0, |issued| issued.reserved);
                let seed = workload.seed ^ model.runs << 8 ^ u64::from(thread);
                let mut body = WorkloadThread {
                    shared,
                    thread,
                    used,
                    reserved: used,
                    held,
                    budget_bytes: workload.space_bytes / u64::from(thread_count),
                    random: SplitMix64::new(seed),
                    counts: RunCounts::default(),
                };
                let is_over = &is_over;
                let name = format!("chimaera-verify-{thread}");
                spawn_scoped(scope, name, move || {
                    let result = body.run(is_over);
                    if result.is_err() {
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                    (result, body.counts)
                })
                // The blocks of a thread that was not started stay as the journal has them.
                .inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))
            })
            .collect();
        threads.into_iter().map(outcome).collect()
    })
}

/// Waits for a thread to end, if it was started.
fn outcome(thread: Result<ScopedJoinHandle<'_, ThreadOutcome>, NoThread>) -> ThreadOutcome {
    match thread.map(ScopedJoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(refused) => (Err(VerifyError::NoThread(refused)), RunCounts::default()),
    }
}

/// Where these blocks begin and end, by byte offset in the pool.
fn ranges(held: &[HeldBlock]) -> BTreeMap<u64, u64> {
    let blocks = held.iter().map(|held| held.block);
    blocks
        .map(|block| (block.offset, block.offset + block.size))
        .collect()
}
