//! Memory pools, beside a plain copy of the same addresses.

use std::cell::RefCell;
use std::rc::Rc;

use chimaera_bdev_client::{Block, Buffer, Client, CreateOptions, PoolId, PoolQuery};
use chimaera_client::Runtime;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::cases::tasks::DEPTH;
use crate::error::Result;
use crate::memory::HugeMemory;
use crate::timing::{BATCH, Random, each_call, per_call, rate, task_rate};

/// Bytes of a pool.
const POOL_BYTES: u64 = 1 << 30;

/// Bytes that a pool is written with at once.
const FILL_BYTES: u64 = 4 << 20;

/// Transfers in flight where the blocks are large: enough to keep the worker copying.
const LARGE_DEPTH: usize = 4;

/// Calls between two looks at the clock where one call copies 4 KiB.
const COPY_BATCH: u64 = BATCH / 10;

/// The smallest block.
const SMALL: u64 = 4 << 10;

const QUERY: PoolQuery = PoolQuery::Local;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for is_write in [false, true] {
        cases.push(Case {
            name: format!("ram-{}-4KiB-depth-32", verb(is_write)),
            title: format!("RAM pool, random {}s of 4 KiB, depth 32", verb(is_write)),
            unit: Unit::PerSecond,
            yardstick: "memcpy of the same addresses",
            target: Target::AtLeast(0.85),
            effort: Effort::Quick,
            prepare: Box::new(move |bench| many(bench, SMALL, is_write)),
        });
        cases.push(Case {
            name: format!("ram-{}-4KiB-depth-1", verb(is_write)),
            title: format!("RAM pool, random {}s of 4 KiB, depth 1", verb(is_write)),
            unit: Unit::Nanoseconds,
            yardstick: "empty task + 1.2 × memcpy",
            target: Target::AtMost(1.0),
            effort: Effort::Quick,
            prepare: Box::new(move |bench| one(bench, is_write)),
        });
    }
    for (size, name) in [
        (64 << 10, "64 KiB"),
        (256 << 10, "256 KiB"),
        (1 << 20, "1 MiB"),
    ] {
        for is_write in [false, true] {
            cases.push(Case {
                name: format!("ram-{}-{}", verb(is_write), name.replace(' ', "")),
                title: format!("RAM pool, {}s of {name}", verb(is_write)),
                unit: Unit::BytesPerSecond,
                yardstick: "memcpy of the same addresses",
                target: Target::AtLeast(0.95),
                effort: Effort::Quick,
                prepare: Box::new(move |bench| many(bench, size, is_write)),
            });
        }
    }
    cases
}

fn verb(is_write: bool) -> &'static str {
    if is_write { "write" } else { "read" }
}

/// A pool whose space is all allocated, in blocks of one size, and written.
pub(crate) struct RamPool {
    pub(crate) bdev: Client,
    pub(crate) blocks: Vec<Block>,
    size: u64,
}

impl RamPool {
    fn make(runtime: &Runtime, size: u64) -> Result<Self> {
        let bdev = Client::new(runtime, PoolId::NULL);
        let name = format!("bench-ram-{size}");
        bdev.create(PoolQuery::Dynamic, &name, &CreateOptions::ram(POOL_BYTES))?;
        let mut pool = Self {
            bdev,
            blocks: Vec::new(),
            size,
        };
        for _ in 0..POOL_BYTES / size {
            pool.blocks.push(pool.bdev.allocate_blocks(QUERY, size)?[0]);
        }
        let piece = filled(runtime, FILL_BYTES)?;
        for blocks in pool.blocks.chunks((FILL_BYTES / size) as usize) {
            pool.bdev.write_blocks(QUERY, blocks, &piece)?;
        }
        // The blocks are used in an order that no prefetcher foresees, the same every time.
        let mut random = Random::new();
        for end in (2..=pool.blocks.len()).rev() {
            pool.blocks.swap(end - 1, random.below(end));
        }
        Ok(pool)
    }

    /// Transfers per second, `depth` of them in flight, each with a buffer of its own.
    pub(crate) fn rate(&self, bench: &Bench, depth: usize, is_write: bool) -> Result<f64> {
        let mut blocks = self.blocks.iter().cycle();
        let runtime = &bench.runtime;
        task_rate(depth, bench.window(), |last: Option<(u64, Buffer)>| {
            let buffer = match last {
                Some((_, buffer)) => buffer,
                None => filled(runtime, self.size)?,
            };
            let block = blocks.next().ok_or("the pool has no blocks")?;
            Ok(if is_write {
                self.bdev.async_write(QUERY, block, buffer)
            } else {
                self.bdev.async_read(QUERY, block, buffer)
            })
        })
    }

