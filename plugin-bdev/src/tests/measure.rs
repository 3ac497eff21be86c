//! How long transfers take. Prints, and asserts nothing: run it in release mode with
//! `--ignored --nocapture measure`.
#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]

use std::ffi::c_void;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chimaera_chimod::abi::{Bytes, HOST_MAGIC, Header, HostVTable, RawTask};
use chimaera_chimod::host::ContainerHandle;
use chimaera_proto::bdev::{Block, BlockType, CreateParams, Method, TransferArguments};
use chimaera_proto::{PoolId, codec};

use crate::testing::{Buffer, disk_folder, file_params, name_in, ram_params, raw_task};

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

unsafe extern "C" fn no_log(_: *const c_void, _: u32, _: Bytes) {}

fn create(name: &str, params: &CreateParams) -> (ContainerHandle, &'static AtomicU64) {
    let completed: &'static AtomicU64 = Box::leak(Box::default());
    let table = Arc::new(HostVTable {
        header: Header::of::<HostVTable>(HOST_MAGIC),
        context: (&raw const *completed).cast(),
        complete: count,
        log: no_log,
    });
    let params = codec::encode(params).expect("encodes");
    let pool = crate::module().create(table, PoolId::new(1, 0), name, &params, 1);
    (pool.expect("made"), completed)
}

fn submit(pool: &ContainerHandle, task: &RawTask) {
    // SAFETY: this thread is the only worker; every buffer outlives its task, and the pool too.
    let _ = unsafe { pool.submit(0, task) };
}

fn poll(pool: &ContainerHandle) {
    // SAFETY: as in `submit`.
    let _ = unsafe { pool.poll(0) };
}

fn allocate(pool: &ContainerHandle, blocks: u64) -> Vec<Block> {
    for _ in 0..blocks {
        let allocate = Method::AllocateBlocks as u16;
        submit(pool, &raw_task(0, allocate, [4096, 0, 0], None));
    }
    // The host drops the answers; a new pool gives its blocks from the start, all of them.
    (0..blocks)
        .map(|at| Block::new(at * 4096, BlockType::Kib4))
        .collect()
}

fn transfer(method: Method, block: Block, buffer: &mut Buffer) -> RawTask {
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
    let blocks = allocate(&pool, BLOCKS as u64);
    let per_round = |time: Duration| time.as_nanos() as f64 / f64::from(ROUNDS);
    for len in [BLOCK_BYTES, 64] {
        let mut buffer = Buffer::of(&vec![1; len], 0);
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

#[test]
#[ignore = "a measurement"]
fn measure_file() {
    const BLOCKS: usize = 4096;
    const TIME: Duration = Duration::from_millis(1500);
    let folder = disk_folder();
    let params = file_params((BLOCKS * BLOCK_BYTES) as u64);
    let (pool, completed) = create(&name_in(&folder, "pool"), &params);
    let blocks = allocate(&pool, BLOCKS as u64);
    let mut buffer = Buffer::of(&[1; BLOCK_BYTES], 0);
    let mut part = Buffer::of(&[2; 100], 0);
    let drive = |task_of: &mut dyn FnMut(usize) -> RawTask, depth: u64, most: u64| {
        let first = completed.load(Ordering::Relaxed);
        let mut submitted = 0;
        let start = Instant::now();
        loop {
            let done = completed.load(Ordering::Relaxed) - first;
            if done >= most || (start.elapsed() > TIME && done == submitted) {
                return done as f64 / start.elapsed().as_secs_f64();
            }
            while submitted - done < depth && submitted < most && start.elapsed() < TIME {
                submit(&pool, &task_of(submitted as usize));
                submitted += 1;
            }
            poll(&pool);
        }
    };
    // Every block once, so that what is measured does not include giving the file its space.
    let mut fill = |at: usize| transfer(Method::Write, blocks[at], &mut buffer);
    drive(&mut fill, 32, BLOCKS as u64);
    for (method, buffer) in [
        (Method::Write, &mut buffer),
        (Method::Read, &mut Buffer::new(BLOCK_BYTES, 0)),
        (Method::Write, &mut part),
    ] {
        let len = buffer.len;
        for depth in [1, 32] {
            let mut next = |at: usize| {
                let block = blocks[at.wrapping_mul(2_654_435_761) % BLOCKS];
                transfer(method, block, buffer)
            };
            let rate = drive(&mut next, depth, u64::MAX);
            println!("file, {method:?} of {len} bytes at depth {depth}: {rate:.0} per second");
        }
    }
}
