//! Pools: the parameters of their creation, and their statistics.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of storage that a pool's blocks lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum BdevType {
    /// A regular file or a block device, named by the pool's name.
    File = 0,
    /// Memory. Lost when the pool or the runtime ends.
    Ram = 1,
}

impl fmt::Display for BdevType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Ram => "ram",
        })
    }
}

/// The kernel's interface for the I/O of a file pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum IoEngine {
    /// Of the engines that the system permits, the one that serves this kind of file better.
    #[default]
    Auto = 0,
    /// Linux AIO.
    Libaio = 1,
    /// io_uring.
    IoUring = 2,
}

impl fmt::Display for IoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Libaio => "libaio",
            Self::IoUring => "io_uring",
        })
    }
}

/// When the space of a pool's blocks is zeroed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum ScrubPolicy {
    /// Never: a new block holds what was last written where it lies, by whichever user of the pool.
    #[default]
    None = 0,
    /// Before a block is handed out: a new block holds zeroes.
    Allocate = 1,
}

impl ScrubPolicy {
    /// That of a pool that scrubs, or does not.
    #[must_use]
    pub const fn of(scrubs: bool) -> Self {
        match scrubs {
            true => Self::Allocate,
            false => Self::None,
        }
    }
}

impl fmt::Display for ScrubPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Allocate => "allocate",
        })
    }
}

/// Characteristics of a device as its user declares them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerfMetrics {
    /// Read bandwidth in MB/s.
    pub read_bandwidth_mbps: f64,
    /// Write bandwidth in MB/s.
    pub write_bandwidth_mbps: f64,
    /// Average read latency in microseconds.
    pub read_latency_us: f64,
    /// Average write latency in microseconds.
    pub write_latency_us: f64,
    /// I/O operations per second.
    pub iops: f64,
}

impl Default for PerfMetrics {
    /// Conservative values, used where none were given.
    fn default() -> Self {
        Self {
            read_bandwidth_mbps: 100.0,
            write_bandwidth_mbps: 100.0,
            read_latency_us: 1000.0,
            write_latency_us: 1000.0,
            iops: 1000.0,
        }
    }
}

/// Parameters of a pool's creation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateParams {
    /// File or memory.
    pub bdev_type: BdevType,
    /// Bytes to manage. 0: all of the file or device; required for memory.
    pub total_size: u64,
    /// Operations in flight on the device per worker, of a file pool; ignored for memory. `None`: the value
    /// that the pool was made with, [`Self::DEFAULT_IO_DEPTH`] for a new one.
    pub io_depth: Option<u32>,
    /// Alignment of device operations in bytes: a power of two, from 512 to 4096. `None`, or 0: the value that
    /// the pool was made with, [`Self::DEFAULT_ALIGNMENT`] for a new one.
    pub alignment: Option<u32>,
    /// The engine for the I/O of a file pool; ignored for memory.
    pub io_engine: IoEngine,
    /// The device's characteristics. `None`: those that the pool has, the defaults for a new one. Values that
    /// differ from the pool's replace them, if the pool's creator or root asks.
    pub perf_metrics: Option<PerfMetrics>,
    /// Makes a new, empty pool whatever the file or device holds, also over another pool or a file system.
    /// Without it, only a blank file or device becomes a new pool. Ignored for memory.
    pub overwrite: bool,
    /// Opens the pool that the file or device holds for reading only, also if its metadata is
    /// damaged, and writes nothing. Ignored for memory.
    pub read_only: bool,
    /// Believes owner, group and mode that the file or device records, although others than these may have written
    /// them: for operators. Ignored for memory.
    pub trust_owner: bool,
    /// Has the daemon open the path that is the pool's name, where no file is passed with the request: for operators,
    /// and only where the daemon allows it. Ignored for memory.
    pub opened_by_daemon: bool,
    /// When the space of blocks is zeroed. `None`: as the pool has it, [`ScrubPolicy::None`] for a new one. A pool that
    /// scrubs does so for good. One that does not begins to, if its owner or an operator asks.
    pub scrub: Option<ScrubPolicy>,
}

impl CreateParams {
    /// The [`Self::io_depth`] of a new pool, if none is given.
    pub const DEFAULT_IO_DEPTH: u32 = 32;
    /// The [`Self::alignment`] of a new pool, if none is given.
    pub const DEFAULT_ALIGNMENT: u32 = 4096;
    /// The largest [`Self::io_depth`].
    pub const MAX_IO_DEPTH: u32 = 4096;
    /// The smallest [`Self::alignment`].
    pub const MIN_ALIGNMENT: u32 = 512;
    /// The largest [`Self::alignment`].
    pub const MAX_ALIGNMENT: u32 = 4096;

