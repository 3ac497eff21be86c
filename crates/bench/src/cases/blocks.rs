//! Allocating and freeing blocks.

use std::collections::VecDeque;
use std::rc::Rc;

use chimaera_bdev_client::{Block, Client, CreateOptions, PoolId, PoolQuery, Task};

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::cases::tasks::DEPTH;
use crate::error::Result;
use crate::timing::{BATCH, each_call, per_call, rate};

const POOL_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 4 << 10;
const QUERY: PoolQuery = PoolQuery::Local;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "allocate-free-depth-1".into(),
            title: "Allocate and free a block of 4 KiB, depth 1".into(),
            unit: Unit::Nanoseconds,
            yardstick: "two empty tasks",
            target: Target::AtMost(1.15),
            effort: Effort::Quick,
            prepare: Box::new(one),
        },
        Case {
            name: "allocate-free-depth-32".into(),
            title: "Allocate and free blocks of 4 KiB, depth 32, pairs".into(),
            unit: Unit::PerSecond,
            yardstick: "entries of a bare ring",
            // Three million pairs where the bare ring does twenty million entries.
            target: Target::AtLeast(0.15),
            effort: Effort::Quick,
            prepare: Box::new(many),
        },
    ]
}

fn pool(bench: &Bench) -> Result<Client> {
    let bdev = Client::new(&bench.runtime, PoolId::NULL);
    let options = CreateOptions::ram(POOL_BYTES);
    bdev.create(PoolQuery::Dynamic, "bench-blocks", &options)?;
    Ok(bdev)
}

fn one(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, bdev, echo) = (Rc::clone(bench), pool(bench)?, bench.echo()?);
    Ok(Box::new(move || {
        let pair = || {
            let blocks = bdev.allocate_blocks(QUERY, BLOCK_BYTES)?;
            bdev.free_blocks(QUERY, &blocks)?;
            Ok(())
        };
        let nanos = per_call(BATCH, bench.window(), pair)?;
        let latencies = each_call(bench.window(), pair)?;
        let empty = per_call(BATCH, bench.window(), || {
            echo.echo(7)?;
            Ok(())
        })?;
        Ok(Round::new(nanos, 2.0 * empty).with_latencies(latencies))
    }))
}

/// A block that is being allocated or freed.
enum BlockStep {
    Allocating(Task<Vec<Block>>),
    Freeing(Task<()>),
}

fn many(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, bdev) = (Rc::clone(bench), pool(bench)?);
    Ok(Box::new(move || {
        let mut steps = VecDeque::with_capacity(DEPTH);
        for _ in 0..DEPTH {
            steps.push_back(BlockStep::Allocating(
                bdev.async_allocate_blocks(QUERY, BLOCK_BYTES),
            ));
        }
        let steps_per_second = rate(bench.window(), || {
            let next = match steps.pop_front() {
                Some(BlockStep::Allocating(task)) => {
                    BlockStep::Freeing(bdev.async_free_blocks(QUERY, &task.wait()?))
                }
                Some(BlockStep::Freeing(task)) => {
                    task.wait()?;
                    BlockStep::Allocating(bdev.async_allocate_blocks(QUERY, BLOCK_BYTES))
                }
                None => return Err("no step is under way".into()),
            };
            steps.push_back(next);
            Ok(())
        })?;
        for step in steps {
            match step {
                BlockStep::Allocating(task) => bdev.free_blocks(QUERY, &task.wait()?)?,
                BlockStep::Freeing(task) => task.wait()?,
            }
        }
        bench.settle();
        let bare = bench.partner.ring_rate(DEPTH as u64, bench.window())?;
        Ok(Round::new(steps_per_second / 2.0, bare))
    }))
}
