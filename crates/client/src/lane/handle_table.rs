//! What task handles and the harvester exchange: tasks that were harvested, and the wakers of futures.
//!
//! Law of this module: wakers are cloned, woken and dropped while the desk is not locked. They are an executor's:
//! even dropping one may drop a future with handles of this lane.

use std::collections::HashMap;
use std::task::Waker;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_shm::Record;

use super::payload::Place;

/// What lies at the desk.
pub(crate) struct Desk {
    /// Tasks whose records were needed for others, by sequence.
    pub(crate) parcels: HashMap<u64, Box<Parcel>>,
    /// Whom to wake when the task in a record completes.
    pub(crate) wakers: [Option<Waker>; LANE_DEPTH],
    /// Whether the session has ended, and the lane is kept for its handles.
    pub(crate) lingers: bool,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            parcels: HashMap::new(),
            wakers: [const { None }; LANE_DEPTH],
            lingers: false,
        }
    }
}

impl Desk {
    /// Records with wakers.
    pub(crate) fn awaited(&self) -> u64 {
        let wakers = self.wakers.iter().enumerate();
        wakers.fold(0, |records, (record, waker)| {
            records | u64::from(waker.is_some()) << record
        })
    }

    /// Whether there are harvested tasks whose handles did not come for them yet.
    pub(crate) fn has_parcels(&self) -> bool {
        !self.parcels.is_empty()
    }
}

/// A task that completed before its handle asked, and whose record was needed.
pub(crate) struct Parcel {
    pub(crate) record: Record,
    pub(crate) place: Place,
}
