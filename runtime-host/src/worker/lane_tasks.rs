//! The tasks of a lane that are in flight, by record.
//!
//! Laws of this module:
//! - A task is written only while its record is free, and is in flight from then until it has completed: from the
//!   moment that a container gets its address it does not change.
//! - Only the lane's worker changes what is here. Other threads may read (a container on a thread of its own reads its
//!   task), so the worker writes a task only after it has learned that the record's last one has completed.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use chimaera_chimod::abi::RawTask;
use chimaera_proto::limits::LANE_DEPTH;

/// A lane's tasks, as containers see them.
pub(crate) struct LaneTasks {
    /// Records of tasks in flight. Written by the worker alone, with plain loads and stores.
    in_flight: AtomicU64,
    places: [UnsafeCell<RawTask>; LANE_DEPTH],
}

// SAFETY: the worker alone writes a task, and only while nobody reads it (`begin`).
unsafe impl Sync for LaneTasks {}
// SAFETY: tasks are plain data; their buffers are shared memory.
unsafe impl Send for LaneTasks {}

impl LaneTasks {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            places: [const { UnsafeCell::new(RawTask::EMPTY) }; LANE_DEPTH],
        }
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// The tasks in flight. Only for the lane's worker, and not while it hands one over.
    pub(crate) fn in_flight(&self) -> impl Iterator<Item = RawTask> {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let records = (0..LANE_DEPTH).filter(move |record| in_flight & (1 << record) != 0);
        // SAFETY: the worker alone writes a task, before it hands it over, and no task in flight changes.
        records.map(|record| unsafe { *self.places[record].get() })
    }

    /// Notes that a record's task has begun. Returns false, and changes nothing, if the record's last task has not
    /// completed: the client breaks the protocol.
    #[inline]
    #[must_use]
    pub(crate) fn begin(&self, record: u8) -> bool {
        let (bit, in_flight) = (1 << record, self.in_flight.load(Ordering::Relaxed));
        self.in_flight.store(in_flight | bit, Ordering::Relaxed);
        in_flight & bit == 0
    }

    /// Notes that a record's task has completed.
    #[inline]
    pub(crate) fn end(&self, record: u8) {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        self.in_flight
            .store(in_flight & !(1 << record), Ordering::Relaxed);
    }

    /// Where the task of a record lies that has begun and was not handed over yet.
    #[inline]
    pub(crate) fn place(&self, record: u8) -> *mut RawTask {
        self.places[usize::from(record)].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_one_task_at_a_time() {
        let tasks = LaneTasks::new();
        assert!(tasks.is_idle());
        assert!(tasks.begin(63) && tasks.begin(0));
        assert!(!tasks.begin(63));
        tasks.end(63);
        assert!(tasks.begin(63));
        tasks.end(63);
        assert!(!tasks.is_idle());
        tasks.end(0);
        assert!(tasks.is_idle());
    }
}
