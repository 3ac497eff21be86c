//! Space that is freed is given to another only when a crash cannot bring its old block back any more.

use std::fs::File;
use std::iter;
use std::ops::Range;
use std::path::Path;

use chimaera_bdev_format::image::{FileDisk, pool_file};
use chimaera_bdev_proto::{
    Block, CreateParams, MEGABYTE, Method, OwnerTag, UNIT_BYTES, allocate_arguments,
};
use chimaera_proto::Status;

use super::{Store, Written, on_every_store, room};
use crate::testing::{file_bytes, file_params, one_block_bytes};

#[test]
fn freed_space_is_nobodys_before_a_commit_while_there_is_other_space() {
    on_every_store(file_bytes(6), |store| {
        let pool = store.open();
        let mut old = Written::default();
        old.add(&pool, 2 * MEGABYTE);
        old.add(&pool, UNIT_BYTES);
        pool.flush().expect("flushed");
        let freed: Vec<Block> = old.0.iter().map(|(owned, _)| owned.block).collect();
        pool.free(&freed).expect("allocated");
        let all = room(&pool);
        assert_eq!(pool.stats().remaining_size, all, "it counts at once");
        let error = pool.read(freed[0], 0, 512).expect_err("freed");
        assert_eq!(error.status, Status::NotAllocated);

        // All the other space there is, every byte of it written.
        let mut new = Written::default();
        new.add(&pool, 4 * MEGABYTE);
        for _ in 0..16 {
            new.add(&pool, UNIT_BYTES);
        }
        for (owned, _) in &new.0 {
            let (start, end) = (owned.block.offset, owned.block.offset + owned.block.size);
            let meets = |block: &Block| start < block.offset + block.size && block.offset < end;
            assert!(!freed.iter().any(meets), "{owned:?} was given too early");
        }
        // So after a crash the old owner finds its data.
        let crash = store.image();
        drop(pool);
        store.put(&crash);
        old.assert_all_of(&store.open());
    });
}

#[test]
fn an_allocation_without_other_space_waits_for_the_commit_and_gets_it() {
    on_every_store(one_block_bytes(), |store| {
        let pool = store.open();
        for round in 0..30 {
            let block = pool.allocate(UNIT_BYTES).expect("the one there is")[0];
            assert_eq!(
                pool.allocate(UNIT_BYTES),
                Err(Status::NoSpace),
                "and no other"
            );
            pool.write(block, 0, &[round; 4096]).expect("written");
            if round % 2 == 0 {
                pool.flush().expect("flushed");
            }
            assert_eq!(pool.stats().remaining_size, 0);
            pool.free(&[block]).expect("allocated");
            assert_eq!(pool.stats().remaining_size, UNIT_BYTES);
        }
    });
}

#[test]
fn a_full_pool_can_be_freed_and_filled_again() {
    on_every_store(file_bytes(5), |store| {
        let pool = store.open();
        let all = room(&pool);
        for round in 0..4 {
            let mut blocks = pool.allocate(5 * MEGABYTE).expect("five megabytes");
            while let Ok(more) = pool.allocate(UNIT_BYTES) {
                blocks.extend(more);
            }
            assert_eq!(pool.stats().remaining_size, 0, "exactly full");
            pool.flush().expect("flushed");
            // A part first, in which no whole megabyte can be allocated.
            let (first, rest) = blocks.split_at(1);
            pool.free(rest).expect("allocated");
            assert_eq!(
                pool.allocate(5 * MEGABYTE),
                Err(Status::NoSpace),
                "round {round}"
            );
            pool.free(first).expect("allocated");
            assert_eq!(pool.stats().remaining_size, all);
        }
    });
}

#[test]
fn allocations_that_wait_together_share_what_there_is() {
    on_every_store(file_bytes(2), |store| {
        let pool = store.open();
        let mut blocks = pool.allocate(2 * MEGABYTE).expect("room");
        while let Ok(more) = pool.allocate(UNIT_BYTES) {
            blocks.extend(more);
        }
        pool.flush().expect("flushed");
        let freed: Vec<_> = blocks.split_off(blocks.len() - 8);
        pool.free(&freed).expect("allocated");
        let arguments = allocate_arguments(UNIT_BYTES, OwnerTag::NONE);
        let method = Method::AllocateBlocks as u16;
        let tasks: Vec<_> = (0..12)
            .map(|_| pool.submit_to(0, method, arguments, None).0)
            .collect();
        let outcomes: Vec<_> = tasks.into_iter().map(|task| pool.wait(task)).collect();
        let mut given: Vec<_> = outcomes
            .iter()
            .flatten()
            .map(|values| Block::from_words([values[1], values[2]]).expect("the pool's own"))
            .collect();
        given.sort();
        let mut expected = freed;
        expected.sort();
        assert_eq!(given, expected, "all that was free, and each once");
        let refused = outcomes.iter().filter(|outcome| outcome.is_err());
        assert_eq!(refused.count(), 4);
        assert_eq!(pool.stats().remaining_size, 0);
    });
}

/// The parts of the file behind a store that were written and not given back.
fn parts_with_data(store: &Store) -> Vec<Range<u64>> {
    let path = match &store.device {
        Some(device) => device.file(),
        None => Path::new(&store.name),
    };
    let file = pool_file(File::open(path).expect("opened")).expect("memory");
    let disk = FileDisk::new(file);
    let part = |offset| disk.next_data(offset).expect("the file system knows");
    iter::successors(part(0), |before| part(before.end)).collect()
}

#[test]
fn nothing_that_was_written_is_ever_discarded() {
    on_every_store(file_bytes(8), |store| {
        let mut before = Vec::new();
        let mut check = |moment: &str| {
            let now = parts_with_data(store);
            let stays = |part: &Range<u64>| {
                let mut now = now.iter();
                now.any(|now| now.start <= part.start && part.end <= now.end)
            };
            assert!(before.iter().all(stays), "{moment}: {before:?} {now:?}");
            before = now;
        };
        let pool = store.open();
        check("a new pool");
        let written = Written::of_all_kinds(&pool);
        pool.flush().expect("flushed");
        check("with blocks");
        let blocks: Vec<_> = written.0.iter().map(|(owned, _)| owned.block).collect();
        pool.free(&blocks).expect("allocated");
        pool.flush().expect("flushed");
        check("without blocks");
        drop(pool);
        check("when it has ended");
        let pool = store.open();
        check("when it is open again");
        drop(pool);
        let overwrite = CreateParams {
            overwrite: true,
            ..file_params(0)
        };
        drop(store.open_with(&overwrite).expect("told to"));
        check("when it was overwritten");
        assert!(before.iter().map(|part| part.end - part.start).sum::<u64>() > MEGABYTE);
    });
}
