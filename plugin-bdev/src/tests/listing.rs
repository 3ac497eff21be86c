//! Flushes, lists of blocks and maps, in memory and on files.

use chimaera_bdev_proto::{
    MAP_END, MEGABYTE, MIN_LISTING_BUFFER_BYTES, MegabyteState, Method, OwnedBlock, OwnerTag,
};
use chimaera_proto::Status;

use super::{on_every_backend, on_every_backend_with_room, on_every_file};
use crate::testing::{TestPool, file_bytes, file_params, whole_megabytes};

#[test]
fn a_flush_of_any_pool_completes() {
    on_every_backend(4 * MEGABYTE, 1, |pool| {
        pool.flush().expect("nothing to do");
        let block = pool.allocate(4096).expect("room")[0];
        pool.write(block, 0, &[1; 4096]).expect("written");
        for _ in 0..3 {
            pool.flush().expect("flushed");
        }
        assert_eq!(pool.stats().activity.errors, 0);
    });
}

#[test]
fn many_flushes_at_once_among_other_work_all_complete() {
    const WORKERS: u32 = 3;
    on_every_file(&file_params(file_bytes(4)), WORKERS, |pool| {
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                scope.spawn(move || work_and_flush(pool, worker));
            }
        });
        let stats = pool.stats();
        let room = stats.total_size - stats.metadata_size;
        assert_eq!(stats.remaining_size, room);
        assert_eq!(pool.list(), []);
    });
}

fn work_and_flush(pool: &TestPool, worker: u32) {
    use chimaera_bdev_proto::{Block, allocate_arguments, free_arguments};

    let wait = |task| pool.wait_on(|| vec![worker], task).expect("done");
    let start = |method: Method, arguments| pool.submit_to(worker, method as u16, arguments, None);
    for round in 0..20 {
        let owner = OwnerTag(u64::from(worker));
        let allocate = start(Method::AllocateBlocks, allocate_arguments(4096, owner));
        let values = wait(allocate.0);
        let block = Block::from_words([values[1], values[2]]).expect("the pool's own");
        let mut flushes: Vec<_> = (0..10).map(|_| start(Method::Flush, [0; 3]).0).collect();
        let free = start(Method::FreeBlocks, free_arguments(1, Some(block)));
        flushes.push(start(Method::Flush, [0; 3]).0);
        if round % 2 == 0 {
            flushes.reverse();
        }
        wait(free.0);
        for flush in flushes {
            wait(flush);
        }
    }
}

/// The blocks of a listing with buffers of this size, and how many pages it took.
fn paged(pool: &TestPool, buffer_len: usize) -> (Vec<OwnedBlock>, usize) {
    let (mut blocks, mut pages, mut next) = (Vec::new(), 0, 0);
    while next != MAP_END {
        let (mut page, after) = pool.list_page(next, buffer_len).expect("a page");
        assert!(page.len() * 24 <= buffer_len);
        let inside = |owned: &OwnedBlock| (next..after).contains(&(owned.block.offset / MEGABYTE));
        assert!(page.iter().all(inside), "of the megabytes that it is about");
        blocks.append(&mut page);
        next = after;
        pages += 1;
    }
    (blocks, pages)
}

#[test]
fn a_flush_waits_for_one_page_of_a_list_at_most() {
    const LISTS: usize = 64;
    let params = file_params(file_bytes(64));
    on_every_file(&params, 1, |pool| {
        while pool.allocate(4096).is_ok() {}
        let mut buffers: Vec<_> = (0..LISTS)
            .map(|_| crate::testing::TestBuffer::new(1 << 20, 0))
            .collect();
        let lists: Vec<u64> = buffers
            .iter_mut()
            .map(|buffer| {
                let method = Method::ListBlocks as u16;
                pool.submit_to(0, method, [0; 3], Some(buffer)).0
            })
            .collect();
        let (flush, _) = pool.submit_to(0, Method::Flush as u16, [0; 3], None);
        pool.wait_on(|| vec![0], flush).expect("flushed");
        let done: Vec<_> = lists.iter().map(|&list| pool.take(list)).collect();
        let ahead = done.iter().flatten().count();
        assert!(ahead < LISTS / 2, "{ahead} lists came before the flush");
        for (list, done) in lists.into_iter().zip(done) {
            let listed = done.unwrap_or_else(|| pool.wait_on(|| vec![0], list));
            assert!((1..=1 << 14).contains(&listed.expect("listed")[0]));
        }
    });
}

#[test]
fn a_list_has_each_block_once_with_its_owner_in_order_of_offset() {
    on_every_backend(8 * MEGABYTE, 1, |pool| {
        let mut expected = Vec::new();
        let mut add = |size: u64, tag: u64| {
            let owner = OwnerTag(tag);
            let blocks = pool.allocate_for(size, owner).expect("room");
            expected.extend(
                blocks
                    .into_iter()
                    .map(|block| OwnedBlock::new(block, owner)),
            );
            expected.len()
        };
        for (tag, size) in [
            (1, 4096),
            (0, 65_536),
            (u64::MAX, 262_144),
            (7, 3 * MEGABYTE),
        ] {
            add(size, tag);
        }
        while add(4096, 99) < 400 {}
        // Tags that are durable are listed like those that are not.
        pool.flush().expect("flushed");
        add(65_536, 5);
        add(4096, 0);
        expected.sort();
        assert_eq!(pool.list(), expected);
        let (small, many) = paged(pool, MIN_LISTING_BUFFER_BYTES);
        let (large, one) = paged(pool, 1000 * 24);
        assert_eq!((&small, &large), (&expected, &expected));
        assert!(many > 1, "more than a page of the smallest size");
        assert_eq!(one, 1);
        assert_eq!(paged(pool, MIN_LISTING_BUFFER_BYTES + 1).0, expected);

        let gone: Vec<_> = expected
            .iter()
            .step_by(2)
            .map(|owned| owned.block)
            .collect();
        pool.free(&gone).expect("allocated");
        let left: Vec<_> = expected.iter().skip(1).step_by(2).copied().collect();
        assert_eq!(pool.list(), left, "with those that wait for no commit");
        pool.flush().expect("flushed");
        assert_eq!(pool.list(), left);
    });
}

