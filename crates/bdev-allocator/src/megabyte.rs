//! The state of one megabyte: which of its blocks are live, and which of its units are reserved.
//!
//! Laws:
//! - A block is live if and only if the bit of its own type at its own offset is set. Reads and
//!   writes of anything else are refused.
//! - Space is reserved before a block in it becomes live, and until the block is dead and all I/O on
//!   it has ended. So the thread that clears a live bit owns the space until it releases it.
//! - Live bits change by atomic operations alone; reserved bits only under the megabyte's lock.
use chimaera_bdev_proto::BlockType;

use crate::fit::{self, Fill};
use crate::pins::Pins;
use crate::sync::{AtomicU32, AtomicU64, Backoff, Ordering, Threads, Weakness, weakened};
use chimaera_bdev_format::block_map::{LIVE_WORDS, MegabyteMap, Slot, UNIT_WORDS, UnitMap};

/// State of one megabyte. All zero: wholly free.
///
/// Every I/O touches the first cache line, only allocations and frees touch the second.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Megabyte {
    transfer: TransferLine,
    allocation: AllocationLine,
}

#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct TransferLine {
    pins: Pins,
    /// See [`Slot::live_bit`].
    live: [AtomicU64; LIVE_WORDS],
}

#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct AllocationLine {
    /// [`LOCKED`], and the [`Fill`] that the free-space index shows.
    state: AtomicU32,
    /// A bit per unit that cannot be allocated.
    reserved: [AtomicU64; UNIT_WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Megabyte>() == 128, "two cache lines");

const LOCKED: u32 = 1 << 31;

impl Megabyte {
    /// I/O that may still touch the megabyte's blocks.
    #[inline]
    pub(crate) const fn pins(&self) -> &Pins {
        &self.transfer.pins
    }

    /// Whether this block is live.
    #[inline]
    pub(crate) fn is_live(&self, slot: Slot) -> bool {
        let (word, bit) = slot.live_bit();
        // Acquire pairs with the release in `make_live`: a thread that finds the block live finds its
        // space as the last owner left it.
        self.transfer.live[word].load(Ordering::Acquire) & bit != 0
    }

    /// Whether a block of another type lives at the slot's first unit.
    pub(crate) fn is_live_otherwise(&self, slot: Slot) -> bool {
        BlockType::ALL.into_iter().any(|block_type| {
            let other = Slot::holding(slot.first_unit(), block_type);
            other != slot && self.is_live(other)
        })
    }

    /// The live blocks, read one word after the other: unless the lock is held, not as of one moment.
    pub(crate) fn live_map(&self) -> MegabyteMap {
        let words = &self.transfer.live;
        MegabyteMap(std::array::from_fn(|word| {
            words[word].load(Ordering::Acquire)
        }))
    }

    /// Makes blocks live that the device has. Their space is reserved.
    pub(crate) fn restore_live(&self, map: MegabyteMap) {
        for (word, bits) in self.transfer.live.iter().zip(map.0) {
            word.store(bits, Ordering::Release);
        }
    }

    /// As [`Self::restore_live`], in a megabyte whose memory nobody has touched; also reserves the space. Gives the
    /// megabyte's fill then.
    ///
    /// Reads nothing: memory that is read before it is written faults twice.
    pub(crate) fn restore_whole(&self, map: MegabyteMap, units: &UnitMap) -> Fill {
        let fill = Fill::of(units);
        for (word, bits) in self.allocation.reserved.iter().zip(units) {
            word.store(*bits, Ordering::Relaxed);
        }
        self.restore_live(map);
        self.allocation.state.store(fill as u32, Ordering::Release);
        fill
    }

    /// Makes the block live. Its space is reserved.
    #[inline]
    pub(crate) fn make_live(&self, slot: Slot, threads: Threads) {
        let (word, bit) = slot.live_bit();
        let before = threads.fetch_or(&self.transfer.live[word], bit, Ordering::Release);
        debug_assert_eq!(before & bit, 0, "two blocks in one place");
    }

