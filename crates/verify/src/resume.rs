//! What comes before a workload that continues a journal.
//!
//! A run that ended early may have left blocks that the journal does not know, frees that may or may not have happened,
//! and blocks that hold two generations in part. All of that is settled first, so that the workload begins with blocks
//! of which it knows exactly what they hold.

use super::block_contents::fill;
use super::check::{Findings, check};
use super::error::VerifyError;
use super::ids::{JournalId, OperationId};
use super::journal::WorkloadJournal;
use super::line::{BlockChange, FlushLine, JournalLine};
use super::model::LiveBlock;
use super::pool::VerifiedPool;
use super::workload::Workload;
use super::workload_thread::HeldBlock;

/// Checks what the journal promises, settles what the last run left open, and gives the blocks that the workload goes
/// on with, beside what the check has found.
///
/// # Errors
/// The pool does not hold what the journal promises; nothing has changed then. Or pool or journal fail.
pub(super) fn resume(
    pool: &impl VerifiedPool,
    journal: &mut WorkloadJournal,
    workload: Workload,
) -> Result<(Findings, Vec<HeldBlock>), VerifyError> {
    let findings = check(journal.model(), pool)?;
    if let Some(first) = findings.violations.first() {
        return Err(VerifyError::NotAsPromised {
            first: first.clone(),
            violations: findings.violations.len(),
        });
    }
    journal.append(&JournalLine::Begin {
        threads: workload.threads.get(),
        seed: workload.seed,
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

/// Frees the blocks that the last run was freeing or had just allocated, so that the journal knows all of its blocks
/// again.
fn settle_frees(
    pool: &impl VerifiedPool,
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
    for (thread, issued) in model.threads.clone() {
        journal.append(&JournalLine::Flushed(FlushLine {
            thread,
            used: issued.reserved,
            reserved: issued.reserved,
            changes: std::mem::take(&mut changes),
        }))?;
    }
    Ok(())
}

/// Writes a new generation into each block that the last run was overwriting, so that every block holds one generation.
fn settle_contents(
    pool: &impl VerifiedPool,
    journal: &mut WorkloadJournal,
) -> Result<(), VerifyError> {
    /// The thread of the workload whose numbers the new generations have.
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
    let issued = model.threads.get(&THREAD).copied().unwrap_or_default();
    let used = u32::try_from(mixed.len())
        .ok()
        .and_then(|count| issued.reserved.checked_add(count))
        .ok_or(VerifyError::NoNumbersLeft)?;
    let flushed = |used, reserved, changes| {
        JournalLine::Flushed(FlushLine {
            thread: THREAD,
            used,
            reserved,
            changes,
        })
    };
    journal.append(&flushed(issued.reserved, used, Vec::new()))?;
    let generations = (issued.reserved + 1..=used).map(|number| OperationId::new(THREAD, number));
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
    journal.append(&flushed(used, used, changes))
}

fn write(
    pool: &impl VerifiedPool,
    id: JournalId,
    live: &LiveBlock,
    generation: OperationId,
) -> Result<(), VerifyError> {
    let mut bytes = vec![0; live.block.size as usize];
    fill(id, &live.block, generation, &mut bytes);
    pool.write(&live.block, &bytes)
        .map_err(VerifyError::pool("a write"))
}
