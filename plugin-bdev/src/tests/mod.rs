//! What the module promises, through the table that a host uses.

mod blocks;
mod creation;
mod devices;
mod law_11;
mod law_13;
mod measure;
mod sizes;
mod transfers;

use chimaera_proto::bdev::CreateParams;

use crate::testing::{Pool, disk_folder, file_params, memory_folder, name_in, ram_params};

/// Calls `test` with a new pool of each kind: in memory, on a disk without page cache, and on a
/// file system that has nothing else.
fn on_every_backend(total_size: u64, workers: u32, test: impl Fn(&Pool)) {
    test(&Pool::create("memory", &ram_params(total_size), workers).expect("a memory pool"));
    on_every_file(&file_params(total_size), workers, test);
}

/// As [`on_every_backend`], without memory.
fn on_every_file(params: &CreateParams, workers: u32, test: impl Fn(&Pool)) {
    for folder in [Some(disk_folder()), memory_folder()].into_iter().flatten() {
        let pool = Pool::create(&name_in(&folder, "pool"), params, workers);
        test(&pool.expect("a file pool"));
    }
}
