//! A queue on a device that does what a test tells it: refuses, takes part of a batch, stops
//! short, holds back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_bdev_proto::{AllocationPlan, Block, MEGABYTE, OwnerTag};
use chimaera_chimod::Activity;
use chimaera_proto::{Failure, Status};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};
use super::operation::Operation;
use super::queue::{GrantExchange, TransferOutcome, WorkerQueue};
use crate::backend::transfer::{Direction, Transfer};
use crate::pool::allocator::PendingFree;
use crate::testing::{PATIENCE, Recorder, TestBuffer, loose_request};
use chimaera_bdev_allocator::failpoint::{Failpoint, arm};
use chimaera_bdev_allocator::{Allocator, Threads};

const UNIT: u32 = 512;

/// A device in memory, shared by its test and the engines of all workers.
struct Device {
    bytes: Vec<u8>,
    /// What the next calls are answered: how many are taken, or an errno. All are taken
    /// when it is empty.
    answers: VecDeque<Result<usize, i32>>,
    /// Whether it takes nothing.
    refuses: bool,
    /// What the next operations end with, instead of being done.
    errors: VecDeque<i32>,
    /// Most bytes that an operation transfers.
    most_bytes: u32,
    /// Whether results are kept back.
    hold: bool,
    calls: usize,
    in_flight: usize,
    most_in_flight: usize,
}

struct Scripted {
    device: Rc<RefCell<Device>>,
    held: Vec<DeviceCommand>,
}

impl Engine for Scripted {
    unsafe fn submit(&mut self, batch: &[DeviceCommand]) -> io::Result<usize> {
        let mut device = self.device.borrow_mut();
        device.calls += 1;
        if device.refuses {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = match device.answers.pop_front() {
            Some(Ok(count)) => count.min(batch.len()),
            Some(Err(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            None => batch.len(),
        };
        self.held.extend_from_slice(&batch[..count]);
        device.in_flight += count;
        device.most_in_flight = device.most_in_flight.max(device.in_flight);
        Ok(count)
    }

    fn reap(&mut self, results: &mut Vec<DeviceResult>) {
        let mut device = self.device.borrow_mut();
        if device.hold {
            return;
        }
        for command in self.held.drain(..) {
            device.in_flight -= 1;
            if let Some(errno) = device.errors.pop_front() {
                results.push(DeviceResult {
                    tag: command.tag,
                    result: -i64::from(errno),
                });
                continue;
            }
            let start = command.offset_in_device as usize;
            let end = device.bytes.len().min(start + command.len_bytes as usize);
            let end = end.min(start + device.most_bytes as usize);
            let range = &mut device.bytes[start.min(end)..end];
            // SAFETY: the memory is valid for the operation's length, which is at least the
            // range's, and unreferenced, by `submit`'s contract: the operation has not ended.
            unsafe {
                match command.opcode {
                    Opcode::Read => command
                        .address
                        .copy_from_nonoverlapping(range.as_ptr(), range.len()),
                    Opcode::Write => command
                        .address
                        .copy_to_nonoverlapping(range.as_mut_ptr(), range.len()),
                }
            }
            results.push(DeviceResult {
                tag: command.tag,
                result: range.len() as i64,
            });
        }
    }
}

/// Queues of some workers on one device, and one block that they write and read.
struct Rig {
    device: Rc<RefCell<Device>>,
    queues: Vec<WorkerQueue<Scripted>>,
    exchange: GrantExchange,
    wakes: Vec<Arc<EventFd>>,
    allocator: Allocator<PendingFree>,
    block: Block,
    recorder: Arc<Recorder>,
    /// Where each transfer that ended began, and how it ended.
    ended: Vec<(u64, TransferOutcome)>,
    next_task: u64,
}

impl Rig {
    fn new(workers: usize, depth: u32) -> Self {
        let device = Rc::new(RefCell::new(Device {
            bytes: (0..MEGABYTE).map(|at| (at % 251) as u8).collect(),
            answers: VecDeque::new(),
            refuses: false,
            errors: VecDeque::new(),
            most_bytes: u32::MAX,
            hold: false,
            calls: 0,
            in_flight: 0,
            most_in_flight: 0,
        }));
        let flags = EfdFlags::EFD_NONBLOCK;
        let wakes: Vec<_> = (0..workers)
            .map(|_| Arc::new(EventFd::from_value_and_flags(0, flags).expect("an eventfd")))
            .collect();
        let queue = |worker| {
            let engine = Scripted {
                device: Rc::clone(&device),
                held: Vec::new(),
            };
            WorkerQueue::new(engine, depth, worker)
        };
        let allocator = Allocator::new(MEGABYTE, Threads::Many).expect("made");
        let mut block = None;
        let plan = AllocationPlan::for_size(MEGABYTE);
        let allocated =
            allocator.allocate(plan, OwnerTag::NONE, 0, |allocated| block = Some(allocated));
        allocated.expect("room");
        Self {
            queues: (0..workers).map(queue).collect(),
            device,
            exchange: GrantExchange::new(&wakes),
            wakes,
            allocator,
            block: block.expect("allocated"),
            recorder: Arc::default(),
            ended: Vec::new(),
            next_task: 0,
        }
    }

    /// Hands a transfer to a worker.
    fn accept(
        &mut self,
        worker: usize,
        direction: Direction,
        offset: u64,
        buffer: &mut TestBuffer,
    ) {
        let task = self.next_task;
        self.next_task += 1;
        let transfer = Transfer {
            request: loose_request(&self.recorder, task, buffer),
            direction,
            block: self.block,
            offset_in_pool: offset,
            len_bytes: buffer.len as u32,
        };
        let pinned = self.allocator.hold(self.block).expect("allocated");
        let operation = Operation::new(transfer, UNIT);
        self.queues[worker].accept(operation, pinned, &self.exchange);
    }

    fn pass(&mut self, worker: usize) -> Activity {
        let (ended, allocator) = (&mut self.ended, &self.allocator);
        self.queues[worker].poll(&self.exchange, &mut |transfer, pin, outcome| {
            ended.push((transfer.offset_in_pool, outcome));
            allocator.unpin(pin);
            transfer.request.complete(&[]);
        })
    }

    /// Makes passes until nothing is left, at most so many.
    fn passes(&mut self, most: usize) {
        for _ in 0..most {
            let all = 0..self.queues.len();
            if all.fold(Activity::IDLE, |sum, worker| sum | self.pass(worker)) == Activity::IDLE {
                return;
            }
        }
        panic!("operations are left after {most} passes");
    }

    /// The block can be freed at once, and allocated again.
    #[track_caller]
    fn assert_unpinned(&self) {
        let mut freed = TestBuffer::new(1, 0);
        let task = u64::MAX;
        let request = loose_request(&self.recorder, task, &mut freed);
        let free = self
            .allocator
            .free(&[self.block], PendingFree::new(request));
        assert!(free.is_ok(), "it is allocated");
        assert!(self.recorder.take(task).is_some(), "a pin was lost");
    }

    fn woken(&self, worker: usize) -> bool {
        self.wakes[worker].read().is_ok()
    }
}

const AT_WORK: Activity = Activity(Activity::PENDING.0 | Activity::PROGRESS.0);

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

/// Whatever panics over one operation ends that one, and no other, and no pin is lost.
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
fn a_device_that_did_not_get_to_it_is_asked_again_but_not_for_ever() {
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
