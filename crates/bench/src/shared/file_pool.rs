//! A pool on a file, and a file like it for peers.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chimaera_bdev_client::{Block, Buffer, Client, CreateOptions, PoolId, PoolQuery};
use chimaera_client::Runtime;
use hdrhistogram::Histogram;
use tempfile::TempDir;

use crate::error::Result;
use crate::own_pool::OwnPool;
use crate::timing::{RandomSequence, each_call, unordered_rate};

/// Bytes of a pool's file, and of the peers'.
const FILE_BYTES: u64 = 256 << 20;

/// Bytes of a transfer.
pub(crate) const BLOCK_BYTES: u64 = 4 << 10;

const QUERY: PoolQuery = PoolQuery::Local;

/// A pool on a file, all of it allocated and written, and a file like it for peers.
pub(crate) struct FilePool {
    bdev: OwnPool,
    blocks: Vec<Block>,
    /// The file that the peers use in turns.
    pub(crate) for_peers: PathBuf,
    _folder: TempDir,
}

impl FilePool {
    pub(crate) fn make(runtime: &Runtime, folder: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("chimaera-bench-")
            .tempdir_in(folder)?;
        let (pool_file, for_peers) = (folder.path().join("pool"), folder.path().join("peers"));
        write_file(&pool_file)?;
        write_file(&for_peers)?;
        let bdev = OwnPool(Client::new(runtime, PoolId::NULL));
        let name = pool_file.to_str().ok_or("the folder's name is not UTF-8")?;
        let info = bdev.create(PoolQuery::Dynamic, name, &CreateOptions::file());
        info.map_err(|error| format!("no pool on a file in {}: {error}", folder.path().display()))?;
        let mut pool = Self {
            bdev,
            blocks: Vec::new(),
            for_peers,
            _folder: folder,
        };
        // A pool may need some of its file for itself.
        let usable = pool.bdev.get_stats()?.remaining_size;
        for _ in 0..usable / BLOCK_BYTES {
            pool.blocks
                .push(pool.bdev.allocate_blocks(QUERY, BLOCK_BYTES)?[0]);
        }
        RandomSequence::new().shuffle(&mut pool.blocks);
        Ok(pool)
    }

    /// Transfers per second, `depth` of them in flight.
    pub(crate) fn rate(&self, depth: usize, window: Duration, is_write: bool) -> Result<f64> {
        let mut blocks = self.blocks.iter().cycle();
        unordered_rate(depth, window, |last: Option<(u64, Buffer)>| {
            let buffer = match last {
                Some((_, buffer)) => buffer,
                None => self.bdev.runtime().allocate_buffer(BLOCK_BYTES as usize)?,
            };
            let block = blocks.next().ok_or("the pool has no blocks")?;
            Ok(if is_write {
                self.bdev.async_write(QUERY, block, buffer)
            } else {
                self.bdev.async_read(QUERY, block, buffer)
            })
        })
    }

    /// The latencies of single transfers, one after another.
    pub(crate) fn latencies(&self, window: Duration, is_write: bool) -> Result<Histogram<u64>> {
        let mut buffer = self.bdev.runtime().allocate_buffer(BLOCK_BYTES as usize)?;
        buffer.fill(0xA5);
        let mut blocks = self.blocks.iter().cycle();
        each_call(window, || {
            let block = blocks.next().ok_or("the pool has no blocks")?;
            if is_write {
                self.bdev.write(QUERY, block, &buffer)?;
            } else {
                self.bdev.read(QUERY, block, &mut buffer)?;
            }
            Ok(())
        })
    }

    /// Where the blocks lie in the file, in bytes and in the order in which they are used.
    pub(crate) fn offsets(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.offset).collect()
    }
}

/// Writes a file in full, so that it has no holes.
fn write_file(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(())
}
