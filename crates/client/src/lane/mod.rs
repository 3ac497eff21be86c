//! A lane from the client's side: sequences, records, and who owns which.
//!
//! A task in flight is a record and a sequence. The record's **claim** word, in private memory,
//! holds the sequence of the task that the record was last given to, and a tag:
//!
//! ```text
//!            submit               owner waits
//! (free) ───────────► ATTACHED ───────────────► AWAITED ──► (free)
//!    │                   │  ▲──── gave up ─────────┘
//!    │                   ├── handle dropped ──► DETACHED ──► (free)
//!    │                   └── harvested ───────► DONE (free)
//!    └──── call ────► AWAITED
//! ```
//!
//! Laws of this module:
//! - Whoever moves a claim out of `ATTACHED` does so by compare-and-swap, so of a task's owner and
//!   the harvester exactly one takes the record. The harvester, and a handle that is dropped or
//!   polled, do this under the lock of the desk, so an owner who loses the race finds the
//!   completion at the desk as soon as it has that lock. Only the submitter harvests; so a
//!   thread that owns the lane moves the claims of the handles it holds by plain stores.
//! - Only an `AWAITED` record is slept on, by its one owner. Nobody else frees it, so it cannot be
//!   given to another task meanwhile, and the sleeper's word is its task's. Who waits for *any*
//!   record sleeps on the segment's bell instead.
//! - A record is freed after its task completed and its completion was copied, never before, so
//!   no more tasks are in flight than the lane has entries.
//! - Locks are taken in the order: submitter, desk, queue, memory. No waker runs under any of them.

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

/// The connection is lost, so nothing can be submitted.
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
    /// By record, the sequence of a task whose handle a signal handler dropped and nobody has seen to yet.
    pub(crate) detach_notes: [AtomicU64; LANE_DEPTH],
    pub(crate) flags: CachePadded<LaneFlags>,
    /// Who waits for a record.
    pub(crate) queue: CachePadded<WaitQueue>,
    pub(crate) handles: CachePadded<Mutex<HandleTable>>,
    /// The connection lives as long as somebody can still wait for a task.
    pub(crate) connection: Arc<ClientConnection>,
    /// That of the connection.
    home: Home,
}

impl ClientLane {
    /// A lane of which nothing was used yet.
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

    /// Whether the lane is this process's. In one that was forked from it nothing of it may be used: its
    /// memory is not there, its locks may be taken for ever, and what is in flight is the other's.
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

    /// Frees a record whose completion was copied, or is of no interest. For whoever has a share in
    /// the lane, or its desk locked; handles have neither ([`Self::release_from_handle`]).
    #[inline]
    pub(crate) fn release(&self, flight: Flight) {
        if self.submitter.free(flight.bit()) {
            self.ring_if_wanted();
        }
    }

    /// Rings for a submitter, or for tasks in the queue, that wait for what this thread has just done,
    /// which was a `SeqCst` operation or followed by such a fence.
    #[inline]
    pub(crate) fn ring_if_wanted(&self) {
        if self.flags.is_starved() || self.queue.is_waiting() {
            self.segment.ring_bell();
        }
    }

    /// Whether an attached task's record is still its own, which it is until it was harvested.
    #[inline]
    pub(crate) fn is_attached(&self, flight: Flight) -> bool {
        // Relaxed: a harvested completion is fetched under the desk's lock.
        self.claims[flight.record].load() == Claim::new(flight.sequence, ClaimState::Attached)
    }

    /// Whether the task has completed, harvested or not.
    #[inline]
    pub(crate) fn is_complete(&self, flight: Flight) -> bool {
        self.memory.is_complete(flight.record, flight.wire()) || !self.is_attached(flight)
    }

    /// Moves an attached task's claim on behalf of its handle, with the thread inside. False if it was
    /// harvested before.
    #[inline]
    pub(crate) fn claim_for_handle(&self, flight: Flight, state: ClaimState) -> bool {
        // Looked up once, before the ways part: the bounds of all that follows are known then.
        let word = &self.claims[flight.record];
        if !self.submitter.is_mine() {
            return word.move_from_attached(flight.sequence, state);
        }
        // Only the submitter harvests, and that is this thread, which is here now.
        let is_attached = word.load() == Claim::new(flight.sequence, ClaimState::Attached);
        if is_attached {
            word.store(Claim::new(flight.sequence, state));
        }
        is_attached
    }

    /// Moves an attached task's claim. False if somebody else did before.
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
    /// Goes on with this sequence, as if that many tasks had been.
    pub(crate) fn begin_at(&self, sequence: u64) {
        self.submitter.begin_at(sequence);
    }
}
