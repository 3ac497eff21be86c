//! How operations get to the kernel: in batches, and what becomes of those that it does not take.

use std::time::{Duration, Instant};

use chimaera_chimod::Activity;
use chimaera_proto::Failure;
use chimaera_testing::PATIENCE;

use super::super::queue::TransferOutcome;
use super::rig::{AT_WORK, Rig};
use crate::backend::transfer::Direction;
use crate::testing::TestBuffer;

#[test]
fn a_batch_is_one_call_and_never_more_than_the_depth() {
    let mut rig = Rig::new(1, 4);
    let mut buffers: Vec<_> = (0..10).map(|_| TestBuffer::new(512, 0)).collect();
    for (at, buffer) in buffers.iter_mut().enumerate() {
        rig.accept(0, Direction::Read, at as u64 * 512, buffer);
    }
    assert_eq!(rig.device.borrow().calls, 0, "nothing is submitted before");
    rig.passes(10);
    let device = rig.device.borrow();
    assert_eq!((device.calls, device.most_in_flight), (3, 4));
    let order: Vec<_> = rig.ended.iter().map(|(offset, _)| offset / 512).collect();
    assert_eq!(order, (0..10).collect::<Vec<_>>());
    for (at, buffer) in buffers.iter().enumerate() {
        assert_eq!(buffer.bytes(), &device.bytes[at * 512..][..512]);
    }
}

#[test]
fn what_the_kernel_has_no_room_for_stays_queued() {
    let mut rig = Rig::new(1, 4);
    rig.device.borrow_mut().answers = [Err(libc::EAGAIN), Ok(1), Ok(2), Err(libc::EAGAIN)].into();
    let mut buffers: Vec<_> = (0..4).map(|_| TestBuffer::new(512, 0)).collect();
    for buffer in &mut buffers {
        rig.accept(0, Direction::Read, 0, buffer);
    }
    assert_eq!(rig.pass(0), AT_WORK, "no result would end its sleep");
    assert_eq!(rig.device.borrow().in_flight, 0);
    let _ = rig.pass(0);
    assert_eq!(rig.device.borrow().in_flight, 3, "in parts, until refused");
    rig.passes(10);
    assert_eq!(rig.ended, [(0, TransferOutcome::Done); 4]);
}

#[test]
fn what_the_kernel_does_not_take_for_long_fails_and_what_comes_later_is_tried_anew() {
    let mut rig = Rig::new(1, 2);
    let patience = Duration::from_millis(100);
    rig.queues[0].patience = patience;
    rig.device.borrow_mut().refuses = true;
    let mut buffers: Vec<_> = (0..5).map(|_| TestBuffer::new(512, 0)).collect();
    // More than there are places; the last waits for the one before, besides.
    for (at, buffer) in buffers.iter_mut().enumerate() {
        rig.accept(0, Direction::Read, at as u64 * 512, buffer);
    }
    let mut waiting = TestBuffer::of(&[1; 10], 0);
    let mut waiting_for_it = TestBuffer::of(&[2; 10], 0);
    rig.accept(0, Direction::Write, 100, &mut waiting);
    rig.accept(0, Direction::Write, 110, &mut waiting_for_it);
    let start = Instant::now();
    while rig.ended.is_empty() {
        assert_eq!(rig.pass(0), AT_WORK, "no result would end its sleep");
        assert!(start.elapsed() < PATIENCE, "it waits for ever");
    }
    assert!(start.elapsed() >= patience, "a moment is nothing");
    while rig.ended.len() < 7 {
        let _ = rig.pass(0);
        assert!(start.elapsed() < PATIENCE, "it waits for ever");
    }
    assert!(
        rig.ended
            .iter()
            .all(|(_, how)| *how == TransferOutcome::NotTaken)
    );
    assert_eq!(rig.pass(0), Activity::IDLE);

    rig.device.borrow_mut().refuses = false;
    rig.accept(0, Direction::Write, 100, &mut waiting);
    rig.passes(10);
    assert_eq!(rig.ended[7], (100, TransferOutcome::Done));
    rig.assert_unpinned();
}

#[test]
fn what_is_under_way_is_waited_for_however_long_the_kernel_takes_nothing_else() {
    let mut rig = Rig::new(1, 2);
    rig.queues[0].patience = Duration::ZERO;
    rig.device.borrow_mut().hold = true;
    let mut buffers: Vec<_> = (0..2).map(|_| TestBuffer::new(512, 0)).collect();
    let [first, second] = &mut buffers[..] else {
        panic!("two of them");
    };
    rig.accept(0, Direction::Read, 0, first);
    let _ = rig.pass(0);
    rig.device.borrow_mut().refuses = true;
    rig.accept(0, Direction::Read, 512, second);
    for _ in 0..10 {
        assert_eq!(rig.pass(0), Activity::PENDING, "the result will wake it");
    }
    assert_eq!(rig.ended, []);
    rig.device.borrow_mut().hold = false;
    rig.device.borrow_mut().refuses = false;
    rig.passes(10);
    assert_eq!(
        rig.ended,
        [(0, TransferOutcome::Done), (512, TransferOutcome::Done)]
    );
}

#[test]
fn an_operation_that_is_refused_fails_alone() {
    let mut rig = Rig::new(1, 4);
    rig.device.borrow_mut().answers = [Ok(1), Err(libc::EINVAL), Ok(1)].into();
    let mut buffers: Vec<_> = (0..3).map(|_| TestBuffer::new(512, 0)).collect();
    for (at, buffer) in buffers.iter_mut().enumerate() {
        rig.accept(0, Direction::Read, at as u64 * 512, buffer);
    }
    rig.passes(10);
    let failed = TransferOutcome::Failed(Failure::io(libc::EINVAL));
    let expected = [
        (512, failed),
        (0, TransferOutcome::Done),
        (1024, TransferOutcome::Done),
    ];
    assert_eq!(rig.ended, expected);
}
