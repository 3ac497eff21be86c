//! The desk of a lane: tasks that were harvested, places that were left behind, and the wakers of
//! futures.
//!
//! Everything here is off the busy path. See [`crate::lane`] for who may do what.
//!
//! Law of this module: wakers are cloned, woken and dropped while the desk is not locked. They are
//! an executor's: even dropping one may drop a future with handles of this lane.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_shm::Record;

use crate::call::Call;
use crate::lane::ClientLane;
use crate::lane::claim::{ClaimState, Flight};
use crate::lane::lingering;
use crate::lane::payload::Place;
use crate::reentrancy::{MutexGuard, Outermost, is_inside};
use crate::wakers::Wakers;

/// No task has this sequence.
const NO_TASK: u64 = 0;

/// What lies at the desk.
pub(crate) struct Desk {
    /// Tasks whose records were needed for others, by sequence.
    parcels: HashMap<u64, Box<Parcel>>,
    /// Whom to wake when the task in a record completes.
    wakers: [Option<Waker>; LANE_DEPTH],
    /// Whether the session has ended, and the lane is kept for its handles.
    pub(crate) lingers: bool,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            parcels: HashMap::new(),
            wakers: [const { None }; LANE_DEPTH],
            lingers: false,
        }
    }
}

impl Desk {
    /// Records with wakers.
    fn awaited(&self) -> u64 {
        let wakers = self.wakers.iter().enumerate();
        wakers.fold(0, |records, (record, waker)| {
            records | u64::from(waker.is_some()) << record
        })
    }

    /// Whether there are harvested tasks whose handles did not come for them yet.
    pub(crate) fn has_parcels(&self) -> bool {
        !self.parcels.is_empty()
    }
}

/// Unlocks a desk after what may have been a handle's last use of the lane, which may be gone
/// then.
#[inline]
pub(crate) fn leave(desk: MutexGuard<'_, Desk>) {
    let lingers = desk.lingers;
    drop(desk);
    if lingers {
        lingering::let_go();
    }
}

/// A task that completed before its handle asked, and whose record was needed.
pub(crate) struct Parcel {
    pub(crate) record: Record,
    pub(crate) place: Place,
}

/// What became of a task whose handle took it up.
pub(crate) enum TakenUp {
    /// It is the handle's: the record is `OWNED` and complete or in flight.
    Owned,
    /// It completed before, and its record was needed.
    Harvested(Box<Parcel>),
}

impl ClientLane {
    /// Makes an attached task `OWNED`, so that its handle can wait for it.
    #[inline]
    pub(crate) fn take_up(&self, flight: Flight) -> TakenUp {
        if !self.own(flight) {
            return TakenUp::Harvested(self.fetch_parcel(flight));
        }
        if self.awaited() & flight.bit() != 0 {
            self.take_waker_back(flight);
        }
        TakenUp::Owned
    }

    /// Makes an attached task `OWNED`. False if it was harvested before.
    #[inline]
    pub(crate) fn own(&self, flight: Flight) -> bool {
        // A signal handler may harvest.
        let _inside = Outermost::enter();
        self.claim_for_handle(flight, ClaimState::Owned)
    }

    #[cold]
    fn take_waker_back(&self, flight: Flight) {
        let mut desk = self.desk.lock();
        let waker = self.forget_waker(&mut desk, flight.record);
        drop(desk);
        // One that panics must not part the handle from its task, which is the handle's to end now.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
    }

    /// Fetches a task that was harvested: the claim says so.
    #[cold]
    fn fetch_parcel(&self, flight: Flight) -> Box<Parcel> {
        let mut desk = self.desk.lock();
        let parcel = desk.parcels.remove(&flight.sequence);
        leave(desk);
        parcel.expect("a task that left its record without its handle was harvested")
    }

    /// What an attached task was asked to do.
    pub(crate) fn call_of(&self, flight: Flight) -> Call {
        let desk = self.desk.lock();
        if self.is_attached(flight) {
            // SAFETY: the place is the handle's, who asks, or its harvester's, who would have the
            // desk locked.
            return unsafe { self.places.of(flight.record) }.call;
        }
        let parcel = desk.parcels.get(&flight.sequence);
        parcel
            .expect("an attached task is at its record or the desk")
            .place
            .call
    }

