//! Whether a pool has what a journal promises.

use std::collections::BTreeMap;

use chimaera_bdev_client::{Block, Error, ListedTag, OwnedBlock, OwnerTag, Status};

use super::block_contents::examine;
use super::error::VerifyError;
use super::ids::OperationId;
use super::model::{IssuedNumbers, LiveBlock, PoolModel};
use super::pool::VerifiedPool;

/// What a check has found in a pool.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is not as the journal promises, a sentence each.
    pub violations: Vec<String>,
    /// Blocks that are there, with their contents, and whose free was not announced.
    pub intact: u64,
    /// Bytes of the intact blocks.
    pub bytes: u64,
    /// Intact blocks that an announced overwriting has changed, in part or whole.
    pub overwritten: u64,
    /// Blocks whose free was announced, and which are still there, with their contents.
    pub still_there: Vec<Block>,
    /// Blocks whose free was announced, and which are gone.
    pub gone: u64,
    /// Blocks of the workload's that were allocated after the last flush: the journal promises nothing of them.
    pub recent: Vec<Block>,
    /// Allocated blocks with other owner tags, or none.
    pub of_others: u64,
    /// Allocated blocks whose owner tag is unknown. Where the journal has such a block as flushed, that is a violation.
    pub of_unknown: u64,
}

/// Compares a pool with what its journal promises: every block that was flushed must be there, intact, and none that
/// was freed. Reads every such block, and changes nothing.
///
/// # Errors
/// The pool cannot be listed, or a block cannot be read for another reason than that the device fails, which is a
/// violation.
pub fn check(model: &PoolModel, pool: &impl VerifiedPool) -> Result<Findings, VerifyError> {
    compare(model, pool).map_err(VerifyError::pool("checking the blocks"))
}

fn compare(model: &PoolModel, pool: &impl VerifiedPool) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    let (mut listed, mut all) = (BTreeMap::new(), BTreeMap::new());
    for owned in pool.list()? {
        let OwnedBlock { block, owner } = owned;
        all.insert(block.offset, owned);
        match owner.known().map(|tag| model.id.allocation(tag)) {
            Some(Some(allocation)) => _ = listed.insert(block.offset, (block, allocation)),
            Some(None) => findings.of_others += 1,
            None => findings.of_unknown += 1,
        }
    }
    for live in model.live.values() {
        let there = listed.get(&live.block.offset) == Some(&(live.block, live.allocation));
        if there {
            listed.remove(&live.block.offset);
            findings.examine(model, live, pool)?;
        } else if live.freeing {
            let unknown = OwnedBlock {
                block: live.block,
                owner: ListedTag::Unknown,
            };
            // A block with an unknown tag may be this one or its successor, and is neither gone nor to be freed.
            let may_be_there = all.get(&live.block.offset) == Some(&unknown);
            findings.gone += u64::from(!may_be_there);
        } else {
            let found = in_place_of(&live.block, &all);
            findings.violations.push(lost(model, live, found, pool)?);
        }
    }
    for (block, allocation) in listed.into_values() {
        let issued = model.threads.get(&allocation.thread());
        match explain(allocation, issued.copied().unwrap_or_default()) {
            Ok(()) => findings.recent.push(block),
            Err(why) => findings
                .violations
                .push(format!("{} {why}", describe(&block, allocation))),
        }
    }
    Ok(findings)
}

impl Findings {
    /// Reads a block that is there, and compares its contents.
    fn examine(
        &mut self,
        model: &PoolModel,
        live: &LiveBlock,
        pool: &impl VerifiedPool,
    ) -> Result<(), Error> {
        let block = &live.block;
        let mut bytes = vec![0; block.size as usize];
        if let Some(error) = unreadable(pool.read(block, &mut bytes))? {
            let what = describe(block, live.allocation);
            self.violations
                .push(format!("{what} cannot be read: {error}"));
            return Ok(());
        }
        if let Err(wrong) = examine(model.id, block, &live.generations, &bytes) {
            let expected: Vec<_> = live
                .generations
                .iter()
                .map(OperationId::to_string)
                .collect();
            self.violations.push(format!(
                "{} holds {wrong}; flushed or announced was generation {}",
                describe(block, live.allocation),
                expected.join(" or ")
            ));
            return Ok(());
        }
        if live.freeing {
            self.still_there.push(*block);
            return Ok(());
        }
        self.intact += 1;
        self.bytes += block.size;
        if examine(model.id, block, &live.generations[..1], &bytes).is_err() {
            self.overwritten += 1;
        }
        Ok(())
    }
}

