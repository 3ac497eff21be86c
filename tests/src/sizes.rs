//! Sizes of pools.

use chimaera_bdev_client::{Client, Stats};
use chimaera_bdev_format::{Geometry, PAGE_BYTES};

/// Bytes of a small file pool with room for so many whole megabytes, and no more: metadata takes a part of others.
///
/// # Panics
/// If no pool has room for exactly so many.
#[must_use]
pub fn file_bytes(megabytes: u64) -> u64 {
    let mut sizes = (megabytes + 1..).map(|total| total << 20);
    let least = sizes.find(|&bytes| whole_megabytes(bytes) >= megabytes);
    least
        .filter(|&bytes| whole_megabytes(bytes) == megabytes)
        .expect("another megabyte makes room for one more at most")
}

/// How many megabytes of a new file pool of this size have no metadata.
///
/// # Panics
/// If the pool would have no room for its metadata.
#[must_use]
pub fn whole_megabytes(bytes: u64) -> u64 {
    let geometry = Geometry::new(bytes / PAGE_BYTES as u64).expect("room for metadata");
    let pages = (1 << 20) / PAGE_BYTES as u64;
    let taken: Vec<_> = geometry.reserved().collect();
    let is_whole = |at: &u64| {
        let (start, end) = (at * pages, (at + 1) * pages);
        taken
            .iter()
            .all(|taken| taken.end <= start || end <= taken.start)
    };
    (0..bytes >> 20).filter(is_whole).count() as u64
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