    /// The yardstick: plain copies between as many buffers and the same places of other memory.
    pub(crate) fn copies(&self, memory: &mut HugeMemory, buffers: usize) -> Copies<'_> {
        debug_assert!(memory.len() as u64 >= POOL_BYTES);
        Copies {
            pool: self,
            next: 0,
            buffers: (0..buffers)
                .map(|_| vec![0xA5; self.size as usize])
                .collect(),
        }
    }
}

impl Drop for RamPool {
    fn drop(&mut self) {
        let _ = self
            .bdev
            .runtime()
            .admin()
            .destroy_pool(self.bdev.pool_id());
    }
}

/// Copies of the addresses of a pool, one after another.
pub(crate) struct Copies<'a> {
    pool: &'a RamPool,
    next: usize,
    buffers: Vec<Vec<u8>>,
}

impl Copies<'_> {
    #[inline]
    pub(crate) fn copy(&mut self, memory: &mut HugeMemory, is_write: bool) -> Result<()> {
        let count = self.buffers.len();
        let buffer = &mut self.buffers[self.next % count];
        let block = &self.pool.blocks[self.next % self.pool.blocks.len()];
        self.next += 1;
        let place = block.offset as usize..(block.offset + self.pool.size) as usize;
        let place = memory.get_mut(place).ok_or("a block beyond its pool")?;
        if is_write {
            place.copy_from_slice(buffer);
        } else {
            buffer.copy_from_slice(place);
        }
        Ok(())
    }
}

pub(crate) fn pool_of(bench: &Bench, size: u64) -> Result<Rc<RamPool>> {
    bench
        .ram_pool
        .get(size, || RamPool::make(&bench.runtime, size))
}

pub(crate) fn memory_of(bench: &Bench) -> Result<Rc<RefCell<HugeMemory>>> {
    bench.memory(POOL_BYTES as usize)
}

fn filled(runtime: &Runtime, size: u64) -> Result<Buffer> {
    let mut buffer = runtime.allocate_buffer(size as usize)?;
    buffer.fill(0xA5);
    Ok(buffer)
}

fn many(bench: &Rc<Bench>, size: u64, is_write: bool) -> Result<Measure> {
    let (bench, pool, memory) = (Rc::clone(bench), pool_of(bench, size)?, memory_of(bench)?);
    let depth = if size == SMALL { DEPTH } else { LARGE_DEPTH };
    // Small transfers are counted, of large ones the bytes.
    let scale = if size == SMALL { 1.0 } else { size as f64 };
    Ok(Box::new(move || {
        let ours = pool.rate(&bench, depth, is_write)?;
        let memory = &mut memory.borrow_mut();
        let plain = copy_rate(&bench, &pool, memory, depth, is_write)?;
        Ok(Round::new(scale * ours, scale * plain))
    }))
}

/// Plain copies per second.
pub(crate) fn copy_rate(
    bench: &Bench,
    pool: &RamPool,
    memory: &mut HugeMemory,
    buffers: usize,
    is_write: bool,
) -> Result<f64> {
    let mut copies = pool.copies(memory, buffers);
    rate(bench.window(), || copies.copy(memory, is_write))
}

fn one(bench: &Rc<Bench>, is_write: bool) -> Result<Measure> {
    let (bench, pool, memory) = (Rc::clone(bench), pool_of(bench, SMALL)?, memory_of(bench)?);
    let echo = bench.echo()?;
    let mut buffer = filled(&bench.runtime, SMALL)?;
    Ok(Box::new(move || {
        let mut blocks = pool.blocks.iter().cycle();
        let mut transfer = || -> Result<()> {
            let block = blocks.next().ok_or("the pool has no blocks")?;
            if is_write {
                pool.bdev.write(QUERY, block, &buffer)?;
            } else {
                pool.bdev.read(QUERY, block, &mut buffer)?;
            }
            Ok(())
        };
        let nanos = per_call(COPY_BATCH, bench.window(), &mut transfer)?;
        let latencies = each_call(bench.window(), &mut transfer)?;
        let empty = per_call(COPY_BATCH, bench.window(), || {
            echo.echo(7)?;
            Ok(())
        })?;
        let memory = &mut memory.borrow_mut();
        let mut copies = pool.copies(memory, 1);
        let plain = per_call(COPY_BATCH, bench.window(), || copies.copy(memory, is_write))?;
        Ok(Round::new(nanos, empty + 1.2 * plain).with_latencies(latencies))
    }))
}
