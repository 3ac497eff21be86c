//! What a workload writes into blocks: contents that say what they are.
//!
//! Every sector of a block names its journal, its place and the write that it comes from, under a checksum. So a reader
//! can tell of each sector whether it is the one that must be there, or is stale, torn, misplaced, of another journal,
//! or nothing of a workload's at all.
//!
//! ```text
//! word   0         1 2       3       4                  5           6 … 62    63
//!      ┌─────────┬─────────┬───────┬──────────────────┬────────────┬─────────┬──────────┐
//!      │ magic   │ journal │ block │ type « 32 |      │ generation │ filling │ checksum │
//!      │         │         │ offset│ sector in block  │ (its id)   │         │ of 0…62  │
//!      └─────────┴─────────┴───────┴──────────────────┴────────────┴─────────┴──────────┘
//! ```

use std::fmt;

use chimaera_bdev_client::Block;

use super::ids::{JournalId, OperationId};
use super::split_mix::SplitMix64;

/// Bytes of a sector: what a device writes either whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

const WORDS: usize = SECTOR_BYTES / 8;

/// Words of a sector before its filling.
const HEADER_WORDS: usize = 6;

const MAGIC: u64 = u64::from_le_bytes(*b"chmVRFY1");

/// What a sector turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectorContents {
    /// What the write of this generation put there.
    Of(OperationId),
    /// A whole sector of this journal's that belongs elsewhere.
    Misplaced { offset: u64, sector: u32 },
    /// A whole sector of another journal.
    OfAnotherJournal(JournalId),
    /// It begins as a workload's sectors do, and its checksum is wrong.
    Damaged,
    /// Zeros.
    Blank,
    /// Something else.
    Foreign,
}

impl fmt::Display for SectorContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(generation) => write!(f, "generation {generation}"),
            Self::Misplaced { offset, sector } => {
                write!(f, "sector {sector} of the block at {offset:#x}")
            }
            Self::OfAnotherJournal(id) => write!(f, "a sector of the journal {id}"),
            Self::Damaged => f.write_str("a sector with a wrong checksum"),
            Self::Blank => f.write_str("zeros"),
            Self::Foreign => f.write_str("something else"),
        }
    }
}

/// The sectors of a block that do not hold what they must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongSectors {
    /// The index of the first one in its block.
    sector: usize,
    /// What it holds.
    found: SectorContents,
    /// How many there are.
    count: usize,
}

impl fmt::Display for WrongSectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sector, found) = (self.sector, self.found);
        write!(f, "{found} in sector {sector}")?;
        match self.count {
            0 | 1 => Ok(()),
            count => write!(f, ", the first of {count} wrong ones"),
        }
    }
}

/// Fills all of a block's bytes with what the write of a generation puts there.
pub(super) fn fill(id: JournalId, block: &Block, generation: OperationId, bytes: &mut [u8]) {
    let (sectors, _) = bytes.as_chunks_mut::<SECTOR_BYTES>();
    for (index, sector) in (0..).zip(sectors) {
        let header = [
            MAGIC,
            id.0 as u64,
            (id.0 >> 64) as u64,
            block.offset,
            (block.block_type as u64) << 32 | index,
            generation.bits(),
        ];
        let mut random = SplitMix64::new(u64::from(crc32c::crc32c(&words_to_bytes(&header))));
        let (words, _) = sector.as_chunks_mut::<8>();
        for (at, word) in words[..WORDS - 1].iter_mut().enumerate() {
            let value = header.get(at).copied().unwrap_or_else(|| random.next());
            *word = value.to_le_bytes();
        }
        let (body, sum) = sector.split_at_mut(SECTOR_BYTES - 8);
        sum.copy_from_slice(&u64::from(crc32c::crc32c(body)).to_le_bytes());
    }
}

/// Checks that every sector of a block comes from the write of one of these generations.
///
/// # Errors
/// The sectors that do not.
pub(super) fn examine(
    id: JournalId,
    block: &Block,
    generations: &[OperationId],
    bytes: &[u8],
) -> Result<(), WrongSectors> {
    let (sectors, _) = bytes.as_chunks::<SECTOR_BYTES>();
    let mut wrong = sectors
        .iter()
        .enumerate()
        .map(|(index, sector)| (index, identify(id, block, index, sector)))
        .filter(|(_, found)| match found {
            SectorContents::Of(generation) => !generations.contains(generation),
            _ => true,
        });
    match wrong.next() {
        None => Ok(()),
        Some((sector, found)) => Err(WrongSectors {
            sector,
            found,
            count: 1 + wrong.count(),
        }),
    }
}

