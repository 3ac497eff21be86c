//! Data that says where it belongs.

/// Data of a writer: every byte follows from the writer, from what it wrote and from the byte's
/// place in the pool. So data that went astray, is torn or stale, is told from what is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    tag: u64,
}

impl Pattern {
    /// The data that this writer writes as its `generation`th.
    #[must_use]
    pub const fn new(writer: u32, generation: u32) -> Self {
        Self {
            tag: (writer as u64) << 32 | generation as u64,
        }
    }

    /// Fills a buffer that is to be written at this place of the pool.
    pub fn fill(self, offset_in_pool: u64, buffer: &mut [u8]) {
        for (byte, expected) in buffer.iter_mut().zip(self.bytes_from(offset_in_pool)) {
            *byte = expected;
        }
    }

    /// Checks what was read from this place of the pool.
    ///
    /// # Panics
    /// If a byte is not what this writer wrote.
    pub fn check(self, offset_in_pool: u64, buffer: &[u8]) {
        let wrong = buffer
            .iter()
            .zip(self.bytes_from(offset_in_pool))
            .position(|(&byte, expected)| byte != expected);
        if let Some(wrong) = wrong {
            let place = offset_in_pool + wrong as u64;
            panic!("byte {place:#x} of the pool is not that of {self:?}");
        }
    }

    fn bytes_from(self, offset_in_pool: u64) -> impl Iterator<Item = u8> {
        let word = offset_in_pool >> 3;
        (word..)
            .flat_map(move |word| self.word(word).to_le_bytes())
            .skip((offset_in_pool & 7) as usize)
    }

    /// The finaliser of SplitMix64 makes words out of tags and places that are not alike.
    fn word(self, place: u64) -> u64 {
        let mut word = (self.tag ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "byte 0x1007 of the pool")]
    fn data_of_another_place_is_told() {
        let mut bytes = [0; 64];
        Pattern::new(1, 1).fill(0x1000, &mut bytes);
        Pattern::new(1, 1).check(0x1000, &bytes);
        bytes[7] ^= 1;
        Pattern::new(1, 1).check(0x1000, &bytes);
    }

    #[test]
    fn writers_and_generations_differ() {
        let bytes = |pattern: Pattern| {
            let mut bytes = [0; 64];
            pattern.fill(0, &mut bytes);
            bytes
        };
        assert_ne!(bytes(Pattern::new(1, 1)), bytes(Pattern::new(2, 1)));
        assert_ne!(bytes(Pattern::new(1, 1)), bytes(Pattern::new(1, 2)));
    }
}
