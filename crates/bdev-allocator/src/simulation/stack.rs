//! Random work on a whole pool: blocks of all sizes are allocated, written, freed and flushed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use chimaera_bdev_proto::{AllocationPlan, Block, OwnerTag};

use chimaera_bdev_format::block_map::{Slot, UNITS, units_of};
use chimaera_bdev_format::simulation::{
    BlockData, BlockOwner, Expected, FoundPool, Life, ModelMegabyte, ModelState, Numbers,
    SimulatedDisk, SystemUnderTest, TagComparison, Timeline, data_on, format, stamped_page,
};
use chimaera_bdev_format::{
    Disk, FormatVersion, Geometry, Metadata, OpenError, PAGE_BYTES, Page, identify,
};

use crate::ledger::Ledger;
use crate::{Allocator, FreeCompletion, Pin, Threads};

const STEPS: usize = 24;

struct Freed;

impl FreeCompletion for Freed {
    fn freed(self) {}
}

type TestAllocator = Allocator<Freed>;

/// The allocator of a pool of this shape, with nothing allocated.
fn allocator_of(geometry: &Geometry) -> TestAllocator {
    let bytes = geometry.total_pages() * PAGE_BYTES as u64;
    let allocator = Allocator::persistent(bytes, Threads::One).expect("address space");
    for units in geometry.reserved() {
        allocator.withhold(units);
    }
    allocator
}

fn take_over(allocator: &TestAllocator, found: &FoundPool) -> Result<(), String> {
    let mut restoring = allocator.restoring();
    for (megabyte, map) in &found.maps {
        if !restoring.take_over(*megabyte as usize, *map) {
            return Err(format!(
                "megabyte {megabyte} has blocks where there can be none"
            ));
        }
    }
    if found.metadata.has_tags() {
        allocator.expect_tags();
    }
    Ok(())
}

/// Allocator, metadata in step with it, and the data of blocks.
#[derive(Default)]
pub(super) struct Stack;

impl SystemUnderTest for Stack {
    const NAME: &'static str = "stack";

    fn device_pages(numbers: &mut Numbers) -> u64 {
        UNITS + numbers.below(4 * UNITS as usize) as u64
    }

    fn live(
        &mut self,
        numbers: &mut Numbers,
        disk: &SimulatedDisk,
        timeline: &mut Timeline,
        expected: &Expected,
    ) -> Result<(), String> {
        live(numbers, disk, timeline, expected)
    }

    fn check(
        numbers: &mut Numbers,
        disk: &SimulatedDisk,
        found: FoundPool,
        (expected, state): (&Expected, &ModelState),
        depth: usize,
    ) -> Result<(), String> {
        expected.check_data(&disk.seen(), state)?;
        let is_thorough = depth == 0 && numbers.below(16) == 0;
        check_allocator(found, state, is_thorough)
    }
}

/// A life of a pool: opens it, or makes it if there is none, and works with it.
fn live(
    numbers: &mut Numbers,
    disk: &SimulatedDisk,
    timeline: &mut Timeline,
    expected: &Expected,
) -> Result<(), String> {
    if !expected.may_be_absent && numbers.below(5) == 0 {
        disk.resize(disk.total_pages() + 1 + numbers.below(2 * UNITS as usize) as u64);
    }
    let (allocator, mut metadata, state) = open_or_make(numbers, disk, timeline, expected)?;
    let lives: BTreeSet<Life> = state.blocks().map(|(_, _, owner)| owner.life).collect();
    // Opening has made durable what it has seen.
    let mut data = data_on(&disk.seen(), &expected.data);
    data.retain(|(life, _), _| lives.contains(life));
    let after = grow(&mut metadata, disk, timeline, &state, &data)?;
    let mut work = StackWorkload {
        numbers,
        disk,
        timeline,
        live: blocks_of(&state),
        durable: after,
        next_version: data
            .values()
            .map(|versions| versions.latest)
            .max()
            .unwrap_or(0)
            + 1,
        data,
        pinned: Vec::new(),
        allocator,
        ledger: Ledger::new(metadata),
    };
    work.settle();
    if work.numbers.below(4) == 0 {
        disk.fail_after(work.numbers.below(2 * STEPS) as u64);
    }
    for _ in 0..STEPS {
        if work.step().is_err() {
            return Ok(());
        }
        work.check_remaining()?;
    }
    Ok(())
}

