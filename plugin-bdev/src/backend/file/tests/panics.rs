//! A panic ends one operation, and loses no pin.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chimaera_bdev_allocator::failpoint::{Failpoint, arm};
use chimaera_chimod::Activity;
use chimaera_proto::Status;

use super::super::queue::TransferOutcome;
use super::rig::Rig;
use crate::backend::transfer::Direction;
use crate::testing::TestBuffer;

/// A panic over one operation ends that one and no other, and no pin is lost.
#[test]
fn a_panic_over_an_operation_ends_that_one_alone() {
    for place in [Failpoint::Begun, Failpoint::Answered] {
        let mut rig = Rig::new(1, 4);
        let mut buffers: Vec<_> = (0..3).map(|_| TestBuffer::of(&[9; 10], 0)).collect();
        for (at, buffer) in buffers.iter_mut().enumerate() {
            // Each waits for the one before.
            rig.accept(0, Direction::Write, 10 * at as u64, buffer);
        }
        arm(place);
        let mut panics = 0;
        for _ in 0..100 {
            let pass = catch_unwind(AssertUnwindSafe(|| rig.pass(0)));
            panics += u32::from(pass.is_err());
        }
        assert_eq!(panics, 1, "it is passed on, once");
        let failed = TransferOutcome::Failed(Status::ModulePanicked.into());
        let done = TransferOutcome::Done;
        assert_eq!(
            rig.ended,
            [(0, failed), (10, done), (20, done)],
            "{place:?}"
        );
        rig.assert_unpinned();
    }
}

#[test]
fn a_panic_before_an_operation_is_queued_loses_no_pin() {
    let mut rig = Rig::new(1, 4);
    let mut buffer = TestBuffer::of(&[9; 10], 0);
    arm(Failpoint::Accepted);
    let accepted = catch_unwind(AssertUnwindSafe(|| {
        rig.accept(0, Direction::Write, 0, &mut buffer);
    }));
    assert!(accepted.is_err());
    assert_eq!(rig.pass(0), Activity::IDLE);
    let outcome = rig.recorder.take(0).expect("completed");
    assert_eq!(outcome, Err(Status::ModulePanicked.into()));
    rig.assert_unpinned();
}
