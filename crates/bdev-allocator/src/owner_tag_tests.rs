//! Owner tags that wait for a commit: how many there may be, who asks for the commit, and what it takes.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use chimaera_bdev_proto::BlockType::{Kib4, Kib64, Kib256, Mib1};
use chimaera_bdev_proto::{AllocationPlan, BlockType, OwnerTag};

use super::*;
use crate::owner_tags::{KEPT_CAPACITY, SHARDS, SPARE_FACTOR};
use crate::test_support::limits;
use crate::tests::{CompletedFrees, TestAllocator};

const BOUNDS: TagBounds = TagBounds {
    asking: 8,
    full: 16,
};

fn bounded(megabytes: u64, bounds: TagBounds) -> TestAllocator {
    let allocator = TestAllocator::persistent_with(megabytes * MEGABYTE, Threads::Many, bounds);
    allocator.expect("address space")
}

fn allocate(
    allocator: &TestAllocator,
    block_type: BlockType,
    count: u64,
    tag: u64,
) -> Result<Vec<Block>, Status> {
    let mut blocks = Vec::new();
    let plan = AllocationPlan { block_type, count };
    allocator.allocate(plan, OwnerTag(tag), 0, |block| blocks.push(block))?;
    Ok(blocks)
}

fn unit_of(block: Block) -> u64 {
    block.offset / UNIT_BYTES
}

/// Commits all that has changed, and gives the tags, by first unit.
fn commit(allocator: &TestAllocator) -> BTreeMap<u64, OwnerTag> {
    let part = allocator.collect_changes(0, limits(usize::MAX));
    assert_eq!(part.next, None);
    allocator.settle(&part.changes);
    let changes = part.changes.into_iter();
    changes.flat_map(|change| change.allocated).collect()
}

#[test]
fn where_as_many_tags_are_held_as_may_be_no_more_come_before_a_commit() {
    let allocator = bounded(8, BOUNDS);
    let mut expected = BTreeMap::new();
    for tag in 1..=BOUNDS.full {
        let block_type = [Kib4, Kib64, Kib256][tag as usize % 3];
        let block = allocate(&allocator, block_type, 1, tag).expect("room")[0];
        expected.insert(unit_of(block), OwnerTag(tag));
    }
    let left = allocator.remaining_bytes();
    for block_type in [Kib4, Kib64, Kib256] {
        assert_eq!(allocate(&allocator, block_type, 1, 9), Err(Status::Busy));
    }
    assert_eq!(allocator.remaining_bytes(), left, "nothing has changed");
    assert_eq!(allocator.held_tags(), BOUNDS.full);
    // Blocks without a tag, and those of a megabyte, need no room for tags.
    let untagged = allocate(&allocator, Kib4, 1, 0).expect("room")[0];
    let megabytes = allocate(&allocator, Mib1, 2, 99).expect("room");
    assert_eq!(allocator.held_tags(), BOUNDS.full);
    expected.insert(unit_of(untagged), OwnerTag::NONE);
    expected.extend(
        megabytes
            .iter()
            .map(|block| (unit_of(*block), OwnerTag(99))),
    );
    assert_eq!(commit(&allocator), expected);
    assert_eq!(allocator.held_tags(), 0);
    allocate(&allocator, Kib4, 1, 9).expect("there is room again");
}

#[test]
fn a_pool_in_memory_holds_any_number_of_tags() {
    let allocator = TestAllocator::new(4 << 30, Threads::One).expect("address space");
    for tag in 1..=MAX_HELD_TAGS + 1 {
        allocate(&allocator, Kib4, 1, tag).expect("room");
        assert!(!allocator.wants_commit());
    }
    assert_eq!(allocator.held_tags(), MAX_HELD_TAGS + 1);
}

#[test]
fn one_thread_is_told_to_ask_for_a_commit_until_one_begins() {
    let allocator = bounded(8, BOUNDS);
    for round in 0..3 {
        for tag in 1..=BOUNDS.full {
            allocate(&allocator, Kib4, 1, tag).expect("room");
            assert_eq!(
                allocator.wants_commit(),
                tag == BOUNDS.asking,
                "round {round}"
            );
        }
        assert_eq!(commit(&allocator).len() as u64, BOUNDS.full);
        assert!(!allocator.wants_commit(), "there is no tag");
    }
}

#[test]
fn tags_are_not_held_of_blocks_that_were_not_allocated_or_are_dead() {
    let allocator = bounded(1, BOUNDS);
    allocate(&allocator, Mib1, 1, 1).expect("room");
    assert_eq!(allocate(&allocator, Kib4, 1, 2), Err(Status::NoSpace));
    assert_eq!(allocator.held_tags(), 0);

    let allocator = bounded(2, BOUNDS);
    for waits in [false, true] {
        let block = allocate(&allocator, Kib64, 1, 3).expect("room")[0];
        let megabyte = allocate(&allocator, Mib1, 1, 4).expect("room")[0];
        let pins = waits.then(|| [block, megabyte].map(|block| allocator.pin(block)));
        assert_eq!(allocator.held_tags(), 1);
        let freed = CompletedFrees::default();
        let free = allocator.free(&[block, megabyte], freed.clone());
        assert!(free.is_ok());
        assert_eq!(allocator.held_tags(), 0, "I/O in flight: {waits}");
        assert_eq!(freed.count(), usize::from(!waits));
        for pin in pins.into_iter().flatten() {
            allocator.unpin(pin.expect("they were live"));
        }
        assert_eq!(freed.count(), 1);
        assert!(commit(&allocator).is_empty(), "nobody else's tag either");
        for tag in [0, 5] {
            // The next blocks in these places have their own tags, or none.
            let blocks = [Kib64, Mib1]
                .map(|block_type| allocate(&allocator, block_type, 1, tag).expect("room")[0]);
            assert_eq!(blocks, [block, megabyte]);
            let of = |index| allocator.list(index)[0].1;
            let listed = blocks.map(|block| of((block.offset / MEGABYTE) as usize));
            assert_eq!(listed, [Some(OwnerTag(tag)); 2]);
            assert!(allocator.free(&blocks, CompletedFrees::default()).is_ok());
        }
    }
}

