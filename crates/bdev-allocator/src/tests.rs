//! What the allocator promises, promise by promise.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use chimaera_bdev_proto::BlockType::{Kib4, Kib64, Kib256, Mib1};
use chimaera_bdev_proto::{AllocationPlan, BlockType, OwnerTag};

use super::*;
use crate::failpoint::{Failpoint, arm};
use crate::test_support::limits;

/// How long a test waits for another thread.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts completed frees.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompletedFrees(Arc<AtomicUsize>);

impl CompletedFrees {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl FreeCompletion for CompletedFrees {
    fn freed(self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) type TestAllocator = Allocator<CompletedFrees>;

impl TestAllocator {
    pub(crate) fn allocate_list(&self, size: u64, worker: usize) -> Result<Vec<Block>, Status> {
        let mut blocks = Vec::new();
        self.allocate(
            AllocationPlan::for_size(size),
            OwnerTag::NONE,
            worker,
            |block| {
                blocks.push(block);
            },
        )?;
        Ok(blocks)
    }

    pub(crate) fn allocate_one(&self, block_type: BlockType) -> Result<Block, Status> {
        self.allocate_list(block_type.size(), 0)
            .map(|blocks| blocks[0])
    }

    /// Frees blocks where no I/O can hold the free up.
    pub(crate) fn free_now(&self, blocks: &[Block]) -> Result<(), FreeError> {
        let done = CompletedFrees::default();
        self.free(blocks, done.clone())
            .map_err(|(error, _)| error)?;
        assert_eq!(done.count(), 1);
        Ok(())
    }
}

fn allocator(total_bytes: u64) -> TestAllocator {
    Allocator::new(total_bytes, Threads::Many).expect("address space")
}

#[test]
fn sizes_that_no_pool_has_are_refused() {
    for size in [0, 4095, TestAllocator::MAX_TOTAL_BYTES + 1, u64::MAX] {
        assert!(TestAllocator::new(size, Threads::Many).is_err(), "{size}");
    }
    assert_eq!(allocator(4097).total_bytes(), 4096);
}

#[test]
fn the_last_unit_of_an_odd_pool_is_used_and_nothing_beyond_it() {
    let total = 2 * MEGABYTE + 100 * 1024;
    let allocator = allocator(total + 5);
    assert_eq!(allocator.remaining_bytes(), total);
    let tail = allocator.allocate_one(Kib64).expect("the tail has a slot");
    assert_eq!(tail.offset, 2 * MEGABYTE, "the tail is broken already");
    let megabytes = allocator
        .allocate_list(2 * MEGABYTE, 0)
        .expect("two are whole");
    assert_eq!(allocator.allocate_one(Mib1), Err(Status::NoSpace));
    assert_eq!(allocator.allocate_one(Kib64), Err(Status::NoSpace));
    for unit in 16..25 {
        let block = allocator.allocate_one(Kib4).expect("units are left");
        assert_eq!(block.offset, 2 * MEGABYTE + unit * UNIT_BYTES);
    }
    assert_eq!(allocator.allocate_one(Kib4), Err(Status::NoSpace));
    assert_eq!(allocator.remaining_bytes(), 0);
    allocator.free_now(&megabytes).expect("they are live");
    assert_eq!(allocator.remaining_bytes(), 2 * MEGABYTE);
}

#[test]
fn allocation_is_all_or_nothing() {
    let allocator = allocator(10 * MEGABYTE);
    let first = allocator
        .allocate_list(8 * MEGABYTE, 0)
        .expect("there are ten");
    assert_eq!(first.len(), 8);
    assert_eq!(
        allocator.allocate_list(3 * MEGABYTE, 0),
        Err(Status::NoSpace)
    );
    assert_eq!(allocator.remaining_bytes(), 2 * MEGABYTE);
    assert_eq!(allocator.allocate_list(u64::MAX, 0), Err(Status::NoSpace));
    assert_eq!(allocator.allocate_list(0, 0), Ok(vec![]));
    let several = AllocationPlan {
        block_type: Kib4,
        count: 2,
    };
    assert_eq!(
        allocator.allocate(several, OwnerTag::NONE, 0, |_| unreachable!()),
        Err(Status::InvalidArgument)
    );
}

#[test]
fn only_live_blocks_are_pinned_and_freed() {
    let allocator = allocator(4 * MEGABYTE);
    let block = allocator.allocate_one(Kib64).expect("empty pool");
    let wrong_type = Block::new(block.offset, Kib4);
    let elsewhere = Block::new(block.offset + block.size, Kib64);
    let shifted = Block {
        offset: block.offset + 4096,
        ..block
    };
    let resized = Block {
        size: 4096,
        ..block
    };
    let beyond = Block::new(4 * MEGABYTE, Kib4);
    let overflowing = Block::new(u64::MAX - 4095, Kib4);
    for (bad, pinned, freed) in [
        (wrong_type, Status::WrongSize, Status::WrongSize),
        (Block::new(0, Mib1), Status::WrongSize, Status::WrongSize),
        (
            Block::new(block.offset + 4096, Kib4),
            Status::WrongSize,
            Status::WrongSize,
        ),
        (elsewhere, Status::NotAllocated, Status::DoubleFree),
        (shifted, Status::WrongSize, Status::WrongSize),
        (resized, Status::WrongSize, Status::WrongSize),
        (beyond, Status::OutOfRange, Status::OutOfRange),
        (overflowing, Status::OutOfRange, Status::OutOfRange),
    ] {
        assert_eq!(allocator.pin(bad), Err(pinned), "{bad:?}");
        assert_eq!(
            allocator.free_now(&[bad]),
            Err(FreeError {
                position: 0,
                status: freed
            })
        );
        let error = allocator.free_now(&[block, bad]).expect_err("one is bad");
        assert_eq!(
            error,
            FreeError {
                position: 1,
                status: freed
            }
        );
        allocator.unpin(allocator.pin(block).expect("it is as live as before"));
    }
    let error = allocator
        .free_now(&[block, block])
        .expect_err("named twice");
    assert_eq!(
        error,
        FreeError {
            position: 1,
            status: Status::DoubleFree
        }
    );
    allocator.free_now(&[block]).expect("live still");
    assert_eq!(allocator.pin(block), Err(Status::NotAllocated));
    assert_eq!(allocator.remaining_bytes(), 4 * MEGABYTE);
}

#[test]
fn a_free_waits_for_io_accepted_before_and_for_no_other() {
    let allocator = allocator(MEGABYTE);
    let (first, second) = (
        allocator.allocate_one(Kib256).expect("room"),
        allocator.allocate_one(Kib256).expect("room"),
    );
    let before = allocator.remaining_bytes();
    let done = CompletedFrees::default();
    let early: Pin = allocator.pin(first).expect("live");
    allocator.free(&[first], done.clone()).expect("live");
    assert_eq!(
        allocator.pin(first),
        Err(Status::NotAllocated),
        "dead at once"
    );
    assert_eq!(
        allocator.free_now(&[first]).expect_err("dead").status,
        Status::DoubleFree
    );
    // The megabyte is never idle from here on, and the free completes all the same.
    let late = allocator.pin(second).expect("live");
    assert_eq!((done.count(), allocator.remaining_bytes()), (0, before));
    allocator.unpin(early);
    assert_eq!(
        (done.count(), allocator.remaining_bytes()),
        (1, before + first.size)
    );
    // With I/O in both phases the phases drain one after the other.
    let old = allocator.pin(second).expect("live");
    allocator.free(&[second], done.clone()).expect("live");
    let third = allocator.allocate_one(Kib256).expect("room");
    allocator.unpin(old);
    assert_eq!(done.count(), 1);
    let new = allocator.pin(third).expect("live");
    allocator.unpin(late);
    assert_eq!(done.count(), 2, "waits for no I/O that came later");
    allocator.unpin(new);
}

#[test]
fn a_busy_megabyte_starves_no_free() {
    let allocator = allocator(MEGABYTE);
    let busy = allocator.allocate_one(Kib4).expect("room");
    let mut pin = allocator.pin(busy).expect("live");
    for round in 0..100 {
        let other = allocator.allocate_one(Kib4).expect("room");
        let done = CompletedFrees::default();
        allocator.free(&[other], done.clone()).expect("live");
        for _ in 0..3 {
            let next = allocator.pin(busy).expect("live");
            allocator.unpin(std::mem::replace(&mut pin, next));
        }
        assert_eq!(done.count(), 1, "round {round}");
    }
    allocator.unpin(pin);
}

#[test]
fn a_list_completes_when_its_last_block_is_released() {
    let allocator = allocator(3 * MEGABYTE);
    let blocks = allocator.allocate_list(3 * MEGABYTE, 0).expect("room");
    let pins = [blocks[2], blocks[0]].map(|block| allocator.pin(block).expect("live"));
    let done = CompletedFrees::default();
    allocator.free(&blocks, done.clone()).expect("live");
    assert_eq!((done.count(), allocator.remaining_bytes()), (0, MEGABYTE));
    for (pin, expected) in pins.into_iter().zip([(0, 2 * MEGABYTE), (1, 3 * MEGABYTE)]) {
        allocator.unpin(pin);
        assert_eq!((done.count(), allocator.remaining_bytes()), expected);
    }
}

#[test]
fn live_blocks_are_listed_and_adopted() {
    let first = allocator(3 * MEGABYTE + 8192);
    let mut expected: Vec<_> = [Kib4, Kib64, Kib256, Mib1, Kib4]
        .map(|kind| first.allocate_one(kind).expect("room"))
        .into();
    let mut listed = Vec::new();
    first.for_each_live(0..usize::MAX, |block| listed.push(block));
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);

