//! Where blocks lie inside a megabyte: pure arithmetic on bitmaps.
//!
//! A megabyte has 256 units of 4 KiB, kept in four words: a word is a 256 KiB slot, a 16-bit lane
//! of it a 64 KiB slot. So free neighbours need no merging: a slot is free when its bits are 0.
#![forbid(unsafe_code)]

use chimaera_proto::bdev::{BlockType, MEGABYTE, UNIT_BYTES};

/// Units of 4 KiB in a megabyte.
pub(crate) const UNITS: u64 = MEGABYTE / UNIT_BYTES;

/// Words of a map with a bit per unit.
pub(crate) const UNIT_WORDS: usize = UNITS as usize / 64;

/// Words of a map of blocks: a bit per unit, and one word for the larger types.
pub(crate) const LIVE_WORDS: usize = UNIT_WORDS + 1;

/// A bit per unit.
pub(crate) type UnitMap = [u64; UNIT_WORDS];

/// A place in a megabyte where a block of some type can lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Type of the block.
    pub(crate) block_type: BlockType,
    /// Which of the megabyte's slots of this type.
    pub(crate) number: usize,
}

impl Slot {
    /// The slot of this type that holds the unit.
    pub(crate) const fn holding(unit: usize, block_type: BlockType) -> Self {
        Self {
            block_type,
            number: unit / units_of(block_type) as usize,
        }
    }

    /// Its first unit.
    pub(crate) const fn first_unit(self) -> usize {
        self.number * units_of(self.block_type) as usize
    }

    /// Word and bit that stand for the block in a map of blocks.
    #[inline]
    pub(crate) const fn live_place(self) -> (usize, u64) {
        let bit = match self.block_type {
            BlockType::Kib4 => return (self.number / 64, 1 << (self.number % 64)),
            BlockType::Kib64 => self.number,
            BlockType::Kib256 => 16 + self.number,
            BlockType::Mib1 => 20,
        };
        (UNIT_WORDS, 1 << bit)
    }

    /// The slot that a bit of a map of blocks stands for, if any.
    pub(crate) const fn from_live_place(word: usize, bit: usize) -> Option<Self> {
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
    /// Without indexing by a number that is not a constant, so that maps stay in registers: this
    /// is on the way of every allocation and every free.
    #[inline]
    pub(crate) const fn units(self) -> UnitMap {
        let (word, bits) = match self.block_type {
            BlockType::Kib4 => (self.number / 64, 1 << (self.number % 64)),
            BlockType::Kib64 => (self.number / 4, LANE << (16 * (self.number % 4))),
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
    pub(crate) fn is_free(self, units: &UnitMap) -> bool {
        self.units()
            .iter()
            .zip(units)
            .all(|(mine, theirs)| mine & theirs == 0)
    }

    /// The free slot of this type that breaks the least: first one in what is broken already,
    /// last one in what is whole. The lowest among equals.
    #[inline]
    pub(crate) fn choose(block_type: BlockType, units: &UnitMap) -> Option<Self> {
        let number = match block_type {
            BlockType::Kib4 => choose_unit(units),
            BlockType::Kib64 => choose_lane(units),
            BlockType::Kib256 => units.iter().position(|word| *word == 0),
            BlockType::Mib1 => (*units == [0; UNIT_WORDS]).then_some(0),
        };
        number.map(|number| Self { block_type, number })
    }
}

/// Which blocks of a megabyte are allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct MegabyteMap(pub(crate) [u64; LIVE_WORDS]);

impl MegabyteMap {
    /// None.
    pub(crate) const EMPTY: Self = Self([0; LIVE_WORDS]);

    /// One block, of the whole megabyte.
    pub(crate) const WHOLE: Self = {
        let mut words = [0; LIVE_WORDS];
        words[UNIT_WORDS] = 1 << 20;
        Self(words)
    };

    /// The map with this block added.
    #[cfg(test)]
    pub(crate) const fn with(mut self, slot: Slot) -> Self {
        let (word, bit) = slot.live_place();
        self.0[word] |= bit;
        self
    }

    /// The blocks, in no particular order. Bits that stand for none are passed over.
    pub(crate) fn blocks(self) -> impl Iterator<Item = Slot> {
        self.0.into_iter().enumerate().flat_map(|(word, bits)| {
            let mut bits = bits;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(Slot::from_live_place(word, bit))
            })
            .flatten()
        })
    }

    /// How many blocks: a bit each.
    pub(crate) fn count(self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is no block.
    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        let [a, b, c, d, e] = self.0;
        a | b | c | d | e == 0
    }

    /// The units that its blocks take, or `None` if it has two blocks in one place or bits that stand
    /// for no block: there can be no such map.
    #[inline]
    pub(crate) fn units(self) -> Option<UnitMap> {
        // Most megabytes have small blocks only, or are one.
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
        const PLACES: u64 = (1 << 21) - 1;
        if self.0[UNIT_WORDS] & !PLACES != 0 {
            return None;
        }
        // The smallest blocks are units already, and the larger ones are few.
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

/// Units of a block of this type.
#[inline]
pub(crate) const fn units_of(block_type: BlockType) -> u64 {
    block_type.size() / UNIT_BYTES
}

/// How much of a megabyte is taken, as far as allocation needs to know.
///
/// The numbers are those in the record's state word: 0 must be `Empty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Fill {
    /// All of it is free.
    Empty = 0,
    /// Partly used; the largest free slot is a 4 KiB one.
    Kib4Left = 1,
    /// Partly used; the largest free slot is a 64 KiB one.
    Kib64Left = 2,
    /// Partly used; the largest free slot is a 256 KiB one.
    Kib256Left = 3,
    /// Nothing of it is free.
    Full = 4,
}

impl Fill {
    #[inline]
    pub(crate) const fn of(units: &UnitMap) -> Self {
        let [a, b, c, d] = *units;
        if a | b | c | d == 0 {
            Self::Empty
        } else if a == 0 || b == 0 || c == 0 || d == 0 {
            Self::Kib256Left
        } else if free_lanes(a) | free_lanes(b) | free_lanes(c) | free_lanes(d) != 0 {
            Self::Kib64Left
        } else if a & b & c & d != u64::MAX {
            Self::Kib4Left
        } else {
            Self::Full
        }
    }

    pub(crate) const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Empty,
            1 => Self::Kib4Left,
            2 => Self::Kib64Left,
            3 => Self::Kib256Left,
            _ => Self::Full,
        }
    }

