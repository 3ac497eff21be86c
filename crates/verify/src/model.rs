//! What a journal says must be there.

use std::collections::BTreeMap;

use chimaera_bdev_client::{Block, BlockType};

use super::block_contents::{JournalId, OperationId};
use super::line::{BlockChange, FlushLine, JournalLine, PoolIdentity};

/// The state of things that the records up to now promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolModel {
    /// Which journal it is.
    pub id: JournalId,
    /// The pool that it is kept for, unless it was begun by a version that did not note it.
    pub pool: Option<PoolIdentity>,
    /// Blocks whose allocation was flushed and whose free was not, by offset.
    pub(super) live: BTreeMap<u64, LiveBlock>,
    /// Which stamps each thread has given.
    pub(super) threads: BTreeMap<u8, IssuedIds>,
    /// Runs that have begun.
    pub runs: u64,
    /// Records of flushes.
    pub flushes: u64,
}

/// A block that was flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveBlock {
    pub(super) block: Block,
    pub(super) allocation: OperationId,
    /// What was flushed, first, then what may stand there instead, because it was about to be written
    /// since.
    pub(super) generations: Vec<OperationId>,
    /// Whether it was about to be freed: then it may be there or not.
    pub(super) freeing: bool,
}

/// The stamps that a thread has given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IssuedIds {
    /// The last one given before the last flush: every allocation up to it is in the model or was
    /// freed.
    pub(super) used: u32,
    /// The last one that may have been given since.
    pub(super) reserved: u32,
}

/// Why a record does not follow from those before it.
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

    /// Takes over what a record says.
    pub(super) fn apply(&mut self, record: &JournalLine) -> Result<(), Contradiction> {
        match record {
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
        let stamps = self.threads.entry(thread).or_default();
        if used < stamps.used || reserved < used {
            return Err(format!("the stamps of thread {thread} run backwards"));
        }
        *stamps = IssuedIds { used, reserved };
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
                // If another thread was given the space at once, its record may come first.
                if self.block(offset, allocation).is_ok() {
                    self.live.remove(&offset);
                }
                Ok(())
            }
        }
    }

    /// A new block. Its space may be that of blocks that were being freed: then their free is
    /// durable, although its record is still to come, or was lost.
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

    /// How many blocks there must be.
    pub fn block_count(&self) -> usize {
        self.live.len()
    }

    /// Bytes of all live blocks.
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

    fn model(records: &[JournalLine]) -> Result<PoolModel, Contradiction> {
        let mut model = PoolModel::new(JournalId(1));
        records.iter().try_for_each(|record| model.apply(record))?;
        Ok(model)
    }

    #[test]
    fn intents_widen_what_may_be_there_and_flushes_narrow_it() {
        let overwritten = BlockChange::Overwritten {
            offset: 0,
            allocation: A,
            generation: B,
        };
        let mut records = vec![
            flushed(0, 1, &[allocated(0, BlockType::Kib4, A)]),
            JournalLine::Intend(vec![overwritten]),
        ];
        assert_eq!(
            model(&records).expect("agrees").live[&0].generations,
            [A, B]
        );
        records.push(flushed(0, 2, &[overwritten]));
        assert_eq!(model(&records).expect("agrees").live[&0].generations, [B]);
        records.push(JournalLine::Intend(vec![freed(0, A)]));
        assert!(model(&records).expect("agrees").live[&0].freeing);
        records.push(flushed(0, 3, &[freed(0, A)]));
        assert!(model(&records).expect("agrees").live.is_empty());
    }

    #[test]
    fn space_that_is_being_freed_may_have_a_new_owner_before_the_free_is_recorded() {
        let mut records = vec![
            flushed(0, 1, &[allocated(0, BlockType::Mib1, A)]),
            JournalLine::Intend(vec![freed(0, A)]),
            flushed(1, 1, &[allocated(64 << 10, BlockType::Kib64, B)]),
        ];
        let expected = |model: &PoolModel| {
            assert_eq!(model.live.len(), 1);
            assert_eq!(model.live[&(64 << 10)].allocation, B);
        };
        expected(&model(&records).expect("agrees"));
        records.push(flushed(0, 1, &[freed(0, A)]));
        expected(&model(&records).expect("agrees"));
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
