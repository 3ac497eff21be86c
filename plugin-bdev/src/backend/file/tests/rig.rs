//! A queue on a device that does what a test tells it: refuses, takes part of a batch, stops
//! short, holds back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use chimaera_bdev_allocator::{Allocator, Threads};
use chimaera_bdev_proto::{AllocationPlan, Block, MEGABYTE, OwnerTag};
use chimaera_chimod::Activity;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};
use super::super::operation::Operation;
use super::super::queue::{GrantExchange, TransferOutcome, WorkerQueue};
use crate::backend::transfer::{Direction, Transfer};
use crate::pool::allocator::PendingFree;
use crate::testing::{Recorder, TestBuffer, loose_request};

pub(super) const UNIT: u32 = 512;

/// What a pass says that moved something forward and left something under way.
pub(super) const AT_WORK: Activity = Activity(Activity::PENDING.0 | Activity::PROGRESS.0);

/// A device in memory, shared by its test and the engines of all workers.
pub(super) struct Device {
    pub(super) bytes: Vec<u8>,
    /// The answers to the next calls: how many commands are taken, or an errno. All are taken when it is
    /// empty.
    pub(super) answers: VecDeque<Result<usize, i32>>,
    /// Whether it takes nothing.
    pub(super) refuses: bool,
    /// What the next operations end with, instead of being done.
    pub(super) errors: VecDeque<i32>,
    /// Most bytes that an operation transfers.
    pub(super) most_bytes: u32,
    /// Whether results are kept back.
    pub(super) hold: bool,
    pub(super) calls: usize,
    pub(super) in_flight: usize,
    pub(super) most_in_flight: usize,
}

pub(super) struct Scripted {
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
pub(super) struct Rig {
    pub(super) device: Rc<RefCell<Device>>,
    pub(super) queues: Vec<WorkerQueue<Scripted>>,
    exchange: GrantExchange,
    wakes: Vec<Arc<EventFd>>,
    allocator: Allocator<PendingFree>,
    block: Block,
    pub(super) recorder: Arc<Recorder>,
    /// Where each transfer that ended began, and how it ended.
    pub(super) ended: Vec<(u64, TransferOutcome)>,
    next_task: u64,
}

impl Rig {
    pub(super) fn new(workers: usize, depth: u32) -> Self {
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
    pub(super) fn accept(
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

    pub(super) fn pass(&mut self, worker: usize) -> Activity {
        let (ended, allocator) = (&mut self.ended, &self.allocator);
        self.queues[worker].poll(&self.exchange, &mut |transfer, pin, outcome| {
            ended.push((transfer.offset_in_pool, outcome));
            allocator.unpin(pin);
            transfer.request.complete(&[]);
        })
    }

    /// Makes passes until nothing is left, at most so many.
    pub(super) fn passes(&mut self, most: usize) {
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
    pub(super) fn assert_unpinned(&self) {
        let mut freed = TestBuffer::new(1, 0);
        let task = u64::MAX;
        let request = loose_request(&self.recorder, task, &mut freed);
        let free = self
            .allocator
            .free(&[self.block], PendingFree::new(request));
        assert!(free.is_ok(), "it is allocated");
        assert!(self.recorder.take(task).is_some(), "a pin was lost");
    }

    pub(super) fn woken(&self, worker: usize) -> bool {
        self.wakes[worker].read().is_ok()
    }
}