/// The pool that is expected on the disk, with an allocator that has taken over its blocks, and its state. Makes a
/// pool if there may be none.
fn open_or_make(
    numbers: &mut Numbers,
    disk: &SimulatedDisk,
    timeline: &mut Timeline,
    expected: &Expected,
) -> Result<(TestAllocator, Metadata<SimulatedDisk>, Rc<ModelState>), String> {
    match identify(disk) {
        Err(OpenError::NoPool | OpenError::Damaged(_)) if expected.may_be_absent => {
            let metadata = format(
                numbers,
                disk,
                FormatVersion::NEWEST,
                expected.before.total_pages,
            )?;
            let state = ModelState {
                total_pages: metadata.geometry().total_pages(),
                ..ModelState::default()
            };
            let allocator = allocator_of(metadata.geometry());
            timeline.ready(disk, &metadata, 0)?;
            Ok((allocator, metadata, Rc::new(state)))
        }
        identified => {
            let superblock = identified.map_err(|error| format!("identifying: {error}"))?;
            let grown = superblock.geometry.grown(disk.total_pages());
            let found = timeline.open(disk, numbers);
            let found = found.map_err(|error| format!("opening: {error}"))?;
            let state = expected.admit(&found, TagComparison::Exact)?;
            timeline.ready(disk, &found.metadata, found.journal_records)?;
            let allocator = allocator_of(&grown);
            take_over(&allocator, &found)?;
            Ok((allocator, found.metadata, state))
        }
    }
}

/// Grows a pool to the size of its device, and gives its state then.
fn grow(
    metadata: &mut Metadata<SimulatedDisk>,
    disk: &SimulatedDisk,
    timeline: &mut Timeline,
    state: &Rc<ModelState>,
    data: &BlockData,
) -> Result<Rc<ModelState>, String> {
    let mut after = (**state).clone();
    after.total_pages = metadata.geometry().grown(disk.total_pages()).total_pages();
    let after = Rc::new(after);
    timeline.push(
        disk.position(),
        Expected {
            before: Rc::clone(state),
            after: Some(Rc::clone(&after)),
            is_atomic: true,
            data: Rc::new(data.clone()),
            ..Expected::default()
        },
    );
    let grown = metadata.grow(disk.total_pages());
    grown.map_err(|error| format!("growing: {error}"))?;
    Ok(after)
}

/// The blocks of a state, by their first unit.
fn blocks_of(state: &ModelState) -> BTreeMap<u64, (Block, BlockOwner)> {
    let blocks = state.blocks().map(|(unit, slot, owner)| {
        let offset = unit * PAGE_BYTES as u64;
        (unit, (Block::new(offset, slot.block_type), owner))
    });
    blocks.collect()
}

struct StackWorkload<'a> {
    numbers: &'a mut Numbers,
    disk: &'a SimulatedDisk,
    timeline: &'a mut Timeline,
    /// By first unit.
    live: BTreeMap<u64, (Block, BlockOwner)>,
    durable: Rc<ModelState>,
    data: BlockData,
    next_version: u64,
    /// Freed blocks to which a write is still under way.
    pinned: Vec<(Pin, Block, Life)>,
    allocator: TestAllocator,
    ledger: Ledger<SimulatedDisk>,
}

