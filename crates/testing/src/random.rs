//! Numbers that choose for a test.

/// Pseudo-random numbers (xorshift64*): the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Xorshift {
    state: u64,
}

impl Xorshift {
    /// The numbers of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Of a state of zero the generator makes zeros only.
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { state }
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, near enough to uniform.
    pub fn below(&mut self, limit: usize) -> usize {
        // The lower bits are the weakest.
        (self.next_number() >> 16) as usize % limit
    }
}
