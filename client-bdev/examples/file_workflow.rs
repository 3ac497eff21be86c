//! A pool on a file or device: create, allocate, write, read, statistics, free.
//!
//! `cargo run --example file_workflow -- /path/to/file`. Without a path it uses a temporary file
//! of 64 MiB.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use chimaera_bdev_client::{
    Client, CreateOptions, PerfMetrics, PoolId, PoolQuery, connect_or_embed,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::NamedTempFile::new()?;
    let path = match std::env::args().nth(1) {
        Some(path) => path,
        None => {
            temporary.as_file().set_len(64 << 20)?;
            temporary.path().display().to_string()
        }
    };
    // A daemon if one runs, else a runtime inside this process.
    let runtime = connect_or_embed()?;
    let bdev = Client::new(&runtime, PoolId::NULL);
    let options = CreateOptions::file()
        .io_depth(64)
        .perf_metrics(PerfMetrics {
            read_bandwidth_mbps: 3500.0,
            write_bandwidth_mbps: 3000.0,
            read_latency_us: 50.0,
            write_latency_us: 80.0,
            iops: 500_000.0,
        });
    let pool = bdev.create(PoolQuery::Dynamic, &path, &options)?;
    println!("pool {} on {path}", pool.id);

    let blocks = bdev.allocate_blocks(PoolQuery::Local, 1 << 20)?;
    println!("allocated {} block(s)", blocks.len());
    let mut buffer = runtime.allocate_buffer(blocks[0].size as usize)?;
    buffer.fill(0xDE);
    for (number, page) in buffer.chunks_mut(4096).enumerate() {
        page[0] = number as u8;
    }
    let written = bdev.write(PoolQuery::Local, &blocks[0], &buffer)?;
    println!("wrote {written} bytes");

    let mut other = runtime.allocate_buffer(buffer.len())?;
    bdev.read(PoolQuery::Local, &blocks[0], &mut other)?;
    if buffer[..] != other[..] {
        return Err("what was read is not what was written".into());
    }
    println!("data integrity: pass");

    let stats = bdev.get_stats()?;
    println!("declared: {:?}", stats.metrics);
    println!(
        "remaining: {} of {} bytes",
        stats.remaining_size, stats.total_size
    );

    bdev.free_blocks(PoolQuery::Local, &blocks)?;
    runtime.admin().destroy_pool(pool.id)?;
    Ok(())
}
