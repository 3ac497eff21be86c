//! One thread of a workload.
//!
//! A thread works in steps. In each it plans what to do with its blocks, announces in the journal what concerns flushed
//! ones, carries out the plan, flushes, and reports in the journal what is durable now. It reads blocks back on the
//! way, and knows exactly what they must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_bdev_client::{Block, Status};

use super::block_contents::{examine, fill};
use super::error::VerifyError;
use super::ids::{JournalId, OperationId};
use super::journal::WorkloadJournal;
use super::line::{BlockChange, FlushLine, JournalLine};
use super::pool::VerifiedPool;
use super::split_mix::SplitMix64;

/// The most actions of a step.
const MAX_ACTIONS_PER_STEP: usize = 24;

/// Operation ids that a step may issue: more than its actions can use.
const IDS_PER_STEP: u32 = 256;

// An action uses most ids where it allocates three blocks and writes each of them twice.
const _: () = assert!(MAX_ACTIONS_PER_STEP * (1 + 3 * 2) <= IDS_PER_STEP as usize);

/// Bytes of allocations, the frequent ones several times. The last two take several blocks.
const SIZES: [u64; 10] = [
    4 << 10,
    4 << 10,
    4 << 10,
    4 << 10,
    64 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    2 << 20,
    3 << 20,
];

/// What the threads of a run share.
pub(super) struct SharedRun<'a, P> {
    pub(super) pool: &'a P,
    pub(super) id: JournalId,
    pub(super) journal: Mutex<WorkloadJournal>,
    /// The blocks that any thread holds, as their ends by their offsets: so a block that the pool gives out twice is
    /// found at once.
    pub(super) held: Mutex<BTreeMap<u64, u64>>,
    /// Whether a thread has failed: the others end after their next step.
    pub(super) stop: AtomicBool,
}

/// A block that a thread of the workload holds, and what it must contain.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldBlock {
    pub(super) block: Block,
    pub(super) allocation: OperationId,
    pub(super) generation: OperationId,
}

/// How often a run, or one of its threads, has done what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// Blocks allocated.
    pub allocated: u64,
    /// Blocks freed.
    pub freed: u64,
    /// Writes, each of a whole block.
    pub written_blocks: u64,
    /// Bytes of these writes.
    pub written_bytes: u64,
    /// Reads, each of a whole block.
    pub read_blocks: u64,
    /// Flushes.
    pub flushes: u64,
    /// Allocations for which the pool had no space.
    pub without_space: u64,
}

impl std::ops::AddAssign for RunCounts {
    fn add_assign(&mut self, other: Self) {
        self.allocated += other.allocated;
        self.freed += other.freed;
        self.written_blocks += other.written_blocks;
        self.written_bytes += other.written_bytes;
        self.read_blocks += other.read_blocks;
        self.flushes += other.flushes;
        self.without_space += other.without_space;
    }
}

/// One thread of a workload, with its blocks.
pub(super) struct WorkloadThread<'a, P> {
    pub(super) shared: &'a SharedRun<'a, P>,
    pub(super) thread: u8,
    /// The number of the last operation id that this thread has issued.
    pub(super) used: u32,
    /// The last number that the journal lets this step issue.
    pub(super) reserved: u32,
    pub(super) held: Vec<HeldBlock>,
    /// Bytes of blocks that this thread may hold at a time.
    pub(super) budget_bytes: u64,
    pub(super) random: SplitMix64,
    pub(super) counts: RunCounts,
}

/// One thing that a step does.
enum Action {
    Allocate {
        bytes: u64,
    },
    Overwrite {
        held: HeldBlock,
        generation: OperationId,
    },
    Free {
        those: Vec<HeldBlock>,
    },
    Read {
        held: HeldBlock,
    },
}

