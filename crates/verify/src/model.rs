//! What a pool must hold, as its journal says.

use std::collections::BTreeMap;

use chimaera_bdev_client::{Block, BlockType};

use super::ids::{JournalId, OperationId};
use super::line::{BlockChange, FlushLine, JournalLine};
use super::pool::PoolIdentity;

/// What the lines of a journal promise of a pool, up to the last of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolModel {
    /// The journal's id.
    pub id: JournalId,
    /// The pool that the journal is kept for. `None` if only versions that did not note it have written the journal.
    pub pool: Option<PoolIdentity>,
    /// Blocks whose allocation was flushed and whose free was not, by offset.
    pub(super) live: BTreeMap<u64, LiveBlock>,
    /// Which numbers each thread of the workload has issued.
    pub(super) threads: BTreeMap<u8, IssuedNumbers>,
    /// How many runs have begun.
    pub runs: u64,
    /// How many lines report a flush.
    pub flushes: u64,
}

/// A block whose allocation was flushed and whose free was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveBlock {
    pub(super) block: Block,
    pub(super) allocation: OperationId,
    /// The generation that was flushed, then those that a later overwriting may have put there, in part or whole.
    pub(super) generations: Vec<OperationId>,
    /// Whether a free was announced: then the block may be there or not.
    pub(super) freeing: bool,
}

/// Which numbers a thread of the workload has issued for its operation ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IssuedNumbers {
    /// The last one before the last flush: every allocation up to it is in the model or was freed.
    pub(super) used: u32,
    /// The last one that may have been issued since.
    pub(super) reserved: u32,
}

/// Why a line does not follow from those before it.
pub(super) type Contradiction = String;

impl PoolModel {
    pub(super) const fn new(id: JournalId) -> Self {
        Self {
            id,
            pool: None,
            live: BTreeMap::new(),
            threads: BTreeMap::new(),
            runs: 0,
            flushes: 0,
        }
    }

    /// Takes over what a line says.
    pub(super) fn apply(&mut self, line: &JournalLine) -> Result<(), Contradiction> {
        match line {
            JournalLine::Header(_) => Err("a second beginning".to_owned()),
            JournalLine::Pool(pool) => {
                self.pool = Some(pool.clone());
                Ok(())
            }
            JournalLine::Begin { .. } => {
                self.runs += 1;
                Ok(())
            }
            JournalLine::Intend(changes) => {
                changes.iter().try_for_each(|change| self.intend(*change))
            }
            JournalLine::Flushed(flushed) => self.flushed(flushed),
        }
    }

    fn intend(&mut self, change: BlockChange) -> Result<(), Contradiction> {
        match change {
            BlockChange::Allocated { .. } => Err("an allocation that is only intended".to_owned()),
            BlockChange::Overwritten {
                offset,
                allocation,
                generation,
            } => {
                self.block(offset, allocation)?.generations.push(generation);
                Ok(())
            }
            BlockChange::Freed { offset, allocation } => {
                self.block(offset, allocation)?.freeing = true;
                Ok(())
            }
        }
    }

    fn flushed(&mut self, flushed: &FlushLine) -> Result<(), Contradiction> {
        let &FlushLine {
            thread,
            used,
            reserved,
            ref changes,
        } = flushed;
        let issued = self.threads.entry(thread).or_default();
        if used < issued.used || reserved < used {
            return Err(format!("the numbers of thread {thread} run backwards"));
        }
        *issued = IssuedNumbers { used, reserved };
        self.flushes += 1;
        changes.iter().try_for_each(|change| self.change(*change))
    }

    fn change(&mut self, change: BlockChange) -> Result<(), Contradiction> {
        match change {
            BlockChange::Allocated {
                block,
                allocation,
                generation,
            } => self.allocated(LiveBlock {
                block,
                allocation,
                generations: vec![generation],
                freeing: false,
            }),
            BlockChange::Overwritten {
                offset,
                allocation,
                generation,
            } => {
                self.block(offset, allocation)?.generations = vec![generation];
                Ok(())
            }
            BlockChange::Freed { offset, allocation } => {
                // Where another thread was given the space at once, that thread's line may have come first.
                if self.block(offset, allocation).is_ok() {
                    self.live.remove(&offset);
                }
                Ok(())
            }
        }
    }

    /// Adds a new block. Its space may be that of blocks that were being freed: then their free is durable, although
    /// the line that reports it is still to come, or was lost.
    fn allocated(&mut self, new: LiveBlock) -> Result<(), Contradiction> {
        let block = new.block;
        for offset in self.overlapping(block) {
            if !self.live[&offset].freeing {
                return Err(format!(
                    "the blocks at {offset:#x} and {:#x} overlap",
                    block.offset
                ));
            }
            self.live.remove(&offset);
        }
        self.live.insert(block.offset, new);
        Ok(())
    }

