//! Memory as a client has it.

/// Memory as a client has it, that begins `shift` bytes behind a page's border.
pub(crate) struct TestBuffer {
    memory: Vec<u8>,
    start: usize,
    pub(crate) len: usize,
}

impl TestBuffer {
    pub(crate) fn new(len: usize, shift: usize) -> Self {
        let memory = vec![0; len + shift + 4096];
        let start = memory.as_ptr().align_offset(4096) + shift;
        Self { memory, start, len }
    }

    pub(crate) fn of(bytes: &[u8], shift: usize) -> Self {
        let mut buffer = Self::new(bytes.len(), shift);
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    pub(super) fn address(&mut self) -> *mut u8 {
        self.memory.as_mut_ptr().wrapping_add(self.start)
    }
}
