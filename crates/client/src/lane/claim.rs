//! The claim of a completion record: which task the record was last given to, and what became of that task.
//!
//! A claim is a word in private memory that holds the sequence of the record's last task, and a state, which these
//! functions change:
//!
//! ```text
//!    ┌─────────────── publish, for a blocking call ────────────────┐
//!    │                                                             ▼
//! (free) ── publish, for a handle ──► Attached ── begin_wait ──► Awaited ── finish, release_from_handle ──► (free)
//!                                      │  ▲                        │
//!                                      │  └─────── end_wait ───────┘
//!                                      ├── detach, read_detach_notes ──► Detached ── reap ──► Done (free)
//!                                      └── harvest ──► Done (free)
//! ```
//!
//! `publish`, `harvest` and `detach` lie in the files of these names, `read_detach_notes` and `reap` in `detach.rs`,
//! `begin_wait` and `release_from_handle` in `handle.rs`, `end_wait`, `finish` and its variant `finish_asleep` in
//! `wait.rs`. A record that was freed while its claim was `Awaited` keeps that claim until the next task gets it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A task in flight on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) record: usize,
    pub(crate) sequence: u64,
}

impl Flight {
    #[inline]
    pub(crate) const fn bit(self) -> u64 {
        1 << self.record
    }

    /// The half of the sequence that stands in shared memory.
    #[inline]
    pub(crate) const fn wire(self) -> u32 {
        self.sequence as u32
    }
}

/// What became of the task that a record was last given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum ClaimState {
    /// There was no task yet, or it was harvested, or completed after it was detached.
    Done = 0,
    /// The task has a handle, on which nobody waits at present.
    Attached = 1,
    /// One thread waits for the task, or is about to, and then frees the record.
    Awaited = 2,
    /// The handle was dropped. Whoever holds the lock of the handle table frees the record.
    Detached = 3,
}

/// The value of a claim: a sequence and a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim(u64);

impl Claim {
    const STATE_BITS: u32 = 2;

    #[inline]
    pub(crate) const fn new(sequence: u64, state: ClaimState) -> Self {
        Self(sequence << Self::STATE_BITS | state as u64)
    }

    #[inline]
    pub(crate) const fn sequence(self) -> u64 {
        self.0 >> Self::STATE_BITS
    }

    #[inline]
    pub(crate) const fn state(self) -> ClaimState {
        // Every value of these bits is a state.
        match self.0 & ((1 << Self::STATE_BITS) - 1) {
            0 => ClaimState::Done,
            1 => ClaimState::Attached,
            2 => ClaimState::Awaited,
            _ => ClaimState::Detached,
        }
    }
}

/// The claim of one record. Relaxed suffices: completions are ordered by the record's flag, and harvested tasks by the
/// lock of the handle table.
#[derive(Debug)]
pub(crate) struct ClaimWord(AtomicU64);

impl ClaimWord {
    /// The claim of a record that was never used.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(Claim::new(0, ClaimState::Done).0))
    }

    #[inline]
    pub(crate) fn load(&self) -> Claim {
        Claim(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn store(&self, claim: Claim) {
        self.0.store(claim.0, Ordering::Relaxed);
    }

    /// Moves the claim of an attached task to another state. Returns false if another thread did so before.
    #[inline]
    pub(crate) fn move_from_attached(&self, sequence: u64, state: ClaimState) -> bool {
        self.0
            .compare_exchange(
                Claim::new(sequence, ClaimState::Attached).0,
                Claim::new(sequence, state).0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Stores a claim by a `SeqCst` exchange, which orders it before later `SeqCst` loads.
    #[inline]
    pub(crate) fn exchange(&self, claim: Claim) {
        self.0.swap(claim.0, Ordering::SeqCst);
    }
}
