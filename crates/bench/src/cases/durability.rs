//! Flushing, and opening after a crash, beside what the device itself takes.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use chimaera_bdev_client::{Block, Buffer, Client, CreateOptions, PoolId, PoolQuery};
use chimaera_client::Runtime;
use chimaera_thread::{scope, spawn_scoped};
use nix::libc::O_DIRECT;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::connection::connect;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::own_pool::OwnPool;
use crate::timing::{each_call, median};

/// Bytes of the file pool that is flushed, and of the file beside it.
const FILE_BYTES: u64 = 64 << 20;
const BLOCK_BYTES: u64 = 4 << 10;
/// Bytes that a commit of a few changes writes.
const RECORD_BYTES: usize = 8 << 10;
/// Threads that flush at the same time.
const THREADS: usize = 8;

/// Bytes of the pool that is opened, and of its blocks.
const LARGE_BYTES: u64 = 1 << 40;
const LARGE_BLOCKS: u64 = 1_000_000;
/// Bytes that are allocated by one task.
const ALLOCATED_AT_ONCE: u64 = 1 << 36;
/// The longest that opening may take.
const MAX_OPENING: Duration = Duration::from_millis(200);

const QUERY: PoolQuery = PoolQuery::Local;

pub(super) fn cases() -> Vec<Case> {
    let case =
        |name: &str, title: &str, unit, yardstick, target, prepare: fn(&Rc<Bench>) -> _| Case {
            name: name.into(),
            title: title.into(),
            unit,
            yardstick,
            target,
            effort: Effort::Slow,
            prepare: Box::new(prepare),
        };
    vec![
        case(
            "flush-data",
            "File pool, write of 4 KiB and flush",
            Unit::Nanoseconds,
            "pwrite, fdatasync",
            Target::AtMost(1.2),
            flush_data,
        ),
        case(
            "flush-allocation",
            "File pool, allocation, write of 4 KiB and flush",
            Unit::Nanoseconds,
            "pwrite twice, fdatasync twice",
            Target::AtMost(1.0),
            flush_allocation,
        ),
        case(
            "flush-together",
            "File pool, 8 threads that each write 4 KiB and flush, flushes",
            Unit::PerSecond,
            "8 threads with pwrite, fdatasync",
            Target::AtLeast(1.0),
            flush_together,
        ),
        case(
            "open-million-small",
            "Opening 1 TiB with a million blocks of 4 KiB after a crash",
            Unit::Nanoseconds,
            "200 ms",
            Target::AtMost(1.0),
            |bench| open_large(bench, BLOCK_BYTES),
        ),
        case(
            "open-million-large",
            "Opening 1 TiB with a million blocks of 1 MiB after a crash",
            Unit::Nanoseconds,
            "200 ms",
            Target::AtMost(1.0),
            |bench| open_large(bench, 1 << 20),
        ),
    ]
}

/// A file pool, and a file like it.
struct FlushedPool {
    // Before its file.
    bdev: OwnPool,
    file: File,
    path: PathBuf,
    _folder: TempDir,
}

impl FlushedPool {
    fn make(bench: &Bench) -> Result<Self> {
        let folder = folder_in(&bench.folder)?;
        let bdev = OwnPool(Client::new(&bench.runtime, PoolId::NULL));
        let options = CreateOptions::file().size(FILE_BYTES);
        bdev.create(
            PoolQuery::Dynamic,
            text(&folder.path().join("pool"))?,
            &options,
        )?;
        let path = folder.path().join("file");
        let file = direct(&path)?;
        let zeroes = aligned(1 << 20);
        for offset in (0..FILE_BYTES).step_by(1 << 20) {
            file.write_all_at(zeroes.bytes(), offset)?;
        }
        file.sync_all()?;
        Ok(Self {
            bdev,
            file,
            path,
            _folder: folder,
        })
    }