    /// Ends the life of the block. Its space stays reserved, and the caller has to release it.
    /// `false` if the block was not live. Of several callers one succeeds.
    #[inline]
    pub(crate) fn make_dead(&self, slot: Slot, threads: Threads) -> bool {
        let (word, bit) = slot.live_bit();
        threads.fetch_and(&self.transfer.live[word], !bit, Ordering::AcqRel) & bit != 0
    }

    /// How full the megabyte was a moment ago.
    #[inline]
    pub(crate) fn fill(&self) -> Fill {
        Fill::from_number(self.allocation.state.load(Ordering::Relaxed) & !LOCKED)
    }

    /// Takes the lock, unless somebody has it.
    #[inline]
    pub(crate) fn try_lock(&self, threads: Threads) -> Option<Locked<'_>> {
        let state = &self.allocation.state;
        let seen = state.load(Ordering::Relaxed);
        if threads == Threads::One {
            debug_assert_eq!(seen & LOCKED, 0, "locked by the only thread");
            state.store(seen | LOCKED, Ordering::Relaxed);
            return Some(Locked {
                line: &self.allocation,
                fill: Fill::from_number(seen),
            });
        }
        // Acquire pairs with the release in `Locked::drop`.
        let taken = seen & LOCKED == 0
            && state
                .compare_exchange(seen, seen | LOCKED, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        taken.then(|| Locked {
            line: &self.allocation,
            fill: Fill::from_number(seen),
        })
    }

    /// Takes the lock. Nobody holds it for longer than it takes to choose a slot and to set a few
    /// bits, so this spins first and yields then.
    #[inline]
    pub(crate) fn lock(&self, threads: Threads) -> Locked<'_> {
        let backoff = Backoff::new();
        loop {
            if let Some(locked) = self.try_lock(threads) {
                return locked;
            }
            backoff.snooze();
        }
    }
}

/// The lock of a megabyte, held. When it is dropped, others find the fill that it has then.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    line: &'a AllocationLine,
    fill: Fill,
}

impl Locked<'_> {
    /// How full the megabyte is.
    #[inline]
    pub(crate) const fn fill(&self) -> Fill {
        self.fill
    }

    /// Reserves the free slot of this type that breaks the least, if there is one.
    #[inline]
    pub(crate) fn reserve(&mut self, block_type: BlockType) -> Option<Slot> {
        let slot = fit::choose(block_type, &self.units())?;
        self.change(&slot.units(), |word, bits| word | bits);
        Some(slot)
    }

    /// Reserves these units, if all are free.
    pub(crate) fn reserve_units(&mut self, units: &UnitMap) -> bool {
        let taken = self.units();
        let is_free = taken
            .iter()
            .zip(units)
            .all(|(taken, units)| taken & units == 0);
        if is_free {
            self.change(units, |word, bits| word | bits);
        }
        is_free
    }

    /// Gives reserved units back.
    #[inline]
    pub(crate) fn release(&mut self, units: &UnitMap) {
        self.change(units, |word, bits| word & !bits);
    }

    // Relaxed, because the lock orders all accesses to the map.
    #[inline]
    fn units(&self) -> UnitMap {
        std::array::from_fn(|word| self.line.reserved[word].load(Ordering::Relaxed))
    }

    #[inline]
    fn change(&mut self, bits: &UnitMap, change: impl Fn(u64, u64) -> u64) {
        let before = self.units();
        let units: UnitMap = std::array::from_fn(|word| change(before[word], bits[word]));
        for (word, bits) in self.line.reserved.iter().zip(units) {
            word.store(bits, Ordering::Relaxed);
        }
        self.fill = Fill::of(&units);
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        let unlock = Weakness::UnlockRelaxed;
        let order = if weakened(unlock) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.line.state.store(self.fill as u32, order);
    }
}
