//! Allocates, writes, reads and frees blocks of each size in a loop.
//!
//! `cargo run --release --example benchmark_loop -- [OPERATIONS]`, 1000 by default.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use chimaera_bdev_client::{BlockType, Client, CreateOptions, PoolId, PoolQuery, connect_or_embed};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let operations: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |text| text.parse())?;
    // A daemon if one runs, else a runtime inside this process.
    let runtime = connect_or_embed()?;
    let bdev = Client::new(&runtime, PoolId::NULL);
    bdev.create(
        PoolQuery::Dynamic,
        "benchmark_loop",
        &CreateOptions::ram(64 << 20),
    )?;
    for block_type in BlockType::ALL {
        let begin = Instant::now();
        for round in 0..operations {
            let blocks = bdev.allocate_blocks(PoolQuery::Local, block_type.size())?;
            let mut data = runtime.allocate_buffer(block_type.size() as usize)?;
            data.fill(round as u8);
            bdev.write(PoolQuery::Local, &blocks[0], &data)?;
            bdev.read(PoolQuery::Local, &blocks[0], &mut data)?;
            bdev.free_blocks(PoolQuery::Local, &blocks)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        // Each round writes a block and reads it.
        let mib = (2 * operations * block_type.size()) as f64 / f64::from(1 << 20);
        println!("{block_type:>8}: {:.0} MiB/s", mib / seconds);
    }
    runtime.admin().destroy_pool(bdev.pool_id())?;
    Ok(())
}
