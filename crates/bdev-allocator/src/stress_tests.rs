//! Several threads at once on a pool so small that they contend all the time.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::tests::{CompletedFrees, TestAllocator};
use chimaera_bdev_proto::{AllocationPlan, BlockType, OwnerTag};

use super::*;

const THREADS: usize = 4;
const ROUNDS: usize = 30_000;

/// Which thread has each unit of the pool; 0 for none.
struct Owners(Vec<AtomicU32>);

impl Owners {
    fn exchange(&self, block: Block, before: u32, after: u32) {
        let first = (block.offset / UNIT_BYTES) as usize;
        for unit in first..first + (block.size / UNIT_BYTES) as usize {
            let found = self.0[unit].swap(after, Ordering::Relaxed);
            assert_eq!(found, before, "unit {unit} of {block:?}");
        }
    }
}

/// A xorshift generator: the choices of a thread are the same in each run.
struct Random(u64);

impl Random {
    /// A number below `limit`, near enough to uniform.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

/// A thread that allocates, pins and frees.
struct User<'a> {
    allocator: &'a TestAllocator,
    owners: &'a Owners,
    completed: &'a CompletedFrees,
    /// How many lists all users have freed.
    freed: &'a AtomicUsize,
    random: Random,
    thread: usize,
    blocks: Vec<Block>,
    pins: VecDeque<Pin>,
}

impl User<'_> {
    fn step(&mut self) {
        let size = [4096, 4096, 65_536, 262_144, MEGABYTE, 2 * MEGABYTE][self.random.below(6)];
        match self.random.below(4) {
            0 | 1 => self.allocate(size),
            2 if !self.blocks.is_empty() => {
                let at = self.random.below(self.blocks.len());
                let pin = self.allocator.pin(self.blocks[at]).expect("mine");
                self.pins.push_back(pin);
            }
            _ if !self.blocks.is_empty() => {
                let count = 1 + self.random.below(3).min(self.blocks.len() - 1);
                let list = self.blocks.split_off(self.blocks.len() - count);
                self.free(&list);
                let at = self.random.below(self.blocks.len().max(1));
                let at = at.min(self.blocks.len());
                self.blocks.rotate_left(at);
            }
            _ => {}
        }
        if self.pins.len() > 3 {
            self.allocator
                .unpin(self.pins.pop_front().expect("several"));
        }
    }

    fn allocate(&mut self, size: u64) {
        let plan = AllocationPlan::for_size(size);
        let (name, mut count) = (self.name(), 0);
        let result = self
            .allocator
            .allocate(plan, OwnerTag::NONE, self.thread, |block| {
                self.owners.exchange(block, 0, name);
                self.blocks.push(block);
                count += 1;
            });
        assert_eq!(count, if result.is_ok() { plan.count } else { 0 });
    }

    fn free(&self, list: &[Block]) {
        for block in list {
            self.owners.exchange(*block, self.name(), 0);
        }
        assert!(self.allocator.free(list, self.completed.clone()).is_ok());
        self.freed.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back all that it has.
    fn end(mut self) {
        for pin in self.pins.drain(..) {
            self.allocator.unpin(pin);
        }
        self.free(&self.blocks);
    }

    /// What stands for the thread in `owners`.
    fn name(&self) -> u32 {
        self.thread as u32 + 1
    }
}

#[test]
fn threads_never_get_overlapping_blocks_and_nothing_is_lost() {
    let total = 5 * MEGABYTE + 100 * 1024;
    let allocator = TestAllocator::new(total, Threads::Many).expect("address space");
    let completed = CompletedFrees::default();
    let freed = AtomicUsize::new(0);
    let owners = Owners((0..total / UNIT_BYTES).map(|_| AtomicU32::new(0)).collect());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (allocator, owners, completed, freed) = (&allocator, &owners, &completed, &freed);
            scope.spawn(move || {
                let mut user = User {
                    allocator,
                    owners,
                    completed,
                    freed,
                    random: Random(thread as u64 + 1),
                    thread,
                    blocks: Vec::new(),
                    pins: VecDeque::new(),
                };
                for _ in 0..ROUNDS {
                    user.step();
                    assert!(allocator.remaining_bytes() <= total);
                }
                user.end();
            });
        }
    });
    assert_eq!(completed.count(), freed.into_inner());
    assert_eq!(allocator.remaining_bytes(), total);
    let mut count = 0;
    allocator.for_each_live(0..usize::MAX, |_| count += 1);
    assert_eq!(count, 0);
    allocator
        .allocate(
            AllocationPlan::for_size(5 * MEGABYTE),
            OwnerTag::NONE,
            0,
            |_| count += 1,
        )
        .expect("all whole");
    assert_eq!((count, allocator.remaining_bytes()), (5, 100 * 1024));
}

#[test]
fn as_many_requests_succeed_as_there_is_space_for() {
    for round in 0..300 {
        let allocator = TestAllocator::new(10 * MEGABYTE, Threads::Many).expect("address space");
        let size = [8, 5, 4, 3][round % 4];
        let granted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (allocator, granted) = (&allocator, &granted);
                scope.spawn(
                    move || match allocator.allocate_list(size * MEGABYTE, thread) {
                        Ok(blocks) => {
                            assert_eq!(blocks.len() as u64, size);
                            granted.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(status) => assert_eq!(status, Status::NoSpace),
                    },
                );
            }
        });
        let granted = granted.into_inner() as u64;
        assert_eq!(granted, 10 / size);
        assert_eq!(
            allocator.remaining_bytes(),
            (10 - granted * size) * MEGABYTE
        );
    }
}

#[test]
fn each_gets_its_share_of_a_pool_that_is_just_large_enough() {
    for _ in 0..100 {
        let allocator = TestAllocator::new(2 * MEGABYTE, Threads::Many).expect("address space");
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let allocator = &allocator;
                scope.spawn(move || {
                    for _ in 0..2 * UNITS as usize / THREADS {
                        allocator
                            .allocate_list(4096, thread)
                            .expect("there is room for all");
                    }
                });
            }
        });
        assert_eq!(allocator.remaining_bytes(), 0);
        assert_eq!(allocator.allocate_list(4096, 0), Err(Status::NoSpace));
    }
}

#[test]
fn io_never_meets_the_next_life_of_its_block() {
    const LIVES: u32 = 3000;
    // The same block is allocated and freed again and again. Its content is the number of its life.
    let allocator = TestAllocator::new(UNIT_BYTES, Threads::Many).expect("address space");
    let block = Block::new(0, BlockType::Kib4);
    let content = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while content.load(Ordering::Relaxed) < LIVES {
                    let Ok(pin) = allocator.pin(block) else {
                        continue;
                    };
                    let first = content.load(Ordering::Relaxed);
                    for _ in 0..20 {
                        assert_eq!(
                            content.load(Ordering::Relaxed),
                            first,
                            "the block has changed hands"
                        );
                    }
                    allocator.unpin(pin);
                }
            });
        }
        let completions = CompletedFrees::default();
        for life in 1..=LIVES {
            content.store(life, Ordering::Relaxed);
            allocator.adopt(block).expect("released");
            assert!(allocator.free(&[block], completions.clone()).is_ok());
            while completions.count() < life as usize {
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(allocator.remaining_bytes(), UNIT_BYTES);
}