    /// Leaves a waker for an attached task. Returns whether the task has completed already; the
    /// waker may not be woken then.
    pub(crate) fn leave_waker(&self, flight: Flight, waker: &Waker) -> bool {
        let mut waker = Some(waker.clone());
        let mut desk = self.desk.lock();
        if !self.is_attached(flight) {
            drop(desk);
            return true;
        }
        std::mem::swap(&mut desk.wakers[flight.record], &mut waker);
        self.mark_awaited(flight.record);
        // The bell's watcher reads the bell, then the marks, under this lock. Had it been here
        // before, the bell rings after it read it.
        let complete = self.memory.watch(flight.record, flight.wire());
        drop(desk);
        complete
    }

    #[must_use = "it is dropped when the desk is not locked"]
    fn forget_waker(&self, desk: &mut Desk, record: usize) -> Option<Waker> {
        let waker = desk.wakers[record].take()?;
        self.unmark_awaited(record);
        if self.is_watched_for_room() {
            return Some(waker);
        }
        self.memory.unwatch(record);
        // This may have taken away a watch that a starved submitter relies on (`watch_all`),
        // between the task's completion and the worker's look for waiters. Of this fence and
        // those of `watch_all` one comes first: either the submitter sees the completion that
        // was seen here, or `starved` is seen here.
        fence(Ordering::SeqCst);
        self.ring_if_wanted();
        Some(waker)
    }

    /// Collects the wakers of tasks that have completed.
    pub(crate) fn collect_wakers(&self, wakers: &mut Wakers) {
        if self.awaited() == 0 {
            return;
        }
        let mut desk = self.desk.lock();
        let mut awaited = self.awaited();
        while awaited != 0 {
            let record = awaited.trailing_zeros() as usize;
            awaited &= awaited - 1;
            // The claim is the waker's task's: whoever moves it on takes the waker along.
            let (flight, _) = self.claim_of(record);
            if self.memory.is_complete(record, flight.wire()) {
                wakers.extend(self.forget_waker(&mut desk, record));
            }
        }
    }

    /// Leaves a task behind whose handle is dropped. Its buffer stays in its place until it
    /// completes.
    #[cold]
    pub(crate) fn abandon(&self, flight: Flight) {
        if is_inside() {
            self.forsake(flight);
            return;
        }
        let mut desk = self.desk.lock();
        if !self.claim_for_handle(flight, ClaimState::Orphaned) {
            let parcel = desk.parcels.remove(&flight.sequence);
            leave(desk);
            drop(parcel);
            return;
        }
        let waker = self.forget_waker(&mut desk, flight.record);
        self.mark_orphan(flight);
        self.reap(&mut desk, flight.record);
        leave(desk);
        drop(waker);
    }

    /// Frees the records and buffers of orphans that have completed.
    #[cold]
    pub(crate) fn reap_orphans(&self) {
        let mut desk = self.desk.lock();
        self.find_orphans(&mut desk);
        let mut orphans = self.orphans();
        while orphans != 0 {
            let record = orphans.trailing_zeros() as usize;
            orphans &= orphans - 1;
            self.reap(&mut desk, record);
        }
    }

    /// Leaves a task behind whose handle a signal handler drops while it cannot have the desk. A note is
    /// left instead, and read by who looks for orphans ([`Self::find_orphans`]).
    #[cold]
    fn forsake(&self, flight: Flight) {
        self.forsaken[flight.record].store(flight.sequence, Ordering::Relaxed);
        // With this the lane may be gone: release pairs with the acquire in `find_orphans`.
        self.mark_orphan(flight);
    }

