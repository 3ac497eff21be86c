//! A worker's way to the device: what it accepted, what it may start, what is under way.
//!
//! ```text
//! accept ──granted──▶ ready ──place free──▶ staged ──one call per pass──▶ in flight ──▶ finished
//!    └──must wait──▶ (block's queue) ──grant handed back──▶ ready ◀──needs the device again──┘
//! ```
//!
//! Laws:
//! - At most `depth` operations are staged or in flight. The rest waits in `ready`, in order,
//!   and is never refused.
//! - An operation stays in this worker's table from its acceptance until it is finished, and so
//!   does all memory that the device may touch for it.
//! - When an operation is finished its grant is given back before anybody hears of the end, so
//!   that a client's next write does not wait for its last.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use chimaera_chimod::Activity;
use chimaera_proto::Failure;
use crossbeam::queue::SegQueue;
use crossbeam::utils::CachePadded;
use nix::sys::eventfd::EventFd;

use super::engine::{DeviceResult, Engine, Submission};
use super::exclusion::{BlockExclusion, Waiter};
use super::operation::{Operation, Step};
use crate::transfer::Transfer;

/// What the workers of a pool have in common.
pub(super) struct Crossing {
    exclusion: BlockExclusion,
    workers: Box<[CachePadded<Mailbox>]>,
}

/// Where other workers leave grants for a worker.
struct Mailbox {
    /// Indexes of operations in the worker's table.
    granted: SegQueue<u32>,
    /// Wakes the worker.
    wake: Arc<EventFd>,
}

impl Crossing {
    /// For as many workers as there are wake-ups.
    pub(super) fn new(wakes: &[Arc<EventFd>]) -> Self {
        Self {
            exclusion: BlockExclusion::new(),
            workers: wakes
                .iter()
                .map(|wake| {
                    CachePadded::new(Mailbox {
                        granted: SegQueue::new(),
                        wake: Arc::clone(wake),
                    })
                })
                .collect(),
        }
    }
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed(Failure),
    /// The device ended before the pool does.
    EndedEarly,
}

/// The operations of one worker.
pub(super) struct WorkerQueue<E> {
    // First, and so dropped first: that waits for the device, which may still use the memory of
    // what is dropped after it.
    engine: E,
    operations: Table,
    ready: VecDeque<u32>,
    staged: Vec<Submission>,
    in_flight: usize,
    depth: usize,
    worker_index: usize,
    // Empty between calls; kept for their memory.
    results: Vec<DeviceResult>,
    granted: Vec<Waiter>,
}

impl<E: Engine> WorkerQueue<E> {
    pub(super) fn new(engine: E, depth: u32, worker_index: usize) -> Self {
        let depth = depth as usize;
        Self {
            engine,
            operations: Table::with_capacity(depth),
            ready: VecDeque::with_capacity(depth),
            staged: Vec::with_capacity(depth),
            in_flight: 0,
            depth,
            worker_index,
            results: Vec::with_capacity(depth),
            granted: Vec::new(),
        }
    }

    /// Takes an operation. It starts at the next [`Self::poll`] at the earliest.
    pub(super) fn accept(&mut self, operation: Operation, crossing: &Crossing) {
        let block_offset = operation.transfer.block.offset;
        let exclusion = operation.exclusion();
        let index = self.operations.insert(operation);
        let granted = exclusion.is_none_or(|mode| {
            let waiter = Waiter {
                worker_index: self.worker_index,
                transfer_index: index,
            };
            crossing.exclusion.acquire(block_offset, mode, waiter)
        });
        if granted {
            self.ready.push_back(index);
        }
    }

    /// Moves everything forward that can move, and calls `finished` for what has ended.
    pub(super) fn poll(
        &mut self,
        crossing: &Crossing,
        finished: &mut impl FnMut(Transfer, Outcome),
    ) -> Activity {
        let mut progress = false;
        while let Some(index) = crossing.workers[self.worker_index].granted.pop() {
            self.ready.push_back(index);
            progress = true;
        }
        progress |= self.reap(crossing, finished);
        progress |= self.start(crossing, finished);
        let mut activity = Activity::IDLE;
        if progress {
            activity = activity | Activity::PROGRESS;
        }
        if !self.operations.is_empty() {
            activity = activity | Activity::PENDING;
            // The kernel took nothing, and none of its wake-ups will come: the worker must not
            // sleep before something was taken.
            let stuck = self.in_flight == 0 && !(self.staged.is_empty() && self.ready.is_empty());
            if stuck {
                activity = activity | Activity::PROGRESS;
            }
        }
        activity
    }

