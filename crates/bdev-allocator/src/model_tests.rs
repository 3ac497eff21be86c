//! The allocator against a model that is too simple to be wrong: a state per unit.
//!
//! The model does not know which of two frees that wait in one megabyte ends first. It knows
//! that space must be held while an I/O accepted before its free runs, and must be released when
//! its megabyte has no I/O left. In between it allows either.
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index as Choice;

use crate::tests::{CompletedFrees, TestAllocator};
use chimaera_bdev_format::block_map::units_of;
use chimaera_bdev_proto::{AllocationPlan, BlockType};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        size: u64,
        worker: usize,
    },
    Free(Vec<Choice>),
    /// A block that may or may not be live, alone or after good ones.
    FreeAny {
        block: Block,
        after: Vec<Choice>,
    },
    FreeTwice(Choice),
    Pin(Choice),
    PinAny(Block),
    Unpin(Choice),
}

fn any_step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        4 => Just(4096_u64),
        2 => Just(0x1_0000_u64),
        2 => Just(0x4_0000_u64),
        2 => Just(MEGABYTE),
        1 => 0..4 * MEGABYTE,
    ];
    let choices = || prop::collection::vec(any::<Choice>(), 1..4);
    prop_oneof![
        8 => (size, 0..3_usize).prop_map(|(size, worker)| Step::Allocate { size, worker }),
        5 => choices().prop_map(Step::Free),
        1 => (any_block(), choices()).prop_map(|(block, after)| Step::FreeAny { block, after }),
        1 => any::<Choice>().prop_map(Step::FreeTwice),
        2 => any::<Choice>().prop_map(Step::Pin),
        1 => any_block().prop_map(Step::PinAny),
        3 => any::<Choice>().prop_map(Step::Unpin),
    ]
}