    /// Makes orphans of tasks of which a signal handler has left a note.
    pub(crate) fn find_orphans(&self, desk: &mut Desk) {
        let mut noted = self.orphans();
        while noted != 0 {
            let record = noted.trailing_zeros() as usize;
            noted &= noted - 1;
            // First the mark: who leaves a note from now on leaves another.
            self.unmark_orphan(record);
            let sequence = self.forsaken[record].swap(NO_TASK, Ordering::Relaxed);
            if sequence != NO_TASK
                && !self.move_claim(Flight { record, sequence }, ClaimState::Orphaned)
            {
                let parcel = desk.parcels.remove(&sequence);
                if let Some(buffer) = parcel.and_then(|mut parcel| parcel.place.buffer.take()) {
                    buffer.give_back();
                }
            }
            let (flight, state) = self.claim_of(record);
            if state == ClaimState::Orphaned {
                self.mark_orphan(flight);
            }
        }
    }

    /// Frees the record of an orphan if its task has completed. The claim of an orphan changes
    /// only here, under the desk's lock.
    fn reap(&self, _: &mut Desk, record: usize) {
        let (flight, state) = self.claim_of(record);
        if state == ClaimState::Orphaned && self.memory.is_complete(record, flight.wire()) {
            // SAFETY: an orphan's place is the desk's, which is locked.
            let buffer = unsafe { self.places.of(record) }.buffer.take();
            if let Some(buffer) = buffer {
                buffer.give_back();
            }
            self.unmark_orphan(record);
            if self.forsaken[record].load(Ordering::Relaxed) != NO_TASK {
                // Of one that was in this record before, and was harvested.
                self.mark_orphan(flight);
            }
            self.settle(flight);
            self.release(flight);
        }
    }

    /// Takes all attached tasks that have completed to the desk, and frees their records, and those
    /// of orphans.
    pub(crate) fn harvest(&self, wakers: &mut Wakers) {
        let mut desk = self.desk.lock();
        for record in 0..LANE_DEPTH {
            let (flight, state) = self.claim_of(record);
            match state {
                ClaimState::Orphaned => self.reap(&mut desk, record),
                ClaimState::Attached
                    if self.memory.is_complete(record, flight.wire())
                    // Its handle may take it up at this moment; then it frees the record.
                    && self.move_claim(flight, ClaimState::Done) =>
                {
                    // SAFETY: the claim was moved by this thread.
                    let place = unsafe { self.places.of(record) };
                    let parcel = Parcel {
                        record: self.memory.record(record).copy(),
                        place: Place {
                            call: place.call,
                            buffer: place.buffer.take(),
                        },
                    };
                    desk.parcels.insert(flight.sequence, Box::new(parcel));
                    wakers.extend(self.forget_waker(&mut desk, record));
                    self.release(flight);
                }
                _ => {}
            }
        }
    }

    /// Whether a harvest would free a record.
    pub(crate) fn harvestable(&self) -> bool {
        (0..LANE_DEPTH).any(|record| self.is_harvestable(record))
    }

    /// Whether a harvest would free this record.
    pub(crate) fn is_harvestable(&self, record: usize) -> bool {
        let (flight, state) = self.claim_of(record);
        matches!(state, ClaimState::Attached | ClaimState::Orphaned)
            && self.memory.is_complete(record, flight.wire())
    }

    /// Asks for the bell when any record completes, on behalf of the submitter.
    pub(crate) fn watch_all(&self) {
        let _desk = self.desk.lock();
        self.memory.watch_all();
    }

    /// Takes back [`Self::watch_all`], but leaves what wakers wait for.
    pub(crate) fn unwatch_all(&self) {
        let desk = self.desk.lock();
        if !self.is_watched_for_room() {
            self.memory.unwatch_many(!desk.awaited());
        }
    }

    /// Asks for the bell when any record completes, on behalf of who is about to join the queue, and
    /// does so before the desk is unlocked.
    pub(crate) fn watch_for_room(&self) -> MutexGuard<'_, Desk> {
        let desk = self.desk.lock();
        self.mark_watched_for_room(true);
        self.memory.watch_all();
        desk
    }

    /// Takes back [`Self::watch_for_room`] where nobody waits any more, but leaves what wakers and
    /// submitters wait for.
    pub(crate) fn unwatch_if_empty(&self) {
        if !self.is_watched_for_room() {
            return;
        }
        let desk = self.desk.lock();
        if !self.queue.is_waiting() && !self.has_starved_submitter() {
            self.mark_watched_for_room(false);
            self.memory.unwatch_many(!desk.awaited());
        }
    }
}
