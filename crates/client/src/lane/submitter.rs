//! Who may submit on a lane, and what the submitter needs: the next sequence and the free records.
//!
//! A lane is **owned** or **shared** for its whole life. An owned lane is lent to one thread at a time
//! ([`crate::lane_pool`]), and only that thread submits on it, with plain loads and stores. On a shared lane the holder
//! of the lock submits.
//!
//! Laws of this module:
//! - `owner` holds a thread's token only from [`Submitter::own`] to [`Submitter::disown`] of that same thread, or to
//!   the connection's end. So a thread that finds its own token is the owner, and stays the owner until it disowns the
//!   lane or nobody submits any more. Tokens are addresses in thread-local memory: no two running threads have the
//!   same, and a thread has disowned its lanes before its memory can be another's.
//! - `next_sequence` and `free` are touched by the submitter only. They pass from one owner to the next under the lane
//!   pool's lock, from one sharer to the next under the lock here.
//! - A thread that has a [`SubmitPermit`] is inside ([`crate::reentrancy`]), so that no signal handler has another one
//!   meanwhile, nor frees a record.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use crate::reentrancy::{Outermost, ThisThread, set_bits};

/// A number that tells the calling thread from all others that run. Never 0.
#[inline(always)]
fn thread_token() -> usize {
    ThisThread::with(ThisThread::token)
}

const NOBODY: usize = 0;

/// Whether a lane has one submitter or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneKind {
    Owned,
    Shared,
}

/// The submitting side of a lane.
pub(crate) struct Submitter {
    state: CachePadded<SubmitterState>,
    /// Records that others have freed since the submitter last took them from here.
    returned: CachePadded<AtomicU64>,
}

/// What only the submitter touches.
struct SubmitterState {
    kind: LaneKind,
    owner: AtomicUsize,
    lock: Mutex<()>,
    next_sequence: AtomicU64,
    free: AtomicU64,
}

impl Submitter {
    /// The submitting side of a lane that was never used.
    pub(crate) fn new(kind: LaneKind) -> Self {
        Self {
            state: CachePadded::new(SubmitterState {
                kind,
                owner: AtomicUsize::new(NOBODY),
                lock: Mutex::new(()),
                next_sequence: AtomicU64::new(1),
                free: AtomicU64::new(u64::MAX),
            }),
            returned: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// Makes the calling thread the owner of an owned lane that nobody owns at present.
    pub(crate) fn own(&self) {
        debug_assert_eq!(self.state.kind, LaneKind::Owned);
        debug_assert_eq!(self.state.owner.load(Ordering::Relaxed), NOBODY);
        self.state.owner.store(thread_token(), Ordering::Relaxed);
    }

    /// Ends the calling thread's ownership. The thread does not submit on the lane any more.
    pub(crate) fn disown(&self) {
        debug_assert!(self.is_mine());
        self.end_ownership();
    }

    /// Ends the ownership of whichever thread has it, when nobody can submit any more. That the thread may notice later
    /// does no harm: no other thread becomes the owner.
    pub(crate) fn end_ownership(&self) {
        self.state.owner.store(NOBODY, Ordering::Relaxed);
    }

    /// Whether the calling thread is the only one that submits.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        self.state.owner.load(Ordering::Relaxed) == thread_token()
    }

    /// The right to submit, if the lane is the calling thread's own.
    #[inline]
    pub(crate) fn owner_permit(&self) -> Option<SubmitPermit<'_>> {
        self.is_mine().then(|| SubmitPermit {
            submitter: self,
            lock: None,
            inside: Outermost::enter(),
        })
    }