    fn block(&self) -> Result<(Block, Buffer)> {
        let block = self.bdev.allocate_blocks(QUERY, BLOCK_BYTES)?[0];
        let mut buffer = self.bdev.runtime().allocate_buffer(BLOCK_BYTES as usize)?;
        buffer.fill(0xAB);
        self.bdev.write(QUERY, &block, &buffer)?;
        self.bdev.flush(QUERY)?;
        Ok((block, buffer))
    }
}

fn flush_data(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, flushed) = (Rc::clone(bench), FlushedPool::make(bench)?);
    let (block, buffer) = flushed.block()?;
    let page = aligned(BLOCK_BYTES as usize);
    Ok(Box::new(move || {
        let ours = each_call(bench.device_window(), || {
            flushed.bdev.write(QUERY, &block, &buffer)?;
            Ok(flushed.bdev.flush(QUERY)?)
        })?;
        let bare = each_call(bench.device_window(), || {
            flushed.file.write_all_at(page.bytes(), 0)?;
            Ok(flushed.file.sync_data()?)
        })?;
        let middle =
            |latencies: &hdrhistogram::Histogram<u64>| latencies.value_at_quantile(0.5) as f64;
        Ok(Round::new(middle(&ours), middle(&bare)).with_latencies(ours))
    }))
}

fn flush_allocation(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, flushed) = (Rc::clone(bench), FlushedPool::make(bench)?);
    let (_, buffer) = flushed.block()?;
    let page = aligned(BLOCK_BYTES as usize);
    let record = aligned(RECORD_BYTES);
    let mut last: Option<Block> = None;
    Ok(Box::new(move || {
        let ours = each_call(bench.device_window(), || {
            let block = flushed.bdev.allocate_blocks(QUERY, BLOCK_BYTES)?[0];
            flushed.bdev.write(QUERY, &block, &buffer)?;
            flushed.bdev.flush(QUERY)?;
            // What is freed here is part of the next flush.
            match last.replace(block) {
                Some(before) => Ok(flushed.bdev.free_blocks(QUERY, &[before])?),
                None => Ok(()),
            }
        })?;
        let mut place = 0;
        let bare = each_call(bench.device_window(), || {
            flushed.file.write_all_at(page.bytes(), 0)?;
            flushed.file.sync_data()?;
            place = (place + RECORD_BYTES as u64) % (FILE_BYTES / 2);
            flushed
                .file
                .write_all_at(record.bytes(), FILE_BYTES / 2 + place)?;
            Ok(flushed.file.sync_data()?)
        })?;
        let middle =
            |latencies: &hdrhistogram::Histogram<u64>| latencies.value_at_quantile(0.5) as f64;
        Ok(Round::new(middle(&ours), middle(&bare)).with_latencies(ours))
    }))
}

fn flush_together(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, flushed) = (Rc::clone(bench), FlushedPool::make(bench)?);
    let blocks: Result<Vec<_>> = (0..THREADS).map(|_| flushed.block()).collect();
    let blocks: Vec<Block> = blocks?.into_iter().map(|(block, _)| block).collect();
    Ok(Box::new(move || {
        let window = bench.device_window();
        let ours = rate_of_threads(window, |thread| {
            let (bdev, block) = (&flushed.bdev, blocks[thread]);
            let mut buffer = bdev.runtime().allocate_buffer(BLOCK_BYTES as usize)?;
            buffer.fill(thread as u8);
            Ok(move || {
                bdev.write(QUERY, &block, &buffer)?;
                Ok(bdev.flush(QUERY)?)
            })
        })?;
        let bare = rate_of_threads(window, |thread| {
            let file = direct(&flushed.path)?;
            let page = aligned(BLOCK_BYTES as usize);
            Ok(move || {
                file.write_all_at(page.bytes(), thread as u64 * BLOCK_BYTES)?;
                Ok(file.sync_data()?)
            })
        })?;
        Ok(Round::new(ours, bare))
    }))
}

