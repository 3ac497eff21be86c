//! Blocks: sizes, names, and which of them an allocation consists of.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{BLOCK_WIRE_BYTES, MEGABYTE};
use chimaera_proto::status::Status;

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
    /// A size that does not fit 32 bits, which no block has, is written as 0, which is wrong for every type.
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
    #[inline]
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
    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