impl StackWorkload<'_> {
    fn settle(&mut self) {
        let expected = Expected::exactly(Rc::clone(&self.durable), Rc::new(self.data.clone()));
        self.timeline.push(self.disk.position(), expected);
    }

    fn step(&mut self) -> std::io::Result<()> {
        match self.numbers.below(16) {
            0..4 => self.allocate(),
            4..9 => return self.write_somewhere(),
            9..12 => self.free(),
            12 if self.ledger.metadata().wants_checkpoint() => {
                return self.ledger.metadata_mut().advance_checkpoint();
            }
            12 => self.let_go(),
            _ => return self.flush(),
        }
        Ok(())
    }

    fn allocate(&mut self) {
        const SIZES: [u64; 8] = [1, 4096, 4096, 4096, 9000, 65_536, 100_000, 1 << 20];
        for _ in 0..1 + self.numbers.below(4) {
            let size = SIZES[self.numbers.below(SIZES.len())];
            let life = self.numbers.draw();
            let tag = if self.numbers.below(3) == 0 { 0 } else { life };
            let plan = AllocationPlan::for_size(size);
            // There may be no space.
            let _ = self.allocator.allocate(plan, OwnerTag(tag), 0, |block| {
                let unit = block.offset / PAGE_BYTES as u64;
                self.live.insert(unit, (block, BlockOwner { tag, life }));
            });
        }
    }

    fn write_somewhere(&mut self) -> std::io::Result<()> {
        for _ in 0..1 + self.numbers.below(3) {
            if let Some((block, owner)) = self.any_block() {
                self.write(block, owner.life)?;
            }
        }
        Ok(())
    }

    /// Writes a page or two of a block.
    fn write(&mut self, block: Block, life: Life) -> std::io::Result<()> {
        let unit = block.offset / PAGE_BYTES as u64;
        let units = units_of(block.block_type);
        let count = (1 + self.numbers.below(2) as u64).min(units);
        // One of a few pages of a large block, so that the same ones are written again.
        let first = unit + (self.numbers.below(3) as u64 * (units / 2)).min(units - count);
        let version = self.next_version;
        self.next_version += 1;
        for page in first..first + count {
            let versions = self.data.entry((life, page)).or_default();
            versions.oldest = version;
            versions.latest = version;
        }
        self.settle();
        let pages = vec![Page(stamped_page(life, version)); count as usize];
        self.disk.write(first, &pages)
    }

    fn free(&mut self) {
        for _ in 0..1 + self.numbers.below(3) {
            let Some((block, owner)) = self.any_block() else {
                return;
            };
            if self.numbers.below(4) == 0 {
                let pin = self.allocator.pin(block).expect("a live block");
                self.pinned.push((pin, block, owner.life));
            }
            self.allocator
                .free(&[block], Freed)
                .map_err(|_| "refused")
                .expect("a live block");
            self.live.remove(&(block.offset / PAGE_BYTES as u64));
        }
    }

    /// Ends the writes to freed blocks.
    fn let_go(&mut self) {
        for (pin, block, life) in std::mem::take(&mut self.pinned) {
            let _ = self.write(block, life);
            self.allocator.unpin(pin);
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let mut after = ModelState {
            total_pages: self.durable.total_pages,
            ..ModelState::default()
        };
        let mut megabytes: BTreeMap<u32, ModelMegabyte> = BTreeMap::new();
        for (unit, (block, owner)) in &self.live {
            let megabyte = megabytes.entry((unit / UNITS) as u32).or_default();
            let slot = Slot::holding((unit % UNITS) as usize, block.block_type);
            megabyte.map = megabyte.map.with(slot);
            megabyte.owners.insert(*unit, *owner);
        }
        for (number, megabyte) in megabytes {
            after.set(number, megabyte);
        }
        let after = Rc::new(after);
        let expected = Expected {
            before: Rc::clone(&self.durable),
            after: Some(Rc::clone(&after)),
            data: Rc::new(self.data.clone()),
            ..Expected::default()
        };
        self.timeline.push(self.disk.position(), expected);
        self.ledger.commit(&self.allocator)?;
        self.durable = after;
        let lives: BTreeSet<Life> = self.live.values().map(|(_, owner)| owner.life).collect();
        self.data.retain(|(life, _), _| lives.contains(life));
        for versions in self.data.values_mut() {
            versions.flushed = versions.oldest;
        }
        self.settle();
        Ok(())
    }

    fn any_block(&mut self) -> Option<(Block, BlockOwner)> {
        let count = self.live.len().max(1);
        self.live.values().nth(self.numbers.below(count)).copied()
    }

    fn check_remaining(&self) -> Result<(), String> {
        // While a write goes to a freed block, the block's space is not released.
        if !self.pinned.is_empty() {
            return Ok(());
        }
        let taken = self.live.values().map(|(block, _)| block.size).sum();
        check_remaining(&self.allocator, self.ledger.metadata().geometry(), taken)
    }
}

fn check_remaining(
    allocator: &TestAllocator,
    geometry: &Geometry,
    taken_bytes: u64,
) -> Result<(), String> {
    let pages = geometry.total_pages() - geometry.reserved_pages();
    let expected = pages * PAGE_BYTES as u64 - taken_bytes;
    if allocator.remaining_bytes() != expected {
        let remaining = allocator.remaining_bytes();
        return Err(format!("{remaining} bytes remain, not {expected}"));
    }
    Ok(())
}

/// Checks that an allocator can go on with what was found. A thorough check allocates all that remains.
fn check_allocator(found: FoundPool, state: &ModelState, is_thorough: bool) -> Result<(), String> {
    let allocator = allocator_of(found.metadata.geometry());
    take_over(&allocator, &found)?;
    let blocks: Vec<_> = state
        .blocks()
        .map(|(unit, slot, _)| Block::new(unit * PAGE_BYTES as u64, slot.block_type))
        .collect();
    let live = blocks.iter().map(|block| block.size).sum();
    check_remaining(&allocator, found.metadata.geometry(), live)?;
    if !is_thorough {
        return Ok(());
    }
    let fail = |error: std::io::Error| format!("going on: {error}");
    let mut ledger = Ledger::new(found.metadata);
    let free_all = |blocks: &[Block]| {
        let freed = allocator.free(blocks, Freed);
        freed.map_err(|(error, _)| format!("freeing: {error:?}"))
    };
    free_all(&blocks)?;
    ledger.commit(&allocator).map_err(fail)?;
    check_remaining(&allocator, ledger.metadata().geometry(), 0)?;
    let mut all = Vec::new();
    for size in [1 << 20, 1 << 18, 1 << 16, 1 << 12] {
        let plan = AllocationPlan::for_size(size);
        let tag = OwnerTag(size);
        while allocator
            .allocate(plan, tag, 0, |block| all.push(block))
            .is_ok()
        {}
    }
    if allocator.remaining_bytes() != 0 {
        return Err(format!(
            "{} bytes cannot be had",
            allocator.remaining_bytes()
        ));
    }
    ledger.commit(&allocator).map_err(fail)?;
    ledger.metadata_mut().checkpoint().map_err(fail)?;
    free_all(&all)?;
    ledger.commit(&allocator).map_err(fail)?;
    check_remaining(&allocator, ledger.metadata().geometry(), 0)
}