/// Calls per second of all threads together.
fn rate_of_threads<'a, F>(
    window: Duration,
    prepare: impl Fn(usize) -> Result<F> + Sync + 'a,
) -> Result<f64>
where
    F: FnMut() -> Result<()>,
{
    let begin = Instant::now();
    let counts: Vec<std::result::Result<u64, String>> = scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let prepare = &prepare;
                spawn_scoped(scope, "chimaera-bench", move || {
                    let mut count = 0;
                    let mut call = prepare(thread).map_err(|error| error.to_string())?;
                    while begin.elapsed() < window {
                        call().map_err(|error| error.to_string())?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        let counts = threads.into_iter().map(|thread| match thread {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".into())),
            Err(refused) => Err(refused.to_string()),
        });
        counts.collect()
    });
    let mut sum = 0;
    for count in counts {
        sum += count?;
    }
    Ok(sum as f64 / begin.elapsed().as_secs_f64())
}

/// A large pool whose daemon is killed again and again.
struct LargePool {
    daemon: Option<Daemon>,
    runtime: Option<Runtime>,
    name: String,
    processor: usize,
    _folder: TempDir,
}

impl LargePool {
    fn start(&mut self) -> Result<Client> {
        // The daemon before is killed, whatever it is doing.
        self.daemon = None;
        self.runtime = None;
        let daemon = Daemon::start(self.processor)?;
        let runtime = connect(&daemon)?;
        self.daemon = Some(daemon);
        let bdev = Client::new(&runtime, PoolId::NULL);
        self.runtime = Some(runtime);
        Ok(bdev)
    }

    fn create(&self, bdev: &Client) -> Result<()> {
        let options = CreateOptions::file().size(LARGE_BYTES);
        bdev.create(PoolQuery::Dynamic, &self.name, &options)?;
        Ok(())
    }
}

fn open_large(bench: &Rc<Bench>, block_bytes: u64) -> Result<Measure> {
    let folder = folder_in(&bench.folder)?;
    let mut large = LargePool {
        daemon: None,
        runtime: None,
        name: text(&folder.path().join("large"))?.to_owned(),
        processor: bench.processors.worker,
        _folder: folder,
    };
    let bdev = large.start()?;
    large.create(&bdev)?;
    if block_bytes == BLOCK_BYTES {
        for _ in 0..LARGE_BLOCKS {
            bdev.allocate_blocks(QUERY, block_bytes)?;
        }
    } else {
        let all = LARGE_BLOCKS * block_bytes;
        for start in (0..all).step_by(ALLOCATED_AT_ONCE as usize) {
            bdev.allocate_blocks(QUERY, ALLOCATED_AT_ONCE.min(all - start))?;
        }
    }
    // An orderly end brings all of it into the table.
    bdev.runtime().admin().destroy_pool(bdev.pool_id())?;
    Ok(Box::new(move || {
        let bdev = large.start()?;
        let mut times = Vec::new();
        let begin = Instant::now();
        large.create(&bdev)?;
        times.push(begin.elapsed().as_secs_f64() * 1e9);
        // The next opening should find a journal.
        bdev.allocate_blocks(QUERY, BLOCK_BYTES)?;
        bdev.flush(QUERY)?;
        let limit = MAX_OPENING.as_secs_f64() * 1e9;
        Ok(Round::new(median(&mut times).unwrap_or(f64::NAN), limit))
    }))
}

fn folder_in(folder: &Path) -> Result<TempDir> {
    let builder = tempfile::Builder::new()
        .prefix("chimaera-bench-")
        .tempdir_in(folder)?;
    Ok(builder)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| "the folder's name is not UTF-8".into())
}

/// A file that is read and written past the page cache, as a pool's is.
fn direct(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    Ok(options.custom_flags(O_DIRECT).open(path)?)
}

/// Memory that is aligned for direct I/O.
struct AlignedBytes {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

fn aligned(len: usize) -> AlignedBytes {
    let memory = vec![0xCD; len + 4096];
    let start = memory.as_ptr().align_offset(4096);
    AlignedBytes { memory, start, len }
}

impl AlignedBytes {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}