fn any_block() -> impl Strategy<Value = Block> {
    (0..4_u32, 0..2000_u64).prop_map(|(number, unit)| {
        let block_type = BlockType::from_number(number).expect("there are four");
        Block::new(
            unit * UNIT_BYTES / block_type.size() * block_type.size(),
            block_type,
        )
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Free,
    Taken,
    /// Of a dead block that has no I/O left to wait for, while there is other I/O in the megabyte.
    Either,
}

/// A freed block whose space may not be released yet.
struct Dying {
    block: Block,
    /// Numbers of the pins that were held in its megabyte when it was freed.
    waits_for: Vec<u64>,
    /// Which free it belongs to.
    list: usize,
}

struct Model {
    total: u64,
    live: BTreeMap<u64, BlockType>,
    dying: Vec<Dying>,
    /// Each I/O in flight: its number, megabyte and pin.
    pins: Vec<(u64, u64, Pin)>,
    pins_given: u64,
    frees: Vec<CompletedFrees>,
}

impl Model {
    fn live_blocks(&self) -> Vec<Block> {
        self.live
            .iter()
            .map(|(offset, block_type)| Block::new(*offset, *block_type))
            .collect()
    }

    fn units(&self) -> Vec<Unit> {
        let mut units = vec![Unit::Free; (self.total / UNIT_BYTES) as usize];
        let mut fill = |block: Block, unit| {
            let first = (block.offset / UNIT_BYTES) as usize;
            units[first..first + (block.size / UNIT_BYTES) as usize].fill(unit);
        };
        for dying in &self.dying {
            fill(
                dying.block,
                if dying.waits_for.is_empty() {
                    Unit::Either
                } else {
                    Unit::Taken
                },
            );
        }
        self.live_blocks()
            .into_iter()
            .for_each(|block| fill(block, Unit::Taken));
        units
    }

    /// Forgets what must have been released by now.
    fn settle(&mut self) {
        for dying in &mut self.dying {
            dying
                .waits_for
                .retain(|number| self.pins.iter().any(|pin| pin.0 == *number));
        }
        let busy = |block: Block| self.pins.iter().any(|pin| pin.1 == block.offset / MEGABYTE);
        self.dying
            .retain(|dying| !dying.waits_for.is_empty() || busy(dying.block));
    }

    /// The status with which a block that is not live is refused.
    fn refusal(&self, block: Block, otherwise: Status) -> Option<Status> {
        if block.offset + block.size > self.total {
            return Some(Status::OutOfRange);
        }
        if self.live.get(&block.offset) == Some(&block.block_type) {
            return None;
        }
        let below = self.live.range(..=block.offset).next_back();
        let covered = below.is_some_and(|(offset, found)| offset + found.size() > block.offset);
        Some(if covered {
            Status::WrongSize
        } else {
            otherwise
        })
    }

    fn allocated(&mut self, blocks: &[Block], plan: AllocationPlan) {
        assert_eq!(blocks.len() as u64, plan.count);
        let before = self.units();
        let only = plan.count == 1 && plan.block_type != BlockType::Mib1;
        let certain = !before.contains(&Unit::Either);
        if only && certain && is_whole(&before, blocks[0].offset / MEGABYTE) {
            let broken =
                (0..self.total.div_ceil(MEGABYTE)).filter(|number| !is_whole(&before, *number));
            for number in broken {
                assert_eq!(
                    slots(&before, number, plan.block_type),
                    0,
                    "{number} would have done"
                );
            }
        }
        for block in blocks {
            assert_eq!(block.block_type, plan.block_type);
            assert!(
                block.offset.is_multiple_of(block.size) && block.offset + block.size <= self.total
            );
            let units = self.units();
            let first = (block.offset / UNIT_BYTES) as usize;
            let taken = &units[first..first + (block.size / UNIT_BYTES) as usize];
            assert!(!taken.contains(&Unit::Taken), "{block:?} overlaps");
            // Space that is allocated again was released before.
            let overlaps = |other: Block| {
                other.offset < block.offset + block.size && block.offset < other.offset + other.size
            };
            self.dying.retain(|dying| !overlaps(dying.block));
            self.live.insert(block.offset, block.block_type);
        }
    }

    fn refused_for_space(&self, plan: AllocationPlan) {
        let units = self.units();
        let megabytes = 0..self.total.div_ceil(MEGABYTE);
        let free: u64 = megabytes
            .map(|number| slots(&units, number, plan.block_type))
            .sum();
        assert!(free < plan.count, "{free} slots for {plan:?}");
    }

    fn freed(&mut self, blocks: &[Block], completion: CompletedFrees) {
        for block in blocks {
            self.live.remove(&block.offset);
            let here = self
                .pins
                .iter()
                .filter(|pin| pin.1 == block.offset / MEGABYTE);
            let waits_for = here.map(|pin| pin.0).collect();
            self.dying.push(Dying {
                block: *block,
                waits_for,
                list: self.frees.len(),
            });
        }
        self.frees.push(completion);
    }

    fn check(&mut self, allocator: &TestAllocator) {
        self.settle();
        let units = self.units();
        let count = |kind| units.iter().filter(|unit| **unit == kind).count() as u64 * UNIT_BYTES;
        let (free, either) = (count(Unit::Free), count(Unit::Either));
        let remaining = allocator.remaining_bytes();
        assert!(
            (free..=free + either).contains(&remaining),
            "{free} + {either} or {remaining}"
        );
        for (list, completion) in self.frees.iter().enumerate() {
            let mut parts = self
                .dying
                .iter()
                .filter(|dying| dying.list == list)
                .peekable();
            match completion.count() {
                0 => assert!(parts.peek().is_some(), "free {list} should be complete"),
                1 => assert!(
                    parts.all(|part| part.waits_for.is_empty()),
                    "free {list} is early"
                ),
                more => panic!("free {list} completed {more} times"),
            }
        }
    }
}

fn units_in(units: &[Unit], megabyte: u64) -> &[Unit] {
    let first = (megabyte * UNITS) as usize;
    &units[first..units.len().min(first + UNITS as usize)]
}

fn is_whole(units: &[Unit], megabyte: u64) -> bool {
    slots(units, megabyte, BlockType::Mib1) == 1
}

/// How many slots of this type are certainly free.
fn slots(units: &[Unit], megabyte: u64, block_type: BlockType) -> u64 {
    let slots = units_in(units, megabyte).chunks_exact(units_of(block_type) as usize);
    slots
        .filter(|slot| slot.iter().all(|unit| *unit == Unit::Free))
        .count() as u64
}

fn chosen(choices: &[Choice], live: &[Block]) -> Vec<Block> {
    let mut blocks: Vec<_> = choices
        .iter()
        .filter(|_| !live.is_empty())
        .map(|choice| *choice.get(live))
        .collect();
    blocks.sort();
    blocks.dedup();
    blocks
}

/// Runs the steps with an allocator for one thread, and with one for many.
fn run(total: u64, steps: Vec<Step>) {
    run_with(Threads::One, total, steps.clone());
    run_with(Threads::Many, total, steps);
}

fn run_with(threads: Threads, total: u64, steps: Vec<Step>) {
    let allocator = TestAllocator::new(total, threads).expect("address space");
    let mut model = Model {
        total,
        live: BTreeMap::new(),
        dying: vec![],
        pins: vec![],
        pins_given: 0,
        frees: vec![],
    };
    for step in steps {
        take_step(&allocator, &mut model, step);
        model.check(&allocator);
    }
    for (_, _, pin) in std::mem::take(&mut model.pins) {
        allocator.unpin(pin);
    }
    model.check(&allocator);
    let mut listed = Vec::new();
    allocator.for_each_live(0..usize::MAX, |block| listed.push(block));
    listed.sort();
    assert_eq!(listed, model.live_blocks());
    allocator.free_now(&listed).expect("all are live");
    assert_eq!(allocator.remaining_bytes(), total);
    let megabytes = allocator
        .allocate_list(total / MEGABYTE * MEGABYTE, 0)
        .expect("all are whole");
    assert_eq!(megabytes.len() as u64, total / MEGABYTE);
    for _ in 0..total % MEGABYTE / UNIT_BYTES {
        allocator
            .allocate_one(BlockType::Kib4)
            .expect("a unit of the tail");
    }
    assert_eq!(allocator.remaining_bytes(), 0);
}

fn take_step(allocator: &TestAllocator, model: &mut Model, step: Step) {
    let live = model.live_blocks();
    match step {
        Step::Allocate { size, worker } => {
            let plan = AllocationPlan::for_size(size);
            match allocator.allocate_list(size, worker) {
                Ok(blocks) => model.allocated(&blocks, plan),
                Err(status) => {
                    assert_eq!(status, Status::NoSpace);
                    model.refused_for_space(plan);
                }
            }
        }
        Step::Free(choices) => {
            let blocks = chosen(&choices, &live);
            let completion = CompletedFrees::default();
            assert!(allocator.free(&blocks, completion.clone()).is_ok());
            model.freed(&blocks, completion);
        }
        Step::FreeAny { block, after } => {
            let mut blocks = chosen(&after, &live);
            let Some(status) = model.refusal(block, Status::DoubleFree) else {
                return;
            };
            let position = blocks.len();
            blocks.push(block);
            let error = allocator.free_now(&blocks).expect_err("not live");
            assert_eq!(error, FreeError { position, status });
        }
        Step::FreeTwice(choice) if !live.is_empty() => {
            let blocks = [*choice.get(&live); 2];
            let error = allocator.free_now(&blocks).expect_err("named twice");
            assert_eq!(
                error,
                FreeError {
                    position: 1,
                    status: Status::DoubleFree
                }
            );
        }
        Step::Pin(choice) if !live.is_empty() => {
            let block = *choice.get(&live);
            let pin = allocator.pin(block).expect("live");
            model.pins_given += 1;
            model
                .pins
                .push((model.pins_given, block.offset / MEGABYTE, pin));
        }
        Step::PinAny(block) => match model.refusal(block, Status::NotAllocated) {
            Some(status) => assert_eq!(allocator.pin(block), Err(status)),
            None => allocator.unpin(allocator.pin(block).expect("live")),
        },
        Step::Unpin(choice) if !model.pins.is_empty() => {
            let (_, _, pin) = model.pins.swap_remove(choice.index(model.pins.len()));
            allocator.unpin(pin);
        }
        Step::FreeTwice(_) | Step::Pin(_) | Step::Unpin(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_allocator_does_what_the_model_does(
        megabytes in 0..=6_u64,
        tail_units in prop_oneof![Just(0_u64), 1..UNITS],
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        let total = megabytes * MEGABYTE + tail_units * UNIT_BYTES;
        run(total.max(UNIT_BYTES), steps);
    }

    /// The pool is so small that it is nearly full at all times, and every free waits for something.
    #[test]
    fn a_single_megabyte_does_what_the_model_does(
        tail_units in prop_oneof![Just(0_u64), Just(25)],
        steps in prop::collection::vec(any_step(), 1..400),
    ) {
        run(MEGABYTE + tail_units * UNIT_BYTES, steps);
    }
}
