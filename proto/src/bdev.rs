//! The bdev module's contract: blocks, methods, creation parameters, statistics.
//!
//! How tasks lay out their arguments is written once, here, as pairs of functions that write and
//! read them. Lists of blocks that do not fit a descriptor or a completion travel in the task's
//! buffer, [`BLOCK_WIRE_BYTES`] each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::status::Status;
use crate::task::{ARGUMENT_COUNT, VALUE_COUNT};

/// Name of the module; its library is `libchimaera_bdev_runtime.so`.
pub const MODULE_NAME: &str = "chimaera_bdev";

/// Bytes of the largest block, and the unit in which a pool is divided.
pub const MEGABYTE: u64 = 1 << 20;

/// Bytes of the smallest block, and the granularity of a pool's size.
pub const UNIT_BYTES: u64 = 4096;

/// Bytes of a block in a list.
pub const BLOCK_WIRE_BYTES: usize = 16;

/// Blocks that fit a completion record; longer lists need a buffer.
pub const INLINE_BLOCKS: usize = (VALUE_COUNT - 1) / 2;

/// Bytes that a buffer for [`Method::GetStats`] must have.
pub const STATS_BUFFER_BYTES: u32 = 512;

/// What the bdev module does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// Allocates blocks: [`allocate_arguments`].
    AllocateBlocks = 1,
    /// Frees blocks: [`free_arguments`].
    FreeBlocks = 2,
    /// Writes the task's buffer to a block: [`TransferArguments`]. `values[0]`: bytes written.
    Write = 3,
    /// Reads from a block into the task's buffer: [`TransferArguments`]. `values[0]`: bytes read.
    Read = 4,
    /// Gives [`Stats`], encoded ([`crate::codec`]) in the buffer, `values[0]` bytes long.
    GetStats = 5,
}

impl Method {
    /// The method with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::AllocateBlocks,
            2 => Self::FreeBlocks,
            3 => Self::Write,
            4 => Self::Read,
            5 => Self::GetStats,
            _ => return None,
        })
    }
}

/// The size category of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum BlockType {
    /// 4 KiB: small, frequent operations.
    Kib4 = 0,
    /// 64 KiB: medium operations.
    Kib64 = 1,
    /// 256 KiB: large sequential operations.
    Kib256 = 2,
    /// 1 MiB: bulk operations.
    Mib1 = 3,
}

impl BlockType {
    /// Every type, from the smallest to the largest.
    pub const ALL: [Self; 4] = [Self::Kib4, Self::Kib64, Self::Kib256, Self::Mib1];

    /// Bytes of a block of this type. Its offset is a multiple of this too.
    #[must_use]
    pub const fn size(self) -> u64 {
        match self {
            Self::Kib4 => 4 << 10,
            Self::Kib64 => 64 << 10,
            Self::Kib256 => 256 << 10,
            Self::Mib1 => 1 << 20,
        }
    }

    /// The type with this number (0 = 4 KiB … 3 = 1 MiB).
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Kib4,
            1 => Self::Kib64,
            2 => Self::Kib256,
            3 => Self::Mib1,
            _ => return None,
        })
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kib4 => "4 KiB",
            Self::Kib64 => "64 KiB",
            Self::Kib256 => "256 KiB",
            Self::Mib1 => "1 MiB",
        })
    }
}

/// An allocated block. It names storage and grants nothing: the host checks it against its own
/// table each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Block {
    /// Offset in the pool, in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// Size category.
    pub block_type: BlockType,
}

impl Block {
    /// The block of this type at this offset.
    #[must_use]
    pub const fn new(offset: u64, block_type: BlockType) -> Self {
        Self {
            offset,
            size: block_type.size(),
            block_type,
        }
    }

    /// The two words that stand for the block in arguments, values and lists.
    ///
    /// A size that does not fit 32 bits, which no block has, becomes 0 and so a wrong size.
    #[must_use]
    pub const fn to_words(self) -> [u64; 2] {
        let size = if self.size > u32::MAX as u64 {
            0
        } else {
            self.size
        };
        [self.offset, size | (self.block_type as u64) << 32]
    }

    /// Reads the two words of a block as another process wrote them.
    ///
    /// # Errors
    /// [`Status::WrongSize`] if there is no such type, if the size is not the type's, or if the
    /// offset is not a multiple of it: there can be no such block in any pool.
    pub const fn from_words(words: [u64; 2]) -> Result<Self, Status> {
        let Some(block_type) = BlockType::from_number((words[1] >> 32) as u32) else {
            return Err(Status::WrongSize);
        };
        let block = Self::new(words[0], block_type);
        if words[1] as u32 as u64 != block.size || !block.offset.is_multiple_of(block.size) {
            return Err(Status::WrongSize);
        }
        Ok(block)
    }

