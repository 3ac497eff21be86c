//! Inspecting a pool reports its true state, also while it is in use.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chimaera_bdev_format::image;
use chimaera_testing::disk_folder;

use super::on_every_store;
use crate::testing::{TestPool, file_bytes, file_params, memory_folder, name_in};

/// How often the pool that is looked at changes.
const CHANGES: usize = 2000;

#[test]
fn a_pool_that_changes_is_not_called_damaged() {
    // In memory, flushes follow one another so fast that an inspection often falls between two.
    let folder = memory_folder().unwrap_or_else(disk_folder);
    let name = name_in(&folder, "pool");
    let pool = TestPool::create(&name, &file_params(file_bytes(8)), 1).expect("made");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let inspection = image::inspect(Path::new(&name)).expect("a pool");
                let damage = [inspection.lost, inspection.repairable];
                assert_eq!((inspection.in_use, damage), (true, [vec![], vec![]]));
            }
        });
        for _ in 0..CHANGES {
            let blocks = pool.allocate(4096).expect("room");
            pool.flush().expect("flushed");
            pool.free(&blocks).expect("allocated");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_is_damaged_while_it_is_in_use_is_told() {
    on_every_store(file_bytes(8), |store| {
        let pool = store.open();
        let path = Path::new(&store.name);
        assert!(image::inspect(path).expect("a pool").is_sound());
        store.damage(100);
        let inspection = image::inspect(path).expect("there is a copy");
        assert!(inspection.in_use && inspection.lost.is_empty());
        let told = &inspection.repairable[..];
        assert!(matches!(told, [text] if text.contains("first superblock")));
        drop(pool);
    });
}

#[test]
fn what_holds_something_is_not_called_empty_however_short_it_is() {
    let folder = disk_folder();
    let name = name_in(&folder, "somebody's");
    for (contents, told) in [
        (vec![0; 4096], "nothing but zeroes"),
        (b"root:x:0:0:root:/root:/bin/bash\n".to_vec(), "offset 0x0"),
        ([&[0; 8192][..], b"tail"].concat(), "offset 0x2000"),
    ] {
        std::fs::write(&name, &contents).expect("writes");
        let error = image::inspect(Path::new(&name)).expect_err("no pool");
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[test]
fn a_file_of_the_kernels_own_is_not_read() {
    // It looks like a regular file, and reading it may wait for ever.
    let error = image::inspect(Path::new("/proc/version")).expect_err("no pool");
    assert!(error.to_string().contains("of the kernel's own"), "{error}");
    let error = TestPool::create("/proc/self/mountinfo", &file_params(file_bytes(8)), 1).err();
    assert!(error.is_some(), "no place for a pool");
}
