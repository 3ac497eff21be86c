//! A lane from the client's side: sequences, records, and who owns which.
//!
//! A task in flight is a record and a sequence. The record's **claim** word, in private memory,
//! holds the sequence of the task that the record was last given to, and a tag:
//!
//! ```text
//!            submit               owner waits
//! (free) ───────────► ATTACHED ───────────────► OWNED ──► (free)
//!    │                   │  ▲──── gave up ─────────┘
//!    │                   ├── handle dropped ──► ORPHANED ──► (free)
//!    │                   └── harvested ───────► DONE (free)
//!    └──── call ────► OWNED
//! ```
//!
//! Laws of this module:
//! - Whoever moves a claim out of `ATTACHED` does so by compare-and-swap, so of a task's owner and
//!   the harvester exactly one takes the record. The harvester, and a handle that is dropped or
//!   polled, do this under the lock of the desk, so an owner who loses the race finds the
//!   completion at the desk as soon as it has that lock. Only the submitter harvests; so a
//!   thread that owns the lane moves the claims of the handles it holds by plain stores.
//! - Only an `OWNED` record is slept on, by its one owner. Nobody else frees it, so it cannot be
//!   given to another task meanwhile, and the sleeper's word is its task's. Who waits for *any*
//!   record sleeps on the segment's bell instead.
//! - A record is freed after its task completed and its completion was copied, never before, so
//!   no more tasks are in flight than the lane has entries.
//! - Locks are taken in the order: submission, desk, queue, memory. No waker runs under any of them.

pub(crate) mod backpressure;
pub(crate) mod claim;
mod disconnect;
pub(crate) mod handle;
pub(crate) mod lingering;
pub(crate) mod payload;
pub(crate) mod submitter;
mod sync;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod wait_queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chimaera_fork::Home;
use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{BufferRange, Descriptor};
use chimaera_shm::{Doorbell, Lane, Record, Segment};
use crossbeam::utils::CachePadded;

use crate::adaptive_spin::{Looked, Patience};
use crate::call::Call;
use crate::connection::{LaneEvents, Link};
use crate::lane::claim::{Claim, ClaimState, ClaimWord, Flight};
use crate::lane::handle::{Desk, leave};
use crate::lane::payload::{Place, Places};
use crate::lane::submitter::{Submission, Turn, Use};
use crate::lane::wait_queue::Queue;
use crate::reentrancy::Mutex;
use crate::wakers::{Wakers, wake_all};

/// The connection is lost, so nothing can be submitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

/// A lane of this process.
pub(crate) struct ClientLane {
    pub(crate) memory: Lane,
    /// The first segment, which has the bell.
    pub(crate) segment: Arc<Segment>,
    doorbell: Doorbell,
    pub(crate) patience: Patience,
    pub(crate) submission: Submission,
    claims: CachePadded<[ClaimWord; LANE_DEPTH]>,
    pub(crate) places: Places,
    /// By record, the sequence of a task whose handle a signal handler dropped and nobody has seen to yet.
    pub(crate) forsaken: [AtomicU64; LANE_DEPTH],
    signs: CachePadded<Signs>,
    /// Who waits for a record.
    pub(crate) queue: CachePadded<Queue>,
    pub(crate) desk: CachePadded<Mutex<Desk>>,
    /// The connection lives as long as somebody can still wait for a task.
    pub(crate) link: Arc<Link>,
    /// That of the link.
    home: Home,
}

/// Words that are read with every task and seldom written.
struct Signs {
    lost: AtomicBool,
    /// A submitter waits for a record.
    starved: AtomicBool,
    /// Records whose handles were dropped in flight.
    orphans: AtomicU64,
    /// Records for whose completion somebody left a waker.
    awaited: AtomicU64,
    /// The bell rings for all records, on behalf of the queue. Written under the desk's lock.
    watched_for_room: AtomicBool,
}

impl ClientLane {
    /// A lane of which nothing was used yet.
    pub(crate) fn new(
        index: usize,
        kind: Use,
        doorbell: Doorbell,
        patience: Patience,
        link: Arc<Link>,
    ) -> Self {
        let segment = Arc::clone(link.segment());
        Self {
            memory: segment.lane(index),
            segment,
            doorbell,
            patience,
            submission: Submission::new(kind),
            claims: CachePadded::new([const { ClaimWord::new() }; LANE_DEPTH]),
            places: Places::new(),
            forsaken: [const { AtomicU64::new(0) }; LANE_DEPTH],
            signs: CachePadded::new(Signs {
                lost: AtomicBool::new(false),
                starved: AtomicBool::new(false),
                orphans: AtomicU64::new(0),
                awaited: AtomicU64::new(0),
                watched_for_room: AtomicBool::new(false),
            }),
            queue: CachePadded::new(Queue::new()),
            desk: CachePadded::default(),
            home: link.home.clone(),
            link,
        }
    }