    /// The bytes that stand for the block in a list.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BLOCK_WIRE_BYTES] {
        let [a, b] = self.to_words();
        let mut bytes = [0; BLOCK_WIRE_BYTES];
        bytes[..8].copy_from_slice(&a.to_le_bytes());
        bytes[8..].copy_from_slice(&b.to_le_bytes());
        bytes
    }

    /// Reads a block from a list; see [`Block::from_words`].
    ///
    /// # Errors
    /// As [`Block::from_words`].
    pub fn from_bytes(bytes: [u8; BLOCK_WIRE_BYTES]) -> Result<Self, Status> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        Self::from_words([word(0), word(8)])
    }
}

/// Which blocks an allocation of some size consists of: all of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationPlan {
    /// Type of every block.
    pub block_type: BlockType,
    /// Number of blocks.
    pub count: u64,
}

impl AllocationPlan {
    /// The blocks for `size` bytes: none for 0; below 1 MiB one block of the smallest type that
    /// holds them; from 1 MiB on blocks of 1 MiB, rounded up. Client and host compute the same.
    #[must_use]
    pub const fn for_size(size: u64) -> Self {
        let (block_type, count) = match size {
            0 => (BlockType::Kib4, 0),
            1..=0x1000 => (BlockType::Kib4, 1),
            0x1001..=0x1_0000 => (BlockType::Kib64, 1),
            0x1_0001..=0x4_0000 => (BlockType::Kib256, 1),
            _ => (BlockType::Mib1, size.div_ceil(MEGABYTE)),
        };
        Self { block_type, count }
    }

    /// Bytes of all blocks together, or `None` where that is no 64-bit number.
    #[must_use]
    pub const fn total_bytes(self) -> Option<u64> {
        self.count.checked_mul(self.block_type.size())
    }

    /// Bytes of the list of the blocks in a buffer.
    #[must_use]
    pub const fn list_bytes(self) -> Option<u64> {
        self.count.checked_mul(BLOCK_WIRE_BYTES as u64)
    }
}

/// Arguments of [`Method::AllocateBlocks`]. The blocks come back in the values (count, then two
/// words each) if there are at most [`INLINE_BLOCKS`], else as a list in the buffer, with the
/// count in `values[0]`.
#[must_use]
pub const fn allocate_arguments(size: u64) -> [u64; ARGUMENT_COUNT] {
    [size, 0, 0]
}

/// Arguments of [`Method::FreeBlocks`]: the count, and the block itself if it is one. More are
/// listed in the buffer.
#[must_use]
pub const fn free_arguments(count: u64, single: Option<Block>) -> [u64; ARGUMENT_COUNT] {
    match single {
        Some(block) => {
            let [a, b] = block.to_words();
            [count, a, b]
        }
        None => [count, 0, 0],
    }
}

/// Arguments of [`Method::Write`] and [`Method::Read`]. The length is the buffer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferArguments {
    /// The block.
    pub block: Block,
    /// Where in the block the transfer begins, in bytes.
    pub offset_in_block: u64,
}

impl TransferArguments {
    /// Lays the arguments out.
    #[must_use]
    pub const fn to_arguments(self) -> [u64; ARGUMENT_COUNT] {
        let [a, b] = self.block.to_words();
        [a, b, self.offset_in_block]
    }

    /// Reads the arguments, for a transfer of `len_bytes`.
    ///
    /// # Errors
    /// [`Status::WrongSize`] as [`Block::from_words`]; [`Status::BeyondBlock`] if the transfer
    /// does not end within the block.
    pub const fn parse(arguments: [u64; ARGUMENT_COUNT], len_bytes: u32) -> Result<Self, Status> {
        let block = match Block::from_words([arguments[0], arguments[1]]) {
            Ok(block) => block,
            Err(status) => return Err(status),
        };
        let offset_in_block = arguments[2];
        match offset_in_block.checked_add(len_bytes as u64) {
            Some(end) if end <= block.size => Ok(Self {
                block,
                offset_in_block,
            }),
            _ => Err(Status::BeyondBlock),
        }
    }
}

/// What a pool stores its blocks on.
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
    /// The conservative values that stand where none were given.
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
    /// Operations in flight on the device per worker, of a file pool; ignored for memory.
    pub io_depth: u32,
    /// Alignment of device operations in bytes: a power of two, from 512 to 4096.
    pub alignment: u32,
    /// The device's characteristics; defaults where absent.
    pub perf_metrics: Option<PerfMetrics>,
}

