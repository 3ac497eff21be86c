//! A completion record: where a task's result comes back.

use std::fmt;

use chimaera_proto::Completion;
use chimaera_proto::task::VALUE_COUNT;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The completion record of a task, in a lane or, as a copy, in private memory.
#[repr(C, align(64))]
pub struct Record {
    pub(crate) flag: AtomicU32,
    pub(crate) status: AtomicU32,
    pub(crate) values: [AtomicU64; VALUE_COUNT],
}

/// Reading a completion that is there ([`LaneMemory::is_complete`](crate::LaneMemory::is_complete)), and stays until
/// the record is given to another task. Two reads of one word may differ where the other side breaks the protocol; that
/// is no error here.
impl Record {
    /// A completion in private memory.
    #[must_use]
    pub fn of(completion: &Completion) -> Self {
        Self {
            flag: AtomicU32::new(0),
            status: AtomicU32::new(completion.status_word),
            values: completion.values.map(AtomicU64::new),
        }
    }

    /// Status code and errno.
    #[inline]
    #[must_use]
    pub fn status_word(&self) -> u32 {
        self.status.load(Ordering::Relaxed)
    }

    /// One of the values.
    ///
    /// # Panics
    /// If there is no value with this index.
    #[inline]
    #[must_use]
    pub fn value(&self, index: usize) -> u64 {
        self.values[index].load(Ordering::Relaxed)
    }

    /// All values.
    #[inline]
    #[must_use]
    pub fn values(&self) -> [u64; VALUE_COUNT] {
        std::array::from_fn(|index| self.value(index))
    }

    /// A record as a new segment has it: all zero.
    #[cfg(all(test, loom))]
    pub(crate) fn zeroed() -> Self {
        Self {
            flag: AtomicU32::new(0),
            status: AtomicU32::new(0),
            values: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// A copy in private memory.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            flag: AtomicU32::new(self.flag.load(Ordering::Relaxed)),
            status: AtomicU32::new(self.status_word()),
            values: self.values().map(AtomicU64::new),
        }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Record>() == 64);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("status_word", &self.status_word())
            .field("values", &self.values())
            .finish()
    }
}