impl<P: VerifiedPool> WorkloadThread<'_, P> {
    /// Works until `is_over` says so or another thread has failed, and does one last step then.
    pub(super) fn run(
        &mut self,
        mut is_over: impl FnMut(RunCounts) -> bool,
    ) -> Result<(), VerifyError> {
        self.report(Vec::new(), false)?;
        loop {
            let is_last = is_over(self.counts) || self.shared.stop.load(Ordering::Relaxed);
            self.step(is_last)?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn step(&mut self, is_last: bool) -> Result<(), VerifyError> {
        let actions = self.plan()?;
        let announced = announcements(&actions);
        if !announced.is_empty() {
            self.append(&JournalLine::Intend(announced.clone()))?;
        }
        let mut fresh = Vec::new();
        for action in actions {
            match action {
                Action::Allocate { bytes } => self.allocate(bytes, &mut fresh)?,
                Action::Overwrite { held, generation } => {
                    self.write(&held.block, generation)?;
                    let mine = self.held.iter_mut();
                    mine.filter(|mine| mine.block == held.block)
                        .for_each(|mine| mine.generation = generation);
                }
                Action::Free { those } => self.free(&those)?,
                Action::Read { held } => self.read(&held)?,
            }
        }
        self.shared
            .pool
            .flush()
            .map_err(VerifyError::pool("what was done since the last flush"))?;
        self.counts.flushes += 1;
        let mut changes = announced;
        changes.extend(fresh.iter().map(|held| BlockChange::Allocated {
            block: held.block,
            allocation: held.allocation,
            generation: held.generation,
        }));
        self.held.extend(fresh);
        self.report(changes, is_last)
    }

    /// Draws what a step does: to each block one thing at most.
    fn plan(&mut self) -> Result<Vec<Action>, VerifyError> {
        let mut actions = Vec::new();
        let mut taken = BTreeSet::new();
        let mut bytes = self.held.iter().map(|held| held.block.size).sum::<u64>();
        for _ in 0..1 + self.random.below(MAX_ACTIONS_PER_STEP) {
            let kind = self.random.below(8);
            let size = SIZES[self.random.below(SIZES.len())];
            let has_room = bytes + size <= self.budget_bytes;
            if kind < 3 && has_room {
                bytes += size;
                actions.push(Action::Allocate { bytes: size });
                continue;
            }
            let Some(held) = self.pick(&mut taken) else {
                continue;
            };
            actions.push(match kind {
                0 | 1 => {
                    let mut those = vec![held];
                    if self.random.one_in(2) {
                        those.extend(self.pick(&mut taken));
                    }
                    bytes -= those.iter().map(|held| held.block.size).sum::<u64>();
                    Action::Free { those }
                }
                2..=4 => Action::Overwrite {
                    held,
                    generation: self.issue_id()?,
                },
                5 if self.random.one_in(2) => {
                    bytes -= held.block.size;
                    Action::Free { those: vec![held] }
                }
                _ => Action::Read { held },
            });
        }
        Ok(actions)
    }

    /// Draws a block that nothing is planned for yet.
    fn pick(&mut self, taken: &mut BTreeSet<u64>) -> Option<HeldBlock> {
        let held = *self.held.get(self.random.below(self.held.len()))?;
        taken.insert(held.block.offset).then_some(held)
    }

    fn allocate(&mut self, bytes: u64, fresh: &mut Vec<HeldBlock>) -> Result<(), VerifyError> {
        let allocation = self.issue_id()?;
        let tag = self.shared.id.tag(allocation);
        let blocks = match self.shared.pool.allocate(bytes, tag) {
            Ok(blocks) => blocks,
            Err(error) if error.status() == Status::NoSpace => {
                self.counts.without_space += 1;
                return Ok(());
            }
            Err(error) => return Err(VerifyError::pool("an allocation")(error)),
        };
        self.counts.allocated += blocks.len() as u64;
        blocks.iter().try_for_each(|block| self.take(block))?;
        for block in blocks {
            let generation = self.issue_id()?;
            self.write(&block, generation)?;
            let mut held = HeldBlock {
                block,
                allocation,
                generation,
            };
            if self.random.one_in(8) {
                held.generation = self.issue_id()?;
                self.write(&block, held.generation)?;
            }
            self.read(&held)?;
            // A block that is freed before a flush is never in the journal, and its free needs no announcement.
            if self.random.one_in(8) {
                self.free(&[held])?;
            } else {
                fresh.push(held);
            }
        }
        Ok(())
    }

    /// Notes that a block is held, which no part of another held block may be.
    fn take(&self, block: &Block) -> Result<(), VerifyError> {
        let mut all = lock(&self.shared.held);
        let end = block.offset + block.size;
        let before = all.range(..end).next_back();
        if let Some((&offset, _)) = before.filter(|&(_, &other_end)| other_end > block.offset) {
            return Err(VerifyError::BrokenPromise(format!(
                "the pool gave out {} at {:#x}, of which a part is that of the block at \
                 {offset:#x}, which nobody has freed",
                block.block_type, block.offset
            )));
        }
        all.insert(block.offset, end);
        Ok(())
    }

    fn free(&mut self, those: &[HeldBlock]) -> Result<(), VerifyError> {
        let blocks: Vec<Block> = those.iter().map(|held| held.block).collect();
        // Before the free: as soon as that is done, another thread may be given the space.
        let mut all = lock(&self.shared.held);
        for block in &blocks {
            all.remove(&block.offset);
        }
        drop(all);
        self.held.retain(|held| !blocks.contains(&held.block));
        self.shared
            .pool
            .free(&blocks)
            .map_err(VerifyError::pool("a free"))?;
        self.counts.freed += blocks.len() as u64;
        Ok(())
    }

    fn write(&mut self, block: &Block, generation: OperationId) -> Result<(), VerifyError> {
        let mut bytes = vec![0; block.size as usize];
        fill(self.shared.id, block, generation, &mut bytes);
        self.shared
            .pool
            .write(block, &bytes)
            .map_err(VerifyError::pool("a write"))?;
        self.counts.written_blocks += 1;
        self.counts.written_bytes += block.size;
        Ok(())
    }

    fn read(&mut self, held: &HeldBlock) -> Result<(), VerifyError> {
        let block = &held.block;
        let mut bytes = vec![0; block.size as usize];
        self.shared
            .pool
            .read(block, &mut bytes)
            .map_err(VerifyError::pool("a read"))?;
        self.counts.read_blocks += 1;
        examine(self.shared.id, block, &[held.generation], &bytes).map_err(|wrong| {
            VerifyError::BrokenPromise(format!(
                "the block of {} at {:#x} holds {wrong}; written was generation {}",
                block.block_type, block.offset, held.generation
            ))
        })
    }

    /// The id for a further allocation or write.
    fn issue_id(&mut self) -> Result<OperationId, VerifyError> {
        if self.used == self.reserved {
            return Err(VerifyError::NoNumbersLeft);
        }
        self.used += 1;
        Ok(OperationId::new(self.thread, self.used))
    }

    /// Reports in the journal what a flush has made durable. After the last step there is no id left to issue, so that
    /// a check knows that there is no later block.
    fn report(&mut self, changes: Vec<BlockChange>, is_last: bool) -> Result<(), VerifyError> {
        let further = if is_last { 0 } else { IDS_PER_STEP };
        self.reserved = self.used.saturating_add(further);
        self.append(&JournalLine::Flushed(FlushLine {
            thread: self.thread,
            used: self.used,
            reserved: self.reserved,
            changes,
        }))
    }

    fn append(&self, line: &JournalLine) -> Result<(), VerifyError> {
        lock(&self.shared.journal).append(line)
    }
}

/// What is about to be done to flushed blocks: when a step begins, all blocks of a thread are.
fn announcements(actions: &[Action]) -> Vec<BlockChange> {
    let freed = |held: &HeldBlock| BlockChange::Freed {
        offset: held.block.offset,
        allocation: held.allocation,
    };
    let mut changes = Vec::new();
    for action in actions {
        match action {
            Action::Overwrite { held, generation } => changes.push(BlockChange::Overwritten {
                offset: held.block.offset,
                allocation: held.allocation,
                generation: *generation,
            }),
            Action::Free { those } => changes.extend(those.iter().map(freed)),
            Action::Allocate { .. } | Action::Read { .. } => {}
        }
    }
    changes
}

/// Locks also what a thread has held that panicked: it has left nothing half done that others rely on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
