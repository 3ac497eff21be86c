//! Numbers that look random and can be drawn again.

/// 2⁶⁴ divided by the golden ratio, so that a state of zeros does not stay one.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every bit over all of them (the finalizer of `SplitMix64`).
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Numbers that look random: the same after the same seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `end`; 0 if that is 0.
    pub(super) const fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            return 0;
        }
        (self.next() % end as u64) as usize
    }

    /// True once in `n` times, on average.
    pub(super) const fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
