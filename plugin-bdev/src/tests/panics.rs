//! A panic of the module in the middle of a transfer fails that transfer, and holds up nothing after it.

use chimaera_bdev_allocator::failpoint::{Failpoint, arm};
use chimaera_bdev_proto::{Method, UNIT_BYTES};
use chimaera_proto::Status;

use super::on_every_file;
use crate::testing::{TestBuffer, TestPool, file_bytes, file_params, ram_params};

/// Transfers of a part of a device block, so that on a file the blocks around it have to be read first.
fn check(pool: &TestPool, place: Failpoint) {
    let remaining = pool.stats().remaining_size;
    let block = pool.allocate(UNIT_BYTES).expect("room")[0];
    pool.write(block, 0, &[7; UNIT_BYTES as usize])
        .expect("written");
    for method in [Method::Write, Method::Read] {
        let mut buffers: Vec<_> = (0..3).map(|_| TestBuffer::of(&[7; 100], 0)).collect();
        arm(place);
        let tasks: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| pool.start(0, method, block, 200, buffer))
            .collect();
        let outcomes: Vec<_> = tasks.into_iter().map(|task| pool.wait(task)).collect();
        let panicked = Err(Status::ModulePanicked.into());
        assert_eq!(outcomes[0], panicked, "{place:?}");
        assert!(outcomes[1..].iter().all(Result::is_ok), "{outcomes:?}");
        for buffer in &buffers[1..] {
            assert_eq!(buffer.bytes(), [7; 100]);
        }
    }
    let log = pool.recorder().log();
    let told = log
        .iter()
        .filter(|(level, text)| *level == 1 && text.contains("panicked: as asked"));
    assert_eq!(told.count(), 2, "{log:?}");
    // A pin that was lost would hold this up for ever.
    pool.free(&[block]).expect("allocated");
    assert_eq!(pool.stats().remaining_size, remaining);
}

#[test]
fn while_memory_is_copied() {
    let pool = TestPool::create("memory", &ram_params(1 << 20), 2).expect("made");
    check(&pool, Failpoint::Copy);
    // A pool with one worker counts pins in another way.
    let pool = TestPool::create("memory", &ram_params(1 << 20), 1).expect("made");
    check(&pool, Failpoint::Copy);
}

#[test]
fn before_a_files_transfer_is_queued() {
    on_every_file(&file_params(file_bytes(1)), 1, |pool| {
        check(pool, Failpoint::Accepted);
    });
}

#[test]
fn when_a_files_transfer_begins() {
    on_every_file(&file_params(file_bytes(1)), 1, |pool| {
        check(pool, Failpoint::Begun);
    });
}

#[test]
fn when_the_device_has_answered() {
    on_every_file(&file_params(file_bytes(1)), 1, |pool| {
        check(pool, Failpoint::Answered);
    });
}