#[test]
fn a_commit_comes_in_parts_of_so_many_tags_and_leaves_none_out() {
    const MEGABYTES: usize = 6;
    let allocator = bounded(MEGABYTES as u64, TagBounds::PERSISTENT);
    let mut expected = BTreeMap::new();
    for number in 0..MEGABYTES as u64 * UNITS {
        // Those without a tag are listed too, as soon as there are tags.
        let tag = (number + 1) % 3;
        let block = allocate(&allocator, Kib4, 1, tag).expect("room")[0];
        expected.insert(unit_of(block), OwnerTag(tag));
    }
    let limits = CommitLimits {
        max_megabytes: 100,
        max_tags: 300,
    };
    let (mut found, mut first, mut parts) = (BTreeMap::new(), Some(0), 0);
    while let Some(start) = first {
        let part = allocator.collect_changes(start, limits);
        let tags = part.changes.iter().map(|change| change.allocated.len());
        assert_eq!(tags.sum::<usize>(), 2 * UNITS as usize, "part {parts}");
        allocator.settle(&part.changes);
        let changes = part.changes.into_iter();
        found.extend(changes.flat_map(|change| change.allocated));
        (first, parts) = (part.next, parts + 1);
    }
    assert_eq!((parts, found), (MEGABYTES / 2, expected));
    assert_eq!(allocator.held_tags(), 0);
}

#[test]
fn tables_that_were_full_one_after_another_do_not_keep_their_memory() {
    const TAGS: usize = 20_000;
    let megabytes = SHARDS * TAGS.div_ceil(UNITS as usize);
    let tags = OwnerTags::new(megabytes, TagBounds::PERSISTENT).expect("address space");
    let slot = |number| Slot {
        block_type: Kib4,
        number: number % UNITS as usize,
    };
    let most = |held: usize| SPARE_FACTOR * held + SHARDS * 2 * KEPT_CAPACITY;
    for shard in 0..SHARDS {
        let index = |number: usize| shard + SHARDS * (number / UNITS as usize);
        for number in 0..TAGS {
            assert!(tags.admit());
            tags.insert(index(number), slot(number), OwnerTag(1));
        }
        assert!(tags.capacity() >= TAGS && tags.capacity() <= most(TAGS));
        for number in 1..TAGS {
            assert_eq!(tags.take(index(number), slot(number)), OwnerTag(1));
            let held = TAGS - number + shard;
            assert_eq!(tags.held(), held as u64);
            assert!(tags.capacity() <= most(held), "{held} tags");
        }
        assert_eq!(tags.get(index(0), slot(0)), OwnerTag(1), "it is left");
    }
}

/// Threads allocate with tags, and now and then free, as another one commits when it is asked to, or when there is no
/// room. No tag gets lost, and there are never more than there may be.
#[test]
fn many_threads_hold_no_more_tags_than_there_may_be_and_lose_none() {
    const THREADS: u64 = 4;
    const BLOCKS: u64 = 20_000;
    let bounds = TagBounds {
        asking: 100,
        full: 200,
    };
    let allocator = bounded(400, bounds);
    let asked = AtomicBool::new(false);
    let (mut committed, mut live) = (BTreeMap::new(), BTreeMap::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=THREADS)
            .map(|thread| {
                let (allocator, asked) = (&allocator, &asked);
                scope.spawn(move || {
                    let mut mine = BTreeMap::new();
                    for number in 0..BLOCKS {
                        let tag = OwnerTag(thread << 32 | number);
                        let block = loop {
                            match allocate(allocator, Kib4, 1, tag.0) {
                                Ok(blocks) => break blocks[0],
                                Err(status) => assert_eq!(status, Status::Busy),
                            }
                            asked.store(true, Ordering::Relaxed);
                            std::thread::yield_now();
                        };
                        if allocator.wants_commit() {
                            asked.store(true, Ordering::Relaxed);
                        }
                        // A thread may be counted that has no tag yet, or is being refused.
                        assert!(allocator.held_tags() <= bounds.full + THREADS);
                        if number % 5 == 0 {
                            allocator.free_now(&[block]).expect("live");
                        } else {
                            mine.insert(unit_of(block), tag);
                        }
                    }
                    mine
                })
            })
            .collect();
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            if asked.swap(false, Ordering::Relaxed) {
                committed.extend(commit(&allocator));
            } else {
                std::thread::yield_now();
            }
        }
        let ends = threads.into_iter().map(ScopedJoinHandle::join);
        ends.for_each(|mine| live.extend(mine.expect("no panic")));
    });
    committed.extend(commit(&allocator));
    assert_eq!(allocator.held_tags(), 0);
    // Of freed blocks too, if a commit came in between: another block has come to their places since, or none.
    committed.retain(|unit, _| live.contains_key(unit));
    assert!(committed == live, "a tag was lost");
}
