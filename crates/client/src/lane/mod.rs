//! A lane from the client's side.
//!
//! A task in flight is named by its completion record and its sequence ([`Flight`]). In private memory the lane
//! keeps, by record, a claim ([`claim`]), and the task's call and buffer ([`payload`]). The submitter takes a free
//! record ([`submitter`]) and publishes the task in it ([`publish`]). The task's handle collects it ([`handle`]) after
//! waiting for its completion ([`wait`], [`bell`]), or is dropped before ([`detach`]). If no record is free, completed
//! ones are harvested ([`harvest`]), and then the submitter or the task waits for a record ([`backpressure`],
//! [`wait_queue`]). If the daemon dies, the lane completes its tasks itself ([`disconnect`]). If the connection ends,
//! the lane stays until its last handle is dropped ([`lingering`]).
//!
//! Laws of this module:
//! - A claim is moved out of `Attached` by compare-and-swap, so that of a task's handle and the harvester exactly one
//!   takes the record. The harvester, and a handle that is dropped or polled, do so under the lock of the handle
//!   table: a handle that loses the race finds the completion in that table as soon as it has the lock. Only the
//!   submitter harvests, so a thread that owns the lane moves the claims of its handles by plain stores.
//! - A thread sleeps only on a record whose claim is `Awaited`, and there is one such thread. Nobody else frees that
//!   record, so it cannot be given to another task meanwhile. A thread that waits for *any* record sleeps on the
//!   segment's bell instead.
//! - A record is freed after its task has completed and the completion was copied, never before. So there are never
//!   more tasks in flight than the lane has entries.
//! - Locks are taken in this order: submitter, handle table, wait queue, buffer memory. No waker is woken or dropped
//!   under any of them.

pub(crate) mod backpressure;
pub(crate) mod bell;
pub(crate) mod claim;
pub(crate) mod detach;
pub(crate) mod disconnect;
pub(crate) mod flags;
pub(crate) mod handle;
pub(crate) mod handle_table;
pub(crate) mod harvest;
pub(crate) mod lingering;
pub(crate) mod payload;
pub(crate) mod publish;
pub(crate) mod submit;
pub(crate) mod submitter;
pub(crate) mod sync;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod wait;
pub(crate) mod wait_queue;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use chimaera_fork::Home;
use chimaera_proto::limits::LANE_DEPTH;
use chimaera_shm::{Doorbell, Lane, Segment};
use crossbeam::utils::CachePadded;

use self::claim::{Claim, ClaimState, ClaimWord, Flight};
use self::flags::LaneFlags;
use self::handle_table::HandleTable;
use self::payload::Payloads;
use self::submitter::{LaneKind, Submitter};
use self::wait_queue::WaitQueue;
use crate::adaptive_spin::AdaptiveSpin;
use crate::connection::{ClientConnection, LaneEvents};
use crate::reentrancy::Mutex;
use crate::wakers::Wakers;

/// The connection is lost, and nothing can be submitted any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLost;

/// A lane of this process.
pub(crate) struct ClientLane {
    pub(crate) memory: Lane,
    /// The first segment, which has the bell.
    pub(crate) segment: Arc<Segment>,
    doorbell: Doorbell,
    pub(crate) adaptive_spin: AdaptiveSpin,
    pub(crate) submitter: Submitter,
    claims: CachePadded<[ClaimWord; LANE_DEPTH]>,
    pub(crate) payloads: Payloads,
    /// By record, the sequence of a task whose handle was dropped in a signal handler that could not have the lock of
    /// the handle table.
    pub(crate) detach_notes: [AtomicU64; LANE_DEPTH],
    pub(crate) flags: CachePadded<LaneFlags>,
    /// Tasks and threads that wait for a record.
    pub(crate) queue: CachePadded<WaitQueue>,
    pub(crate) handles: CachePadded<Mutex<HandleTable>>,
    /// Keeps the connection for as long as somebody can wait for a task.
    pub(crate) connection: Arc<ClientConnection>,
    /// The process of the connection.
    home: Home,
}

