//! A pool in memory that keeps its promises and can lose its power at any operation. It can also be told to break a
//! promise, so that tests see the check fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use chimaera_bdev_client::{AllocationPlan, Block, Error, OwnedBlock, OwnerTag, Status};

use super::block_contents::SECTOR_BYTES;
use super::pool::VerifiedPool;
use super::split_mix::SplitMix64;
use super::workload_thread::lock;

/// The promise that a simulated pool breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InjectedFault {
    None,
    /// A flush succeeds and does nothing.
    FlushForgets,
    /// A flush makes allocations and frees durable, and not the data.
    FlushForgetsData,
    /// A flush makes the data durable, and not frees.
    FlushForgetsFrees,
    /// Space is given out again before its free is durable.
    GivesOutTooEarly,
    /// Space is given out that is in use.
    GivesOutTwice,
    /// Some writes go to the space behind their block.
    WritesBeside,
}

/// What a pool holds.
#[derive(Clone, Default)]
struct PoolImage {
    blocks: BTreeMap<u64, OwnedBlock>,
    bytes: Vec<u8>,
}

/// A pool in memory.
pub(super) struct SimulatedPool {
    fault: InjectedFault,
    state: Mutex<State>,
}

struct State {
    /// What a crash cannot take away.
    durable: PoolImage,
    current: PoolImage,
    /// How many operations are left until the power is lost.
    left: Option<u64>,
    /// Offsets of blocks at which the device fails.
    unreadable: BTreeSet<u64>,
    random: SplitMix64,
}

impl SimulatedPool {
    pub(super) fn new(megabytes: usize, seed: u64, fault: InjectedFault) -> Self {
        let image = PoolImage {
            blocks: BTreeMap::new(),
            bytes: vec![0; megabytes << 20],
        };
        Self {
            fault,
            state: Mutex::new(State {
                durable: image.clone(),
                current: image,
                left: None,
                unreadable: BTreeSet::new(),
                random: SplitMix64::new(seed),
            }),
        }
    }

    /// Loses the power after this many operations.
    pub(super) fn lose_power_after(&self, operations: u64) {
        lock(&self.state).left = Some(operations);
    }

    /// Comes back after the power was lost, with what was flushed and some of what was not.
    pub(super) fn restart(&self) {
        let mut state = lock(&self.state);
        let State {
            durable,
            current,
            left,
            random,
            ..
        } = &mut *state;
        *left = None;
        for (durable, current) in durable
            .bytes
            .chunks_exact_mut(SECTOR_BYTES)
            .zip(current.bytes.chunks_exact(SECTOR_BYTES))
        {
            if random.one_in(2) {
                durable.copy_from_slice(current);
            }
        }
        durable
            .blocks
            .retain(|offset, owned| current.blocks.get(offset) == Some(owned) || random.one_in(2));
        for &owned in current.blocks.values() {
            if is_free(durable, owned.block) && random.one_in(2) {
                durable.blocks.insert(owned.block.offset, owned);
            }
        }
        *current = durable.clone();
    }

    /// Changes the bytes from an offset on, unknown to the workload.
    pub(super) fn damage(&self, offset: u64, change: impl FnOnce(&mut [u8])) {
        change(&mut lock(&self.state).current.bytes[offset as usize..]);
    }

    /// Makes the device fail to read the block at an offset from here on.
    pub(super) fn fail_to_read(&self, offset: u64) {
        lock(&self.state).unreadable.insert(offset);
    }

    /// Changes what is allocated, unknown to the workload.
    pub(super) fn meddle(&self, change: impl FnOnce(&mut BTreeMap<u64, OwnedBlock>)) {
        change(&mut lock(&self.state).current.blocks);
    }

    fn begin(&self, what: &str) -> Result<std::sync::MutexGuard<'_, State>, Error> {
        let mut state = lock(&self.state);
        match &mut state.left {
            Some(0) => return Err(Error::new(Status::ConnectionLost, what)),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(state)
    }
}

