//! Which operations wait for which, and where they go on.

use chimaera_chimod::Activity;

use super::rig::{AT_WORK, Rig};
use crate::backend::transfer::Direction;
use crate::testing::TestBuffer;

#[test]
fn a_write_that_waited_for_another_workers_goes_on_at_its_own() {
    let mut rig = Rig::new(2, 4);
    rig.device.borrow_mut().hold = true;
    let mut first = TestBuffer::of(&[1; 10], 0);
    let mut second = TestBuffer::of(&[2; 10], 0);
    let mut third = TestBuffer::of(&[3; 10], 0);
    rig.accept(0, Direction::Write, 100, &mut first);
    rig.accept(1, Direction::Write, 110, &mut second);
    rig.accept(0, Direction::Write, 120, &mut third);
    for _ in 0..3 {
        assert!(rig.pass(0).contains(Activity::PENDING));
        assert_eq!(rig.pass(1), Activity::PENDING, "it waits for its turn");
    }
    assert_eq!(rig.device.borrow().in_flight, 1);

    rig.device.borrow_mut().hold = false;
    assert!(!rig.woken(1));
    while rig.ended.is_empty() {
        let _ = rig.pass(0);
    }
    assert_eq!(rig.pass(0), Activity::PENDING, "the third has to wait on");
    assert!(rig.woken(1), "worker 1 may be asleep");
    assert_eq!(rig.pass(1), AT_WORK);
    rig.passes(20);
    assert!(rig.woken(0), "worker 0 was asleep meanwhile");
    let offsets: Vec<_> = rig.ended.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [100, 110, 120], "first come, first served");
    let device = rig.device.borrow();
    let written = [[1; 10], [2; 10], [3; 10]].concat();
    assert_eq!(device.bytes[100..130], written);
    assert_eq!(device.bytes[99], 99);
    assert_eq!(device.bytes[130], 130);
}

#[test]
fn reads_and_whole_writes_do_not_wait_for_each_other() {
    let mut rig = Rig::new(1, 8);
    rig.device.borrow_mut().hold = true;
    let mut buffers: Vec<_> = (0..4).map(|_| TestBuffer::new(512, 0)).collect();
    let mut bounced = TestBuffer::new(512, 1);
    let mut odd_read = TestBuffer::new(100, 1);
    let [a, b, c, late] = &mut buffers[..] else {
        panic!("four of them");
    };
    rig.accept(0, Direction::Write, 0, a);
    rig.accept(0, Direction::Write, 0, b);
    rig.accept(0, Direction::Write, 512, &mut bounced);
    rig.accept(0, Direction::Read, 0, c);
    rig.accept(0, Direction::Read, 9, &mut odd_read);
    let mut part = TestBuffer::new(1, 0);
    rig.accept(0, Direction::Write, 2000, &mut part);
    rig.accept(0, Direction::Write, 4096, late);
    let _ = rig.pass(0);
    assert_eq!(
        rig.device.borrow().in_flight,
        5,
        "all but the write of a part, and who came after it"
    );
    rig.device.borrow_mut().hold = false;
    rig.passes(20);
    assert_eq!(rig.ended.len(), 7);
}
