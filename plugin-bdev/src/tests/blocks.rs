//! Only what is allocated can be used or freed, and what is refused changes nothing.

use chimaera_bdev_proto::{
    Block, BlockType, MEGABYTE, Method, OwnerTag, STATS_BUFFER_BYTES, allocate_arguments,
    free_arguments,
};
use chimaera_proto::{Failure, Status};

use super::{on_every_backend, on_every_backend_with_room};
use crate::testing::{TestBuffer, TestPool, ram_params};

fn memory_pool(total_size: u64) -> TestPool {
    TestPool::create("memory", &ram_params(total_size), 1).expect("made")
}

#[test]
fn blocks_come_and_go() {
    on_every_backend_with_room(7, 1, |pool| {
        let all = pool.stats().remaining_size;
        assert_eq!(pool.allocate(0), Ok(vec![]));
        let small = pool.allocate(1).expect("room");
        assert_eq!(small.len(), 1);
        assert_eq!(small[0].block_type, BlockType::Kib4);
        let inline = pool.allocate(3 * MEGABYTE).expect("room");
        assert_eq!(inline.len(), 3);
        let listed = pool.allocate(4 * MEGABYTE - 1).expect("room");
        assert_eq!(listed.len(), 4);
        assert_eq!(pool.stats().remaining_size, all - 7 * MEGABYTE - 4096);
        assert_eq!(pool.allocate(MEGABYTE), Err(Status::NoSpace));
        assert_eq!(pool.allocate(u64::MAX), Err(Status::NoSpace));
        for blocks in [&small, &inline, &listed] {
            pool.free(blocks).expect("allocated");
        }
        pool.free(&[]).expect("nothing to free");
        let stats = pool.stats();
        assert_eq!(stats.remaining_size, all);
        assert_eq!(stats.activity.allocations, 8);
        assert_eq!(stats.activity.frees, 8);
        assert_eq!(stats.activity.errors, 2);
    });
}

#[test]
fn a_free_that_is_refused_frees_nothing() {
    on_every_backend(4 * MEGABYTE, 1, |pool| {
        let blocks = pool.allocate(2 * MEGABYTE).expect("room");
        let small = pool.allocate(1).expect("room")[0];
        let remaining = pool.stats().remaining_size;
        let inside = Block::new(blocks[0].offset, BlockType::Kib64);
        let outside = Block::new(4 * MEGABYTE, BlockType::Kib4);
        let far_outside = Block::new(u64::MAX - (MEGABYTE - 1), BlockType::Mib1);
        let cases = [
            (vec![blocks[0], blocks[1], blocks[0]], Status::DoubleFree),
            (vec![blocks[0], inside], Status::WrongSize),
            (vec![inside], Status::WrongSize),
            (vec![blocks[0], outside], Status::OutOfRange),
            (vec![outside], Status::OutOfRange),
            (vec![far_outside], Status::OutOfRange),
            (vec![small; 2000], Status::DoubleFree),
        ];
        for (list, status) in cases {
            assert_eq!(pool.free(&list), Err(status), "{} blocks", list.len());
            assert_eq!(pool.stats().remaining_size, remaining);
        }
        let stats = pool.stats();
        assert_eq!((stats.activity.frees, stats.activity.errors), (0, 7));
        pool.free(&blocks).expect("still allocated");
        assert_eq!(pool.free(&blocks), Err(Status::DoubleFree));
        assert_eq!(pool.free(&[small]), Ok(()));
        assert_eq!(pool.free(&[small]), Err(Status::DoubleFree));
    });
}

