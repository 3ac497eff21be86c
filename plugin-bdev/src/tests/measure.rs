//! How long transfers take. Prints, and asserts nothing: run it in release mode with
//! `--ignored --nocapture measure`.
#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]

use std::ffi::c_void;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chimaera_bdev_proto::{Block, BlockType, CreateParams, IoEngine, Method, TransferArguments};
use chimaera_chimod::AllowedPaths;
use chimaera_chimod::Creator;
use chimaera_chimod::abi::{HOST_MAGIC, Header, HostVTable, LentBytes, RawTask, TextSink};
use chimaera_chimod::host::{ContainerHandle, NewPool};
use chimaera_proto::{Permissions, PoolId, codec};
use chimaera_testing::disk_folder;

use super::engines;
use crate::testing::{
    TestBuffer, file_params, memory_folder, metadata_bytes_beside, name_in, ram_params, raw_task,
};

const BLOCK_BYTES: usize = 4096;

/// A host that counts completions and does nothing else, so that the module is measured.
unsafe extern "C" fn count(
    context: *const c_void,
    _: *const [u64; 2],
    status_word: u32,
    _: *const u64,
    _: u32,
) {
    // A panic could not leave this function.
    if status_word != 0 {
        std::process::abort();
    }
    // SAFETY: the context is the counter that `create` put there, which outlives the pool.
    let completed = unsafe { &*context.cast::<AtomicU64>() };
    completed.store(completed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

unsafe extern "C" fn no_log(_: *const c_void, _: u64, _: u32, _: LentBytes) {}

unsafe extern "C" fn no_panic(_: *const c_void, _: u64, _: LentBytes, _: LentBytes, _: LentBytes) {
    // One could not leave this function either.
    std::process::abort();
}

unsafe extern "C" fn adopt_thread(_: *const c_void, _: u64) {}

unsafe extern "C" fn is_own_file(_: *const c_void, _: u64, _: u64) -> u32 {
    0
}

unsafe extern "C" fn charge(_: *const c_void, _: u64, _: u32, _: u64, _: *const TextSink) -> u32 {
    0
}

fn create(name: &str, params: &CreateParams) -> (ContainerHandle, &'static AtomicU64) {
    let completed: &'static AtomicU64 = Box::leak(Box::default());
    let table = Arc::new(HostVTable {
        header: Header::of::<HostVTable>(HOST_MAGIC),
        context: (&raw const *completed).cast(),
        complete: count,
        log: no_log,
        panicked: no_panic,
        adopt_thread,
        is_own_file,
        charge,
    });
    let params = codec::encode(params).expect("encodes");
    let pool = NewPool {
        id: PoolId::new(8000, 0),
        id_is_chosen: false,
        name,
        params: &params,
        creator: Creator {
            uid: 0,
            gid: 0,
            is_operator: true,
        },
        permissions: Permissions::of_owner(0, 0),
        worker_count: 1,
        speaker: 0,
        file: None,
        allowed: AllowedPaths::Any,
    };
    let handle = crate::module().create(table, &pool);
    (handle.expect("made"), completed)
}

fn submit(pool: &ContainerHandle, task: &RawTask) {
    // SAFETY: this thread is the only worker; every buffer outlives its task, and the pool too.
    let _ = unsafe { pool.submit(0, task.into()) };
}

fn poll(pool: &ContainerHandle) {
    // SAFETY: as in `submit`.
    let _ = unsafe { pool.poll(0) };
}

/// All blocks of 4 KiB of a new pool that begin at this offset. The host drops the answers; the allocator
/// gives blocks from the pool's start, all of them.
fn allocate(pool: &ContainerHandle, first_offset: u64, blocks: u64) -> Vec<Block> {
    for _ in 0..blocks {
        let allocate = Method::AllocateBlocks as u16;
        submit(pool, &raw_task(0, allocate, [4096, 0, 0], None));
    }
    (0..blocks)
        .map(|at| Block::new(first_offset + at * 4096, BlockType::Kib4))
        .collect()
}

fn transfer(method: Method, block: Block, buffer: &mut TestBuffer) -> RawTask {
    let arguments = TransferArguments {
        block,
        offset_in_block: 0,
    };
    let arguments = arguments.to_arguments();
    raw_task(0, method as u16, arguments, Some(buffer))
}

#[test]
#[ignore = "a measurement"]
fn measure_memory() {
    const ROUNDS: u32 = 2_000_000;
    const BLOCKS: usize = 256;
    let (pool, _) = create("memory", &ram_params(1 << 20));
    let blocks = allocate(&pool, 0, BLOCKS as u64);
    let per_round = |time: Duration| time.as_nanos() as f64 / f64::from(ROUNDS);
    for len in [BLOCK_BYTES, 64] {
        let mut buffer = TestBuffer::of(&vec![1; len], 0);
        let tasks: Vec<_> = blocks
            .iter()
            .map(|block| transfer(Method::Write, *block, &mut buffer))
            .collect();
        let start = Instant::now();
        for round in 0..ROUNDS as usize {
            submit(&pool, &tasks[round % BLOCKS]);
        }
        let whole = per_round(start.elapsed());

        let mut memory = vec![0u8; BLOCKS * BLOCK_BYTES];
        let start = Instant::now();
        for round in 0..ROUNDS as usize {
            let at = round % BLOCKS * BLOCK_BYTES;
            memory[at..at + len].copy_from_slice(black_box(buffer.bytes()));
            black_box(&mut memory);
        }
        let copy = per_round(start.elapsed());
        println!("memory, write of {len} bytes: {whole:.1} ns, memcpy alone {copy:.1} ns");
    }
}

/// A file pool with one engine, all of whose blocks were written once, so that what is measured
/// does not include giving the file its space.
struct FilePool {
    pool: ContainerHandle,
    completed: &'static AtomicU64,
    blocks: Vec<Block>,
}

impl FilePool {
    const BLOCKS: usize = 16_384;

    /// `None`, with a word why, where the system refuses the engine.
    fn new(folder: &tempfile::TempDir, io_engine: IoEngine) -> Option<Self> {
        let metadata = metadata_bytes_beside((Self::BLOCKS * BLOCK_BYTES) as u64);
        let total_size = metadata + (Self::BLOCKS * BLOCK_BYTES) as u64;
        let params = CreateParams {
            io_engine,
            ..file_params(total_size)
        };
        if !engines().contains(&io_engine) {
            return None;
        }
        let (pool, completed) = create(&name_in(folder, &io_engine.to_string()), &params);
        let blocks = allocate(&pool, metadata, Self::BLOCKS as u64);
        let made = Self {
            pool,
            completed,
            blocks,
        };
        let mut buffer = TestBuffer::of(&[1; BLOCK_BYTES], 0);
        let mut fill = |at: usize| transfer(Method::Write, made.blocks[at], &mut buffer);
        made.drive(&mut fill, 32, Self::BLOCKS as u64, Duration::MAX);
        Some(made)
    }

    /// Keeps `depth` tasks in flight, until `most` are done or the time is over. Returns how many
    /// were done per second.
    fn drive(
        &self,
        task_of: &mut dyn FnMut(usize) -> RawTask,
        depth: u64,
        most: u64,
        time: Duration,
    ) -> f64 {
        let first = self.completed.load(Ordering::Relaxed);
        let mut submitted = 0;
        let start = Instant::now();
        loop {
            let done = self.completed.load(Ordering::Relaxed) - first;
            let is_over = submitted >= most || start.elapsed() > time;
            if is_over && done == submitted {
                return done as f64 / start.elapsed().as_secs_f64();
            }
            while !is_over && submitted - done < depth && submitted < most {
                submit(&self.pool, &task_of(submitted as usize));
                submitted += 1;
            }
            poll(&self.pool);
        }
    }

    /// Transfers of blocks in no order, per second.
    fn rate(&self, method: Method, buffer: &mut TestBuffer, depth: u64) -> f64 {
        let mut next = |at: usize| {
            let block = self.blocks[at.wrapping_mul(2_654_435_761) % Self::BLOCKS];
            transfer(method, block, buffer)
        };
        self.drive(&mut next, depth, u64::MAX, Duration::from_millis(250))
    }
}

/// Compares the engines in pairs of short runs, whose order changes, because machines are noisy.
#[test]
#[ignore = "a measurement"]
fn measure_file() {
    const PAIRS: usize = 16;
    for (place, folder) in [("disk", Some(disk_folder())), ("tmpfs", memory_folder())] {
        let Some(folder) = folder else { continue };
        let aio = FilePool::new(&folder, IoEngine::Libaio);
        let uring = FilePool::new(&folder, IoEngine::IoUring);
        let (Some(aio), Some(uring)) = (aio, uring) else {
            println!("{place}: nothing to compare with");
            continue;
        };
        for (method, len) in [
            (Method::Read, BLOCK_BYTES),
            (Method::Write, BLOCK_BYTES),
            (Method::Write, 100),
        ] {
            let mut buffer = TestBuffer::of(&vec![1; len], 0);
            for depth in [1, 32] {
                let mut pairs: Vec<[f64; 2]> = (0..PAIRS)
                    .map(|pair| {
                        let mut rates = [0.0; 2];
                        for turn in [pair % 2, 1 - pair % 2] {
                            let pool = [&aio, &uring][turn];
                            rates[turn] = pool.rate(method, &mut buffer, depth);
                        }
                        rates
                    })
                    .collect();
                pairs.sort_by(|a, b| (a[1] / a[0]).total_cmp(&(b[1] / b[0])));
                let ratio = |at: usize| pairs[at][1] / pairs[at][0];
                let [aio, uring] = pairs[PAIRS / 2];
                println!(
                    "{place}, {method:?} of {len} bytes at depth {depth}: libaio {aio:.0} per \
                     second, io_uring {uring:.0}; io_uring is {:.2} times as fast, half of the \
                     pairs {:.2} to {:.2}",
                    ratio(PAIRS / 2),
                    ratio(PAIRS / 4),
                    ratio(PAIRS - 1 - PAIRS / 4),
                );
            }
        }
    }
}