impl ClientLane {
    /// A lane that was never used.
    pub(crate) fn new(
        index: usize,
        kind: LaneKind,
        doorbell: Doorbell,
        adaptive_spin: AdaptiveSpin,
        connection: Arc<ClientConnection>,
    ) -> Self {
        let segment = Arc::clone(connection.segment());
        Self {
            memory: segment.lane(index),
            segment,
            doorbell,
            adaptive_spin,
            submitter: Submitter::new(kind),
            claims: CachePadded::new([const { ClaimWord::new() }; LANE_DEPTH]),
            payloads: Payloads::new(),
            detach_notes: [const { AtomicU64::new(0) }; LANE_DEPTH],
            flags: CachePadded::new(LaneFlags::new()),
            queue: CachePadded::new(WaitQueue::new()),
            handles: CachePadded::default(),
            home: connection.home.clone(),
            connection,
        }
    }

    /// Whether this is the lane's process. A process that was forked from it must not use anything of the lane: the
    /// shared memory is not there, locks may be held for ever, and the tasks in flight are the parent's.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.home.is_here()
    }

    /// The task that a record was last given to, and what became of it.
    #[inline]
    pub(crate) fn claim_of(&self, record: usize) -> (Flight, ClaimState) {
        let claim = self.claims[record].load();
        let sequence = claim.sequence();
        (Flight { record, sequence }, claim.state())
    }

    /// Frees a record whose completion was copied, or is of no interest. The caller shares in the lane or holds the
    /// lock of the handle table. Handles do neither, and use [`Self::release_from_handle`].
    #[inline]
    pub(crate) fn release(&self, flight: Flight) {
        if self.submitter.free(flight.bit()) {
            self.ring_if_wanted();
        }
    }

    /// Rings the bell if a submitter, or a task in the queue, waits for what this thread has just done by a `SeqCst`
    /// operation or before a `SeqCst` fence.
    #[inline]
    pub(crate) fn ring_if_wanted(&self) {
        if self.flags.is_starved() || self.queue.is_waiting() {
            self.segment.ring_bell();
        }
    }

    /// Whether an attached task still has its record, which it has until it is harvested.
    #[inline]
    pub(crate) fn is_attached(&self, flight: Flight) -> bool {
        // Relaxed: a harvested completion is taken out under the lock of the handle table.
        self.claims[flight.record].load() == Claim::new(flight.sequence, ClaimState::Attached)
    }

    /// Whether the task has completed, harvested or not.
    #[inline]
    pub(crate) fn is_complete(&self, flight: Flight) -> bool {
        self.memory.is_complete(flight.record, flight.wire()) || !self.is_attached(flight)
    }

    /// Moves the claim of an attached task on behalf of its handle. The thread is inside. Returns false if the task was
    /// harvested before.
    #[inline]
    pub(crate) fn claim_for_handle(&self, flight: Flight, state: ClaimState) -> bool {
        // Before the branch, so that the bounds are checked once for all that follows.
        let word = &self.claims[flight.record];
        if !self.submitter.is_mine() {
            return word.move_from_attached(flight.sequence, state);
        }
        // Only the submitter harvests, and this thread is the submitter.
        let is_attached = word.load() == Claim::new(flight.sequence, ClaimState::Attached);
        if is_attached {
            word.store(Claim::new(flight.sequence, state));
        }
        is_attached
    }

    /// Moves the claim of an attached task. Returns false if another thread did so before.
    pub(crate) fn move_claim(&self, flight: Flight, state: ClaimState) -> bool {
        self.claims[flight.record].move_from_attached(flight.sequence, state)
    }
}

impl LaneEvents for ClientLane {
    fn connection_lost(&self) {
        self.complete_all_as_lost();
    }

    fn bell_rang(&self, wakers: &mut Wakers) -> Option<Duration> {
        self.collect_wakers(wakers);
        self.maintain_queue(wakers)
    }
}

#[cfg(all(test, not(loom)))]
impl ClientLane {
    /// Continues with this sequence, as if that many tasks had been submitted.
    pub(crate) fn begin_at(&self, sequence: u64) {
        self.submitter.begin_at(sequence);
    }
}
