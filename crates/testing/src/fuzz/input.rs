//! What a target makes of an input's bytes.

/// The bytes of an input, taken from the front. Behind the last come zeroes: a target stops when it
/// [has ended](FuzzInput::has_ended).
#[derive(Clone, Debug)]
pub struct FuzzInput<'a> {
    rest: &'a [u8],
}

impl<'a> FuzzInput<'a> {
    /// All of an input.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Whether all was taken.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// A number below `limit`, of the next byte; or of the next four where a byte does not reach.
    pub fn below(&mut self, limit: usize) -> usize {
        match limit {
            0..=256 => usize::from(self.byte()) % limit.max(1),
            _ => self.number_u32() as usize % limit,
        }
    }

    /// Whether something that is to be so once in `count` times is so.
    pub fn once_in(&mut self, count: usize) -> bool {
        // Not at the end of the input.
        self.below(count) == count - 1
    }

    /// One of several.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// The next two bytes.
    pub fn number_u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes.
    pub fn number_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn number_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number as programs get them wrong: small, around a power of two, the largest ones, or any.
    pub fn edge_u64(&mut self) -> u64 {
        let near = |value: u64, byte: u8| value.wrapping_add(u64::from(byte % 3)).wrapping_sub(1);
        match self.below(4) {
            0 => u64::from(self.byte()),
            1 => near(1 << (self.byte() % 64), self.byte()),
            2 => u64::MAX - u64::from(self.byte()),
            _ => self.number_u64(),
        }
    }

    /// The next bytes, at most `max` of them: a length comes first.
    pub fn bytes(&mut self, max: usize) -> &'a [u8] {
        let len = self.below(max + 1);
        self.take(len)
    }

    fn array<const LEN: usize>(&mut self) -> [u8; LEN] {
        let taken = self.take(LEN);
        std::array::from_fn(|byte| taken.get(byte).copied().unwrap_or(0))
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}
