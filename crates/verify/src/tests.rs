//! Runs and checks against a simulated pool that loses its power, and against one that breaks its promises.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::path::Path;

use chimaera_bdev_client::{Block, BlockType, ListedTag, OwnedBlock, OwnerTag};

use super::block_contents::{SECTOR_BYTES, fill};
use super::check::{Findings, check};
use super::ids::{JournalId, OperationId};
use super::journal::{self, WorkloadJournal};
use super::model::{IssuedNumbers, LiveBlock, PoolModel};
use super::run::{RunFailure, RunSummary, run};
use super::simulated_pool::{InjectedFault, SimulatedPool};
use super::split_mix::SplitMix64;
use super::workload::Workload;
use super::workload_thread::RunCounts;

const ID: JournalId = JournalId(0xdead << 100 | 0xbeef);

/// Runs until every thread has flushed this often, or until the power is lost.
fn work(
    pool: &SimulatedPool,
    path: &Path,
    (threads, flushes): (u8, u64),
) -> Result<RunSummary, RunFailure> {
    let journal = WorkloadJournal::open(path, ID).expect("opens");
    let workload = Workload {
        threads: NonZeroU8::new(threads).expect("a thread"),
        seed: 17,
        space_bytes: 5 << 20,
    };
    run(pool, journal, workload, |counts: RunCounts| {
        counts.flushes >= flushes
    })
}

fn find(pool: &SimulatedPool, path: &Path) -> Findings {
    let model = journal::read(path).expect("reads");
    check(&model, pool).expect("checks")
}

#[test]
fn a_pool_that_keeps_its_promises_passes_however_often_it_loses_its_power() {
    for threads in [1, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let pool = SimulatedPool::new(8, u64::from(threads), InjectedFault::None);
        let mut random = SplitMix64::new(99);
        let (mut recent, mut still_there, mut overwritten) = (0, 0, 0);
        for round in 0..40 {
            pool.lose_power_after(20 + random.below(700) as u64);
            let failure = work(&pool, &path, (threads, u64::MAX)).expect_err("the power is lost");
            assert!(failure.error.is_loss(), "{failure:?}");
            pool.restart();
            let findings = find(&pool, &path);
            assert!(findings.violations.is_empty(), "{round}: {findings:?}");
            if let Some(summary) = failure.summary {
                let live = summary.model.live.len() as u64;
                let found = findings.intact + findings.gone + findings.still_there.len() as u64;
                assert_eq!(live, found, "{round}");
            }
            recent += findings.recent.len();
            still_there += findings.still_there.len();
            overwritten += findings.overwritten;
        }
        // Everything has happened that the check has to allow for.
        assert!(recent > 0 && still_there > 0 && overwritten > 0);

        let summary = work(&pool, &path, (threads, 30)).expect("ends well");
        assert!(summary.counts.without_space > 0 || summary.counts.freed > 0);
        pool.lose_power_after(0);
        pool.restart();
        let findings = find(&pool, &path);
        assert!(findings.violations.is_empty(), "{findings:?}");
        assert_eq!(findings.intact, summary.model.live.len() as u64);
        assert_eq!((findings.recent.len(), findings.still_there.len()), (0, 0));
    }
}

#[test]
fn every_broken_promise_is_found() {
    for fault in [
        InjectedFault::FlushForgets,
        InjectedFault::FlushForgetsData,
        InjectedFault::FlushForgetsFrees,
        InjectedFault::GivesOutTooEarly,
        InjectedFault::GivesOutTwice,
        InjectedFault::WritesBeside,
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let pool = SimulatedPool::new(8, 5, fault);
        let mut random = SplitMix64::new(3);
        let found = (0..100).any(|_| {
            pool.lose_power_after(100 + random.below(500) as u64);
            let failure = work(&pool, &path, (2, u64::MAX)).expect_err("it ends");
            let noticed = !failure.error.is_loss();
            pool.restart();
            noticed || !find(&pool, &path).violations.is_empty()
        });
        assert!(found, "{fault:?} goes unseen");
    }
}

/// A model with one block, which the pool holds as it must, and that block.
fn one_block(pool: &SimulatedPool) -> (PoolModel, LiveBlock) {
    let live = LiveBlock {
        block: Block::new(64 << 10, BlockType::Kib64),
        allocation: OperationId::new(2, 5),
        generations: vec![OperationId::new(2, 6)],
        freeing: false,
    };
    let mut model = PoolModel::new(ID);
    let issued = IssuedNumbers {
        used: 10,
        reserved: 20,
    };
    model.threads.insert(2, issued);
    model.live.insert(live.block.offset, live.clone());
    write(pool, &live.block, live.generations[0]);
    own(pool, live.block, ID.tag(live.allocation));
    (model, live)
}

