//! File pools, beside fio on a file made in the same way.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chimaera_bdev_client::{Block, Buffer, Client, CreateOptions, PoolId, PoolQuery};
use chimaera_client::Runtime;
use hdrhistogram::Histogram;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::error::Result;
use crate::peers::fio::{Disk, Figures, Fio, Job};
use crate::timing::{Random, each_call, unordered_rate};

/// Bytes of a pool's file, and of the peers'.
const FILE_BYTES: u64 = 256 << 20;

pub(crate) const BLOCK_BYTES: u64 = 4 << 10;
const DEPTH: usize = 32;
const QUERY: PoolQuery = PoolQuery::Local;

/// Where files lie in memory, so that only the software costs.
const TMPFS: &str = "/dev/shm";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for is_write in [false, true] {
        let verb = if is_write { "write" } else { "read" };
        cases.push(Case {
            name: format!("file-{verb}-depth-1"),
            title: format!("File pool, random {verb}s of 4 KiB, depth 1"),
            unit: Unit::Nanoseconds,
            yardstick: "fio libaio + 1 µs",
            target: Target::AtMost(1.0),
            effort: Effort::Slow,
            prepare: Box::new(move |bench| one(bench, is_write)),
        });
        cases.push(Case {
            name: format!("file-{verb}-depth-32"),
            title: format!("File pool, random {verb}s of 4 KiB, depth 32"),
            unit: Unit::PerSecond,
            yardstick: "the better of fio libaio and io_uring",
            target: Target::AtLeast(1.0),
            effort: Effort::Slow,
            prepare: Box::new(move |bench| {
                many(
                    bench,
                    &bench.folder.clone(),
                    &["libaio", "io_uring"],
                    is_write,
                )
            }),
        });
    }
    for is_write in [false, true] {
        let verb = if is_write { "write" } else { "read" };
        cases.push(Case {
            name: format!("tmpfs-{verb}-depth-32"),
            title: format!("File pool on tmpfs, random {verb}s of 4 KiB, depth 32"),
            unit: Unit::PerSecond,
            yardstick: "fio libaio",
            target: Target::AtLeast(1.0),
            effort: Effort::Slow,
            prepare: Box::new(move |bench| many(bench, Path::new(TMPFS), &["libaio"], is_write)),
        });
    }
    cases
}

/// A pool on a file, all of it allocated and written, and a file like it for peers.
pub(crate) struct FilePool {
    bdev: Client,
    blocks: Vec<Block>,
    /// Which the peers use in turns.
    pub(crate) for_peers: PathBuf,
    _folder: TempDir,
}

impl FilePool {
    fn make(runtime: &Runtime, folder: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("chimaera-bench-")
            .tempdir_in(folder)?;
        let (pool_file, for_peers) = (folder.path().join("pool"), folder.path().join("peers"));
        write_file(&pool_file)?;
        write_file(&for_peers)?;
        let bdev = Client::new(runtime, PoolId::NULL);
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
        let mut random = Random::new();
        for end in (2..=pool.blocks.len()).rev() {
            pool.blocks.swap(end - 1, random.below(end));
        }
        Ok(pool)
    }

    /// Transfers per second, `depth` of them in flight.
    pub(crate) fn rate(&self, bench: &Bench, depth: usize, is_write: bool) -> Result<f64> {
        let mut blocks = self.blocks.iter().cycle();
        let window = bench.device_window();
        unordered_rate(depth, window, |last: Option<(u64, Buffer)>| {
            let buffer = match last {
                Some((_, buffer)) => buffer,
                None => bench.runtime.allocate_buffer(BLOCK_BYTES as usize)?,
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
    pub(crate) fn latencies(&self, bench: &Bench, is_write: bool) -> Result<Histogram<u64>> {
        let mut buffer = bench.runtime.allocate_buffer(BLOCK_BYTES as usize)?;
        buffer.fill(0xA5);
        let mut blocks = self.blocks.iter().cycle();
        each_call(bench.device_window(), || {
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

    /// What fio does with the file that is like the pool's.
    pub(crate) fn fio(
        &self,
        bench: &Bench,
        fio: &Fio,
        engine: &'static str,
        depth: usize,
        is_write: bool,
    ) -> Result<Figures> {
        fio.run(&Job {
            disk: Disk::File(engine, &self.for_peers),
            is_write,
            depth,
            processor: bench.processors.worker,
            window: bench.device_window(),
        })
    }
}

impl Drop for FilePool {
    fn drop(&mut self) {
        let _ = self
            .bdev
            .runtime()
            .admin()
            .destroy_pool(self.bdev.pool_id());
    }
}

/// Writes a file in full, so that neither side finds holes.
fn write_file(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(())
}

pub(crate) fn pool_in(bench: &Bench, folder: &Path) -> Result<Rc<FilePool>> {
    bench
        .file_pool
        .get(folder.to_owned(), || FilePool::make(&bench.runtime, folder))
}

/// The best figure of peers.
pub(crate) fn best(peers: &[(&'static str, f64)], better: fn(f64, f64) -> f64) -> Option<f64> {
    peers.iter().map(|peer| peer.1).reduce(better)
}

fn one(bench: &Rc<Bench>, is_write: bool) -> Result<Measure> {
    let (bench, pool) = (Rc::clone(bench), pool_in(bench, &bench.folder)?);
    Ok(Box::new(move || {
        let latencies = pool.latencies(&bench, is_write)?;
        bench.settle();
        let fio = match &bench.peers.fio {
            Ok(fio) => Some(pool.fio(&bench, fio, "libaio", 1, is_write)?.p50_ns),
            Err(_) => None,
        };
        Ok(Round {
            value: latencies.value_at_quantile(0.5) as f64,
            yardstick: fio.map(|p50_ns| p50_ns + 1000.0),
            latencies: Some(latencies),
            peers: fio
                .map(|p50_ns| ("fio libaio", p50_ns))
                .into_iter()
                .collect(),
        })
    }))
}

fn many(
    bench: &Rc<Bench>,
    folder: &Path,
    engines: &'static [&'static str],
    is_write: bool,
) -> Result<Measure> {
    let (bench, pool) = (Rc::clone(bench), pool_in(bench, folder)?);
    Ok(Box::new(move || {
        let value = pool.rate(&bench, DEPTH, is_write)?;
        bench.settle();
        let mut peers = Vec::new();
        for engine in engines {
            // A sandbox may forbid io_uring: then there is one peer less.
            if let Ok(fio) = &bench.peers.fio
                && let Ok(figures) = pool.fio(&bench, fio, engine, DEPTH, is_write)
            {
                let name = match *engine {
                    "io_uring" => "fio io_uring",
                    _ => "fio libaio",
                };
                peers.push((name, figures.rate));
            }
        }
        Ok(Round {
            value,
            yardstick: best(&peers, f64::max),
            latencies: None,
            peers,
        })
    }))
}
