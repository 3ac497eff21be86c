//! `chimaera demo`: block storage in memory and on a file, with an embedded runtime.

use std::time::{Duration, Instant};

use chimaera_bdev_client::{
    Block, BlockType, Buffer, Client, CreateOptions, Error, PoolId, PoolQuery, Runtime,
};

use crate::failure::CommandFailure;
use crate::output;
use crate::program;
use crate::size::show_size;

/// Bytes of each pool.
const POOL_BYTES: u64 = 256 << 20;

/// How long each cell of a table is measured.
const MEASURE: Duration = Duration::from_millis(250);

/// How many blocks the operations of a measurement take in turn.
const BLOCKS: usize = 16;

const QUERY: PoolQuery = PoolQuery::Local;

pub(crate) fn run() -> Result<(), CommandFailure> {
    let folder = tempfile::Builder::new()
        .prefix("chimaera-demo-")
        .tempdir()
        .map_err(CommandFailure::system("cannot make a temporary folder"))?;
    let runtime = Runtime::embed()
        .with_module(chimaera_bdev_runtime::module())
        .start()?;
    output::line(format_args!(
        "Chimaera {}: an embedded runtime, {} worker(s), no daemon needed",
        runtime.daemon().version,
        runtime.daemon().worker_count,
    ));
    let file = folder.path().join("pool");
    let file = file
        .to_str()
        .ok_or_else(|| CommandFailure::new("the temporary folder is not UTF-8"))?;
    let ram_pool = Client::new(&runtime, PoolId::new(8001, 0));
    ram_pool.create(
        PoolQuery::Dynamic,
        "demo-ram",
        &CreateOptions::ram(POOL_BYTES),
    )?;
    show_pool("RAM pool demo-ram", &runtime, &ram_pool)?;
    let file_pool = Client::new(&runtime, PoolId::new(8000, 0));
    file_pool.create(
        PoolQuery::Dynamic,
        file,
        &CreateOptions::file().size(POOL_BYTES),
    )?;
    show_pool(&format!("File pool {file}"), &runtime, &file_pool)?;
    output::line(format_args!(
        "\nNext: `{}` for a daemon that programs share, and README.md for the way on.",
        program::command_alone(&["runtime", "start", "--detach"])
    ));
    Ok(())
}

fn show_pool(title: &str, runtime: &Runtime, pool: &Client) -> Result<(), CommandFailure> {
    let stats = pool.get_stats()?;
    let access = if stats.direct_io { ", direct I/O" } else { "" };
    let kept = match stats.metadata_size {
        0 => String::new(),
        size => format!(", {} of it for its metadata", show_size(size)),
    };
    output::line(format_args!(
        "\n{title}: {}{kept}{access}",
        show_size(stats.total_size)
    ));
    show_workflow(runtime, pool)?;
    show_speed(runtime, pool)
}

/// Shows the first things that a user does: allocate, write, read back, compare, free.
fn show_workflow(runtime: &Runtime, pool: &Client) -> Result<(), CommandFailure> {
    let blocks = pool.allocate_blocks(QUERY, 1 << 20)?;
    output::line(format_args!("  allocated  {}", describe(&blocks)));
    let mut data = runtime.allocate_buffer(1 << 20)?;
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = (index / 4096 + index) as u8;
    }
    let written = pool.write(QUERY, &blocks[0], &data)?;
    let mut back = runtime.allocate_buffer(1 << 20)?;
    let read = pool.read(QUERY, &blocks[0], &mut back)?;
    let verdict = if *data == *back { "intact" } else { "DAMAGED" };
    output::line(format_args!("  wrote      {written} bytes"));
    output::line(format_args!("  read       {read} bytes, {verdict}"));
    let before = pool.get_stats()?.remaining_size;
    pool.free_blocks(QUERY, &blocks)?;
    let after = pool.get_stats()?.remaining_size;
    output::line(format_args!(
        "  freed      {} → {} free",
        show_size(before),
        show_size(after)
    ));
    if *data == *back {
        Ok(())
    } else {
        Err(CommandFailure::new("what was read is not what was written"))
    }
}

fn describe(blocks: &[Block]) -> String {
    let list: Vec<_> = blocks
        .iter()
        .map(|block| format!("{} at offset {}", block.block_type, block.offset))
        .collect();
    format!("{} block(s): {}", blocks.len(), list.join(", "))
}

fn show_speed(runtime: &Runtime, pool: &Client) -> Result<(), CommandFailure> {
    let heading = [
        "  block",
        "write p50",
        "p99",
        "bandwidth",
        "read p50",
        "p99",
        "bandwidth",
    ];
    let mut table = output::table(&heading, 1);
    for block_type in BlockType::ALL {
        let size = block_type.size();
        let blocks = (0..BLOCKS)
            .map(|_| Ok(pool.allocate_blocks(QUERY, size)?[0]))
            .collect::<Result<Vec<Block>, Error>>()?;
        let mut buffer: Buffer = runtime.allocate_buffer(size as usize)?;
        buffer.fill(0xAB);
        let write = measure(&blocks, |block| pool.write(QUERY, block, &buffer))?;
        let read = measure(&blocks, |block| pool.read(QUERY, block, &mut buffer))?;
        pool.free_blocks(QUERY, &blocks)?;
        let mut row = vec![format!("  {block_type}")];
        row.extend(write.cells().into_iter().chain(read.cells()));
        table.add_row(row);
    }
    output::lines(table.trim_fmt());
    Ok(())
}

/// The result of one operation at a time, many times.
struct Measurement {
    median: Duration,
    percentile_99: Duration,
    bytes_per_second: f64,
}

impl Measurement {
    fn cells(&self) -> [String; 3] {
        let micros = |duration: Duration| format!("{:.2} µs", duration.as_secs_f64() * 1e6);
        let gigabytes = self.bytes_per_second / 1e9;
        [
            micros(self.median),
            micros(self.percentile_99),
            format!("{gigabytes:.2} GB/s"),
        ]
    }
}

fn measure(
    blocks: &[Block],
    mut operation: impl FnMut(&Block) -> Result<u64, Error>,
) -> Result<Measurement, Error> {
    // Each block is touched once before: else the first faults on its memory would be measured.
    for block in blocks {
        operation(block)?;
    }
    let mut times = Vec::new();
    let mut bytes = 0;
    let start = Instant::now();
    let mut last = start;
    for block in blocks.iter().cycle() {
        bytes += operation(block)?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
        if now - start >= MEASURE {
            break;
        }
    }
    let elapsed = last - start;
    times.sort_unstable();
    Ok(Measurement {
        median: times[times.len() / 2],
        percentile_99: times[times.len() * 99 / 100],
        bytes_per_second: bytes as f64 / elapsed.as_secs_f64(),
    })
}
