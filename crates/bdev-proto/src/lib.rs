//! The bdev module's contract: blocks, methods, creation parameters, statistics.
//!
//! The layout of each task's arguments is defined once, here, by pairs of functions that write and
//! read them. Lists of blocks that do not fit a descriptor or a completion record travel in the task's
//! buffer, [`BLOCK_WIRE_BYTES`] per block.

#![forbid(unsafe_code)]

mod block;
mod listing;
mod pool;

use chimaera_proto::Right;
use chimaera_proto::status::Status;
use chimaera_proto::task::{ARGUMENT_COUNT, VALUE_COUNT};

pub use block::{AllocationPlan, Block, BlockType};
pub use listing::{
    ListedTag, MAP_END, MIN_LISTING_BUFFER_BYTES, MegabyteState, OWNED_BLOCK_WIRE_BYTES,
    OwnedBlock, OwnerTag, listing_arguments, map_arguments,
};
pub use pool::{
    BdevType, CreateParams, FileState, IoEngine, OperationCounts, PerfMetrics, ScrubPolicy, Stats,
};

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

/// The methods of the bdev module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// Allocates blocks: [`allocate_arguments`].
    AllocateBlocks = 1,
    /// Frees blocks: [`free_arguments`]. If a block is refused, `values[0]` is its position in the list, counted
    /// from 1.
    FreeBlocks = 2,
    /// Writes the task's buffer to a block: [`TransferArguments`]. `values[0]`: bytes written.
    Write = 3,
    /// Reads from a block into the task's buffer: [`TransferArguments`]. `values[0]`: bytes read.
    Read = 4,
    /// Gives [`Stats`], encoded ([`chimaera_proto::codec`]) in the buffer, `values[0]` bytes long.
    GetStats = 5,
    /// Makes durable all that completed before: writes, allocations, frees. No arguments, no values.
    Flush = 6,
    /// Gives the allocated blocks, a page at a time: [`listing_arguments`].
    ListBlocks = 7,
    /// Gives the state of every megabyte, a page at a time: [`map_arguments`].
    GetMap = 8,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 8] = [
        Self::AllocateBlocks,
        Self::FreeBlocks,
        Self::Write,
        Self::Read,
        Self::GetStats,
        Self::Flush,
        Self::ListBlocks,
        Self::GetMap,
    ];

    /// The right to the pool that the method needs.
    #[must_use]
    pub const fn right(self) -> Right {
        match self {
            Self::Read | Self::GetStats | Self::ListBlocks | Self::GetMap => Right::Read,
            Self::AllocateBlocks | Self::FreeBlocks | Self::Write | Self::Flush => Right::Write,
        }
    }

    /// The method with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::AllocateBlocks,
            2 => Self::FreeBlocks,
            3 => Self::Write,
            4 => Self::Read,
            5 => Self::GetStats,
            6 => Self::Flush,
            7 => Self::ListBlocks,
            8 => Self::GetMap,
            _ => return None,
        })
    }
}

/// Arguments of [`Method::AllocateBlocks`]. Every block gets the owner tag. The blocks come back in the values
/// (their count, then two words per block) if there are at most [`INLINE_BLOCKS`], else as a list in the buffer,
/// with their count in `values[0]`.
#[must_use]
pub const fn allocate_arguments(size: u64, owner: OwnerTag) -> [u64; ARGUMENT_COUNT] {
    [size, owner.0, 0]
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

    /// Where in the pool the transfer begins, in bytes, if the arguments are valid. Nothing is validated here,
    /// so this may serve as a hint only.
    #[must_use]
    pub const fn probable_start(arguments: &[u64; ARGUMENT_COUNT]) -> u64 {
        arguments[0].wrapping_add(arguments[2])
    }

    /// Reads the arguments, for a transfer of `len_bytes`.
    ///
    /// # Errors
    /// [`Status::WrongSize`] as [`Block::from_words`]; [`Status::BeyondBlock`] if the transfer
    /// does not end within the block.
    #[inline]
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

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    /// The method that follows in the enum, `None` after the last. Every method has an arm, or this does not compile.
    fn method_after(method: Method) -> Option<Method> {
        Some(match method {
            Method::AllocateBlocks => Method::FreeBlocks,
            Method::FreeBlocks => Method::Write,
            Method::Write => Method::Read,
            Method::Read => Method::GetStats,
            Method::GetStats => Method::Flush,
            Method::Flush => Method::ListBlocks,
            Method::ListBlocks => Method::GetMap,
            Method::GetMap => return None,
        })
    }

    #[test]
    fn every_method_is_found_by_its_number() {
        let methods =
            iter::successors(Some(Method::AllocateBlocks), |&method| method_after(method));
        let mut all = Vec::new();
        for method in methods {
            assert_eq!(Method::from_number(method as u16), Some(method));
            all.push(method);
        }
        assert_eq!(all, Method::ALL);
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
}