fn write(pool: &SimulatedPool, block: &Block, generation: OperationId) {
    pool.damage(block.offset, |bytes| {
        fill(ID, block, generation, &mut bytes[..block.size as usize]);
    });
}

fn own(pool: &SimulatedPool, block: Block, owner: impl Into<ListedTag>) {
    let owner = owner.into();
    pool.meddle(|blocks| _ = blocks.insert(block.offset, OwnedBlock { block, owner }));
}

fn judge(model: &PoolModel, pool: &SimulatedPool) -> Findings {
    check(model, pool).expect("checks")
}

/// Checks that there is one violation, and that it says this.
fn violation(model: &PoolModel, pool: &SimulatedPool, says: &str) {
    let findings = judge(model, pool);
    assert_eq!(findings.violations.len(), 1, "{findings:?}");
    let text = &findings.violations[0];
    assert!(text.contains(says), "{text}");
}

#[test]
fn what_was_flushed_must_be_there_as_it_was() {
    let pool = SimulatedPool::new(4, 0, InjectedFault::None);
    let (model, live) = one_block(&pool);
    let findings = judge(&model, &pool);
    assert_eq!((findings.intact, findings.bytes), (1, 64 << 10));
    assert!(findings.violations.is_empty());

    write(&pool, &live.block, OperationId::new(2, 7));
    violation(
        &model,
        &pool,
        "generation 2.7 in sector 0, the first of 128",
    );
    write(&pool, &live.block, live.generations[0]);
    pool.damage(live.block.offset, |bytes| {
        bytes[5 * SECTOR_BYTES + 100] ^= 1;
    });
    violation(&model, &pool, "wrong checksum in sector 5");
    write(&pool, &live.block, live.generations[0]);

    pool.meddle(BTreeMap::clear);
    violation(&model, &pool, "is not allocated any more");
    own(
        &pool,
        Block::new(64 << 10, BlockType::Kib4),
        ID.tag(live.allocation),
    );
    let findings = judge(&model, &pool);
    assert_eq!(
        findings.violations.len(),
        2,
        "lost, and unknown: {findings:?}"
    );
    assert!(findings.violations[0].contains("in its place there is"));
}

#[test]
fn what_became_of_a_block_is_told_by_what_is_in_its_place() {
    let pool = SimulatedPool::new(4, 0, InjectedFault::None);
    let (model, live) = one_block(&pool);
    let Block { offset, .. } = live.block;
    let known = ListedTag::Known;
    for (block, owner, says) in [
        (
            live.block,
            ListedTag::Unknown,
            "its owner tag is unknown, as the pool's tags there are damaged, and holds what was flushed",
        ),
        (
            Block::new(0, BlockType::Mib1),
            ListedTag::Unknown,
            "in its place there is a block of 1 MiB at 0x0 with an owner tag that is unknown",
        ),
        (
            live.block,
            known(OwnerTag::NONE),
            "has lost its owner tag: it is allocated without one, and holds what was flushed",
        ),
        (
            live.block,
            known(OwnerTag(77)),
            "in its place there is a block of 64 KiB at 0x10000 with somebody else's owner tag, 77",
        ),
        (
            Block::new(offset + 4096, BlockType::Kib4),
            known(OwnerTag::NONE),
            "in its place there is a block of 4 KiB at 0x11000 with no owner tag",
        ),
        (
            Block::new(0, BlockType::Mib1),
            known(OwnerTag::NONE),
            "in its place there is a block of 1 MiB at 0x0 with no owner tag",
        ),
        (
            Block::new(0, BlockType::Kib64),
            known(OwnerTag::NONE),
            "was flushed and is not allocated any more",
        ),
    ] {
        pool.meddle(BTreeMap::clear);
        own(&pool, block, owner);
        violation(&model, &pool, says);
    }
    pool.meddle(BTreeMap::clear);
    own(&pool, live.block, OwnerTag::NONE);
    pool.damage(offset, |bytes| bytes[..SECTOR_BYTES].fill(0));
    violation(&model, &pool, "and holds zeros in sector 0");
}

#[test]
fn a_block_that_cannot_be_read_is_a_violation_and_the_others_are_looked_at() {
    let pool = SimulatedPool::new(1, 1, InjectedFault::None);
    let (mut model, live) = one_block(&pool);
    pool.fail_to_read(live.block.offset);
    let says = "cannot be read: reading: I/O error";
    violation(&model, &pool, says);
    let second = LiveBlock {
        block: Block::new(256 << 10, BlockType::Kib64),
        allocation: OperationId::new(2, 7),
        ..live.clone()
    };
    model.live.insert(second.block.offset, second.clone());
    write(&pool, &second.block, second.generations[0]);
    own(&pool, second.block, ID.tag(second.allocation));
    violation(&model, &pool, says);
    assert_eq!(judge(&model, &pool).intact, 1);
    own(&pool, live.block, OwnerTag::NONE);
    violation(&model, &pool, "without one, and cannot be read");
}

