//! How full a megabyte is, and which of its free slots an allocation takes.

use chimaera_bdev_proto::BlockType;

use chimaera_bdev_format::block_map::{Slot, UNIT_WORDS, UnitMap};

/// How much of a megabyte is taken, as far as allocation needs to know.
///
/// The numbers stand in the state word of a [`super::megabyte::Megabyte`]: 0 must be `Empty`.
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
        } else if free_quarters(a) | free_quarters(b) | free_quarters(c) | free_quarters(d) != 0 {
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

/// The free slot of this type that breaks the least: a slot inside a larger one that is broken already goes
/// before one inside a larger one that is whole. The lowest of those that are equal.
#[inline]
pub(crate) fn choose(block_type: BlockType, units: &UnitMap) -> Option<Slot> {
    let number = match block_type {
        BlockType::Kib4 => choose_unit(units),
        BlockType::Kib64 => choose_quarter(units),
        BlockType::Kib256 => units.iter().position(|word| *word == 0),
        BlockType::Mib1 => (*units == [0; UNIT_WORDS]).then_some(0),
    };
    number.map(|number| Slot { block_type, number })
}

const QUARTER_TOPS: u64 = 0x8000_8000_8000_8000;

/// The top bit of each quarter of a word that is 0.
#[inline]
const fn free_quarters(word: u64) -> u64 {
    // Adding cannot carry out of a quarter, because its top bit is masked before.
    let below_top_nonzero = (word & !QUARTER_TOPS) + !QUARTER_TOPS;
    !(below_top_nonzero | word) & QUARTER_TOPS
}

#[inline]
fn choose_unit(units: &UnitMap) -> Option<usize> {
    let mut free_quarter = None;
    let mut free_word = None;
    for (word, &bits) in units.iter().enumerate() {
        let free = free_quarters(bits);
        let split = QUARTER_TOPS & !free & !free_quarters(!bits);
        if split != 0 {
            // The lowest unit that is free in the lowest such quarter.
            let quarter_start = split.trailing_zeros() & !15;
            let free_units = !bits >> quarter_start << quarter_start;
            return Some(word * 64 + free_units.trailing_zeros() as usize);
        }
        if bits == 0 {
            free_word = free_word.or(Some(word * 64));
        } else if free != 0 {
            free_quarter =
                free_quarter.or(Some(word * 64 + (free.trailing_zeros() as usize & !15)));
        }
    }
    free_quarter.or(free_word)
}

#[inline]
fn choose_quarter(units: &UnitMap) -> Option<usize> {
    let mut free_word = None;
    for (word, &bits) in units.iter().enumerate() {
        let free = free_quarters(bits);
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
    use chimaera_bdev_format::block_map::QUARTER;

    #[test]
    fn free_quarters_are_exactly_the_zero_ones() {
        for quarter in 0..4 {
            for value in 0..=0xFFFF_u64 {
                for rest in [0, u64::MAX, 0x0001_8000_7FFF_0100] {
                    let word = rest & !(QUARTER << (16 * quarter)) | value << (16 * quarter);
                    let free = free_quarters(word) >> (16 * quarter + 15) & 1 == 1;
                    assert_eq!(free, value == 0, "{word:#x} {quarter}");
                }
            }
        }
    }

    #[test]
    fn a_slot_breaks_the_least() {
        let mut units = [0; UNIT_WORDS];
        let mut take = |block_type| {
            let slot = choose(block_type, &units)?;
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
}