    let second = allocator(first.total_bytes());
    for block in &listed {
        second.adopt(*block).expect("the space is free");
        assert_eq!(second.adopt(*block), Err(Status::Busy));
    }
    assert_eq!(
        second.adopt(Block::new(3 * MEGABYTE, Mib1)),
        Err(Status::OutOfRange)
    );
    assert_eq!(second.remaining_bytes(), first.remaining_bytes());
    second.free_now(&listed).expect("live");
    assert_eq!(
        second
            .allocate_list(3 * MEGABYTE, 0)
            .map(|blocks| blocks.len()),
        Ok(3)
    );
}

#[test]
fn memory_grows_with_what_is_allocated_and_not_with_the_size() {
    const SIZE: u64 = (16 << 40) + 4096;
    check_memory(&allocator(SIZE));
    check_memory(&TestAllocator::persistent(SIZE, Threads::Many).expect("address space"));
}

#[test]
fn space_of_unborn_blocks_is_nobodys_and_comes_back_if_they_are_given_up() {
    let bounds = TagBounds { asking: 8, full: 8 };
    let persistent = TestAllocator::persistent_with(4 * MEGABYTE, Threads::Many, bounds);
    for allocator in [allocator(4 * MEGABYTE), persistent.expect("memory")] {
        for (size, tag) in [
            (1, 0),
            (1, 7),
            (65536, 7),
            (3 * MEGABYTE, 0),
            (3 * MEGABYTE, 7),
        ] {
            let plan = AllocationPlan::for_size(size);
            let reserve = || allocator.reserve(plan, OwnerTag(tag), 0).expect("room");
            let unborn = reserve();
            let bytes: u64 = unborn.blocks().iter().map(|block| block.size).sum();
            assert_eq!(allocator.remaining_bytes(), 4 * MEGABYTE - bytes);
            for block in unborn.blocks() {
                assert_eq!(allocator.pin(*block).err(), Some(Status::NotAllocated));
                assert!(allocator.free_now(&[*block]).is_err());
            }
            let part = allocator.collect_changes(0, limits(8));
            assert!(
                part.changes
                    .iter()
                    .all(|change| change.map == MegabyteMap::EMPTY)
            );
            let blocks = unborn.blocks().to_vec();
            allocator.give_up(unborn);
            assert_eq!(allocator.remaining_bytes(), 4 * MEGABYTE);
            assert_eq!(allocator.held_tags(), 0);

            let born = allocator.begin_lives(reserve());
            assert_eq!(born, blocks, "the same space");
            let expected = vec![OwnerTag(tag); born.len()];
            let tags: Vec<_> = (0..4).flat_map(|index| allocator.list(index)).collect();
            assert_eq!(tags.len(), born.len());
            let tags: Vec<_> = tags
                .iter()
                .map(|(_, tag)| tag.unwrap_or_default())
                .collect();
            assert_eq!(tags, expected);
            allocator.free_now(&born).expect("live");
            assert_eq!(allocator.remaining_bytes(), 4 * MEGABYTE);
            assert_eq!(allocator.held_tags(), 0);
        }
        let too_much = AllocationPlan::for_size(5 * MEGABYTE);
        let refused = allocator.reserve(too_much, OwnerTag::NONE, 0);
        assert_eq!(refused.err(), Some(Status::NoSpace));
    }
}

fn check_memory(allocator: &TestAllocator) {
    let size = allocator.total_bytes();
    let commit = || loop {
        let part = allocator.collect_changes(0, limits(1 << 16));
        allocator.settle(&part.changes);
        if part.changes.is_empty() {
            break;
        }
    };
    let resident = || {
        let durability = allocator.durability.as_ref();
        let durability = durability.map_or(0, super::durability::Durability::resident_bytes);
        let indexes = allocator
            .classes
            .iter()
            .map(|class| &class.index)
            .chain([&allocator.wholes]);
        let indexes: usize = indexes.map(Index::resident_bytes).sum();
        allocator.megabytes.resident_bytes() + indexes + durability
    };
    assert!(resident() <= 128 << 10, "{}", resident());
    let mut blocks = 0;
    for _ in 0..1_000_000 {
        allocator
            .allocate(AllocationPlan::for_size(4096), OwnerTag::NONE, 0, |_| {
                blocks += 1;
            })
            .expect("room");
    }
    assert_eq!(blocks, 1_000_000);
    commit();
    let used = size - allocator.remaining_bytes();
    assert_eq!(used, 1_000_000 * 4096);
    let most = used as usize / 5000 + (4 << 20);
    assert!(resident() <= most / 2, "{} of {most}", resident());
    allocator
        .allocate(AllocationPlan::for_size(1 << 40), OwnerTag::NONE, 0, |_| ())
        .expect("room");
    commit();
    let most = (used + (1 << 40)) as usize / 5000 + (4 << 20);
    assert!(resident() <= most, "{} of {most}", resident());
}

#[test]
fn the_largest_pool_works_at_its_end() {
    let allocator = allocator(TestAllocator::MAX_TOTAL_BYTES);
    let last = Block::new(allocator.total_bytes() - 4096, Kib4);
    allocator.adopt(last).expect("free");
    assert_eq!(
        allocator
            .allocate_one(Kib4)
            .map(|block| block.offset / MEGABYTE),
        Ok(last.offset / MEGABYTE)
    );
    allocator.free_now(&[last]).expect("live");
}

/// Reading how much is free waits for nobody, nor for a commit that has panicked.
#[test]
fn a_commit_that_panics_holds_up_nobody_who_reads_the_free_space() {
    let allocator = TestAllocator::persistent(2 * MEGABYTE, Threads::Many);
    let allocator = Arc::new(allocator.expect("address space"));
    let kept = allocator.allocate_one(Kib64).expect("room");
    let freed = allocator.allocate_one(Kib64).expect("room");
    allocator.settle(&allocator.collect_changes(0, limits(2)).changes);
    allocator.free_now(&[freed]).expect("live");
    let left = 2 * MEGABYTE - kept.size;
    assert_eq!(allocator.remaining_bytes(), left, "before it is durable");
    let changes = allocator.collect_changes(0, limits(2)).changes;
    arm(Failpoint::SpaceReleased);
    let settled = catch_unwind(AssertUnwindSafe(|| allocator.settle(&changes)));
    assert!(settled.is_err());
    let (told, answer) = mpsc::channel();
    let asked = Arc::clone(&allocator);
    std::thread::spawn(move || {
        let more = asked.allocate_one(Kib64).is_ok();
        told.send((more, asked.remaining_bytes()))
    });
    let answer = answer.recv_timeout(PATIENCE);
    let answer = answer.expect("it does not wait for the commit");
    assert_eq!(answer, (true, left - kept.size));
}
