//! A workload against a pool, with a journal of what must outlive a crash.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_thread::{NoThread, ScopedJoinHandle, scope, spawn_scoped};

use super::block_contents::{JournalId, OperationId};
use super::check::{Findings, check};
use super::error::VerifyError;
use super::journal::WorkloadJournal;
use super::line::{BlockChange, FlushLine, JournalLine};
use super::model::{LiveBlock, PoolModel};
use super::pool::BlockPool;
use super::split_mix::SplitMix64;
use super::workload_thread::{HeldBlock, RunCounts, SharedRun, WorkloadThread, lock};

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Threads, at least one, each with blocks of its own.
    pub threads: u8,
    /// What the workload is made from: with one thread, the same again.
    pub seed: u64,
    /// Bytes that the workload may hold, those of a continued journal included.
    pub space_bytes: u64,
}

/// What a run has done.
#[derive(Debug)]
pub struct RunSummary {
    /// What was found before it began, of a journal that it continued.
    pub before: Findings,
    /// What was done.
    pub counts: RunCounts,
    /// What the journal promises now.
    pub model: PoolModel,
}

/// A run that has failed.
#[derive(Debug)]
pub struct RunFailure {
    /// Why.
    pub error: VerifyError,
    /// What it did until then, unless it had not begun.
    pub summary: Option<Box<RunSummary>>,
}

