//! What a pool's workers and its keeper share.

#![forbid(unsafe_code)]

use crate::declared::Declared;
use crate::pool::allocator::PendingFree;
use crate::pool::counters::Counters;
use chimaera_bdev_allocator::Allocator;

/// Which blocks there are, what was done, and what is declared.
pub(crate) struct PoolState {
    pub(crate) allocator: Allocator<PendingFree>,
    pub(crate) counters: Counters,
    pub(crate) declared: Declared,
}
