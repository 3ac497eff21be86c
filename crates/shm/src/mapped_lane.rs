//! A lane in a segment, which stays mapped as long as somebody has the lane.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use chimaera_proto::limits::{LANE_STRIDE_BYTES, LANES_OFFSET_BYTES, MAX_LANES};

use crate::lane::LaneMemory;
use crate::segment::Segment;

/// A lane in a segment, which it keeps mapped.
#[derive(Clone, Debug)]
pub struct Lane {
    memory: NonNull<LaneMemory>,
    _segment: Arc<Segment>,
}

// SAFETY: a lane's memory is atomics, and mapped as long as the segment lives.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

impl Segment {
    /// A lane of a client's first segment.
    ///
    /// # Panics
    /// If there is no such lane: indexes from the other side are checked before.
    #[must_use]
    pub fn lane(self: &Arc<Self>, index: usize) -> Lane {
        assert!(index < MAX_LANES, "lane {index} of {MAX_LANES}");
        let offset = LANES_OFFSET_BYTES + index * LANE_STRIDE_BYTES;
        let memory = self
            .range(offset as u64, size_of::<LaneMemory>() as u64)
            .expect("every segment is large enough for its lanes");
        // SAFETY: the range is mapped as long as the segment lives, aligned (mappings are page-
        // aligned and so is the offset), and a lane's memory is atomics, valid with any bytes.
        unsafe { Lane::new(memory.cast(), Arc::clone(self)) }
    }
}

impl Lane {
    /// # Safety
    /// `memory` must lie in `segment`, aligned.
    unsafe fn new(memory: NonNull<LaneMemory>, segment: Arc<Segment>) -> Self {
        Self {
            memory,
            _segment: segment,
        }
    }
}

impl Deref for Lane {
    type Target = LaneMemory;

    #[inline(always)]
    fn deref(&self) -> &LaneMemory {
        // SAFETY: `new`'s caller vouches for the address, and the segment is kept mapped. The memory is
        // atomics, so a reference is valid whatever the other process writes.
        unsafe { self.memory.as_ref() }
    }
}
