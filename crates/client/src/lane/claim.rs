//! Which task a completion record was last given to, and what became of it.
//!
//! Beside the records, which lie in shared memory, a lane has a **claim** word for each in private memory. It holds
//! the sequence of the record's last task, and a state:
//!
//! ```text
//!            submit               owner waits
//! (free) ───────────► ATTACHED ───────────────► AWAITED ──► (free)
//!    │                   │  ▲──── gave up ─────────┘
//!    │                   ├── handle dropped ──► DETACHED ──► (free)
//!    │                   └── harvested ───────► DONE (free)
//!    └──── call ────► AWAITED
//! ```

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

    /// The part of the sequence that travels.
    #[inline]
    pub(crate) const fn wire(self) -> u32 {
        self.sequence as u32
    }
}

/// What became of a record's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum ClaimState {
    /// There was none, or it was harvested.
    Done = 0,
    /// A task handle holds the task, and does not wait at the moment.
    Attached = 1,
    /// Somebody waits, or will soon, and frees the record.
    Awaited = 2,
    /// The handle was dropped; its place is the desk's.
    Detached = 3,
}

/// What a claim word holds.
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
        // All values of the bits are states.
        match self.0 & ((1 << Self::STATE_BITS) - 1) {
            0 => ClaimState::Done,
            1 => ClaimState::Attached,
            2 => ClaimState::Awaited,
            _ => ClaimState::Detached,
        }
    }
}

/// The claim of one record. It orders nothing: completions are ordered by the record's flag, and what lies at the
/// desk by its lock.
#[derive(Debug)]
pub(crate) struct ClaimWord(AtomicU64);

impl ClaimWord {
    /// That of a record that was never used.
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

    /// Moves an attached task's claim. False if somebody else did before.
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

    /// Stores a claim by a `SeqCst` exchange, for who looks for others afterwards as a fence would have it.
    #[inline]
    pub(crate) fn exchange(&self, claim: Claim) {
        self.0.swap(claim.0, Ordering::SeqCst);
    }
}