#[test]
fn the_next_block_in_a_place_has_its_own_tag() {
    on_every_backend_with_room(3, 1, |pool| {
        let owner = OwnerTag(3);
        let block = pool.allocate_for(MEGABYTE, owner).expect("room")[0];
        pool.flush().expect("flushed");
        pool.free(&[block]).expect("allocated");
        pool.flush().expect("flushed");
        let mut blocks = pool.allocate(3 * MEGABYTE).expect("room");
        // In memory there is another one.
        while let Ok(more) = pool.allocate(MEGABYTE) {
            blocks.extend(more);
        }
        assert!(blocks.contains(&block), "in the same place");
        let untagged = |owned: &OwnedBlock| owned.owner == OwnerTag::NONE;
        assert!(pool.list().iter().all(untagged), "before the commit");
        pool.flush().expect("flushed");
        assert!(pool.list().iter().all(untagged), "and after it");
    });
}

#[test]
fn a_page_begins_where_it_is_told_and_there_is_none_behind_the_end() {
    on_every_backend(8 * MEGABYTE, 1, |pool| {
        let blocks = pool.allocate(5 * MEGABYTE).expect("room");
        for first in 0..9 {
            let (page, next) = pool
                .list_page(first, MIN_LISTING_BUFFER_BYTES)
                .expect("a page");
            let behind = |block: &&_| offset_of(block) >= first * MEGABYTE;
            assert_eq!(page.len(), blocks.iter().filter(behind).count());
            assert_eq!(next, MAP_END);
        }
        for first in [8, 9, 1 << 32, u64::MAX - 1, MAP_END] {
            assert_eq!(
                pool.list_page(first, MIN_LISTING_BUFFER_BYTES),
                Ok((vec![], MAP_END))
            );
            assert_eq!(pool.map_page(first, 10), Ok((vec![], MAP_END)));
        }
        let errors = pool.stats().activity.errors;
        assert_eq!(
            pool.list_page(0, MIN_LISTING_BUFFER_BYTES - 1),
            Err(Status::InvalidBuffer)
        );
        for method in [Method::ListBlocks, Method::GetMap] {
            let failure = pool.run(method, [0; 3], None).expect_err("no buffer");
            assert_eq!(failure.status, Status::InvalidBuffer);
        }
        assert_eq!(pool.stats().activity.errors, errors + 3, "they are counted");
    });
}

fn offset_of(block: &chimaera_bdev_proto::Block) -> u64 {
    block.offset
}

#[test]
fn a_map_tells_of_each_megabyte_how_much_of_it_is_used() {
    use MegabyteState::{Free, Metadata, Split, Used};

    on_every_backend(8 * MEGABYTE, 1, |pool| {
        let mut new = [Free; 8];
        if pool.stats().metadata_size > 0 {
            new = [Metadata; 8];
            whole_megabytes(8 * MEGABYTE).for_each(|at| new[at as usize] = Free);
        }
        let map = |pool: &TestPool| pool.map_page(0, 100).expect("a map");
        assert_eq!(map(pool), (new.to_vec(), MAP_END));
        let whole = pool.allocate(2 * MEGABYTE).expect("room");
        // So many that they do not all fit beside the metadata.
        let small: Vec<_> = (0..4)
            .map(|_| pool.allocate(262_144).expect("room")[0])
            .collect();
        let mut expected = new;
        for block in &whole {
            expected[(block.offset / MEGABYTE) as usize] = Used;
        }
        for block in &small {
            let state = &mut expected[(block.offset / MEGABYTE) as usize];
            // Also where there is metadata besides.
            if matches!(*state, Free | Metadata) {
                *state = Split;
            }
        }
        let inside = |at: usize| {
            small
                .iter()
                .filter(move |b| b.offset / MEGABYTE == at as u64)
        };
        for (at, state) in expected.iter_mut().enumerate() {
            if *state == Split && inside(at).count() == 4 {
                *state = Used;
            }
        }
        assert_eq!(map(pool), (expected.to_vec(), MAP_END));
        // Page by page, a megabyte at a time and three at a time.
        for len in [1, 3] {
            let (mut states, mut next) = (Vec::new(), 0);
            while next != MAP_END {
                let (mut page, after) = pool.map_page(next, len).expect("a page");
                assert_eq!(page.len(), len.min(8 - next as usize));
                states.append(&mut page);
                next = after;
            }
            assert_eq!(states, expected);
        }
        pool.flush().expect("flushed");
        assert_eq!(map(pool).0, expected);
        pool.free(&whole).expect("allocated");
        pool.free(&small).expect("allocated");
        pool.flush().expect("flushed");
        assert_eq!(map(pool).0, new);
    });
}