fn identify(
    id: JournalId,
    block: &Block,
    index: usize,
    sector: &[u8; SECTOR_BYTES],
) -> SectorContents {
    let (words, _) = sector.as_chunks::<8>();
    let word = |at: usize| u64::from_le_bytes(words[at]);
    if word(0) != MAGIC {
        let blank = sector.iter().all(|&byte| byte == 0);
        return if blank {
            SectorContents::Blank
        } else {
            SectorContents::Foreign
        };
    }
    if u64::from(crc32c::crc32c(&sector[..SECTOR_BYTES - 8])) != word(WORDS - 1) {
        return SectorContents::Damaged;
    }
    let other = JournalId(u128::from(word(2)) << 64 | u128::from(word(1)));
    let type_and_sector = (block.block_type as u64) << 32 | index as u64;
    if other != id {
        SectorContents::OfAnotherJournal(other)
    } else if (word(3), word(4)) != (block.offset, type_and_sector) {
        SectorContents::Misplaced {
            offset: word(3),
            sector: word(4) as u32,
        }
    } else {
        SectorContents::Of(OperationId::from_bits(word(5)))
    }
}

fn words_to_bytes(words: &[u64; HEADER_WORDS]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chimaera_bdev_client::BlockType;

    const ID: JournalId = JournalId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
    const GENERATION: OperationId = OperationId::new(3, 17);

    fn filled(id: JournalId, block: &Block, generation: OperationId) -> Vec<u8> {
        let mut bytes = vec![0; block.size as usize];
        fill(id, block, generation, &mut bytes);
        bytes
    }

    fn first_wrong(block: &Block, bytes: &[u8]) -> (usize, SectorContents, usize) {
        let wrong = examine(ID, block, &[GENERATION], bytes).expect_err("it is wrong");
        (wrong.sector, wrong.found, wrong.count)
    }

    #[test]
    fn a_block_is_recognised_by_its_generation_alone() {
        for block_type in BlockType::ALL {
            let block = Block::new(5 << 20, block_type);
            let bytes = filled(ID, &block, GENERATION);
            assert_eq!(examine(ID, &block, &[GENERATION], &bytes), Ok(()));
            let other = OperationId::new(3, 18);
            assert_eq!(examine(ID, &block, &[other, GENERATION], &bytes), Ok(()));
            let wrong = examine(ID, &block, &[other], &bytes).expect_err("stale");
            assert_eq!(wrong.found, SectorContents::Of(GENERATION));
            assert_eq!(wrong.count, bytes.len() / SECTOR_BYTES);
        }
    }

    #[test]
    fn what_a_sector_holds_instead_is_told_apart() {
        let block = Block::new(1 << 20, BlockType::Kib4);
        let good = filled(ID, &block, GENERATION);
        let replaced = |with: &[u8]| {
            let mut bytes = good.clone();
            bytes[512..1024].copy_from_slice(with);
            first_wrong(&block, &bytes)
        };
        assert_eq!(replaced(&[0; 512]), (1, SectorContents::Blank, 1));
        assert_eq!(replaced(&[7; 512]), (1, SectorContents::Foreign, 1));
        let misplaced = SectorContents::Misplaced {
            offset: 1 << 20,
            sector: 2,
        };
        assert_eq!(replaced(&good[1024..1536]), (1, misplaced, 1));
        let larger = filled(ID, &Block::new(1 << 20, BlockType::Mib1), GENERATION);
        let misplaced = SectorContents::Misplaced {
            offset: 1 << 20,
            sector: 1,
        };
        assert_eq!(replaced(&larger[512..1024]), (1, misplaced, 1));
        let other = JournalId(ID.0 ^ 1);
        let others = filled(other, &block, GENERATION);
        let expected = SectorContents::OfAnotherJournal(other);
        assert_eq!(replaced(&others[512..1024]), (1, expected, 1));
        let stale = filled(ID, &block, OperationId::new(3, 16));
        let expected = SectorContents::Of(OperationId::new(3, 16));
        assert_eq!(replaced(&stale[512..1024]), (1, expected, 1));
    }

    #[test]
    fn no_changed_bit_goes_unseen() {
        let block = Block::new(0, BlockType::Kib4);
        let good = filled(ID, &block, GENERATION);
        for bit in 0..512 * 8 {
            let mut bytes = good.clone();
            bytes[512 + bit / 8] ^= 1 << (bit % 8);
            let (sector, _, count) = first_wrong(&block, &bytes);
            assert_eq!((sector, count), (1, 1), "bit {bit}");
        }
    }
}