/// Why a block cannot be read, where the device fails. That is a violation of this block's; others may be intact.
///
/// # Errors
/// Any other failure, which says nothing of the block.
fn unreadable(read: Result<(), Error>) -> Result<Option<Error>, Error> {
    match read {
        Ok(()) => Ok(None),
        Err(error) if error.status() == Status::IoError => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Whether a block of the workload's may be there that the journal does not have.
///
/// # Errors
/// Why it may not.
fn explain(allocation: OperationId, issued: IssuedNumbers) -> Result<(), &'static str> {
    let number = allocation.number();
    if number <= issued.used {
        Err("is allocated although its free was flushed")
    } else if number <= issued.reserved {
        Ok(())
    } else {
        Err("is allocated although no run has ever allocated it")
    }
}

/// An allocated block that overlaps this one, if there is one: the one that begins before it or with it, else the first
/// within.
fn in_place_of(block: &Block, all: &BTreeMap<u64, OwnedBlock>) -> Option<OwnedBlock> {
    let end = |owned: &OwnedBlock| owned.block.offset + owned.block.size;
    let before = all.range(..=block.offset).next_back();
    let before = before.filter(|(_, owned)| end(owned) > block.offset);
    let within = || all.range(block.offset..block.offset + block.size).next();
    before.or_else(within).map(|(_, owned)| *owned)
}

/// Says what became of a block that was flushed and is not there with its tag.
fn lost(
    model: &PoolModel,
    live: &LiveBlock,
    found: Option<OwnedBlock>,
    pool: &impl VerifiedPool,
) -> Result<String, Error> {
    let what = describe(&live.block, live.allocation);
    let Some(OwnedBlock { block, owner }) = found else {
        return Ok(format!("{what} was flushed and is not allocated any more"));
    };
    let lacks = match owner {
        ListedTag::Known(OwnerTag::NONE) => {
            Some("has lost its owner tag: it is allocated without one")
        }
        ListedTag::Known(_) => None,
        ListedTag::Unknown => {
            Some("its owner tag is unknown, as the pool's tags there are damaged")
        }
    };
    if let Some(lacks) = lacks.filter(|_| block == live.block) {
        let mut bytes = vec![0; block.size as usize];
        let contents = match unreadable(pool.read(&block, &mut bytes))? {
            Some(error) => format!("cannot be read: {error}"),
            None => match examine(model.id, &block, &live.generations, &bytes) {
                Ok(()) => "holds what was flushed".to_owned(),
                Err(wrong) => format!("holds {wrong}"),
            },
        };
        return Ok(format!("{what} was flushed, and {lacks}, and {contents}"));
    }
    let found = match owner.known().and_then(|tag| model.id.allocation(tag)) {
        Some(allocation) => describe(&block, allocation),
        None => format!(
            "a block of {} at {:#x} with {}",
            block.block_type,
            block.offset,
            match owner {
                ListedTag::Known(OwnerTag::NONE) => "no owner tag".to_owned(),
                ListedTag::Known(OwnerTag(tag)) => format!("somebody else's owner tag, {tag}"),
                ListedTag::Unknown => "an owner tag that is unknown".to_owned(),
            }
        ),
    };
    Ok(format!(
        "{what} was flushed, and in its place there is {found}"
    ))
}

fn describe(block: &Block, allocation: OperationId) -> String {
    format!(
        "the block of {} at {:#x}, allocation {allocation},",
        block.block_type, block.offset
    )
}
