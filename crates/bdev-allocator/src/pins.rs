//! The count of I/O operations that may touch a megabyte's blocks (law 11).
//!
//! An I/O enters before it looks whether its block is live, and leaves when the storage has finished with it. A
//! free makes its block dead first and looks at the count then. Both write the same
//! word, and writes of one word have one order, so either
//!
//! - the free comes later: it finds the I/O counted, and waits; or
//! - the I/O comes later: it acquires what the free released with its write, so it finds the block
//!   dead, and is refused.
//!
//! **Two phases** keep a megabyte that is never idle from starving a free. Each I/O is counted in
//! the phase that is current when it enters. A free waits for the phases that were busy when it
//! looked, until each was seen at zero once. The phase that is not current gets no new I/O, so it
//! drains; then the phases are exchanged, and the other one drains.
use crate::sync::{AtomicU64, Ordering, Threads, Weakness, weakened};

/// Bit 63: the current phase. Bit 62: [`DRAINING`]. Below: two counts.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[derive(Debug, Default)]
pub(crate) struct Pins(AtomicU64);

/// Set while frees wait: then a thread that brings a count to zero has to call `Drains::advance`.
const DRAINING: u64 = 1 << 62;
const CURRENT_BIT: u32 = 63;
const COUNT_BITS: u32 = 31;
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;
const COUNTS: u64 = DRAINING - 1;
const TOO_MANY: &str = "more I/O than memory could hold";

/// Which of the two counts an I/O stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinPhase(u8);

impl PinPhase {
    #[inline]
    const fn current(word: u64) -> Self {
        Self((word >> CURRENT_BIT) as u8)
    }

    #[inline]
    const fn one(self) -> u64 {
        1 << (self.0 as u32 * COUNT_BITS)
    }

    #[inline]
    const fn count(self, word: u64) -> u64 {
        word >> (self.0 as u32 * COUNT_BITS) & MAX_COUNT
    }
}

/// A set of phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PinPhases([bool; 2]);

impl PinPhases {
    const fn busy(word: u64) -> Self {
        Self([PinPhase(0).count(word) != 0, PinPhase(1).count(word) != 0])
    }

    pub(crate) const fn is_empty(self) -> bool {
        !self.0[0] && !self.0[1]
    }

    pub(crate) const fn union(self, other: Self) -> Self {
        Self([self.0[0] || other.0[0], self.0[1] || other.0[1]])
    }

    pub(crate) const fn intersection(self, other: Self) -> Self {
        Self([self.0[0] && other.0[0], self.0[1] && other.0[1]])
    }

    const fn is_only(self, phase: PinPhase) -> bool {
        self.0[phase.0 as usize] && !self.0[1 - phase.0 as usize]
    }
}

impl Pins {
    /// Counts an I/O, before it looks whether its block is live.
    #[inline]
    pub(crate) fn enter(&self, threads: Threads) -> PinPhase {
        if threads == Threads::One {
            let word = self.0.load(Ordering::Relaxed);
            let phase = PinPhase::current(word);
            assert!(phase.count(word) < MAX_COUNT, "{TOO_MANY}");
            self.0.store(word + phase.one(), Ordering::Relaxed);
            return phase;
        }
        let relaxed = weakened(Weakness::PinCountsRelaxed);
        // Acquire pairs with the release of a free that did not find this I/O counted (`is_idle`,
        // `start_draining`), so that this I/O finds the block dead. It is enough to read from any later
        // write: they all are read-modify-writes, and so continue the free's release sequence.
        let order = if relaxed {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let phase = PinPhase::current(word);
            assert!(phase.count(word) < MAX_COUNT, "{TOO_MANY}");
            match self
                .0
                .compare_exchange_weak(word, word + phase.one(), order, Ordering::Relaxed)
            {
                Ok(_) => return phase,
                Err(changed) => word = changed,
            }
        }
    }

    /// Ends an I/O. `true` if frees may have waited for this: see [`super::drains`].
    #[inline]
    #[must_use]
    pub(crate) fn leave(&self, phase: PinPhase, threads: Threads) -> bool {
        let relaxed = weakened(Weakness::UnpinRelaxed);
        // Release pairs with the acquire in `is_idle`, `start_draining` and `busy`: all that the
        // I/O did happens before the space gets its next owner.
        let order = if relaxed {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        let before = threads.fetch_sub(&self.0, phase.one(), order);
        debug_assert_ne!(phase.count(before), 0, "left twice");
        phase.count(before) == 1 && before & DRAINING != 0
    }

    /// Whether no I/O is counted. A free asks this after its block has died.
    ///
    /// `false` may be out of date; `true` is not.
    #[inline]
    pub(crate) fn is_idle(&self, threads: Threads) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        if word & COUNTS != 0 {
            return false;
        }
        if threads == Threads::One || weakened(Weakness::FreeOnlyLoadsPins) {
            return true;
        }
        // The word is written, although it does not change, so that this free has a place in the order of the
        // word's writes. Acquire pairs with `leave`, release with `enter`.
        self.0
            .compare_exchange(word, word, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Announces that frees wait. Gives the phases in which there is I/O now.
    pub(crate) fn start_draining(&self) -> PinPhases {
        // One step, so that the I/O whose end is awaited finds the announcement. Acquire and
        // release as in `is_idle`.
        let word = self.0.fetch_or(DRAINING, Ordering::AcqRel);
        if weakened(Weakness::DrainAwaitsCurrentOnly) {
            let mut only = PinPhases::default();
            only.0[PinPhase::current(word).0 as usize] = true;
            return PinPhases::busy(word).intersection(only);
        }
        PinPhases::busy(word)
    }

    /// The phases in which there is I/O now. The caller holds the lock under which frees wait.
    pub(crate) fn busy(&self) -> PinPhases {
        // Acquire pairs with `leave`. The word is no older than the one that the waiting frees have
        // read, because they have read it under the same lock.
        PinPhases::busy(self.0.load(Ordering::Acquire))
    }

    /// Exchanges the phases if frees wait for the current one and not for the other. Says whether it
    /// did. The caller holds the lock under which frees wait.
    pub(crate) fn flip_if_needed(&self, awaited: PinPhases) -> bool {
        // The current phase changes only here, under the lock.
        let current = PinPhase::current(self.0.load(Ordering::Relaxed));
        let needed = awaited.is_only(current) && !weakened(Weakness::DrainNeverFlips);
        if needed {
            self.0.fetch_xor(1 << CURRENT_BIT, Ordering::AcqRel);
        }
        needed
    }

    /// Takes the announcement back: no free waits.
    pub(crate) fn stop_draining(&self) {
        self.0.fetch_and(!DRAINING, Ordering::AcqRel);
    }
}