    /// Whether device operations can be aligned to so many bytes.
    #[must_use]
    pub const fn is_alignment(bytes: u32) -> bool {
        bytes.is_power_of_two() && bytes >= Self::MIN_ALIGNMENT && bytes <= Self::MAX_ALIGNMENT
    }
}

/// The state and the statistics of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The characteristics that were declared last.
    pub metrics: PerfMetrics,
    /// Bytes that are free, exactly. They may not be free in one piece.
    pub remaining_size: u64,
    /// Bytes that the pool manages, those of its metadata included.
    pub total_size: u64,
    /// Bytes that the pool's metadata takes: reserved at creation, 0 for memory.
    pub metadata_size: u64,
    /// Blocks that are allocated now, exactly, those from before the pool was opened included.
    pub allocated_blocks: u64,
    /// Whether there may be blocks that nobody knows of, since metadata is damaged and has no sound copy: only in a
    /// pool that is open for reading only. Counts, lists and maps lack them, and their space counts as free.
    pub has_unknown_blocks: bool,
    /// Whether what was flushed outlives the runtime. Memory never does.
    pub persistent: bool,
    /// Whether the pool is open for reading only.
    pub read_only: bool,
    /// File or memory.
    pub bdev_type: BdevType,
    /// When the space of blocks is zeroed.
    pub scrub: ScrubPolicy,
    /// Whether device I/O bypasses the page cache.
    pub direct_io: bool,
    /// Operations in flight on the device per worker.
    pub io_depth: u32,
    /// Alignment of device operations in bytes.
    pub alignment: u32,
    /// The engine that carries out the I/O, and so never [`IoEngine::Auto`]; `None` for memory.
    pub io_engine: Option<IoEngine>,
    /// What became of the pool's file, as of the last look at it: at a flush, or when a client asked to create the
    /// pool again. `None` for memory.
    pub file: Option<FileState>,
    /// Operations carried out since the pool was opened.
    pub activity: OperationCounts,
}

/// What became of the file that an open pool is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// It is at its path, and whole.
    #[default]
    InPlace,
    /// It has no name any more, and is deleted when the pool ends.
    Removed,
    /// Nothing is at its path.
    Moved,
    /// Something else is at its path.
    Replaced,
    /// It has fewer bytes than the pool.
    Cut,
}

impl FileState {
    /// What that means for an open pool, and what to do; `None` for a file that is in its place.
    #[must_use]
    pub const fn account(self) -> Option<&'static str> {
        Some(match self {
            Self::InPlace => return None,
            Self::Removed => {
                "it was removed, and all that it holds is lost when the pool ends: copy elsewhere what is \
                 still wanted before that"
            }
            Self::Moved => {
                "it was moved or its folder is gone, and it is not found by this name when the pool ends: \
                 move it back, or rename the pool after that (`chimaera pool rename`)"
            }
            Self::Replaced => {
                "something else is there, and this one is not found by its name when the pool ends: put it \
                 back, or copy elsewhere what is still wanted before that"
            }
            Self::Cut => {
                "it was cut off, and what lay behind its end is lost: copy elsewhere what is still wanted, destroy \
                 the pool, and see what `chimaera pool check` says of the file"
            }
        })
    }
}

/// Counts of the operations carried out since a pool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCounts {
    /// Reads completed.
    pub read_operations: u64,
    /// Writes completed.
    pub write_operations: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Blocks that were allocated, whether or not they still are.
    pub allocations: u64,
    /// Blocks that were freed, whenever they were allocated.
    pub frees: u64,
    /// Reads and writes whose offset, length or memory was not aligned as the device needs.
    pub unaligned_operations: u64,
    /// Operations refused or failed.
    pub errors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STATS_BUFFER_BYTES;
    use chimaera_proto::codec;

    #[test]
    fn statistics_fit_their_buffer() {
        let most = u64::MAX;
        let stats = Stats {
            metrics: PerfMetrics::default(),
            remaining_size: most,
            total_size: most,
            metadata_size: most,
            allocated_blocks: most,
            has_unknown_blocks: true,
            persistent: true,
            read_only: true,
            bdev_type: BdevType::Ram,
            scrub: ScrubPolicy::Allocate,
            direct_io: true,
            io_depth: u32::MAX,
            alignment: u32::MAX,
            io_engine: Some(IoEngine::IoUring),
            file: Some(FileState::Cut),
            activity: OperationCounts {
                read_operations: most,
                write_operations: most,
                read_bytes: most,
                write_bytes: most,
                allocations: most,
                frees: most,
                unaligned_operations: most,
                errors: most,
            },
        };
        let bytes = codec::encode(&stats).expect("encodes");
        assert!(
            bytes.len() <= STATS_BUFFER_BYTES as usize,
            "{}",
            bytes.len()
        );
        assert_eq!(codec::decode::<Stats>(&bytes).expect("decodes"), stats);
    }
}