impl State {
    fn flush(&mut self, fault: InjectedFault) {
        match fault {
            InjectedFault::FlushForgets => {}
            InjectedFault::FlushForgetsData => self.durable.blocks = self.current.blocks.clone(),
            InjectedFault::FlushForgetsFrees => {
                self.durable.bytes = self.current.bytes.clone();
                let blocks = self.current.blocks.clone();
                let durable = &mut self.durable.blocks;
                durable.retain(|_, old| blocks.values().all(|new| !overlap(old.block, new.block)));
                durable.extend(blocks);
            }
            _ => self.durable = self.current.clone(),
        }
    }

    fn find(&self, size: u64, fault: InjectedFault) -> Option<u64> {
        let block = |offset| Block {
            offset,
            ..Block::new(0, AllocationPlan::for_size(size).block_type)
        };
        let end = self.current.bytes.len() as u64;
        (0..end / size).map(|index| index * size).find(|&offset| {
            let early = fault == InjectedFault::GivesOutTooEarly;
            is_free(&self.current, block(offset))
                && (early || is_free(&self.durable, block(offset)))
        })
    }
}

fn overlap(a: Block, b: Block) -> bool {
    a.offset < b.offset + b.size && b.offset < a.offset + a.size
}

fn is_free(image: &PoolImage, block: Block) -> bool {
    let from = block.offset.saturating_sub(1 << 20);
    let mut near = image.blocks.range(from..block.offset + block.size);
    near.all(|(_, owned)| !overlap(owned.block, block))
}

impl VerifiedPool for SimulatedPool {
    fn allocate(&self, bytes: u64, owner: OwnerTag) -> Result<Vec<Block>, Error> {
        let mut state = self.begin("allocating")?;
        let plan = AllocationPlan::for_size(bytes);
        let mut blocks: Vec<Block> = Vec::new();
        for _ in 0..plan.count {
            let size = plan.block_type.size();
            let mut offset = state.find(size, self.fault);
            if self.fault == InjectedFault::GivesOutTwice && state.random.one_in(20) {
                offset = Some(0);
            }
            if offset.is_none() && blocks.is_empty() {
                // A flush makes frees durable, and so their space available.
                state.flush(self.fault);
                offset = state.find(size, self.fault);
            }
            let Some(offset) = offset else {
                for block in blocks {
                    state.current.blocks.remove(&block.offset);
                }
                return Err(Error::new(Status::NoSpace, "allocating"));
            };
            let block = Block::new(offset, plan.block_type);
            let owned = OwnedBlock::new(block, owner);
            state.current.blocks.insert(offset, owned);
            blocks.push(block);
        }
        Ok(blocks)
    }

    fn free(&self, blocks: &[Block]) -> Result<(), Error> {
        let mut state = self.begin("freeing")?;
        for block in blocks {
            let removed = state.current.blocks.remove(&block.offset);
            if removed.map(|owned| owned.block) != Some(*block) {
                return Err(Error::new(Status::DoubleFree, "freeing"));
            }
        }
        Ok(())
    }

    fn write(&self, block: &Block, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.begin("writing")?;
        if state
            .current
            .blocks
            .get(&block.offset)
            .map(|owned| owned.block)
            != Some(*block)
        {
            return Err(Error::new(Status::NotAllocated, "writing"));
        }
        let mut offset = block.offset as usize;
        let beside = offset + bytes.len();
        let end = state.current.bytes.len();
        let goes_astray = self.fault == InjectedFault::WritesBeside && state.random.one_in(20);
        if goes_astray && beside + bytes.len() <= end {
            offset = beside;
        }
        state.current.bytes[offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, block: &Block, bytes: &mut [u8]) -> Result<(), Error> {
        let state = self.begin("reading")?;
        if state.unreadable.contains(&block.offset) {
            return Err(Error::new(Status::IoError, "reading"));
        }
        bytes.copy_from_slice(&state.current.bytes[block.offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.begin("flushing")?.flush(self.fault);
        Ok(())
    }

    fn list(&self) -> Result<Vec<OwnedBlock>, Error> {
        Ok(self
            .begin("listing")?
            .current
            .blocks
            .values()
            .copied()
            .collect())
    }
}