    /// Position among the classes of partly used megabytes, smallest free slot first.
    #[inline]
    pub(crate) const fn class(self) -> Option<usize> {
        match self {
            Self::Empty | Self::Full => None,
            Self::Kib4Left => Some(0),
            Self::Kib64Left => Some(1),
            Self::Kib256Left => Some(2),
        }
    }
}

/// Classes of partly used megabytes: by the largest slot left in them.
pub(crate) const CLASSES: usize = 3;

const LANE: u64 = 0xFFFF;
const LANE_TOPS: u64 = 0x8000_8000_8000_8000;

/// The top bit of each 16-bit lane that is 0.
#[inline]
const fn free_lanes(word: u64) -> u64 {
    // Adding cannot carry out of a lane, because the lane's top bit is masked before.
    let below_top_nonzero = (word & !LANE_TOPS) + !LANE_TOPS;
    !(below_top_nonzero | word) & LANE_TOPS
}

#[inline]
fn choose_unit(units: &UnitMap) -> Option<usize> {
    let mut free_lane = None;
    let mut free_word = None;
    for (word, &bits) in units.iter().enumerate() {
        let free = free_lanes(bits);
        let split = LANE_TOPS & !free & !free_lanes(!bits);
        if split != 0 {
            // The lowest unit that is free in the lowest such lane.
            let lane_start = split.trailing_zeros() & !15;
            let free_units = !bits >> lane_start << lane_start;
            return Some(word * 64 + free_units.trailing_zeros() as usize);
        }
        if bits == 0 {
            free_word = free_word.or(Some(word * 64));
        } else if free != 0 {
            free_lane = free_lane.or(Some(word * 64 + (free.trailing_zeros() as usize & !15)));
        }
    }
    free_lane.or(free_word)
}

#[inline]
fn choose_lane(units: &UnitMap) -> Option<usize> {
    let mut free_word = None;
    for (word, &bits) in units.iter().enumerate() {
        let free = free_lanes(bits);
        if bits == 0 {
            free_word = free_word.or(Some(word * 4));
        } else if free != 0 {
            return Some(word * 4 + free.trailing_zeros() as usize / 16);
        }
    }
    free_word
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_map_with_two_blocks_in_one_place_is_none() {
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
    fn free_lanes_are_exactly_the_zero_ones() {
        for lane in 0..4 {
            for value in 0..=0xFFFF_u64 {
                for rest in [0, u64::MAX, 0x0001_8000_7FFF_0100] {
                    let word = rest & !(LANE << (16 * lane)) | value << (16 * lane);
                    let free = free_lanes(word) >> (16 * lane + 15) & 1 == 1;
                    assert_eq!(free, value == 0, "{word:#x} {lane}");
                }
            }
        }
    }

    #[test]
    fn a_slot_breaks_the_least() {
        let mut units = [0; UNIT_WORDS];
        let mut take = |block_type| {
            let slot = Slot::choose(block_type, &units)?;
            assert!(slot.is_free(&units));
            units = std::array::from_fn(|word| units[word] | slot.units()[word]);
            Some(slot.first_unit())
        };
        assert_eq!(take(BlockType::Kib4), Some(0));
        assert_eq!(
            take(BlockType::Kib64),
            Some(16),
            "beside the unit, in the broken 256 KiB"
        );
        assert_eq!(take(BlockType::Kib256), Some(64));
        assert_eq!(take(BlockType::Kib4), Some(1), "in the broken 64 KiB");
        assert_eq!(take(BlockType::Kib64), Some(32));
        assert_eq!(take(BlockType::Kib64), Some(48));
        assert_eq!(
            take(BlockType::Kib64),
            Some(128),
            "now a 256 KiB has to break"
        );
        assert_eq!(take(BlockType::Kib256), Some(192));
        for unit in 2..16 {
            assert_eq!(take(BlockType::Kib4), Some(unit));
        }
        assert_eq!(take(BlockType::Kib4), Some(144));
        assert_eq!(take(BlockType::Kib256), None);
        assert_eq!(take(BlockType::Mib1), None);
    }

    #[test]
    fn places_and_slots_correspond() {
        for block_type in BlockType::ALL {
            for number in 0..(UNITS / units_of(block_type)) as usize {
                let slot = Slot { block_type, number };
                let (word, bit) = slot.live_place();
                assert_eq!(
                    Slot::from_live_place(word, bit.trailing_zeros() as usize),
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
        assert_eq!(Slot::from_live_place(UNIT_WORDS, 21), None);
    }
}
