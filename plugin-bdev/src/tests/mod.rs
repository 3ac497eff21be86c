//! What the module promises, through the table that a host uses.

mod blocks;
mod charges;
mod creation;
mod devices;
mod engines;
mod freed_space_waits_for_io;
mod host_tables;
mod listing;
mod measure;
mod measure_opening;
mod panics;
mod passed;
mod persistence;
mod scrubbing;
mod sizes;
mod transfers;
mod writes_change_their_bytes_alone;

use std::sync::LazyLock;

use chimaera_bdev_proto::{CreateParams, IoEngine, MEGABYTE};
use chimaera_proto::Status;
use chimaera_testing::{disk_folder, skipped};

use crate::testing::{TestPool, file_bytes, file_params, memory_folder, name_in, ram_params};

/// Calls `test` with a new pool of each kind: in memory; and with each engine on a disk without
/// page cache, and on a file system that has nothing else.
fn on_every_backend(total_size: u64, workers: u32, test: impl Fn(&TestPool)) {
    test(&TestPool::create("memory", &ram_params(total_size), workers).expect("a memory pool"));
    on_every_file(&file_params(total_size), workers, test);
}

/// As [`on_every_backend`], with room for so many whole megabytes, and for smaller blocks besides.
fn on_every_backend_with_room(megabytes: u64, workers: u32, test: impl Fn(&TestPool)) {
    let in_memory = ram_params((megabytes + 1) * MEGABYTE);
    test(&TestPool::create("memory", &in_memory, workers).expect("a memory pool"));
    on_every_file(&file_params(file_bytes(megabytes)), workers, test);
}

/// As [`on_every_backend`], without memory.
fn on_every_file(params: &CreateParams, workers: u32, test: impl Fn(&TestPool)) {
    for folder in [Some(disk_folder()), memory_folder()].into_iter().flatten() {
        for params in with_every_engine(params) {
            let name = name_in(&folder, &params.io_engine.to_string());
            let pool = TestPool::create(&name, &params, workers).expect("a file pool");
            assert_eq!(pool.stats().io_engine, Some(params.io_engine));
            test(&pool);
        }
    }
}

/// The parameters, with each engine that the system permits.
fn with_every_engine(params: &CreateParams) -> Vec<CreateParams> {
    engines()
        .iter()
        .map(|&io_engine| CreateParams {
            io_engine,
            ..*params
        })
        .collect()
}

/// The engines that the system permits, with a word about one that it does not.
fn engines() -> &'static [IoEngine] {
    static ENGINES: LazyLock<Vec<IoEngine>> = LazyLock::new(|| {
        let mut engines = vec![IoEngine::Libaio];
        let folder = disk_folder();
        let params = CreateParams {
            io_engine: IoEngine::IoUring,
            ..file_params(1 << 20)
        };
        match TestPool::create(&name_in(&folder, "pool"), &params, 1) {
            Ok(_) => engines.push(IoEngine::IoUring),
            Err(error) => skipped("pools with io_uring", &error.message),
        }
        engines
    });
    &ENGINES
}

/// Creating the pool fails with this status and these words.
#[track_caller]
fn assert_refused(name: &str, params: &CreateParams, status: Status, text: &str) {
    let Err(error) = TestPool::create(name, params, 1) else {
        panic!("{name} was made with {params:?}");
    };
    assert_eq!(error.failure.status, status, "{error}");
    assert!(error.message.contains(text), "{error}");
}
