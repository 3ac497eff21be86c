//! A pool of 16 TiB: what its blocks cost, and whether its size costs anything.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use chimaera_bdev_client::{Block, Client, CreateOptions, PoolId, PoolQuery, Task};
use chimaera_client::Runtime;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::cases::tasks::DEPTH;
use crate::connection::connect;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::machine::resident_bytes;

/// Bytes of the large pool. Its file is sparse, and lies where files may be as large.
const LARGE_BYTES: u64 = 16 << 40;
const FOLDER: &str = "/dev/shm";

/// Bytes of the pool beside it.
const SMALL_BYTES: u64 = 1 << 30;

const BLOCK_BYTES: u64 = 4 << 10;
const BLOCKS: usize = 1_000_000;

/// Blocks that are allocated to measure the rate; the small pool has 262,144.
const RATED_BLOCKS: usize = 200_000;

/// Blocks that are freed by one task.
const FREED_AT_ONCE: usize = 50_000;

/// What the allocator may use: a share of the allocated space, and a fixed part.
const MEMORY_SHARE: f64 = 0.0002;
const MEMORY_FIXED: f64 = 4.0 * 1_048_576.0;

const QUERY: PoolQuery = PoolQuery::Local;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "large-pool-memory".into(),
            title: "Memory for a million blocks in a pool of 16 TiB".into(),
            unit: Unit::Bytes,
            yardstick: "0.02 % of the blocks + 4 MiB",
            target: Target::AtMost(1.0),
            effort: Effort::Counted,
            prepare: Box::new(memory),
        },
        Case {
            name: "large-pool-rate".into(),
            title: "Allocations in a pool of 16 TiB, depth 32".into(),
            unit: Unit::PerSecond,
            yardstick: "the same in a pool of 1 GiB",
            target: Target::AtLeast(0.8),
            effort: Effort::Quick,
            prepare: Box::new(allocation_rate),
        },
    ]
}

/// Two pools in a daemon of their own.
struct PoolPair {
    large: Client,
    small: Client,
    _runtime: Runtime,
    daemon: Daemon,
    _folder: TempDir,
}

impl PoolPair {
    fn make(bench: &Bench) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("chimaera-bench-")
            .tempdir_in(FOLDER)?;
        let daemon = Daemon::start(bench.processors.worker)?;
        let runtime = connect(&daemon)?;
        let create = |name: &str, size| -> Result<Client> {
            let bdev = Client::new(&runtime, PoolId::NULL);
            let path = folder.path().join(name);
            let path = path.to_str().ok_or("the folder's name is not UTF-8")?;
            let options = CreateOptions::file().size(size);
            bdev.create(PoolQuery::Dynamic, path, &options)?;
            Ok(bdev)
        };
        Ok(Self {
            small: create("small", SMALL_BYTES)?,
            large: create("large", LARGE_BYTES)?,
            _runtime: runtime,
            daemon,
            _folder: folder,
        })
    }

    /// Bytes that the daemon's memory grows by when a million blocks are allocated.
    fn growth(&self) -> Result<u64> {
        let before = resident_bytes(self.daemon.process())?;
        let (blocks, _) = allocate(&self.large, BLOCKS)?;
        let after = resident_bytes(self.daemon.process())?;
        free(&self.large, &blocks)?;
        Ok(after.saturating_sub(before))
    }

    /// Allocations per second in the large and in the small pool.
    fn rates(&self) -> Result<(f64, f64)> {
        let rate = |bdev| -> Result<f64> {
            let (blocks, rate) = allocate(bdev, RATED_BLOCKS)?;
            free(bdev, &blocks)?;
            Ok(rate)
        };
        Ok((rate(&self.large)?, rate(&self.small)?))
    }
}

fn memory(bench: &Rc<Bench>) -> Result<Measure> {
    let pools = PoolPair::make(bench)?;
    Ok(Box::new(move || {
        let growth = pools.growth()? as f64;
        let allowed = MEMORY_SHARE * (BLOCKS as u64 * BLOCK_BYTES) as f64 + MEMORY_FIXED;
        Ok(Round::new(growth, allowed))
    }))
}

fn allocation_rate(bench: &Rc<Bench>) -> Result<Measure> {
    let pools = PoolPair::make(bench)?;
    // A million are there already, as in a pool that is in use.
    allocate(&pools.large, BLOCKS)?;
    Ok(Box::new(move || {
        let (large, small) = pools.rates()?;
        Ok(Round::new(large, small))
    }))
}

/// Allocates blocks, and says how many per second.
fn allocate(bdev: &Client, count: usize) -> Result<(Vec<Block>, f64)> {
    let mut blocks = Vec::with_capacity(count);
    let mut flying: VecDeque<Task<Vec<Block>>> = VecDeque::with_capacity(DEPTH);
    let begin = Instant::now();
    for _ in 0..count {
        if flying.len() == DEPTH
            && let Some(task) = flying.pop_front()
        {
            blocks.extend(task.wait()?);
        }
        flying.push_back(bdev.async_allocate_blocks(QUERY, BLOCK_BYTES));
    }
    for task in flying {
        blocks.extend(task.wait()?);
    }
    Ok((blocks, count as f64 / begin.elapsed().as_secs_f64()))
}

fn free(bdev: &Client, blocks: &[Block]) -> Result<()> {
    for some in blocks.chunks(FREED_AT_ONCE) {
        bdev.free_blocks(QUERY, some)?;
    }
    Ok(())
}
