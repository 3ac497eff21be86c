//! What a lane keeps for its task handles: tasks that were harvested, and the wakers of futures.
//!
//! Law of this module: wakers are cloned, woken and dropped while the table is not locked. They are an executor's code:
//! even dropping one may drop a future with handles of this lane.

use std::collections::HashMap;
use std::task::Waker;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_shm::Record;

use super::payload::Payload;

/// Harvested tasks and wakers, under one lock. It is not locked where neither is needed.
pub(crate) struct HandleTable {
    /// Harvested tasks whose handles have not collected them yet, by sequence.
    pub(crate) harvested: HashMap<u64, Box<HarvestedTask>>,
    /// The waker to wake when the task in a record completes, by record.
    pub(crate) wakers: [Option<Waker>; LANE_DEPTH],
    /// Whether the connection has ended, and the lane is kept for its handles.
    pub(crate) lingers: bool,
}

impl Default for HandleTable {
    fn default() -> Self {
        Self {
            harvested: HashMap::new(),
            wakers: [const { None }; LANE_DEPTH],
            lingers: false,
        }
    }
}

impl HandleTable {
    /// The records that a waker is registered for, one bit each.
    pub(crate) fn records_with_wakers(&self) -> u64 {
        let wakers = self.wakers.iter().enumerate();
        wakers.fold(0, |records, (record, waker)| {
            records | u64::from(waker.is_some()) << record
        })
    }

    /// Whether there are harvested tasks that were not collected yet.
    pub(crate) fn has_harvested(&self) -> bool {
        !self.harvested.is_empty()
    }
}

/// A task that completed before its handle collected it, and whose record was needed for another task.
pub(crate) struct HarvestedTask {
    pub(crate) record: Record,
    pub(crate) payload: Payload,
}
