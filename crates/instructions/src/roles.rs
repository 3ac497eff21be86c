//! What the subjects do: code of known length, a client's calls, a host.

use std::hint::black_box;

use chimaera_bdev_client::{Block, BlockType, Client as BdevClient};
use chimaera_client::{ConnectOptions, PoolId, PoolQuery, Task};
use chimaera_echo_client::Client as EchoClient;
use chimaera_runtime::{Config, Host, Polling};
use chimaera_shm::packet;

use crate::machine::{known_fill, known_loop, mark};
use crate::rounds::INTERVAL_TASKS;
use crate::subject::{answer, wait_to_go};
use crate::{Result, client, worker};

/// The host completes every task, so the block need not be allocated.
const BLOCK: Block = Block::new(0, BlockType::Kib4);

/// Does what the subject with this name does.
///
/// # Errors
/// There is no such role, or something failed in it.
pub fn play(role: &str) -> Result<()> {
    let socket = wait_to_go()?;
    if role == worker::ROLE {
        let host = host()?;
        answer(&socket, Some(host.connect()?))?;
        // Until the tracer ends.
        let _ = packet::receive(&socket);
        return Ok(());
    }
    answer(&socket, None)?;
    if role == "known" {
        known();
        return Ok(());
    }
    let runtime = ConnectOptions::new()
        .buffer_bytes(16 << 20)
        .from_socket(socket)?;
    let echo = EchoClient::new(&runtime, PoolId::new(9000, 0));
    let bdev = BdevClient::new(&runtime, PoolId::new(8000, 0));
    // The first one also attaches to its pool.
    calls(role, &echo, &bdev, 1)?;
    // Until the tracer has enough.
    loop {
        calls(role, &echo, &bdev, INTERVAL_TASKS)?;
    }
}

fn known() {
    mark();
    mark();
    mark();
    known_loop();
    mark();
    let (mut bytes, source) = (vec![0; 4096], vec![1; 4096]);
    for len in [8, 4096] {
        let bytes = &mut bytes[..len];
        mark();
        known_fill(black_box(bytes));
        mark();
    }
    for len in [64, 4096] {
        let (bytes, source) = (&mut bytes[..len], &source[..len]);
        mark();
        black_box(bytes).copy_from_slice(black_box(source));
        mark();
    }
}

/// A host with one worker, and plugins that were built along with this program.
fn host() -> Result<Host> {
    let program = std::env::current_exe()?;
    let folder = program.parent().ok_or("a program lies in a folder")?;
    Ok(Host::start(&Config {
        worker_count: 1,
        // It should not fall asleep between rounds.
        polling: Polling::Performance,
        // Cargo puts the libraries of dependencies into `deps`. What lies beside the program may be
        // from an earlier build.
        plugin_folders: vec![folder.join("deps"), folder.to_owned()],
        ..Config::default()
    })?)
}

/// One interval of a client's case, with so many tasks.
fn calls(role: &str, echo: &EchoClient, bdev: &BdevClient, count: usize) -> Result<()> {
    match role {
        client::CALL => call(echo, count)?,
        client::SUBMIT => {
            let tasks = submit(echo, count, mark)?;
            mark();
            collect(tasks, || ())?;
        }
        client::COLLECT => {
            let tasks = submit(echo, count, || ())?;
            mark();
            collect(tasks, mark)?;
        }
        client::READ => read(bdev, count)?,
        client::WRITE => write(bdev, count)?,
        other => return Err(format!("there is no subject \"{other}\"").into()),
    }
    Ok(())
}

// Each piece of counted code has a function of its own, so that the compiler treats it as a function of an
// application, whatever the others here look like.

#[inline(never)]
fn call(echo: &EchoClient, count: usize) -> Result<()> {
    mark();
    for _ in 0..count {
        black_box(echo.echo(7)?);
    }
    mark();
    Ok(())
}

#[inline(never)]
fn submit(echo: &EchoClient, count: usize, before: fn()) -> Result<Vec<Task<u64>>> {
    let mut tasks = Vec::with_capacity(count);
    before();
    for _ in 0..count {
        tasks.push(echo.async_echo(7));
    }
    Ok(tasks)
}

#[inline(never)]
fn collect(tasks: Vec<Task<u64>>, after: fn()) -> Result<()> {
    for task in tasks {
        black_box(task.wait()?);
    }
    after();
    Ok(())
}

#[inline(never)]
fn read(bdev: &BdevClient, count: usize) -> Result<()> {
    let mut buffer = bdev.runtime().allocate_buffer(4096)?;
    mark();
    for _ in 0..count {
        black_box(bdev.read(PoolQuery::Local, &BLOCK, &mut buffer)?);
    }
    mark();
    Ok(())
}

#[inline(never)]
fn write(bdev: &BdevClient, count: usize) -> Result<()> {
    let buffer = bdev.runtime().allocate_buffer(4096)?;
    mark();
    for _ in 0..count {
        black_box(bdev.write(PoolQuery::Local, &BLOCK, &buffer)?);
    }
    mark();
    Ok(())
}
