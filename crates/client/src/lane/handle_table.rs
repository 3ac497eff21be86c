//! What task handles and the harvester exchange: tasks that were harvested, and the wakers of futures.
//!
//! Law of this module: wakers are cloned, woken and dropped while the desk is not locked. They are an executor's:
//! even dropping one may drop a future with handles of this lane.

use std::collections::HashMap;
use std::task::Waker;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_shm::Record;

use super::payload::Payload;

/// What lies at the desk.
pub(crate) struct HandleTable {
    /// Tasks whose records were needed for others, by sequence.
    pub(crate) harvested: HashMap<u64, Box<HarvestedTask>>,
    /// Whom to wake when the task in a record completes.
    pub(crate) wakers: [Option<Waker>; LANE_DEPTH],
    /// Whether the session has ended, and the lane is kept for its handles.
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
    /// Records with wakers.
    pub(crate) fn records_with_wakers(&self) -> u64 {
        let wakers = self.wakers.iter().enumerate();
        wakers.fold(0, |records, (record, waker)| {
            records | u64::from(waker.is_some()) << record
        })
    }

    /// Whether there are harvested tasks whose handles did not come for them yet.
    pub(crate) fn has_harvested(&self) -> bool {
        !self.harvested.is_empty()
    }
}

/// A task that completed before its handle asked, and whose record was needed.
pub(crate) struct HarvestedTask {
    pub(crate) record: Record,
    pub(crate) payload: Payload,
}
