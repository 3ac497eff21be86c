//! An I/O accepted before a block was freed never lands in that block's next life.

use chimaera_chimod::Activity;
use chimaera_proto::bdev::{Method, free_arguments};

use super::on_every_file;
use crate::testing::{Buffer, file_params};

const UNIT: u64 = 4096;

#[test]
fn a_free_waits_for_transfers_and_the_block_is_nobodys_meanwhile() {
    // The one block there is.
    on_every_file(&file_params(UNIT), 2, |pool| {
        let block = pool.allocate(UNIT).expect("room")[0];
        let mut late = Buffer::of(&[1; 4096], 0);
        // Accepted by a worker that makes no pass for now.
        let write = pool.start(1, Method::Write, block, 0, &mut late);
        let arguments = free_arguments(1, Some(block));
        let (free, activity) = pool.submit_to(0, Method::FreeBlocks as u16, arguments, None);
        assert_eq!(activity, Activity::IDLE);
        assert_eq!(pool.take(free), None, "the write is not over");
        pool.allocate(UNIT).expect_err("the block is not free");
        pool.read(block, 0, 4096)
            .expect_err("the block is not allocated");
        assert_eq!(pool.stats().remaining_size, 0);

        // The write ends on its own worker, and the free with it.
        let written = pool.wait_on(|| vec![1], write);
        assert_eq!(written.expect("accepted in time")[0], 4096);
        pool.take(free)
            .expect("ended with the write")
            .expect("freed");
        assert_eq!(pool.stats().remaining_size, UNIT);

        let next = pool.allocate(UNIT).expect("free by now")[0];
        assert_eq!(next, block);
        pool.write(next, 0, &[2; 4096]).expect("written");
        for worker in [0, 1] {
            assert_eq!(pool.poll(worker), Activity::IDLE, "nothing is left behind");
        }
        assert_eq!(pool.read(next, 0, 4096).expect("read"), [2; 4096]);
    });
}

#[test]
fn who_saw_its_write_complete_frees_at_once() {
    on_every_file(&file_params(UNIT), 1, |pool| {
        for round in 0..20 {
            let block = pool.allocate(UNIT).expect("room")[0];
            pool.write(block, 1, &[round; 100]).expect("written");
            let arguments = free_arguments(1, Some(block));
            let (free, _) = pool.submit_to(0, Method::FreeBlocks as u16, arguments, None);
            pool.take(free).expect("without a pass").expect("freed");
        }
    });
}