    fn overlapping(&self, block: Block) -> Vec<u64> {
        let largest = BlockType::Mib1.size();
        let from = block.offset.saturating_sub(largest - 1);
        let end = block.offset.saturating_add(block.size);
        let near = self.live.range(from..end);
        near.filter(|(_, live)| live.block.offset.saturating_add(live.block.size) > block.offset)
            .map(|(&offset, _)| offset)
            .collect()
    }

    fn block(
        &mut self,
        offset: u64,
        allocation: OperationId,
    ) -> Result<&mut LiveBlock, Contradiction> {
        let live = self.live.get_mut(&offset);
        live.filter(|live| live.allocation == allocation)
            .ok_or_else(|| format!("there is no block at {offset:#x} with allocation {allocation}"))
    }

    /// How many blocks were flushed and not freed.
    pub fn block_count(&self) -> usize {
        self.live.len()
    }

    /// Bytes of these blocks.
    pub fn bytes(&self) -> u64 {
        self.live.values().map(|live| live.block.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: OperationId = OperationId::new(0, 1);
    const B: OperationId = OperationId::new(1, 1);

    fn allocated(offset: u64, block_type: BlockType, allocation: OperationId) -> BlockChange {
        BlockChange::Allocated {
            block: Block::new(offset, block_type),
            allocation,
            generation: allocation,
        }
    }

    fn freed(offset: u64, allocation: OperationId) -> BlockChange {
        BlockChange::Freed { offset, allocation }
    }

    fn flushed(thread: u8, used: u32, changes: &[BlockChange]) -> JournalLine {
        JournalLine::Flushed(FlushLine {
            thread,
            used,
            reserved: used + 10,
            changes: changes.to_vec(),
        })
    }

    fn model(lines: &[JournalLine]) -> Result<PoolModel, Contradiction> {
        let mut model = PoolModel::new(JournalId(1));
        lines.iter().try_for_each(|line| model.apply(line))?;
        Ok(model)
    }

    #[test]
    fn intents_widen_what_may_be_there_and_flushes_narrow_it() {
        let overwritten = BlockChange::Overwritten {
            offset: 0,
            allocation: A,
            generation: B,
        };
        let mut lines = vec![
            flushed(0, 1, &[allocated(0, BlockType::Kib4, A)]),
            JournalLine::Intend(vec![overwritten]),
        ];
        assert_eq!(model(&lines).expect("agrees").live[&0].generations, [A, B]);
        lines.push(flushed(0, 2, &[overwritten]));
        assert_eq!(model(&lines).expect("agrees").live[&0].generations, [B]);
        lines.push(JournalLine::Intend(vec![freed(0, A)]));
        assert!(model(&lines).expect("agrees").live[&0].freeing);
        lines.push(flushed(0, 3, &[freed(0, A)]));
        assert!(model(&lines).expect("agrees").live.is_empty());
    }

    #[test]
    fn space_that_is_being_freed_may_have_a_new_owner_before_the_free_is_reported() {
        let mut lines = vec![
            flushed(0, 1, &[allocated(0, BlockType::Mib1, A)]),
            JournalLine::Intend(vec![freed(0, A)]),
            flushed(1, 1, &[allocated(64 << 10, BlockType::Kib64, B)]),
        ];
        let expected = |model: &PoolModel| {
            assert_eq!(model.live.len(), 1);
            assert_eq!(model.live[&(64 << 10)].allocation, B);
        };
        expected(&model(&lines).expect("agrees"));
        lines.push(flushed(0, 1, &[freed(0, A)]));
        expected(&model(&lines).expect("agrees"));
    }

    #[test]
    fn contradictions_are_found() {
        let one = flushed(0, 5, &[allocated(0, BlockType::Mib1, A)]);
        let overlapping = allocated(4096, BlockType::Kib4, B);
        for wrong in [
            flushed(1, 1, &[overlapping]),
            flushed(0, 4, &[]),
            JournalLine::Intend(vec![freed(0, B)]),
            JournalLine::Intend(vec![freed(4096, A)]),
            JournalLine::Intend(vec![overlapping]),
            JournalLine::Header(JournalId(2)),
        ] {
            let text = format!("{wrong:?}");
            assert!(model(&[one.clone(), wrong]).is_err(), "{text}");
        }
    }
}