#[test]
fn an_announced_overwriting_may_have_happened_sector_by_sector() {
    let pool = SimulatedPool::new(4, 0, InjectedFault::None);
    let (mut model, live) = one_block(&pool);
    let newer = OperationId::new(2, 11);
    let mut bytes = vec![0; live.block.size as usize];
    fill(ID, &live.block, newer, &mut bytes);
    let tear = |to: &mut [u8]| to[..7 * SECTOR_BYTES].copy_from_slice(&bytes[..7 * SECTOR_BYTES]);
    pool.damage(live.block.offset, tear);
    violation(&model, &pool, "generation 2.11 in sector 0");
    let announced = model.live.get_mut(&live.block.offset).expect("there");
    announced.generations.push(newer);
    let findings = judge(&model, &pool);
    assert!(findings.violations.is_empty());
    assert_eq!((findings.intact, findings.overwritten), (1, 1));
}

#[test]
fn a_block_that_was_being_freed_may_be_there_or_not_but_not_damaged() {
    let pool = SimulatedPool::new(4, 0, InjectedFault::None);
    let (mut model, live) = one_block(&pool);
    model
        .live
        .get_mut(&live.block.offset)
        .expect("there")
        .freeing = true;
    let findings = judge(&model, &pool);
    assert_eq!(
        (findings.violations.len(), findings.still_there.len()),
        (0, 1)
    );
    pool.damage(live.block.offset, |bytes| bytes[..4096].fill(0));
    violation(&model, &pool, "zeros in sector 0, the first of 8");
    pool.meddle(BTreeMap::clear);
    let findings = judge(&model, &pool);
    assert_eq!((findings.violations.len(), findings.gone), (0, 1));
    // Whose a block with an unknown tag is cannot be told: it must not be freed, and not be called gone.
    own(&pool, live.block, ListedTag::Unknown);
    let findings = judge(&model, &pool);
    assert_eq!((findings.violations.len(), findings.gone), (0, 0));
    assert_eq!((findings.still_there.len(), findings.of_unknown), (0, 1));
}

#[test]
fn a_block_that_the_journal_does_not_know_is_recent_or_a_violation() {
    let block = Block::new(1 << 20, BlockType::Kib4);
    let cases = [
        (ID.tag(OperationId::new(2, 11)), None),
        (ID.tag(OperationId::new(2, 20)), None),
        (
            ID.tag(OperationId::new(2, 10)),
            Some("although its free was flushed"),
        ),
        (
            ID.tag(OperationId::new(2, 5)),
            Some("although its free was flushed"),
        ),
        (ID.tag(OperationId::new(2, 21)), Some("no run has ever")),
        (ID.tag(OperationId::new(3, 1)), Some("no run has ever")),
    ];
    for (tag, expected) in cases {
        let pool = SimulatedPool::new(4, 0, InjectedFault::None);
        let (model, _) = one_block(&pool);
        own(&pool, block, tag);
        match expected {
            None => assert_eq!(judge(&model, &pool).recent, [block]),
            Some(says) => violation(&model, &pool, says),
        }
    }
    let pool = SimulatedPool::new(4, 0, InjectedFault::None);
    let (model, _) = one_block(&pool);
    own(&pool, block, OwnerTag::NONE);
    own(&pool, Block::new(2 << 20, BlockType::Mib1), OwnerTag(77));
    let findings = judge(&model, &pool);
    assert_eq!((findings.of_others, findings.violations.len()), (2, 0));
    own(&pool, block, ListedTag::Unknown);
    let findings = judge(&model, &pool);
    assert_eq!((findings.of_others, findings.of_unknown), (1, 1));
    assert_eq!((findings.recent.len(), findings.violations.len()), (0, 0));
}

#[test]
fn a_run_does_not_go_on_from_a_pool_that_has_lost_something() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal");
    let pool = SimulatedPool::new(8, 1, InjectedFault::None);
    let _ = work(&pool, &path, (1, 10)).expect("ends well");
    pool.meddle(|blocks| _ = blocks.pop_first());
    let before = std::fs::read(&path).expect("reads");
    let failure = work(&pool, &path, (1, 10)).expect_err("lost");
    let text = failure.error.to_string();
    assert!(text.contains("is not allocated any more"), "{text}");
    assert_eq!(std::fs::read(&path).expect("reads"), before);
}
