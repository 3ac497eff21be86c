//! What a device answers: everything, a part, an error that passes, an error that stays.

use chimaera_proto::Failure;

use super::super::queue::TransferOutcome;
use super::rig::{Rig, UNIT};
use crate::backend::transfer::Direction;
use crate::testing::TestBuffer;

#[test]
fn a_device_that_stops_short_is_asked_for_the_rest() {
    let mut rig = Rig::new(1, 2);
    // One and a half units, so that each answer leaves a torn one.
    rig.device.borrow_mut().most_bytes = UNIT + UNIT / 2;
    let mut model = rig.device.borrow().bytes.clone();
    let mut aligned = TestBuffer::of(&[1; 4096], 0);
    rig.accept(0, Direction::Write, 0, &mut aligned);
    model[..4096].fill(1);
    let mut unaligned = TestBuffer::of(&[2; 3000], 7);
    rig.accept(0, Direction::Write, 5001, &mut unaligned);
    model[5001..8001].fill(2);
    rig.passes(100);
    assert!(rig.device.borrow().bytes == model);

    let mut buffer = TestBuffer::new(9000, 1);
    rig.accept(0, Direction::Read, 3, &mut buffer);
    rig.passes(100);
    assert!(buffer.bytes() == &model[3..9003]);
    assert!(
        rig.ended
            .iter()
            .all(|(_, outcome)| *outcome == TransferOutcome::Done)
    );
}

#[test]
fn a_device_that_did_not_get_to_it_is_retried_but_not_for_ever() {
    let mut rig = Rig::new(1, 2);
    rig.device.borrow_mut().errors = [libc::EAGAIN, libc::EINTR].into();
    let mut buffer = TestBuffer::new(512, 0);
    rig.accept(0, Direction::Read, 512, &mut buffer);
    rig.passes(10);
    assert_eq!(rig.ended, [(512, TransferOutcome::Done)]);
    assert_eq!(buffer.bytes(), &rig.device.borrow().bytes[512..1024]);

    rig.device.borrow_mut().errors = vec![libc::EAGAIN; 1000].into();
    rig.accept(0, Direction::Read, 512, &mut buffer);
    rig.passes(500);
    let failed = TransferOutcome::Failed(Failure::io(libc::EAGAIN));
    assert_eq!(rig.ended[1], (512, failed));

    rig.device.borrow_mut().errors = [libc::EIO].into();
    rig.accept(0, Direction::Read, 512, &mut buffer);
    rig.passes(10);
    assert_eq!(
        rig.ended[2],
        (512, TransferOutcome::Failed(Failure::io(libc::EIO)))
    );
}

#[test]
fn a_device_that_ends_early_fails_the_transfer() {
    let mut rig = Rig::new(1, 2);
    rig.device.borrow_mut().bytes.truncate(1024 + 100);
    let mut buffers: Vec<_> = (0..3).map(|_| TestBuffer::new(512, 0)).collect();
    for (at, buffer) in buffers.iter_mut().enumerate() {
        rig.accept(0, Direction::Read, at as u64 * 512, buffer);
    }
    let mut write = TestBuffer::new(3, 0);
    rig.accept(0, Direction::Write, 1030, &mut write);
    rig.passes(10);
    let early = TransferOutcome::EndedEarly;
    let expected = [
        (0, TransferOutcome::Done),
        (512, TransferOutcome::Done),
        (1024, early),
        (1030, early),
    ];
    assert_eq!(rig.ended, expected);
}
