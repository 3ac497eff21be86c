//! An I/O accepted before a block was freed never lands in that block's next life.

use chimaera_bdev_proto::{
    Block, Method, OwnerTag, UNIT_BYTES, allocate_arguments, free_arguments,
};
use chimaera_chimod::Activity;
use chimaera_proto::Status;

use super::on_every_file;
use crate::testing::{TestBuffer, TestPool, file_params, one_block_bytes};

#[test]
fn a_free_waits_for_transfers_and_the_block_is_nobodys_meanwhile() {
    // The pool has room for this one block.
    on_every_file(&file_params(one_block_bytes()), 2, |pool| {
        let block = pool.allocate(UNIT_BYTES).expect("room")[0];
        let mut late = TestBuffer::of(&[1; 4096], 0);
        // Accepted by a worker that makes no pass for now.
        let write = pool.start(1, Method::Write, block, 0, &mut late);
        let arguments = free_arguments(1, Some(block));
        let (free, activity) = pool.submit_to(0, Method::FreeBlocks as u16, arguments, None);
        assert_eq!(activity, Activity::IDLE);
        assert_eq!(pool.take(free), None, "the write is not over");
        pool.allocate(UNIT_BYTES)
            .expect_err("the block is not free");
        pool.read(block, 0, 4096)
            .expect_err("the block is not allocated");
        assert_eq!(pool.stats().remaining_size, 0);

        // The write ends on its own worker, and the free with it.
        let written = pool.wait_on(|| vec![1], write);
        assert_eq!(written.expect("accepted in time")[0], 4096);
        pool.take(free)
            .expect("ended with the write")
            .expect("freed");
        assert_eq!(pool.stats().remaining_size, UNIT_BYTES);

        let next = pool.allocate(UNIT_BYTES).expect("free by now")[0];
        assert_eq!(next, block);
        pool.write(next, 0, &[2; 4096]).expect("written");
        for worker in [0, 1] {
            assert_eq!(pool.poll(worker), Activity::IDLE, "nothing is left behind");
        }
        assert_eq!(pool.read(next, 0, 4096).expect("read"), [2; 4096]);
    });
}

#[test]
fn a_client_that_saw_its_write_complete_frees_at_once() {
    on_every_file(&file_params(one_block_bytes()), 1, |pool| {
        for round in 0..20 {
            let block = pool.allocate(UNIT_BYTES).expect("room")[0];
            pool.write(block, 1, &[round; 100]).expect("written");
            let arguments = free_arguments(1, Some(block));
            let (free, _) = pool.submit_to(0, Method::FreeBlocks as u16, arguments, None);
            pool.take(free).expect("without a pass").expect("freed");
        }
    });
}

/// Writes, reads and frees a block of one's own, with the last read still under way when the
/// block is freed.
fn live_in_a_block(pool: &TestPool, worker: u32, life: u32) {
    let wait = |task| pool.wait_on(|| vec![worker], task);
    let arguments = allocate_arguments(UNIT_BYTES, OwnerTag::NONE);
    let allocate = Method::AllocateBlocks as u16;
    let block = loop {
        let (task, _) = pool.submit_to(worker, allocate, arguments, None);
        match wait(task) {
            Ok(values) => break Block::from_words([values[1], values[2]]).expect("the pool's own"),
            // The other thread has it, or a transfer holds it up.
            Err(failure) => assert_eq!(failure, Status::NoSpace.into()),
        }
        std::thread::yield_now();
    };
    let value = (life * 2 + worker) as u8;
    let mut odd = TestBuffer::of(&[value; 1001], 3);
    let mut whole = TestBuffer::of(&[value; 4096], 0);
    let task = pool.start(worker, Method::Write, block, 0, &mut whole);
    wait(task).expect("its own block");
    let task = pool.start(worker, Method::Write, block, 1500, &mut odd);
    wait(task).expect("its own block");
    let mut read = TestBuffer::new(4096, 0);
    let late = [
        pool.start(worker, Method::Read, block, 0, &mut read),
        // Late writes of another value must not be found in the block's next life.
        pool.start(worker, Method::Write, block, 7, {
            odd.bytes_mut().fill(!value);
            &mut odd
        }),
    ];
    let arguments = free_arguments(1, Some(block));
    let (free, _) = pool.submit_to(worker, Method::FreeBlocks as u16, arguments, None);
    for task in late {
        wait(task).expect("accepted before the free");
    }
    let right = |byte: &u8| *byte == value || *byte == !value;
    assert!(read.bytes().iter().all(right), "somebody else's bytes");
    wait(free).expect("its own block");
}

#[test]
fn lives_of_a_block_on_two_threads_never_meet() {
    on_every_file(&file_params(one_block_bytes()), 2, |pool| {
        std::thread::scope(|scope| {
            for worker in 0..2 {
                scope.spawn(move || (0..300).for_each(|life| live_in_a_block(pool, worker, life)));
            }
        });
        assert_eq!(pool.stats().remaining_size, UNIT_BYTES);
    });
}
