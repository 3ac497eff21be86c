//! The thread that keeps a persistent pool: it commits, and does whatever else waits for the device.
//!
//! ```text
//! workers, control side ──work──▶ queue ──all at once──▶ one commit for all of it ──▶ completions
//!                                             └─ in between: the checkpoint, step by step
//! ```
//!
//! Laws:
//! - A caller that leaves work does not wait for the thread, and for the queue's lock only as long as it
//!   takes to append to a list.
//! - All work that waits when a commit begins is served by that one commit: flushes from any number of
//!   clients cost one.
//! - A block of a pool that scrubs is zeroed before anybody hears of it, and durably so before a commit records it.
//! - Nobody waits for a commit that keeps the number of owner tags in memory within bounds, unless there is no room
//!   left.
//! - A flush waits for at most one page of a list and one piece of blocks that are zeroed, however many are asked for.
//! - All work that is taken is completed, also after the device or the thread has failed.
//! - With nothing to do the thread sleeps.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use chimaera_bdev_allocator::ledger::Ledger;
use chimaera_bdev_format::PoolOwner;
use chimaera_bdev_proto::PerfMetrics;
use chimaera_chimod::{Host, Level, Request};
use chimaera_proto::{Failure, Status};
use chimaera_thread::condition::{Condvar, Mutex};
use chimaera_thread::{self as thread, JoinHandle, NoThread};
use crossbeam::channel::{Sender, bounded};

use super::allocation::AllocationOutcome;
use super::zeroing::ZeroingQueue;
use super::{allocation, listing};
use crate::backend::file::{MetadataDisk, NamedFile};
use crate::pool::failure::{failure_of, refuse};
use crate::pool::state::PoolState;

/// What a keeper is asked to do.
#[derive(Debug)]
pub(crate) enum KeeperWork {
    /// To make durable what completed before.
    Flush(Request),
    /// To commit, for nobody who waits: many owner tags are in memory until then.
    Commit,
    /// To allocate what found no space, or no room for its owner tag, after a commit.
    Allocate(Request),
    /// To allocate blocks that are zeroed first.
    AllocateZeroed(Request),
    /// To list blocks.
    List(Request),
    /// As [`Self::Flush`], for a thread that waits.
    FlushCall(Sender<Result<(), Failure>>),
    /// To record something else of the pool, for a thread that waits.
    Record(IdentityChange, Sender<Result<(), Failure>>),
}

/// What a pool's superblock is to say of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IdentityChange {
    /// Other characteristics of the device.
    Metrics(PerfMetrics),
    /// Another owner, group or mode; and that the pool scrubs from now on, if the second value is set.
    Owner(PoolOwner, bool),
    /// That the pool scrubs from now on.
    Scrubs,
}

impl IdentityChange {
    /// Has it hold in the open pool, once it is recorded. In the order of the records, so that what holds is what was
    /// recorded last.
    pub(crate) fn take_effect(self, pool: &PoolState) {
        match self {
            Self::Metrics(metrics) => pool.declared.set(metrics),
            Self::Owner(owner, scrubs) => {
                pool.declared.set_owner(owner.user);
                if scrubs {
                    pool.scrub.turn_on();
                }
            }
            Self::Scrubs => pool.scrub.turn_on(),
        }
    }
}

/// A pool's keeper. When it is dropped, it commits, brings everything into the table, and ends.
pub(crate) struct Keeper {
    queue: Arc<WorkQueue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct WorkQueue {
    state: Mutex<PendingWork>,
    came: Condvar,
}

#[derive(Default)]
struct PendingWork {
    work: Vec<KeeperWork>,
    /// No more work is coming.
    ending: bool,
    /// The thread is gone.
    gone: bool,
}

impl Keeper {
    /// Starts a pool's keeper. That of a read-only pool commits nothing.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(
        ledger: Ledger<MetadataDisk>,
        pool: Arc<PoolState>,
        named_file: Arc<NamedFile>,
        host: Host,
        read_only: bool,
    ) -> Result<Self, NoThread> {
        let queue = Arc::new(WorkQueue::default());
        let mut thread = KeeperThread {
            lists: VecDeque::new(),
            zeroing: ZeroingQueue::default(),
            ledger,
            pool,
            named_file,
            host,
            read_only,
            failure: None,
        };
        let own = Arc::clone(&queue);
        let thread = thread::spawn("chimaera-keeper", move || {
            thread.host.adopt_thread();
            if catch_unwind(AssertUnwindSafe(|| thread.run(&own))).is_err() {
                let text = "the pool's keeper panicked: this is a mistake in the module; nothing can \
                                be flushed until the pool is created anew";
                thread.host.log(Level::Error, text);
            }
            let left = {
                let mut state = own.state.lock();
                state.gone = true;
                std::mem::take(&mut state.work)
            };
            // Completes each as failed.
            drop(left);
        })?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    /// Leaves work.
    pub(crate) fn push(&self, work: KeeperWork) {
        let mut state = self.queue.state.lock();
        if state.gone {
            drop(state);
            // A request that is dropped fails.
            return drop(work);
        }
        let is_awaited = !matches!(work, KeeperWork::List(_) | KeeperWork::Commit);
        state.work.push(work);
        drop(state);
        self.queue.came.notify_one();
        if is_awaited {
            // Where every processor is busy, the scheduler has put the keeper behind this worker, which goes
            // on to poll. Without a yield the keeper would run only when the worker's turn is over, which
            // takes longer than a device.
            std::thread::yield_now();
        }
    }

    /// Makes durable what completed before. Blocks.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        self.call(KeeperWork::FlushCall)
    }

