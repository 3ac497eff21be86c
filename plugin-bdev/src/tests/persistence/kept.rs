//! After reopening, a pool has its blocks, their data and their owners.

use chimaera_bdev_proto::{CreateParams, MEGABYTE, OwnedBlock, OwnerTag};
use chimaera_testing::Xorshift;

use super::{Written, on_every_store, room};
use crate::testing::{POOL, file_bytes, file_params, memory_folder, name_in};
use crate::tests::{on_every_file, with_every_engine};

#[test]
fn blocks_with_data_and_owners_are_there_after_the_pools_end() {
    on_every_store(file_bytes(8), |store| {
        let pool = store.open();
        let mut written = Written::of_all_kinds(&pool);
        for at in [5, 1] {
            let (gone, _) = written.0.remove(at);
            pool.free(&[gone.block]).expect("allocated");
        }
        drop(pool);
        for _ in 0..2 {
            let pool = store.open();
            assert_eq!(pool.recorder().log(), [], "nothing to tell of");
            written.assert_all_of(&pool);
        }
        // What is added goes beside what was there.
        let pool = store.open();
        written.add(&pool, MEGABYTE);
        written.add(&pool, 4096);
        written.assert_all_of(&pool);
        drop(pool);
        written.assert_all_of(&store.open());
    });
}

#[test]
fn what_was_flushed_is_there_after_a_crash_and_what_was_not_is_not() {
    on_every_store(file_bytes(9), |store| {
        let pool = store.open();
        let written = Written::of_all_kinds(&pool);
        pool.flush().expect("flushed");
        let at_flush = store.image();
        let later = Written::of_all_kinds(&pool);
        for (owned, _) in &written.0[..3] {
            pool.free(&[owned.block]).expect("allocated");
        }
        assert_eq!(pool.list().len(), written.0.len() - 3 + later.0.len());
        let later = store.image();
        drop(pool);
        for crash in [at_flush, later] {
            store.put(&crash);
            let pool = store.open();
            assert_eq!(pool.recorder().log(), [], "a crash is nothing to tell of");
            written.assert_all_of(&pool);
        }
    });
}

#[test]
fn each_flush_is_what_a_crash_goes_back_to() {
    on_every_store(file_bytes(4), |store| {
        let mut written = Written::default();
        let mut pool = store.open();
        for round in 0..40 {
            written.add(&pool, if round % 3 == 0 { 65_536 } else { 4096 });
            if round % 4 == 3 {
                let (gone, _) = written.0.remove(round % written.0.len());
                pool.free(&[gone.block]).expect("allocated");
            }
            pool.flush().expect("flushed");
            if round % 5 == 4 {
                let crash = store.image();
                pool.allocate(1).expect("room");
                drop(pool);
                store.put(&crash);
                pool = store.open();
                written.assert_all_of(&pool);
            }
        }
    });
}

#[test]
fn every_engine_and_the_page_cache_keep_a_pool_for_each_other() {
    let folders = [Some(chimaera_testing::disk_folder()), memory_folder()];
    for folder in folders.into_iter().flatten() {
        let name = name_in(&folder, "pool");
        let make = |params: &CreateParams| {
            let pool = crate::testing::TestPool::create(&name, params, 1);
            pool.expect("it opens")
        };
        let written = Written::of_all_kinds(&make(&file_params(file_bytes(8))));
        for params in with_every_engine(&file_params(0)) {
            let pool = make(&params);
            assert_eq!(pool.stats().io_engine, Some(params.io_engine));
            written.assert_all_of(&pool);
        }
    }
}

#[test]
fn the_host_learns_the_id_and_flushes_through_the_table() {
    on_every_file(&file_params(file_bytes(1)), 1, |pool| {
        assert_eq!(pool.handle().pool_id().expect("told"), Some(POOL));
        pool.handle().flush().expect("flushed");
    });
    on_every_store(file_bytes(2), |store| {
        let pool = store.open();
        let mut written = Written::default();
        written.add(&pool, MEGABYTE);
        pool.handle().flush().expect("flushed");
        let crash = store.image();
        drop(pool);
        store.put(&crash);
        written.assert_all_of(&store.open());
    });
}

#[test]
fn remaining_size_and_the_list_are_exact_whatever_happens() {
    on_every_store(file_bytes(4), |store| {
        let mut numbers = Xorshift::new(7);
        let mut pool = store.open();
        let room = room(&pool);
        let mut live: Vec<OwnedBlock> = Vec::new();
        for step in 0..1500 {
            match numbers.below(20) {
                0 => pool.flush().expect("flushed"),
                1 if step % 8 == 0 => {
                    drop(pool);
                    pool = store.open();
                }
                2..11 => {
                    let size = [1, 4096, 60_000, 200_000, MEGABYTE, 2 * MEGABYTE][numbers.below(6)];
                    let owner = OwnerTag(numbers.below(3) as u64);
                    // If there is no space, nothing changes.
                    let blocks = pool.allocate_for(size, owner).unwrap_or_default();
                    live.extend(blocks.iter().map(|&block| OwnedBlock::new(block, owner)));
                }
                _ => {
                    let count = numbers.below(4).min(live.len());
                    let gone: Vec<_> = (0..count)
                        .map(|_| live.swap_remove(numbers.below(live.len())).block)
                        .collect();
                    pool.free(&gone).expect("allocated");
                }
            }
            let used: u64 = live.iter().map(|owned| owned.block.size).sum();
            assert_eq!(pool.stats().remaining_size, room - used, "step {step}");
            if step % 16 == 0 {
                live.sort();
                assert_eq!(pool.list(), live, "step {step}");
            }
        }
    });
}
