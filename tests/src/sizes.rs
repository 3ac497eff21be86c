//! Sizes of pools.

use chimaera_bdev_client::{Client, Stats};

/// Bytes of a small file pool with room for so many whole megabytes: its metadata takes a part of one
/// more.
#[must_use]
pub const fn file_bytes(megabytes: u64) -> u64 {
    (megabytes + 1) << 20
}

/// What the pool says of itself. None of its blocks is allocated.
///
/// # Panics
/// If it does not say that all is free which is not metadata.
#[track_caller]
pub fn assert_empty(pool: &Client) -> Stats {
    let stats = pool.get_stats().expect("statistics");
    let room = stats.total_size - stats.metadata_size;
    assert_eq!(stats.remaining_size, room, "nothing is allocated");
    stats
}
