//! What a pool's workers and its keeper share.

#![forbid(unsafe_code)]

use crate::allocator::Allocator;
use crate::blocks::PendingFree;
use crate::counters::Counters;

/// Which blocks there are, and what was done.
pub(crate) struct PoolState {
    pub(crate) allocator: Allocator<PendingFree>,
    pub(crate) counters: Counters,
}
