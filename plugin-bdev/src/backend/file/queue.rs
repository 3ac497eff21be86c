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
//! - The kernel may say that it cannot take anything now. While something is in flight, the queue waits for
//!   its result, which makes room. While nothing is, patience is limited: then all that waits fails.
//! - A panic over an operation ends that operation, and is passed on when the rest of the pass is done.
//! - When an operation is finished its grant is given back before anybody hears of the end, so
//!   that a client's next write does not wait for its last.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_bdev_allocator::failpoint::{Failpoint, may_panic};
use chimaera_bdev_allocator::{FreeCompletion, Pin, Pinned};
use chimaera_chimod::Activity;
use chimaera_proto::{Failure, Status};
use crossbeam::queue::SegQueue;
use crossbeam::utils::CachePadded;
use nix::sys::eventfd::EventFd;

use super::engine::{DeviceCommand, DeviceResult, Engine};
use super::operation::{Operation, OperationStep};
use super::slab::OperationSlab;
use super::write_exclusion::{BlockExclusion, Waiter};
use crate::backend::transfer::Transfer;

/// How long the kernel may take nothing while nothing of this worker's is in flight.
pub(super) const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// What the workers of a pool share: which writes exclude which, and mailboxes for the grants that they hand
/// over.
pub(super) struct GrantExchange {
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

impl GrantExchange {
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
pub(super) enum TransferOutcome {
    Done,
    Failed(Failure),
    /// The device ended before the pool does.
    EndedEarly,
    /// The kernel did not take it for [`REFUSAL_PATIENCE`].
    NotTaken,
}

/// The operations of one worker.
pub(super) struct WorkerQueue<E> {
    // First, and so dropped first: that waits for the device, which may still use the memory of
    // what is dropped after it.
    engine: E,
    operations: OperationSlab,
    ready: VecDeque<u32>,
    staged: Vec<DeviceCommand>,
    in_flight: usize,
    depth: usize,
    worker_index: usize,
    /// Since when the kernel takes nothing, though nothing is in flight.
    refused_since: Option<Instant>,
    pub(super) patience: Duration,
    /// A panic's payload, to be passed on.
    panicked: Option<Box<dyn Any + Send>>,
    // Empty between calls; kept for their memory.
    results: Vec<DeviceResult>,
    granted: Vec<Waiter>,
}

impl<E: Engine> WorkerQueue<E> {
    pub(super) fn new(engine: E, depth: u32, worker_index: usize) -> Self {
        let depth = depth as usize;
        Self {
            engine,
            operations: OperationSlab::with_capacity(depth),
            ready: VecDeque::with_capacity(depth),
            staged: Vec::with_capacity(depth),
            in_flight: 0,
            depth,
            worker_index,
            refused_since: None,
            patience: REFUSAL_PATIENCE,
            panicked: None,
            results: Vec::with_capacity(depth),
            granted: Vec::new(),
        }
    }

    /// Takes an operation, whose block is pinned. It starts at the next [`Self::poll`] at the earliest.
    pub(super) fn accept<C: FreeCompletion>(
        &mut self,
        operation: Operation,
        pinned: Pinned<'_, C>,
        exchange: &GrantExchange,
    ) {
        may_panic(Failpoint::Accepted);
        let block_offset = operation.transfer.block.offset;
        let exclusion = operation.exclusion();
        let index = self.operations.vacancy();
        let granted = exclusion.is_none_or(|mode| {
            let waiter = Waiter {
                worker_index: self.worker_index,
                transfer_index: index,
            };
            exchange.exclusion.acquire(block_offset, mode, waiter)
        });
        self.operations.fill(index, (operation, pinned.into_pin()));
        if granted {
            self.ready.push_back(index);
        }
    }

    /// Moves everything forward that can move, and calls `finished` for what has ended.
    ///
    /// # Panics
    /// If something panicked over an operation. All others, and the queue, are as after any other call.
    pub(super) fn poll(
        &mut self,
        exchange: &GrantExchange,
        finished: &mut impl FnMut(Transfer, Pin, TransferOutcome),
    ) -> Activity {
        let mut progress = false;
        while let Some(index) = exchange.workers[self.worker_index].granted.pop() {
            self.ready.push_back(index);
            progress = true;
        }
        progress |= self.reap(exchange, finished);
        progress |= self.start(exchange, finished);
        let stuck = self.is_stuck();
        if !stuck {
            self.refused_since = None;
        } else if self.is_out_of_patience() {
            self.give_up(exchange, finished);
        }
        if let Some(payload) = self.panicked.take() {
            resume_unwind(payload);
        }
        let mut activity = Activity::IDLE;
        if progress {
            activity = activity | Activity::PROGRESS;
        }
        if !self.operations.is_empty() {
            activity = activity | Activity::PENDING;
            // None of the kernel's wake-ups will come: the worker must not sleep before something was
            // taken.
            if stuck {
                activity = activity | Activity::PROGRESS;
            }
        }
        activity
    }

