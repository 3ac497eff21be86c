//! A pool in memory, and how fast one write and one read of a block are.
//!
//! `cargo run --release --example ram_workflow -- [MIB]`, 64 by default.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, connect_or_embed};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(64), |text| text.parse())?;
    // A daemon if one runs, else a runtime inside this process.
    let runtime = connect_or_embed()?;
    let bdev = Client::new(&runtime, PoolId::new(8001, 0));
    bdev.create(
        PoolQuery::Dynamic,
        "my_ram_device",
        &CreateOptions::ram(mib << 20),
    )?;

    let blocks = bdev.allocate_blocks(PoolQuery::Local, 1 << 20)?;
    let mut data = runtime.allocate_buffer(blocks[0].size as usize)?;
    data.fill(0xAB);
    let mut back = runtime.allocate_buffer(data.len())?;
    // Touched once, so that the time below is not that of the first use of memory.
    back.fill(0);

    let begin = Instant::now();
    let written = bdev.write(PoolQuery::Local, &blocks[0], &data)?;
    let write_time = begin.elapsed();
    let begin = Instant::now();
    bdev.read(PoolQuery::Local, &blocks[0], &mut back)?;
    let read_time = begin.elapsed();

    let mib_per_second = |time: std::time::Duration| (written >> 20) as f64 / time.as_secs_f64();
    println!(
        "write: {write_time:?}, {:.0} MiB/s",
        mib_per_second(write_time)
    );
    println!(
        "read:  {read_time:?}, {:.0} MiB/s",
        mib_per_second(read_time)
    );
    if data[..] != back[..] {
        return Err("what was read is not what was written".into());
    }
    println!("data integrity: pass");

    bdev.free_blocks(PoolQuery::Local, &blocks)?;
    runtime.admin().destroy_pool(bdev.pool_id())?;
    Ok(())
}
