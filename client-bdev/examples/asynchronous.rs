//! Many tasks in flight at once, waited for in four ways.
//!
//! `cargo run --example asynchronous`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, TaskSet, connect_or_embed};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A daemon if one runs, else a runtime inside this process.
    let runtime = connect_or_embed()?;
    let bdev = Client::new(&runtime, PoolId::NULL);
    bdev.create(
        PoolQuery::Dynamic,
        "asynchronous_example",
        &CreateOptions::ram(64 << 20),
    )?;
    let blocks = bdev
        .async_allocate_blocks(PoolQuery::Local, 32 << 20)
        .wait()?;

    // All writes at once; each buffer goes along with its task and comes back.
    let mut writes = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        let mut buffer = runtime.allocate_buffer(65536)?;
        buffer.fill(number as u8);
        writes.push(bdev.async_write(PoolQuery::Local, block, buffer));
    }
    let mut buffers = Vec::new();
    for write in writes {
        let (written, buffer) = write.wait()?;
        assert_eq!(written, 65536);
        buffers.push(buffer);
    }
    println!("wrote {} blocks", blocks.len());

    // Eight reads in flight; whichever ends first is followed by the next.
    let mut reads = TaskSet::new();
    let (mut waiting, mut bytes) = (blocks.iter(), 0);
    for buffer in buffers.drain(..8) {
        let block = waiting.next().ok_or("there are more blocks")?;
        reads.push(bdev.async_read(PoolQuery::Local, block, buffer));
    }
    while let Some(result) = reads.wait_any() {
        let (read, buffer) = result?;
        bytes += read;
        if let Some(block) = waiting.next() {
            reads.push(bdev.async_read(PoolQuery::Local, block, buffer));
        }
    }
    println!("read {bytes} bytes");

    // One read, with other work between looks at it.
    let buffer = buffers.pop().ok_or("there is a buffer")?;
    let mut read = bdev.async_read(PoolQuery::Local, &blocks[5], buffer);
    let (_, buffer) = loop {
        match read.wait_timeout(Duration::from_millis(1)) {
            Some(result) => break result?,
            None => println!("not yet"),
        }
    };
    println!("block 5 begins with {}", buffer[0]);

    // On any executor.
    let tokio = tokio::runtime::Builder::new_current_thread().build()?;
    tokio.block_on(async {
        let (read, buffer) = bdev
            .async_read(PoolQuery::Local, &blocks[7], buffer)
            .await?;
        println!("read {read} bytes, block 7 begins with {}", buffer[0]);
        bdev.async_free_blocks(PoolQuery::Local, &blocks).await
    })?;
    runtime.admin().destroy_pool(bdev.pool_id())?;
    Ok(())
}