impl CreateParams {
    /// The default of [`Self::io_depth`].
    pub const DEFAULT_IO_DEPTH: u32 = 32;
    /// The default of [`Self::alignment`].
    pub const DEFAULT_ALIGNMENT: u32 = 4096;
    /// The largest [`Self::io_depth`].
    pub const MAX_IO_DEPTH: u32 = 4096;
}

/// What a pool is and has done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The characteristics declared at creation.
    pub metrics: PerfMetrics,
    /// Bytes that are free, exactly. They may not be free in one piece.
    pub remaining_size: u64,
    /// Bytes that the pool manages.
    pub total_size: u64,
    /// File or memory.
    pub bdev_type: BdevType,
    /// Whether device I/O bypasses the page cache.
    pub direct_io: bool,
    /// Operations in flight on the device per worker.
    pub io_depth: u32,
    /// Alignment of device operations in bytes.
    pub alignment: u32,
    /// What was really done since the pool was opened.
    pub activity: Activity,
}

/// Counts of what was really done since a pool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Reads completed.
    pub read_operations: u64,
    /// Writes completed.
    pub write_operations: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Blocks allocated.
    pub allocated_blocks: u64,
    /// Blocks freed.
    pub freed_blocks: u64,
    /// Reads and writes whose offset, length or memory was not aligned as the device needs.
    pub unaligned_operations: u64,
    /// Operations refused or failed.
    pub errors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn the_plan_follows_the_size_categories() {
        let cases = [
            (0, BlockType::Kib4, 0),
            (1, BlockType::Kib4, 1),
            (4096, BlockType::Kib4, 1),
            (4097, BlockType::Kib64, 1),
            (65_536, BlockType::Kib64, 1),
            (65_537, BlockType::Kib256, 1),
            (262_144, BlockType::Kib256, 1),
            (262_145, BlockType::Mib1, 1),
            (MEGABYTE - 1, BlockType::Mib1, 1),
            (MEGABYTE, BlockType::Mib1, 1),
            (MEGABYTE + 1, BlockType::Mib1, 2),
            (u64::MAX, BlockType::Mib1, 1 << 44),
        ];
        for (size, block_type, count) in cases {
            assert_eq!(
                AllocationPlan::for_size(size),
                AllocationPlan { block_type, count },
                "{size}"
            );
        }
        assert_eq!(AllocationPlan::for_size(u64::MAX).total_bytes(), None);
    }

    #[test]
    fn blocks_read_as_they_are_written_and_impossible_ones_are_refused() {
        for block_type in BlockType::ALL {
            let block = Block::new(3 * MEGABYTE, block_type);
            assert_eq!(Block::from_words(block.to_words()), Ok(block));
            assert_eq!(Block::from_bytes(block.to_bytes()), Ok(block));
            let shifted = Block {
                offset: block.offset + 2048,
                ..block
            };
            assert_eq!(
                Block::from_words(shifted.to_words()),
                Err(Status::WrongSize)
            );
            for size in [0, 1, 4095, u64::MAX, block.size + (1 << 32)] {
                let wrong = Block { size, ..block };
                assert_eq!(Block::from_words(wrong.to_words()), Err(Status::WrongSize));
            }
        }
        assert_eq!(
            Block::from_words([0, 4096 | 4 << 32]),
            Err(Status::WrongSize)
        );
    }

    #[test]
    fn a_transfer_must_end_within_its_block() {
        let arguments = |offset_in_block| {
            TransferArguments {
                block: Block::new(0, BlockType::Kib4),
                offset_in_block,
            }
            .to_arguments()
        };
        assert!(TransferArguments::parse(arguments(0), 4096).is_ok());
        assert!(TransferArguments::parse(arguments(4096), 0).is_ok());
        for (offset, len) in [(1, 4096), (4097, 0), (u64::MAX, 1), (0, u32::MAX)] {
            assert_eq!(
                TransferArguments::parse(arguments(offset), len),
                Err(Status::BeyondBlock),
                "{offset} {len}"
            );
        }
    }

    #[test]
    fn statistics_fit_their_buffer() {
        let most = u64::MAX;
        let stats = Stats {
            metrics: PerfMetrics::default(),
            remaining_size: most,
            total_size: most,
            bdev_type: BdevType::Ram,
            direct_io: true,
            io_depth: u32::MAX,
            alignment: u32::MAX,
            activity: Activity {
                read_operations: most,
                write_operations: most,
                read_bytes: most,
                write_bytes: most,
                allocated_blocks: most,
                freed_blocks: most,
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
