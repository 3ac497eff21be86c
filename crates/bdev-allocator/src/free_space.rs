//! How much of a pool is free: one word, so that it is exact at any moment.
//!
//! Laws:
//! - Whole megabytes are subtracted here before they are searched for. So a thread that got them here finds
//!   them, and requests for several are met wholly or not at all.
//! - Space is added before others can take it, and subtracted before it is handed out, so the word
//!   never falls below zero.
//! - Space that waits for a commit counts among the units, but not among the whole megabytes, since it cannot be
//!   found before the commit.
use crate::sync::{AtomicU64, CachePadded, Ordering, Threads, Weakness, weakened};
use chimaera_bdev_format::block_map::UNITS;

/// Counts free space. Bits 0 to 27: free whole megabytes. Above: free units, those of the whole megabytes included.
pub(crate) struct FreeSpace {
    word: CachePadded<AtomicU64>,
    threads: Threads,
}

const MEGABYTE_BITS: u32 = 28;
const UNIT: u64 = 1 << MEGABYTE_BITS;

/// Megabytes of the largest pool.
pub(crate) const MAX_MEGABYTES: u64 = UNIT - 1;

const _: () = assert!(
    MAX_MEGABYTES <= u64::MAX / UNIT / UNITS,
    "the units fit their bits"
);

impl FreeSpace {
    pub(crate) fn new(units: u64, whole_megabytes: u64, threads: Threads) -> Self {
        debug_assert!(whole_megabytes <= MAX_MEGABYTES);
        Self {
            word: CachePadded::new(AtomicU64::new(units * UNIT + whole_megabytes)),
            threads,
        }
    }

    /// Free units.
    pub(crate) fn units(&self) -> u64 {
        self.word.load(Ordering::Acquire) / UNIT
    }

    /// Subtracts whole megabytes, and `units` of their units. `false`, and nothing has changed, if there are not as
    /// many megabytes.
    #[inline]
    pub(crate) fn reserve(&self, megabytes: u64, units: u64) -> bool {
        // Acquire pairs with the release in `give`: the megabytes that are counted are in the index.
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word % UNIT < megabytes {
                return false;
            }
            let less = units * UNIT + megabytes;
            if weakened(Weakness::WholesNotReserved) {
                self.word.fetch_sub(less, Ordering::AcqRel);
                return true;
            }
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match self
                .word
                .compare_exchange_weak(word, word - less, order.0, order.1)
            {
                Ok(_) => return true,
                Err(changed) => word = changed,
            }
        }
    }

    /// Subtracts units of a megabyte that is partly used.
    #[inline]
    pub(crate) fn take(&self, units: u64) {
        let before = self
            .threads
            .fetch_sub(&self.word, units * UNIT, Ordering::AcqRel);
        debug_assert!(before / UNIT >= units, "more taken than there is");
    }

    /// Adds units that are not counted yet, and their megabyte if that is wholly free by now and in the index.
    #[inline]
    pub(crate) fn give(&self, units: u64, megabyte_is_whole: bool) {
        let more = units * UNIT + u64::from(megabyte_is_whole);
        self.threads.fetch_add(&self.word, more, Ordering::AcqRel);
    }
}