    /// Whether the lane is this process's. In one that was forked from it nothing of it may be used: its
    /// memory is not there, its locks may be taken for ever, and what is in flight is the other's.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.home.is_here()
    }

    /// Submits a task that its submitter waits for. Waits for a free record if there is none.
    #[inline]
    pub(crate) fn submit(&self, call: &Call, buffer: Option<BufferRange>) -> Result<Flight, Lost> {
        self.submit_with(call, buffer, ClaimState::Owned, |_| {})
    }

    /// Submits a task that gets a handle, at whose place `leave` leaves what goes along. Waits for
    /// a free record if there is none.
    pub(crate) fn submit_attached(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        leave: impl FnOnce(&mut Place),
    ) -> Result<Flight, Lost> {
        self.submit_with(call, buffer, ClaimState::Attached, leave)
    }

    #[inline]
    fn submit_with(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        leave: impl FnOnce(&mut Place),
    ) -> Result<Flight, Lost> {
        let Some(mut turn) = self.submission.own_turn() else {
            return self.submit_shared(call, buffer, state, leave);
        };
        if let Some(record) = self.free_record(&mut turn) {
            return self.publish(turn, record, call, buffer, state, leave);
        }
        let mut wakers = Wakers::new();
        let record = self.wait_for_record(&mut turn, &mut wakers);
        let flight = self.publish(turn, record, call, buffer, state, leave);
        wake_all(wakers);
        flight
    }

    /// Submits a task that gets a handle if there is a record and nobody waits for one.
    #[inline]
    pub(crate) fn submit_at_once(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
        leave: impl FnOnce(&mut Place),
    ) -> Option<Result<Flight, Lost>> {
        if self.queue.is_waiting() {
            return None;
        }
        let mut turn = self.submission.turn();
        let record = self.free_record(&mut turn)?;
        Some(self.publish(turn, record, call, buffer, ClaimState::Attached, leave))
    }

    /// Submits a task that gets a handle, if there is a record and no other thread waits for one.
    pub(crate) fn try_submit_attached(
        &self,
        call: &Call,
        buffer: Option<BufferRange>,
    ) -> Option<Result<Flight, Lost>> {
        // Those who wait for a lane of this thread's own cannot submit before it comes back.
        if !self.submission.is_mine() && self.queue.is_waiting() {
            return None;
        }
        let mut turn = self.submission.turn();
        let record = self.free_record(&mut turn)?;
        Some(self.publish(turn, record, call, buffer, ClaimState::Attached, |_| {}))
    }

    #[inline]
    pub(crate) fn publish(
        &self,
        mut turn: Turn<'_>,
        record: usize,
        call: &Call,
        buffer: Option<BufferRange>,
        state: ClaimState,
        leave: impl FnOnce(&mut Place),
    ) -> Result<Flight, Lost> {
        // Relaxed: who freed this record after a loss had seen it, and freeing and taking are
        // ordered; see `crate::lane::disconnect`.
        if self.signs.lost.load(Ordering::Relaxed) {
            turn.put_back(record);
            return Err(Lost);
        }
        // SAFETY: the record is free, and this is its submitter.
        leave(unsafe { self.places.of(record) });
        let sequence = turn.next_sequence();
        let flight = Flight { record, sequence };
        let last = self.claims[record].load().sequence();
        if sequence - last > 1 << 31 {
            self.clear_old_flag(flight, state);
        }
        self.claims[record].store(Claim::new(sequence, state));
        let descriptor = Descriptor {
            method: call.method,
            pool: call.pool,
            query: call.query,
            record: record as u8,
            buffer,
            arguments: call.arguments,
        };
        self.memory
            .publish(flight.wire(), &descriptor.to_words(flight.wire()));
        // Until the worker is called: a signal handler that submits meanwhile would find that somebody does, and
        // wait for one who cannot.
        let _inside = turn.end();
        if self.memory.must_ring(self.link.publish_order()) {
            self.doorbell.ring();
        }
        // Comes after what orders `must_ring`, which pairs with that in `complete_all_as_lost`.
        if self.signs.lost.load(Ordering::Relaxed) {
            self.complete_as_lost();
        }
        Ok(flight)
    }

    /// Takes care that the flag of a task long ago is not taken for that of this one, which is about to be
    /// published.
    #[cold]
    #[inline(never)]
    fn clear_old_flag(&self, flight: Flight, state: ClaimState) {
        // Under the lock, lest the record be completed as lost under its old claim meanwhile.
        let _desk = self.desk.lock();
        self.claims[flight.record].store(Claim::new(flight.sequence, state));
        self.memory.clear_flag(flight.record, flight.wire());
    }

    /// Takes a record that is free. Reaps orphans when there are any, so that the buffers of
    /// dropped handles do not stay with a lane that is never full.
    #[inline]
    pub(crate) fn free_record(&self, turn: &mut Turn<'_>) -> Option<usize> {
        if self.signs.orphans.load(Ordering::Relaxed) != 0 {
            self.reap_orphans();
        }
        turn.take_record()
    }

    /// Waits until a record of the thread's own lane is free: harvests what is complete, else looks for
    /// the oldest task's completion for a while, else sleeps on the segment's bell.
    #[cold]
    fn wait_for_record(&self, turn: &mut Turn<'_>, wakers: &mut Wakers) -> usize {
        loop {
            self.harvest(wakers);
            if let Some(record) = self.free_record(turn) {
                return record;
            }
            let oldest = self.oldest_flight();
            let ready = || {
                self.memory.is_complete(oldest.record, oldest.wire())
                    || self.submission.has_returned()
            };
            // The oldest may be complete and its owner on the way to free it: then sleeping is
            // right, or this thread might keep the owner from its processor.
            let looked = self.patience.spin(&*self.memory, ready);
            if looked == Looked::Ready && self.harvestable() {
                continue;
            }
            // Pairs with `release` and `give_back`. Either they see `starved` and ring, or what
            // they did is seen below. A completion by the worker rings because of `watch_all`.
            self.signs.starved.store(true, Ordering::SeqCst);
            let seen = self.segment.bell_count();
            self.watch_all();
            if !self.submission.has_returned() && !self.harvestable() {
                let begin = Instant::now();
                self.segment.wait_for_bell(seen, None);
                self.patience.learn_from_sleep(looked, begin.elapsed());
            }
            self.unwatch_all();
            self.signs.starved.store(false, Ordering::Relaxed);
        }
    }

    /// The task in flight with the lowest sequence. To be called with no record free.
    fn oldest_flight(&self) -> Flight {
        (0..LANE_DEPTH)
            .map(|record| self.claim_of(record).0)
            .min_by_key(|flight| flight.sequence)
            .expect("a lane has records")
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
        if self.submission.free(flight.bit()) {
            self.ring_if_wanted();
        }
    }

    /// Frees the record of a handle. The lane may be gone as soon as that is done: so the thread
    /// that owns the lane has freed the record with its last access to the lane, and others are
    /// waited for under the lock of the desk ([`Self::is_held`]).
    #[inline]
    pub(crate) fn release_from_handle(&self, flight: Flight) {
        // Who waits for a record of this thread's lane was seen to wait by this thread.
        if self.submission.is_mine() && !self.queue.is_waiting() {
            self.submission.free_mine(flight.bit());
        } else if self.is_here() {
            self.release_at_the_desk(flight);
        }
    }

    #[cold]
    #[inline(never)]
    fn release_at_the_desk(&self, flight: Flight) {
        let mut wakers = Wakers::new();
        let desk = self.desk.lock();
        if self.submission.is_mine() {
            self.submission.free_mine(flight.bit());
            self.queue.tell(|| self.available(), &mut wakers);
        } else {
            self.release(flight);
        }
        leave(desk);
        wake_all(wakers);
    }

    /// Rings for a submitter, or for tasks in the queue, that wait for what this thread has just done,
    /// which was a `SeqCst` operation or followed by such a fence.
    #[inline]
    pub(crate) fn ring_if_wanted(&self) {
        if self.signs.starved.load(Ordering::SeqCst) || self.queue.is_waiting() {
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
        if !self.submission.is_mine() {
            return self.move_claim(flight, state);
        }
        // Only the submitter harvests, and that is this thread, which is here now.
        let is_attached = self.is_attached(flight);
        if is_attached {
            let word = &self.claims[flight.record];
            word.store(Claim::new(flight.sequence, state));
        }
        is_attached
    }

    /// Moves an attached task's claim. False if somebody else did before.
    pub(crate) fn move_claim(&self, flight: Flight, state: ClaimState) -> bool {
        self.claims[flight.record].move_from_attached(flight.sequence, state)
    }

    /// Gives an owned task, which may be incomplete, back to the harvester's reach.
    pub(crate) fn give_back(&self, flight: Flight) {
        // Pairs with `wait_for_record`: a starved submitter may have passed over this record
        // because it was owned.
        self.claims[flight.record].exchange(Claim::new(flight.sequence, ClaimState::Attached));
        self.ring_if_wanted();
    }

    /// Waits for a task of [`Self::submit`], takes what is wanted of its completion and frees its
    /// record.
    #[inline]
    pub(crate) fn finish<T>(&self, flight: Flight, take: impl FnOnce(&Record) -> T) -> T {
        self.wait_owned(flight, None);
        let taken = take(self.memory.record(flight.record));
        self.release_and_tell(flight);
        taken
    }

    /// As [`Self::release`], for whoever has nothing locked.
    #[inline]
    fn release_and_tell(&self, flight: Flight) {
        self.release(flight);
        // On another's lane this comes after a `SeqCst` operation, and that has rung.
        if self.queue.is_waiting() {
            self.tell_waiters();
        }
    }

    /// Waits for an owned task until the deadline. Returns whether it is complete.
    #[inline]
    pub(crate) fn wait_owned(&self, flight: Flight, deadline: Option<Instant>) -> bool {
        let complete = || self.memory.is_complete(flight.record, flight.wire());
        let looked = self.patience.spin_until(&*self.memory, complete, deadline);
        if looked == Looked::Ready {
            return true;
        }
        let begin = Instant::now();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return complete();
            }
            if self.memory.sleep(flight.record, flight.wire(), left) {
                self.patience.learn_from_sleep(looked, begin.elapsed());
                return true;
            }
        }
    }

    /// As [`Self::finish`], for a task that is known to take long: sleeps at once.
    pub(crate) fn finish_asleep<T>(&self, flight: Flight, take: impl FnOnce(&Record) -> T) -> T {
        while !self.memory.is_complete(flight.record, flight.wire()) {
            self.memory.sleep(flight.record, flight.wire(), None);
        }
        let taken = take(self.memory.record(flight.record));
        self.release_and_tell(flight);
        taken
    }

    /// Ends an orphan's claim. Only under the desk's lock.
    pub(crate) fn settle(&self, flight: Flight) {
        self.claims[flight.record].store(Claim::new(flight.sequence, ClaimState::Done));
    }

    pub(crate) fn mark_orphan(&self, flight: Flight) {
        self.signs.orphans.fetch_or(flight.bit(), Ordering::Release);
    }

    pub(crate) fn unmark_orphan(&self, record: usize) {
        self.signs
            .orphans
            .fetch_and(!(1 << record), Ordering::AcqRel);
    }

    /// Records whose handles were dropped in flight.
    pub(crate) fn orphans(&self) -> u64 {
        self.signs.orphans.load(Ordering::Acquire)
    }

    pub(crate) fn mark_awaited(&self, record: usize) {
        self.signs.awaited.fetch_or(1 << record, Ordering::Relaxed);
    }

    pub(crate) fn unmark_awaited(&self, record: usize) {
        self.signs
            .awaited
            .fetch_and(!(1 << record), Ordering::Relaxed);
    }

    /// Records for whose completion somebody left a waker.
    pub(crate) fn awaited(&self) -> u64 {
        self.signs.awaited.load(Ordering::Relaxed)
    }

    /// Whether the bell rings for all records, on behalf of the queue.
    pub(crate) fn is_watched_for_room(&self) -> bool {
        self.signs.watched_for_room.load(Ordering::Relaxed)
    }

    /// To be called with the desk locked.
    pub(crate) fn mark_watched_for_room(&self, is_watched: bool) {
        self.signs
            .watched_for_room
            .store(is_watched, Ordering::Relaxed);
    }

    /// Whether a submitter relies on the bell ringing for all records.
    pub(crate) fn has_starved_submitter(&self) -> bool {
        self.signs.starved.load(Ordering::SeqCst)
    }

    /// Whether nothing can be submitted any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.signs.lost.load(Ordering::Relaxed)
    }

    /// From now on nothing is submitted. Followed by a fence and a look at the claims.
    pub(crate) fn mark_lost(&self) {
        self.signs.lost.store(true, Ordering::Relaxed);
    }
}

impl LaneEvents for ClientLane {
    fn connection_lost(&self) {
        self.complete_all_as_lost();
    }

    fn bell_rang(&self, wakers: &mut Wakers) -> Option<Duration> {
        self.collect_wakers(wakers);
        self.look_after_queue(wakers)
    }
}

#[cfg(all(test, not(loom)))]
impl ClientLane {
    /// Goes on with this sequence, as if that many tasks had been.
    pub(crate) fn begin_at(&self, sequence: u64) {
        self.submission.begin_at(sequence);
    }
}
