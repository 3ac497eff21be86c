//! Where blocks lie inside a megabyte: pure arithmetic on bitmaps.
//!
//! A megabyte has 256 units of 4 KiB, each with a bit in one of four words. A word stands for a 256 KiB slot,
//! each quarter of a word (16 bits) for a 64 KiB slot. So free neighbours need no merging: a slot is free when
//! its bits are 0.

use chimaera_bdev_proto::{BlockType, MEGABYTE, OwnerTag, UNIT_BYTES};

/// Units of 4 KiB in a megabyte.
pub const UNITS: u64 = MEGABYTE / UNIT_BYTES;

/// Words of a map with a bit per unit.
pub const UNIT_WORDS: usize = UNITS as usize / 64;

/// Words of a map of blocks: a bit per block of one unit, and one word for the larger types.
pub const LIVE_WORDS: usize = UNIT_WORDS + 1;

/// The bits of a 64 KiB slot: a quarter of a word.
pub const QUARTER: u64 = 0xFFFF;

/// A bit per unit.
pub type UnitMap = [u64; UNIT_WORDS];

/// A place in a megabyte where a block of some type can lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Type of the block.
    pub block_type: BlockType,
    /// Which of the megabyte's slots of this type.
    pub number: usize,
}

impl Slot {
    /// The slot of this type that holds the unit.
    pub const fn holding(unit: usize, block_type: BlockType) -> Self {
        Self {
            block_type,
            number: unit / units_of(block_type) as usize,
        }
    }

    /// Its first unit.
    pub const fn first_unit(self) -> usize {
        self.number * units_of(self.block_type) as usize
    }

    /// Word and bit that stand for the block in a map of blocks.
    #[inline]
    pub const fn live_bit(self) -> (usize, u64) {
        let bit = match self.block_type {
            BlockType::Kib4 => return (self.number / 64, 1 << (self.number % 64)),
            BlockType::Kib64 => self.number,
            BlockType::Kib256 => 16 + self.number,
            BlockType::Mib1 => 20,
        };
        (UNIT_WORDS, 1 << bit)
    }

    /// The slot that a bit of a map of blocks stands for, if any.
    pub const fn from_live_bit(word: usize, bit: usize) -> Option<Self> {
        let (block_type, number) = match (word < UNIT_WORDS, bit) {
            (true, bit) => (BlockType::Kib4, word * 64 + bit),
            (false, 0..16) => (BlockType::Kib64, bit),
            (false, 16..20) => (BlockType::Kib256, bit - 16),
            (false, 20) => (BlockType::Mib1, 0),
            (false, _) => return None,
        };
        Some(Self { block_type, number })
    }

    /// The slot's units.
    ///
    /// Every allocation and every free calls this. It indexes by constants only, so that maps stay in
    /// registers.
    #[inline]
    pub const fn units(self) -> UnitMap {
        let (word, bits) = match self.block_type {
            BlockType::Kib4 => (self.number / 64, 1 << (self.number % 64)),
            BlockType::Kib64 => (self.number / 4, QUARTER << (16 * (self.number % 4))),
            BlockType::Kib256 => (self.number, u64::MAX),
            BlockType::Mib1 => return [u64::MAX; UNIT_WORDS],
        };
        const fn bits_if(bits: u64, condition: bool) -> u64 {
            if condition { bits } else { 0 }
        }
        [
            bits_if(bits, word == 0),
            bits_if(bits, word == 1),
            bits_if(bits, word == 2),
            bits_if(bits, word == 3),
        ]
    }

    /// Whether none of the slot's units is set.
    pub fn is_free(self, units: &UnitMap) -> bool {
        self.units()
            .iter()
            .zip(units)
            .all(|(mine, theirs)| mine & theirs == 0)
    }
}

/// Which blocks of a megabyte are allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MegabyteMap(pub [u64; LIVE_WORDS]);

impl MegabyteMap {
    /// No blocks.
    pub const EMPTY: Self = Self([0; LIVE_WORDS]);

    /// One block, which is the whole megabyte.
    pub const WHOLE: Self = {
        let mut words = [0; LIVE_WORDS];
        words[UNIT_WORDS] = 1 << 20;
        Self(words)
    };

    /// The map with this block added.
    #[must_use]
    pub const fn with(mut self, slot: Slot) -> Self {
        let (word, bit) = slot.live_bit();
        self.0[word] |= bit;
        self
    }