    /// The right to submit. On a shared lane this waits for other submitters, which do not wait for anything.
    ///
    /// # Panics
    /// If the lane is another thread's: a mistake in this crate.
    #[inline]
    pub(crate) fn permit(&self) -> SubmitPermit<'_> {
        match self.owner_permit() {
            Some(permit) => permit,
            None => {
                // Before the lock: a signal handler must not wait for a lock whose holder it has interrupted.
                let inside = Outermost::enter();
                SubmitPermit {
                    submitter: self,
                    lock: Some(self.shared_lock().lock()),
                    inside,
                }
            }
        }
    }

    fn shared_lock(&self) -> &Mutex<()> {
        assert_eq!(
            self.state.kind,
            LaneKind::Shared,
            "submitting on a lane of another thread"
        );
        &self.state.lock
    }

    /// Frees records whose completions were copied, or are of no interest. Returns whether a
    /// submitter may be waiting for that.
    #[inline]
    pub(crate) fn free(&self, records: u64) -> bool {
        if self.is_mine() {
            // The submitter is this thread, which does not wait for a record at present.
            self.free_mine(records);
            return false;
        }
        // Release pairs with the acquire in `take_record`. SeqCst is one side of what keeps a
        // starved submitter from sleeping for ever (`ClientLane::wait_for_record`); on x86 it
        // costs nothing beyond the exchange itself.
        self.returned.fetch_or(records, Ordering::SeqCst);
        true
    }

    /// As [`Self::free`], for a thread that has found itself the owner ([`Self::is_mine`]). It must not check again:
    /// its ownership may have ended since then.
    #[inline]
    pub(crate) fn free_mine(&self, records: u64) {
        // Release pairs with the acquire in `free_records`.
        set_bits(&self.state.free, records);
    }

    /// Whether others have freed records since the submitter last took them. A `SeqCst` load.
    pub(crate) fn has_returned(&self) -> bool {
        self.returned.load(Ordering::SeqCst) != 0
    }

    /// The records without a task. They stay free once nobody can submit any more.
    pub(crate) fn free_records(&self) -> u64 {
        // In this order: a record that `take_record` has moved out of `returned` meanwhile is found in `free`. Acquire
        // pairs with its release.
        let returned = self.returned.load(Ordering::Acquire);
        returned | self.state.free.load(Ordering::Acquire)
    }

    /// Continues with this sequence, as if that many tasks had been submitted.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn begin_at(&self, sequence: u64) {
        self.state.next_sequence.store(sequence, Ordering::Relaxed);
    }
}

/// The right to submit, until it is dropped.
pub(crate) struct SubmitPermit<'a> {
    submitter: &'a Submitter,
    // Unlocked before the thread is outside again.
    lock: Option<MutexGuard<'a, ()>>,
    inside: Outermost,
}

impl SubmitPermit<'_> {
    /// Takes a free record.
    #[inline]
    pub(crate) fn take_record(&mut self) -> Option<usize> {
        let state = &self.submitter.state;
        let mut free = state.free.load(Ordering::Relaxed);
        if free == 0 {
            // Acquire pairs with `Submitter::free`: the completion was copied before. Written only if records were
            // returned: a write would take the cache line from those who free.
            free = self.submitter.returned.load(Ordering::Relaxed);
            if free == 0 {
                return None;
            }
            // Stored here before they are taken from there, lest `free_records` miss them meanwhile.
            state.free.store(free, Ordering::Relaxed);
            self.submitter.returned.fetch_and(!free, Ordering::AcqRel);
        }
        state.free.store(free & (free - 1), Ordering::Relaxed);
        Some(free.trailing_zeros() as usize)
    }

    /// Lets others submit. The thread stays inside until the result is dropped.
    #[inline]
    pub(crate) fn end(self) -> Outermost {
        drop(self.lock);
        self.inside
    }

    /// Gives back a record that was taken and not used.
    pub(crate) fn put_back(&mut self, record: usize) {
        let free = &self.submitter.state.free;
        free.store(
            free.load(Ordering::Relaxed) | 1 << record,
            Ordering::Relaxed,
        );
    }

    /// The next task's sequence.
    #[inline]
    pub(crate) fn next_sequence(&mut self) -> u64 {
        let next = &self.submitter.state.next_sequence;
        let sequence = next.load(Ordering::Relaxed);
        next.store(sequence + 1, Ordering::Relaxed);
        sequence
    }
}
