//! A memory pool, and a plain copy of the same addresses.

use std::time::Duration;

use chimaera_bdev_client::{Block, Buffer, Client, CreateOptions, PoolId, PoolQuery};
use chimaera_client::Runtime;

use crate::error::Result;
use crate::memory::HugeMemory;
use crate::own_pool::OwnPool;
use crate::timing::{RandomSequence, rate, task_rate};

/// Bytes of a pool.
pub(crate) const POOL_BYTES: u64 = 1 << 30;

/// Bytes that a pool is written with at once.
const FILL_BYTES: u64 = 4 << 20;

const QUERY: PoolQuery = PoolQuery::Local;

/// A pool whose space is all allocated, in blocks of one size, and written.
pub(crate) struct RamPool {
    pub(crate) bdev: OwnPool,
    pub(crate) blocks: Vec<Block>,
    size: u64,
}

impl RamPool {
    pub(crate) fn make(runtime: &Runtime, size: u64) -> Result<Self> {
        let bdev = OwnPool(Client::new(runtime, PoolId::NULL));
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
        RandomSequence::new().shuffle(&mut pool.blocks);
        Ok(pool)
    }

    /// Transfers per second, `depth` of them in flight, each with a buffer of its own.
    pub(crate) fn rate(&self, depth: usize, window: Duration, is_write: bool) -> Result<f64> {
        let mut blocks = self.blocks.iter().cycle();
        let runtime = self.bdev.runtime();
        task_rate(depth, window, |last: Option<(u64, Buffer)>| {
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

/// Plain copies per second.
pub(crate) fn copy_rate(
    pool: &RamPool,
    memory: &mut HugeMemory,
    buffers: usize,
    window: Duration,
    is_write: bool,
) -> Result<f64> {
    let mut copies = pool.copies(memory, buffers);
    rate(window, || copies.copy(memory, is_write))
}

/// A buffer that was written.
pub(crate) fn filled(runtime: &Runtime, size: u64) -> Result<Buffer> {
    let mut buffer = runtime.allocate_buffer(size as usize)?;
    buffer.fill(0xA5);
    Ok(buffer)
}