    /// The blocks, in no particular order. Bits that stand for no block are skipped.
    pub fn blocks(self) -> impl Iterator<Item = Slot> {
        self.0.into_iter().enumerate().flat_map(|(word, bits)| {
            let mut bits = bits;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(Slot::from_live_bit(word, bit))
            })
            .flatten()
        })
    }

    /// The number of blocks: a bit each.
    pub fn count(self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is no block.
    #[inline]
    pub const fn is_empty(self) -> bool {
        let [a, b, c, d, e] = self.0;
        a | b | c | d | e == 0
    }

    /// The units that its blocks take, or `None` if the map is invalid: two blocks overlap, or a bit stands
    /// for no block.
    #[inline]
    pub fn units(self) -> Option<UnitMap> {
        // Most megabytes have blocks of one unit only, or are one block.
        let [a, b, c, d, larger] = self.0;
        match larger {
            0 => Some([a, b, c, d]),
            _ if larger == Self::WHOLE.0[UNIT_WORDS] && a | b | c | d == 0 => {
                Some([u64::MAX; UNIT_WORDS])
            }
            _ => self.units_of_mixture(),
        }
    }

    fn units_of_mixture(self) -> Option<UnitMap> {
        const VALID_BITS: u64 = (1 << 21) - 1;
        if self.0[UNIT_WORDS] & !VALID_BITS != 0 {
            return None;
        }
        // The bits of the smallest blocks are those of their units, and the larger blocks are few.
        let mut units: UnitMap = std::array::from_fn(|word| self.0[word]);
        let mut larger = Self::EMPTY;
        larger.0[UNIT_WORDS] = self.0[UNIT_WORDS];
        for slot in larger.blocks() {
            if !slot.is_free(&units) {
                return None;
            }
            let more = slot.units();
            units = std::array::from_fn(|word| units[word] | more[word]);
        }
        Some(units)
    }
}

/// How a megabyte has changed since the last commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MegabyteChange {
    /// Number of the megabyte.
    pub megabyte: u32,
    /// All its blocks.
    pub map: MegabyteMap,
    /// The blocks among them that were allocated since, by their first unit in the pool, with their tags.
    pub allocated: Vec<(u64, OwnerTag)>,
}

/// Units of a block of this type.
#[inline]
pub const fn units_of(block_type: BlockType) -> u64 {
    block_type.size() / UNIT_BYTES
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_map_with_overlapping_blocks_is_invalid() {
        let slot = |block_type, number| Slot { block_type, number };
        let map = MegabyteMap::EMPTY
            .with(slot(BlockType::Kib4, 0))
            .with(slot(BlockType::Kib64, 1))
            .with(slot(BlockType::Kib256, 3));
        let units = map.units().expect("the blocks lie apart");
        let set: u32 = units.iter().map(|word| word.count_ones()).sum();
        assert_eq!(set, 1 + 16 + 64);
        assert_eq!(map.blocks().count(), 3);
        assert_eq!(map.with(slot(BlockType::Kib4, 16)).units(), None);
        assert_eq!(map.with(slot(BlockType::Kib64, 12)).units(), None);
        assert_eq!(map.with(slot(BlockType::Mib1, 0)).units(), None);
        assert_eq!(MegabyteMap::WHOLE.units(), Some([u64::MAX; UNIT_WORDS]));
        assert_eq!(MegabyteMap([0, 0, 0, 0, 1 << 21]).units(), None);
        assert_eq!(MegabyteMap::EMPTY.units(), Some([0; UNIT_WORDS]));
    }

    #[test]
    fn bits_and_slots_correspond() {
        for block_type in BlockType::ALL {
            for number in 0..(UNITS / units_of(block_type)) as usize {
                let slot = Slot { block_type, number };
                let (word, bit) = slot.live_bit();
                assert_eq!(
                    Slot::from_live_bit(word, bit.trailing_zeros() as usize),
                    Some(slot)
                );
                assert_eq!(Slot::holding(slot.first_unit(), block_type), slot);
                let units = slot.units();
                let set: u32 = units.iter().map(|word| word.count_ones()).sum();
                assert_eq!(u64::from(set), units_of(block_type));
                let first = slot.first_unit();
                assert_eq!(units[first / 64].trailing_zeros() as usize, first % 64);
            }
        }
        assert_eq!(Slot::from_live_bit(UNIT_WORDS, 21), None);
    }
}
