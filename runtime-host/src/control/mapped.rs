//! How much of its clients' memory a host has mapped.

use crate::session::Session;

/// The address space that sessions take. A segment costs its client nothing, but the host's process would end if it
/// found no address space for memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    bytes: u64,
    segments: usize,
}

impl Mapped {
    /// Half of the smallest address space that a process has on the machines we serve.
    const MAX_BYTES: u64 = 64 << 40;

    /// The part of it for one session, so that one client does not take all.
    const MAX_SESSION_BYTES: u64 = Self::MAX_BYTES / 16;

    /// Half of the mappings that Linux lets a process have unless told otherwise.
    const MAX_SEGMENTS: usize = 32 * 1024;

    /// Counts a segment that `session` registers, or with which a session opens.
    ///
    /// # Errors
    /// Why there is no room for it.
    pub(crate) fn take(&mut self, len_bytes: u64, session: Option<&Session>) -> Result<(), String> {
        let own_bytes: u64 = session.map_or(0, |session| session.segment_sizes().sum());
        if own_bytes + len_bytes > Self::MAX_SESSION_BYTES {
            return Err(format!(
                "a session has segments of at most {} bytes together, and this one would have {}",
                Self::MAX_SESSION_BYTES,
                own_bytes + len_bytes
            ));
        }
        if self.bytes + len_bytes > Self::MAX_BYTES || self.segments == Self::MAX_SEGMENTS {
            return Err(format!(
                "the daemon maps {} segments with {} bytes of other clients, and has no place for \
                 {len_bytes} more",
                self.segments, self.bytes
            ));
        }
        self.bytes += len_bytes;
        self.segments += 1;
        Ok(())
    }

    /// Takes segments whose session has ended out of the count.
    pub(crate) fn give_back(&mut self, sizes: impl IntoIterator<Item = u64>) {
        for len_bytes in sizes {
            self.bytes -= len_bytes;
            self.segments -= 1;
        }
    }
}
