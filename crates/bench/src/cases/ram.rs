//! Memory pools, beside a plain copy of the same addresses.

use std::rc::Rc;

use chimaera_bdev_client::PoolQuery;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::cases::tasks::DEPTH;
use crate::error::Result;
use crate::shared::ram_pool::{copy_rate, filled};
use crate::timing::{BATCH, each_call, per_call};

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

fn many(bench: &Rc<Bench>, size: u64, is_write: bool) -> Result<Measure> {
    let (bench, pool, memory) = (Rc::clone(bench), bench.ram_pool(size)?, bench.memory()?);
    let depth = if size == SMALL { DEPTH } else { LARGE_DEPTH };
    // Small transfers are counted, of large ones the bytes.
    let scale = if size == SMALL { 1.0 } else { size as f64 };
    Ok(Box::new(move || {
        let ours = pool.rate(depth, bench.window(), is_write)?;
        let memory = &mut memory.borrow_mut();
        let plain = copy_rate(&pool, memory, depth, bench.window(), is_write)?;
        Ok(Round::new(scale * ours, scale * plain))
    }))
}

fn one(bench: &Rc<Bench>, is_write: bool) -> Result<Measure> {
    let (bench, pool, memory) = (Rc::clone(bench), bench.ram_pool(SMALL)?, bench.memory()?);
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
