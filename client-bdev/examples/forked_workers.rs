//! A parent that forks workers. A connection is one process's, so each worker connects anew.
//!
//! `cargo run --example forked_workers -- 4`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::process::exit;

use chimaera_bdev_client::{
    Client, ConnectOptions, CreateOptions, PoolId, PoolQuery, Runtime, Status, embed,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, getpid};

const LOCAL: PoolQuery = PoolQuery::Local;

fn main() -> Result<(), Box<dyn Error>> {
    let workers = std::env::args().nth(1).map_or(Ok(4), |text| text.parse())?;
    // A daemon if one runs, else a runtime inside this process that the workers can reach.
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let (runtime, socket) = match Runtime::connect() {
        Ok(runtime) => (runtime, None),
        Err(error) if !error.is_no_daemon() => return Err(error.into()),
        Err(_) => (embed().listen(&socket).start()?, Some(socket)),
    };
    let connect = || match &socket {
        Some(socket) => ConnectOptions::new().connect_to(socket),
        None => Runtime::connect(),
    };
    let name = format!("forked_workers_example_{}", getpid());
    let pool = Client::new(&runtime, PoolId::NULL);
    pool.create(PoolQuery::Dynamic, &name, &CreateOptions::ram(64 << 20))?;

    let mut children = Vec::new();
    for number in 0..workers {
        // SAFETY: the child uses what is its own, and of this library what a child may.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => children.push(child),
            ForkResult::Child => {
                // The parent's connection says so, and is left alone.
                let error = runtime.admin().ping().expect_err("it is the parent's");
                assert_eq!(error.status(), Status::Forked);
                match work(connect, &name, number) {
                    Ok(()) => exit(0),
                    Err(error) => {
                        println!("worker {number}: {error}");
                        exit(1);
                    }
                }
            }
        }
    }
    for child in children {
        assert_eq!(waitpid(child, None)?, WaitStatus::Exited(child, 0));
    }
    println!("{workers} workers wrote and read on connections of their own");
    runtime.admin().destroy_pool(pool.pool_id())?;
    Ok(())
}

fn work(
    connect: impl Fn() -> Result<Runtime, chimaera_bdev_client::Error>,
    pool: &str,
    number: u8,
) -> Result<(), Box<dyn Error>> {
    let runtime = connect()?;
    let pool = Client::open(&runtime, pool)?;
    let blocks = pool.allocate_blocks(LOCAL, 1 << 20)?;
    let mut buffer = runtime.allocate_buffer(1 << 20)?;
    buffer.fill(number);
    pool.write(LOCAL, &blocks[0], &buffer)?;
    buffer.fill(!number);
    pool.read(LOCAL, &blocks[0], &mut buffer)?;
    assert!(buffer.iter().all(|&byte| byte == number));
    pool.free_blocks(LOCAL, &blocks)?;
    Ok(())
}
