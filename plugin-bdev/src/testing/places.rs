//! Parameters of pools, and places to put them.

use std::path::PathBuf;

use chimaera_bdev_format::Geometry;
use chimaera_bdev_proto::{BdevType, CreateParams, IoEngine, MEGABYTE, UNIT_BYTES};

pub(crate) fn ram_params(total_size: u64) -> CreateParams {
    CreateParams {
        bdev_type: BdevType::Ram,
        ..file_params(total_size)
    }
}

/// Bytes of a file pool with room for so many whole megabytes, and no more: metadata takes a part of others.
pub(crate) fn file_bytes(megabytes: u64) -> u64 {
    let mut sizes = (megabytes + 1..).map(|total| total * MEGABYTE);
    let least = sizes.find(|&bytes| whole_megabytes(bytes).count() as u64 == megabytes);
    least.expect("room for metadata")
}

/// The megabytes of a file pool of this size that have no metadata.
pub(crate) fn whole_megabytes(bytes: u64) -> impl Iterator<Item = u64> {
    let geometry = Geometry::new(bytes / UNIT_BYTES).expect("room for metadata");
    let units = MEGABYTE / UNIT_BYTES;
    let taken: Vec<_> = geometry.reserved().collect();
    (0..bytes / MEGABYTE).filter(move |at| {
        let (start, end) = (at * units, (at + 1) * units);
        taken
            .iter()
            .all(|pages| pages.end <= start || end <= pages.start)
    })
}

/// Bytes of metadata of a file pool that has room for so many bytes of blocks, exactly.
pub(crate) fn metadata_bytes_beside(room_bytes: u64) -> u64 {
    let mut metadata = 0;
    loop {
        let total_pages = (room_bytes + metadata) / UNIT_BYTES;
        let needed = Geometry::new(total_pages).map_or(0, |geometry| geometry.reserved_pages());
        if needed * UNIT_BYTES == metadata {
            return metadata;
        }
        metadata = (needed * UNIT_BYTES).max(metadata + UNIT_BYTES);
    }
}

/// Bytes of a file pool with room for one block of 4 KiB and nothing else.
pub(crate) fn one_block_bytes() -> u64 {
    Geometry::min_pool_bytes()
}

pub(crate) fn file_params(total_size: u64) -> CreateParams {
    CreateParams {
        bdev_type: BdevType::File,
        total_size,
        io_depth: None,
        alignment: None,
        io_engine: IoEngine::Auto,
        perf_metrics: None,
        overwrite: false,
        read_only: false,
        trust_owner: false,
        opened_by_daemon: true,
        scrub: None,
    }
}

/// A folder in memory, whose file system has no real direct I/O, if there is one.
pub(crate) fn memory_folder() -> Option<tempfile::TempDir> {
    chimaera_testing::tmpfs_folder().ok()
}

/// The path of a file in a folder, as a pool's name.
pub(crate) fn name_in(folder: &tempfile::TempDir, file: &str) -> String {
    let path: PathBuf = folder.path().join(file);
    path.to_str().expect("test paths are UTF-8").to_owned()
}