#[test]
fn transfers_of_what_is_not_allocated_are_refused() {
    on_every_backend(4 * MEGABYTE, 1, |pool| {
        let block = pool.allocate(65_536).expect("room")[0];
        let failed = |block: Block, offset, len: usize| {
            let written = pool.write(block, offset, &vec![1; len]).map(|_| ());
            let read = pool.read(block, offset, len).map(|_| ());
            assert_eq!(written, read, "both ways are checked alike");
            written.expect_err("refused")
        };
        let free = Block::new(2 * MEGABYTE, BlockType::Kib4);
        assert_eq!(failed(free, 0, 512), Status::NotAllocated.into());
        let inside = Block::new(block.offset, BlockType::Kib4);
        assert_eq!(failed(inside, 0, 512), Status::WrongSize.into());
        let outside = Block::new(4 * MEGABYTE, BlockType::Kib4);
        assert_eq!(failed(outside, 0, 512), Status::OutOfRange.into());
        for (offset, len) in [(0, 65_537), (65_536, 1), (u64::MAX, 1)] {
            assert_eq!(failed(block, offset, len), Status::BeyondBlock.into());
        }
        pool.free(&[block]).expect("allocated");
        assert_eq!(failed(block, 0, 512), Status::NotAllocated.into());
        assert_eq!(pool.stats().activity.errors, 14);
    });
}

#[test]
fn a_transfer_of_nothing_still_needs_its_block() {
    on_every_backend(MEGABYTE, 1, |pool| {
        let block = pool.allocate(4096).expect("room")[0];
        let nothing = |method: Method, block: Block, offset| {
            let [a, b] = block.to_words();
            pool.run(method, [a, b, offset], None)
                .map(|values| values[0])
        };
        for method in [Method::Write, Method::Read] {
            assert_eq!(nothing(method, block, 0), Ok(0));
            assert_eq!(nothing(method, block, 4096), Ok(0));
            assert_eq!(
                nothing(method, block, 4097),
                Err(Status::BeyondBlock.into())
            );
            let other = Block::new(MEGABYTE - 4096, BlockType::Kib4);
            assert_eq!(nothing(method, other, 0), Err(Status::NotAllocated.into()));
        }
    });
}

#[test]
fn a_buffer_that_is_too_small_is_refused_before_anything_changes() {
    let pool = memory_pool(8 * MEGABYTE);
    let run = |method: Method, arguments, len: Option<usize>| {
        let mut buffer = len.map(|len| TestBuffer::new(len, 0));
        pool.run(method, arguments, buffer.as_mut()).map(|_| ())
    };
    let refused = Err(Failure::new(Status::InvalidBuffer));
    for len in [None, Some(1), Some(4 * 16 - 1)] {
        let arguments = allocate_arguments(4 * MEGABYTE, OwnerTag::NONE);
        assert_eq!(run(Method::AllocateBlocks, arguments, len), refused);
    }
    assert_eq!(pool.stats().remaining_size, 8 * MEGABYTE);
    assert_eq!(
        run(
            Method::AllocateBlocks,
            allocate_arguments(4 * MEGABYTE, OwnerTag::NONE),
            Some(64)
        ),
        Ok(())
    );
    for (count, len) in [(2, None), (2, Some(31)), (u64::MAX, Some(4096))] {
        let arguments = free_arguments(count, None);
        assert_eq!(run(Method::FreeBlocks, arguments, len), refused);
    }
    for len in [None, Some(STATS_BUFFER_BYTES as usize - 1)] {
        assert_eq!(run(Method::GetStats, [0; 3], len), refused);
    }
    assert_eq!(pool.stats().remaining_size, 4 * MEGABYTE);
}

#[test]
fn words_that_are_no_block_and_methods_that_are_none_are_refused() {
    let pool = memory_pool(MEGABYTE);
    let mut buffer = TestBuffer::of(&[0xff; 64], 0);
    let mut run = |method: u16, arguments| {
        let (task, _) = pool.submit_to(0, method, arguments, Some(&mut buffer));
        pool.wait(task).expect_err("refused").status
    };
    let free = Method::FreeBlocks as u16;
    assert_eq!(run(free, [1, 17, 4096]), Status::WrongSize);
    assert_eq!(run(free, [4, 0, 0]), Status::WrongSize);
    assert_eq!(run(Method::Read as u16, [0, 9 << 32, 0]), Status::WrongSize);
    let is_none = |&number: &u16| Method::from_number(number).is_none();
    for method in (0..100).filter(is_none).chain([u16::MAX]) {
        assert_eq!(run(method, [0; 3]), Status::UnknownMethod);
    }
}
