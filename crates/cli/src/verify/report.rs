//! What `--json` prints of runs and checks.

use chimaera_verify::{Findings, PoolModel, RunCounts, RunSummary};
use serde::Serialize;

/// What `verify run --json` prints.
#[derive(Serialize)]
pub(super) struct VerifyRunReport<'a> {
    seed: u64,
    allocated_blocks: u64,
    freed_blocks: u64,
    written_blocks: u64,
    written_bytes: u64,
    read_blocks: u64,
    flushes: u64,
    times_without_space: u64,
    promised: PromisesReport,
    /// What was in the pool before, if the run continued a journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<FindingsReport<'a>>,
}

impl<'a> VerifyRunReport<'a> {
    pub(super) fn new(summary: &'a RunSummary, seed: u64) -> Self {
        let RunCounts {
            allocated,
            freed,
            written_blocks,
            written_bytes,
            read_blocks,
            flushes,
            without_space,
        } = summary.counts;
        Self {
            seed,
            allocated_blocks: allocated,
            freed_blocks: freed,
            written_blocks,
            written_bytes,
            read_blocks,
            flushes,
            times_without_space: without_space,
            promised: PromisesReport::new(&summary.model),
            before: (summary.model.runs > 1).then(|| FindingsReport::new(&summary.before)),
        }
    }
}

/// What `verify check --json` prints.
#[derive(Serialize)]
pub(super) struct VerifyCheckReport<'a> {
    promised: PromisesReport,
    found: FindingsReport<'a>,
}

impl<'a> VerifyCheckReport<'a> {
    pub(super) fn new(model: &PoolModel, findings: &'a Findings) -> Self {
        Self {
            promised: PromisesReport::new(model),
            found: FindingsReport::new(findings),
        }
    }
}

/// What a journal promises.
#[derive(Serialize)]
struct PromisesReport {
    journal: String,
    flushed_blocks: usize,
    flushed_bytes: u64,
    runs: u64,
    records_of_flushes: u64,
}

impl PromisesReport {
    fn new(model: &PoolModel) -> Self {
        Self {
            journal: model.id.to_string(),
            flushed_blocks: model.block_count(),
            flushed_bytes: model.bytes(),
            runs: model.runs,
            records_of_flushes: model.flushes,
        }
    }
}

/// What a check has found in a pool.
#[derive(Serialize)]
struct FindingsReport<'a> {
    intact_blocks: u64,
    intact_bytes: u64,
    overwritten_blocks: u64,
    blocks_being_freed_gone: u64,
    blocks_being_freed_still_there: usize,
    recent_blocks: usize,
    blocks_of_others: u64,
    blocks_of_unknown_owners: u64,
    violations: &'a [String],
}

impl<'a> FindingsReport<'a> {
    fn new(findings: &'a Findings) -> Self {
        Self {
            intact_blocks: findings.intact,
            intact_bytes: findings.bytes,
            overwritten_blocks: findings.overwritten,
            blocks_being_freed_gone: findings.gone,
            blocks_being_freed_still_there: findings.still_there.len(),
            recent_blocks: findings.recent.len(),
            blocks_of_others: findings.of_others,
            blocks_of_unknown_owners: findings.of_unknown,
            violations: &findings.violations,
        }
    }
}