    /// Takes results, before any system call is made for new work.
    fn reap(&mut self, crossing: &Crossing, finished: &mut impl FnMut(Transfer, Outcome)) -> bool {
        let mut results = std::mem::take(&mut self.results);
        self.engine.reap(&mut results);
        let progress = !results.is_empty();
        for result in results.drain(..) {
            let index = result.tag as u32;
            let Some(operation) = self.operations.get_mut(index) else {
                debug_assert!(false, "a result for operation {index}, which is not there");
                continue;
            };
            self.in_flight -= 1;
            match operation.advance(result.result) {
                // In front: what has begun is ended before something else begins.
                Step::Continue => self.ready.push_front(index),
                Step::Finished(Ok(())) => self.finish(index, Outcome::Done, crossing, finished),
                Step::Finished(Err(failure)) => {
                    self.finish(index, Outcome::Failed(failure), crossing, finished);
                }
                Step::EndedEarly => self.finish(index, Outcome::EndedEarly, crossing, finished),
            }
        }
        self.results = results;
        progress
    }

    /// Fills the free places on the device, in one call as long as the device takes everything.
    fn start(&mut self, crossing: &Crossing, finished: &mut impl FnMut(Transfer, Outcome)) -> bool {
        let mut progress = false;
        loop {
            while self.staged.len() + self.in_flight < self.depth
                && let Some(index) = self.ready.pop_front()
            {
                let Some(operation) = self.operations.get_mut(index) else {
                    debug_assert!(false, "operation {index} is ready and not there");
                    continue;
                };
                match operation.next(u64::from(index)) {
                    Ok(submission) => self.staged.push(submission),
                    Err(status) => {
                        let outcome = Outcome::Failed(status.into());
                        self.finish(index, outcome, crossing, finished);
                        progress = true;
                    }
                }
            }
            if self.staged.is_empty() {
                return progress;
            }
            // SAFETY: the memory of each submission is that of its operation, which stays in the
            // table until its result was reaped: the client's buffer through its request, or
            // the bounce memory, which nothing references before the operation advances. The
            // engine is dropped before the table.
            match unsafe { self.engine.submit(&self.staged) } {
                Ok(count) => {
                    self.in_flight += count;
                    self.staged.drain(..count);
                    progress = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return progress,
                Err(error) => {
                    let index = self.staged.remove(0).tag as u32;
                    let failure = Failure::io(error.raw_os_error().unwrap_or(0));
                    self.finish(index, Outcome::Failed(failure), crossing, finished);
                    progress = true;
                }
            }
        }
    }

    fn finish(
        &mut self,
        index: u32,
        outcome: Outcome,
        crossing: &Crossing,
        finished: &mut impl FnMut(Transfer, Outcome),
    ) {
        let Some(operation) = self.operations.remove(index) else {
            return;
        };
        if operation.exclusion().is_some() {
            let block_offset = operation.transfer.block.offset;
            crossing.exclusion.release(block_offset, &mut self.granted);
            for waiter in self.granted.drain(..) {
                if waiter.worker_index == self.worker_index {
                    self.ready.push_back(waiter.transfer_index);
                    continue;
                }
                let mailbox = &crossing.workers[waiter.worker_index];
                mailbox.granted.push(waiter.transfer_index);
                // Fails only if the counter is full, and then the file is readable anyway. The
                // worker polls as long as it has operations, so a grant is never overlooked.
                let _ = mailbox.wake.write(1);
            }
        }
        finished(operation.transfer, outcome);
    }
}

/// Operations by index, whose places are used again.
struct Table {
    places: Vec<Option<Operation>>,
    free: Vec<u32>,
}

impl Table {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            places: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
        }
    }

    fn insert(&mut self, operation: Operation) -> u32 {
        if let Some(index) = self.free.pop() {
            self.places[index as usize] = Some(operation);
            return index;
        }
        self.places.push(Some(operation));
        // Each holds a task of some lane, of which there are far fewer than 32 bits count.
        (self.places.len() - 1) as u32
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Operation> {
        self.places.get_mut(index as usize)?.as_mut()
    }

    fn remove(&mut self, index: u32) -> Option<Operation> {
        let operation = self.places.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(operation)
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}
