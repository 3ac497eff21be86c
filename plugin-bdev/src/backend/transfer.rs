//! A read or write that passed every check.

#![forbid(unsafe_code)]

use chimaera_bdev_proto::Block;
use chimaera_chimod::Request;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the pool into the client's buffer.
    Read,
    /// From the client's buffer into the pool.
    Write,
}

/// A transfer on its way: its block is live, its range lies within the block, and both stay so because the
/// block is pinned until the transfer is finished. The pin goes where the transfer goes.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// The task. Its buffer has `len_bytes` bytes and stays mapped as long as this is held. A read's buffer
    /// is writable.
    pub(crate) request: Request,
    pub(crate) direction: Direction,
    pub(crate) block: Block,
    /// Where the transfer begins, in bytes from the pool's start.
    pub(crate) offset_in_pool: u64,
    pub(crate) len_bytes: u32,
}
