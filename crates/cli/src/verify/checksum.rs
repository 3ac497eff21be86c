//! A checksum and a source of numbers. Neither is to withstand anyone: they find accidents, and make
//! runs that can be made again.

/// A checksum of 64 bits that depends on every bit and its place, and on what came before (`start`).
pub(super) fn checksum(start: u64, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let words = words.iter().chain([&last]);
    // Each step can be undone, so a change in one word never gets lost on the way; and it spreads every
    // bit, so that no change of few bits in the next word takes it back.
    words.fold(start ^ bytes.len() as u64, |sum, word| {
        mix(sum.wrapping_add(STEP) ^ u64::from_le_bytes(*word))
    })
}

/// 2⁶⁴ divided by the golden ratio: keeps zeros from staying zeros.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every bit over all of them (the finalizer of `SplitMix64`).
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Numbers that look random: the same after the same seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `end`, or 0.
    pub(super) const fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            return 0;
        }
        (self.next() % end as u64) as usize
    }

    /// Whether one of `n` chances came up.
    pub(super) const fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_place_and_length_counts() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut seen = vec![checksum(0, &bytes), checksum(1, &bytes)];
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            seen.push(checksum(0, &other));
        }
        for len in 0..bytes.len() {
            seen.push(checksum(0, &bytes[..len]));
            seen.push(checksum(0, &vec![0; len + 2]));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
