//! A task's buffer on the host's side.

use std::ptr::NonNull;
use std::sync::Arc;

use chimaera_proto::BufferRange;
use chimaera_shm::Segment;

/// A task's buffer, as the host sees it.
#[derive(Clone, Debug)]
pub struct HostBuffer {
    /// Keeps the memory mapped.
    _segment: Arc<Segment>,
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: the address is that of memory which the segment keeps mapped, and which is only copied from and to.
unsafe impl Send for HostBuffer {}

impl HostBuffer {
    /// The range that a task names, in its segment.
    ///
    /// # Panics
    /// If it does not lie in there.
    pub(super) fn of(segment: &Arc<Segment>, range: &BufferRange) -> Self {
        let address = segment
            .range(range.offset_bytes, range.len_bytes.into())
            .expect("the buffer lies in its segment");
        Self {
            _segment: Arc::clone(segment),
            address,
            len: range.len_bytes as usize,
        }
    }

    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no module asks for that")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where it lies in the host's memory.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address.as_ptr() as usize
    }

    /// A copy of what stands in it.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        // SAFETY: the range lies in the segment, which stays mapped.
        unsafe {
            std::ptr::copy_nonoverlapping(self.address.as_ptr(), bytes.as_mut_ptr(), self.len);
        }
        bytes
    }

    /// Writes to its beginning.
    ///
    /// # Panics
    /// If it is shorter than that.
    pub fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        // SAFETY: as in `read`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.as_ptr(), bytes.len());
        }
    }
}