/// Runs a workload until `is_over`, which every thread asks before each of its steps.
///
/// # Errors
/// The pool has broken a promise or is gone, or the journal cannot be continued or written.
pub fn run(
    pool: &impl BlockPool,
    mut journal: WorkloadJournal,
    plan: Workload,
    is_over: impl Fn(RunCounts) -> bool + Sync,
) -> Result<RunSummary, RunFailure> {
    let (before, continued) = begin(pool, &mut journal, plan).map_err(|error| RunFailure {
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
    let results = run_threads(&shared, plan, continued, is_over);
    let mut counts = RunCounts::default();
    let mut outcome = Ok(());
    for (result, of_thread) in results {
        counts += of_thread;
        outcome = worse(outcome, result);
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

/// The outcome that says more: when a daemon goes away, every thread loses it, and one may have found
/// before that the pool broke a promise.
fn worse(one: Result<(), VerifyError>, other: Result<(), VerifyError>) -> Result<(), VerifyError> {
    match (one, other) {
        (Err(one), Err(other)) if one.is_loss() => Err(other),
        (Err(one), _) => Err(one),
        (Ok(()), other) => other,
    }
}

/// How a thread ended, and what it did until then.
type ThreadOutcome = (Result<(), VerifyError>, RunCounts);

fn run_threads<P: BlockPool>(
    shared: &SharedRun<'_, P>,
    plan: Workload,
    continued: Vec<HeldBlock>,
    is_over: impl Fn(RunCounts) -> bool + Sync,
) -> Vec<ThreadOutcome> {
    let model = lock(&shared.journal).model().clone();
    let mut blocks = vec![Vec::new(); usize::from(plan.threads)];
    for (index, held) in continued.into_iter().enumerate() {
        blocks[index % usize::from(plan.threads)].push(held);
    }
    scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .zip(blocks)
            .map(|(thread, held)| {
                let used = model
                    .threads
                    .get(&thread)
                    .map_or(0, |stamps| stamps.reserved);
                let seed = plan.seed ^ model.runs << 8 ^ u64::from(thread);
                let mut worker = WorkloadThread {
                    shared,
                    thread,
                    used,
                    reserved: used,
                    held,
                    budget_bytes: plan.space_bytes / u64::from(plan.threads),
                    random: SplitMix64::new(seed),
                    counts: RunCounts::default(),
                };
                let is_over = &is_over;
                let name = format!("chimaera-verify-{thread}");
                spawn_scoped(scope, name, move || {
                    let result = worker.run(is_over);
                    if result.is_err() {
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                    (result, worker.counts)
                })
                // The blocks of one that is not there stay as the journal has them.
                .inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))
            })
            .collect();
        threads.into_iter().map(outcome).collect()
    })
}

/// What a thread came to, which may be that there is none.
fn outcome(thread: Result<ScopedJoinHandle<'_, ThreadOutcome>, NoThread>) -> ThreadOutcome {
    match thread.map(ScopedJoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(refused) => (Err(VerifyError::NoThread(refused)), RunCounts::default()),
    }
}

fn ranges(held: &[HeldBlock]) -> BTreeMap<u64, u64> {
    let blocks = held.iter().map(|held| held.block);
    blocks
        .map(|block| (block.offset, block.offset + block.size))
        .collect()
}

/// Checks what the journal has, settles what the last run left open, and gives the blocks to go on with.
fn begin(
    pool: &impl BlockPool,
    journal: &mut WorkloadJournal,
    plan: Workload,
) -> Result<(Findings, Vec<HeldBlock>), VerifyError> {
    let findings = check(journal.model(), pool)?;
    if let Some(first) = findings.violations.first() {
        return Err(VerifyError::NotAsPromised {
            first: first.clone(),
            violations: findings.violations.len(),
        });
    }
    journal.append(&JournalLine::Begin {
        threads: plan.threads,
        seed: plan.seed,
    })?;
    settle_frees(pool, journal, &findings)?;
    settle_contents(pool, journal)?;
    let blocks = journal.model().live.values().map(|live| HeldBlock {
        block: live.block,
        allocation: live.allocation,
        generation: live.generations[0],
    });
    Ok((findings, blocks.collect()))
}

/// Frees what the last run was freeing or had just allocated, so that the journal knows every block of
/// its own again.
fn settle_frees(
    pool: &impl BlockPool,
    journal: &mut WorkloadJournal,
    findings: &Findings,
) -> Result<(), VerifyError> {
    for block in findings.still_there.iter().chain(&findings.recent) {
        pool.free(&[*block]).map_err(VerifyError::pool("a free"))?;
    }
    pool.flush()
        .map_err(VerifyError::pool("what the last run left open"))?;
    let model = journal.model();
    let freed = model.live.values().filter(|live| live.freeing);
    let mut changes: Vec<_> = freed
        .map(|live| BlockChange::Freed {
            offset: live.block.offset,
            allocation: live.allocation,
        })
        .collect();
    for (thread, stamps) in model.threads.clone() {
        journal.append(&JournalLine::Flushed(FlushLine {
            thread,
            used: stamps.reserved,
            reserved: stamps.reserved,
            changes: std::mem::take(&mut changes),
        }))?;
    }
    Ok(())
}

/// Writes anew what the last run was overwriting, so that every block holds one generation.
fn settle_contents(
    pool: &impl BlockPool,
    journal: &mut WorkloadJournal,
) -> Result<(), VerifyError> {
    const THREAD: u8 = 0;
    let model = journal.model();
    let id = model.id;
    let mixed: Vec<LiveBlock> = model
        .live
        .values()
        .filter(|live| live.generations.len() > 1)
        .cloned()
        .collect();
    if mixed.is_empty() {
        return Ok(());
    }
    let stamps = model.threads.get(&THREAD).copied().unwrap_or_default();
    let used = u32::try_from(mixed.len())
        .ok()
        .and_then(|count| stamps.reserved.checked_add(count))
        .ok_or(VerifyError::NoNumbersLeft)?;
    let reserve = |used, reserved, changes| {
        JournalLine::Flushed(FlushLine {
            thread: THREAD,
            used,
            reserved,
            changes,
        })
    };
    journal.append(&reserve(stamps.reserved, used, Vec::new()))?;
    let generations = (stamps.reserved + 1..=used).map(|number| OperationId::new(THREAD, number));
    let changes: Vec<BlockChange> = mixed
        .iter()
        .zip(generations.clone())
        .map(|(live, generation)| BlockChange::Overwritten {
            offset: live.block.offset,
            allocation: live.allocation,
            generation,
        })
        .collect();
    journal.append(&JournalLine::Intend(changes.clone()))?;
    for (live, generation) in mixed.iter().zip(generations) {
        write(pool, id, live, generation)?;
    }
    pool.flush()
        .map_err(VerifyError::pool("what the last run left open"))?;
    journal.append(&reserve(used, used, changes))
}

fn write(
    pool: &impl BlockPool,
    id: JournalId,
    live: &LiveBlock,
    generation: OperationId,
) -> Result<(), VerifyError> {
    let mut bytes = vec![0; live.block.size as usize];
    super::block_contents::fill(id, &live.block, generation, &mut bytes);
    pool.write(&live.block, &bytes)
        .map_err(VerifyError::pool("a write"))
}