    /// Records something else of the pool: durably, unless it is only read. Blocks.
    ///
    /// # Errors
    /// The device's. What it holds is not known then.
    pub(crate) fn record(&self, change: IdentityChange) -> Result<(), Failure> {
        self.call(|done| KeeperWork::Record(change, done))
    }

    fn call(
        &self,
        work: impl FnOnce(Sender<Result<(), Failure>>) -> KeeperWork,
    ) -> Result<(), Failure> {
        let (done, answer) = bounded(1);
        self.push(work(done));
        answer.recv().unwrap_or(Err(Status::Aborted.into()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.queue.state.lock().ending = true;
        self.queue.came.notify_one();
        if let Some(thread) = self.thread.take() {
            // It catches its panics.
            let _ = thread.join();
        }
    }
}

impl WorkQueue {
    /// Takes all work there is. Waits for some, unless there is something else to do; `None` when no more is
    /// coming.
    fn take(&self, has_else: bool) -> Option<Vec<KeeperWork>> {
        let mut state = self.state.lock();
        while state.work.is_empty() && !state.ending && !has_else {
            self.came.wait(&mut state);
        }
        if state.work.is_empty() && state.ending {
            return None;
        }
        Some(std::mem::take(&mut state.work))
    }
}

struct KeeperThread {
    /// Lists that wait for their turn.
    lists: VecDeque<Request>,
    /// Allocations whose blocks are being zeroed.
    zeroing: ZeroingQueue,
    ledger: Ledger<MetadataDisk>,
    pool: Arc<PoolState>,
    named_file: Arc<NamedFile>,
    host: Host,
    read_only: bool,
    /// The first failure of the device: nothing is written after it.
    failure: Option<Failure>,
}

impl KeeperThread {
    fn run(&mut self, queue: &WorkQueue) {
        loop {
            let wants_checkpoint = !self.read_only && self.ledger.metadata().wants_checkpoint();
            let has_else = !self.lists.is_empty() || !self.zeroing.is_empty();
            let Some(work) = queue.take(wants_checkpoint || has_else) else {
                break;
            };
            let mut again = self.serve(work);
            again.extend(self.zero());
            if !again.is_empty() {
                queue.state.lock().work.extend(again);
            }
            self.list();
            if wants_checkpoint && let Err(error) = self.ledger.metadata_mut().advance_checkpoint()
            {
                self.fail(&error);
            }
        }
        while !self.lists.is_empty() {
            self.list();
        }
        while !self.zeroing.is_empty() {
            // The end commits.
            let _ = self.zero();
        }
        if !self.read_only {
            self.close();
        }
    }

    /// Does this work, and gives what has to wait for another commit.
    fn serve(&mut self, work: Vec<KeeperWork>) -> Vec<KeeperWork> {
        let waits_for_commit = |work: &KeeperWork| {
            !matches!(
                work,
                KeeperWork::List(_) | KeeperWork::AllocateZeroed(_) | KeeperWork::Record(..)
            )
        };
        let commits = work.iter().any(waits_for_commit);
        // Notes that the file was cut, before the commit makes it long again. A client's write to its end may
        // have done so already.
        let _ = self.named_file.cut();
        let committed = if commits { self.commit() } else { Ok(()) };
        let is_flush =
            |work: &KeeperWork| matches!(work, KeeperWork::Flush(_) | KeeperWork::FlushCall(_));
        let mut flushed = committed;
        if work.iter().any(is_flush) {
            // What is durable now may lie in a file that nobody finds again. Destroying the pool flushes, so
            // it warns here too.
            self.named_file.warn_if_lost(self.host);
            flushed = flushed.and_then(|()| self.named_file.check_whole());
        }
        let mut again = Vec::new();
        for work in work {
            match (work, committed) {
                (KeeperWork::Commit, _) => {}
                (KeeperWork::Flush(request), _) => match flushed {
                    Ok(()) => request.complete(&[]),
                    Err(failure) => refuse(self.pool.counters.of_keeper(), request, failure),
                },
                (KeeperWork::Allocate(request), Err(failure)) => {
                    refuse(self.pool.counters.of_keeper(), request, failure);
                }
                (KeeperWork::Allocate(request), Ok(())) => {
                    again.extend(self.allocate(request, true));
                }
                (KeeperWork::AllocateZeroed(request), _) => {
                    again.extend(self.allocate(request, false));
                }
                (KeeperWork::List(request), _) => self.lists.push_back(request),
                (KeeperWork::FlushCall(done), _) => drop(done.send(flushed)),
                (KeeperWork::Record(change, done), _) => drop(done.send(self.record(change))),
            }
        }
        again
    }

    /// Answers one list: a flush does not wait for more of them than that.
    fn list(&mut self) {
        if let Some(request) = self.lists.pop_front() {
            let list = |first, most| self.ledger.list(&self.pool.allocator, first, most);
            listing::answer_list(self.pool.counters.of_keeper(), request, list);
        }
    }

    /// Allocates, and gives what another commit has to come for.
    fn allocate(&mut self, request: Request, is_after_commit: bool) -> Option<KeeperWork> {
        let pool = Arc::clone(&self.pool);
        let (allocator, counters) = (&pool.allocator, pool.counters.of_keeper());
        let outcome = match pool.scrub.is_on() {
            true => self.allocate_zeroed(&pool, request),
            false => allocation::allocate(allocator, 0, counters, request),
        };
        match outcome {
            AllocationOutcome::Completed => None,
            AllocationOutcome::CompletedAmongManyTags => Some(KeeperWork::Commit),
            // All that was freed before the commit is available now. What was freed since is for later
            // allocations.
            AllocationOutcome::NeedsFrees(request) if is_after_commit => {
                refuse(counters, request, Status::NoSpace);
                None
            }
            // The commit has made room for tags, and workers have filled it since.
            AllocationOutcome::NeedsFrees(request) | AllocationOutcome::NeedsTagRoom(request) => {
                Some(KeeperWork::Allocate(request))
            }
        }
    }

    /// Has blocks zeroed, in later turns, before anybody hears of them.
    fn allocate_zeroed(&mut self, pool: &PoolState, request: Request) -> AllocationOutcome {
        let (allocator, counters) = (&pool.allocator, pool.counters.of_keeper());
        match allocation::reserve(allocator, 0, counters, request) {
            Ok(new) => {
                self.zeroing.push(new);
                AllocationOutcome::Completed
            }
            Err(outcome) => outcome,
        }
    }

    /// Gives new blocks that wait for it a turn at being zeroed, and gives what a commit has to come for.
    fn zero(&mut self) -> Option<KeeperWork> {
        let device = (self.ledger.metadata().disk(), self.failure);
        let wants_commit = self.zeroing.take_turn(device, &self.pool, self.host);
        wants_commit.then_some(KeeperWork::Commit)
    }

    fn record(&mut self, change: IdentityChange) -> Result<(), Failure> {
        match self.failure {
            Some(failure) => return Err(failure),
            None if self.read_only => {}
            None => {
                let metadata = self.ledger.metadata_mut();
                let recorded = match change {
                    IdentityChange::Metrics(metrics) => metadata.declare(metrics),
                    IdentityChange::Owner(owner, scrubs) => metadata.set_owner(owner, scrubs),
                    IdentityChange::Scrubs => metadata.set_scrubs(),
                };
                recorded.map_err(|error| self.fail(&error))?;
            }
        }
        change.take_effect(&self.pool);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None if self.read_only => Ok(()),
            None => {
                let flushed = self.zeroing.flush(self.ledger.metadata().disk());
                let committed = flushed.and_then(|()| self.ledger.commit(&self.pool.allocator));
                committed.map_err(|error| self.fail(&error))
            }
        }
    }

    /// Commits, and says on the device that the pool has ended in good order: not where its file was cut, since what
    /// was flushed before may be lost.
    fn close(&mut self) {
        // A commit may make a file that was cut long again.
        let is_whole = self.named_file.cut().is_none();
        if self.commit().is_ok()
            && is_whole
            && let Err(error) = self.ledger.metadata_mut().end()
        {
            self.fail(&error);
        }
    }

    /// Tells the log of a failure of the device, and returns the first one, which is remembered.
    fn fail(&mut self, error: &io::Error) -> Failure {
        let failure = failure_of(error);
        self.tell_of_failure(error);
        if self.failure.is_none() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = now.map_or(0, |since| since.as_secs());
            let text = format!("cannot write the pool's metadata: {error}");
            self.ledger.metadata_mut().mark_failure(&text, seconds);
        }
        *self.failure.get_or_insert(failure)
    }

    fn tell_of_failure(&self, error: &io::Error) {
        self.host.log(
            Level::Error,
            format_args!(
                "cannot write the pool's metadata: {error}; nothing more can be flushed until the pool is \
                 destroyed, looked at by `chimaera pool check --repair`, and created again",
            ),
        );
    }
}