    /// Takes results, before any system call is made for new work.
    fn reap(
        &mut self,
        exchange: &GrantExchange,
        finished: &mut impl FnMut(Transfer, Pin, TransferOutcome),
    ) -> bool {
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
            let outcome = match contained(|| operation.advance(result.result)) {
                // In front: what has begun is ended before something else begins.
                Ok(OperationStep::Continue) => {
                    self.ready.push_front(index);
                    continue;
                }
                Ok(OperationStep::Finished(Ok(()))) => TransferOutcome::Done,
                Ok(OperationStep::Finished(Err(failure))) => TransferOutcome::Failed(failure),
                Ok(OperationStep::EndedEarly) => TransferOutcome::EndedEarly,
                Err(payload) => self.note_panic(payload),
            };
            self.finish(index, outcome, exchange, finished);
        }
        self.results = results;
        progress
    }

    /// Fills the free places on the device, in one call as long as the device takes everything.
    fn start(
        &mut self,
        exchange: &GrantExchange,
        finished: &mut impl FnMut(Transfer, Pin, TransferOutcome),
    ) -> bool {
        let mut progress = false;
        loop {
            while self.staged.len() + self.in_flight < self.depth
                && let Some(index) = self.ready.pop_front()
            {
                let Some(operation) = self.operations.get_mut(index) else {
                    debug_assert!(false, "operation {index} is ready and not there");
                    continue;
                };
                let outcome = match contained(|| operation.next(u64::from(index))) {
                    Ok(Ok(command)) => {
                        self.staged.push(command);
                        continue;
                    }
                    Ok(Err(status)) => TransferOutcome::Failed(status.into()),
                    Err(payload) => self.note_panic(payload),
                };
                self.finish(index, outcome, exchange, finished);
                progress = true;
            }
            if self.staged.is_empty() {
                return progress;
            }
            // SAFETY: the memory of each command is that of its operation, which stays in the
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
                    self.finish(index, TransferOutcome::Failed(failure), exchange, finished);
                    progress = true;
                }
            }
        }
    }

    /// Whether something waits for the kernel while nothing is in flight that would make room.
    fn is_stuck(&self) -> bool {
        let kept_back = self.engine.kept_back();
        let waits = kept_back > 0 || !(self.staged.is_empty() && self.ready.is_empty());
        waits && self.in_flight == kept_back
    }

    #[cold]
    fn is_out_of_patience(&mut self) -> bool {
        let since = self.refused_since.get_or_insert_with(Instant::now);
        since.elapsed() >= self.patience
    }

    /// Fails all that waits for the kernel. What comes later is tried with new patience.
    #[cold]
    fn give_up(
        &mut self,
        exchange: &GrantExchange,
        finished: &mut impl FnMut(Transfer, Pin, TransferOutcome),
    ) {
        self.refused_since = None;
        let mut tags = Vec::new();
        self.engine.give_up(&mut tags);
        self.in_flight -= tags.len();
        tags.extend(self.staged.drain(..).map(|command| command.tag));
        let mut waiting: Vec<u32> = tags.into_iter().map(|tag| tag as u32).collect();
        waiting.extend(self.ready.drain(..));
        for index in waiting {
            self.finish(index, TransferOutcome::NotTaken, exchange, finished);
        }
    }

    #[cold]
    fn note_panic(&mut self, payload: Box<dyn Any + Send>) -> TransferOutcome {
        // Of several one is enough to find the mistake.
        self.panicked.get_or_insert(payload);
        TransferOutcome::Failed(Status::ModulePanicked.into())
    }

    fn finish(
        &mut self,
        index: u32,
        outcome: TransferOutcome,
        exchange: &GrantExchange,
        finished: &mut impl FnMut(Transfer, Pin, TransferOutcome),
    ) {
        let Some((operation, pin)) = self.operations.remove(index) else {
            return;
        };
        if operation.exclusion().is_some() {
            let block_offset = operation.transfer.block.offset;
            exchange.exclusion.release(block_offset, &mut self.granted);
            for waiter in self.granted.drain(..) {
                if waiter.worker_index == self.worker_index {
                    self.ready.push_back(waiter.transfer_index);
                    continue;
                }
                let mailbox = &exchange.workers[waiter.worker_index];
                mailbox.granted.push(waiter.transfer_index);
                // Fails only if the counter is full, and then the file is readable anyway. The
                // worker polls as long as it has operations, so a grant is never overlooked.
                let _ = mailbox.wake.write(1);
            }
        }
        if let Err(payload) = contained(|| finished(operation.transfer, pin, outcome)) {
            self.note_panic(payload);
        }
    }
}

/// Catches a panic as a value: the other operations must not be lost by it.
fn contained<T>(call: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(call))
}
