//! Aligned private memory, for transfers that the device cannot do in the client's buffer.

#![forbid(unsafe_code)]

use chimaera_chimod::{SharedBuffer, WritableBuffer};
use chimaera_proto::Status;

const PAGE_BYTES: usize = 4096;

#[derive(Clone, Copy)]
#[repr(align(4096))]
struct BouncePage([u8; PAGE_BYTES]);

/// Memory that begins and ends on page borders, which is more than any device asks for.
pub(super) struct Bounce {
    pages: Vec<BouncePage>,
}

impl Bounce {
    /// Zeroed memory of at least `len_bytes`.
    ///
    /// # Errors
    /// [`Status::OutOfMemory`].
    pub(super) fn new(len_bytes: u32) -> Result<Self, Status> {
        let count = (len_bytes as usize).div_ceil(PAGE_BYTES);
        let mut pages = Vec::new();
        pages
            .try_reserve_exact(count)
            .map_err(|_| Status::OutOfMemory)?;
        pages.resize(count, BouncePage([0; PAGE_BYTES]));
        Ok(Self { pages })
    }

    /// First byte, for the device. While it works there, nothing else here may be called.
    pub(super) fn address(&mut self) -> *mut u8 {
        self.pages.as_mut_ptr().cast()
    }

    /// Copies the whole buffer, once, to `at` and behind.
    pub(super) fn fill(&mut self, at: u32, buffer: &SharedBuffer<'_>) {
        self.each_piece(at, buffer.len(), |offset, piece| {
            buffer.copy_to(offset, piece);
        });
    }

    /// Copies from `at` on into the whole buffer.
    pub(super) fn copy_out(&mut self, at: u32, buffer: &WritableBuffer<'_>) {
        self.each_piece(at, buffer.len(), |offset, piece| {
            buffer.copy_from(offset, piece);
        });
    }

    /// Calls `visit` for the part of each page within `at..at + len`, with its distance from
    /// `at`.
    fn each_piece(&mut self, at: u32, len: usize, mut visit: impl FnMut(usize, &mut [u8])) {
        let mut done = 0;
        while done < len {
            let position = at as usize + done;
            let in_page = position % PAGE_BYTES;
            let count = (PAGE_BYTES - in_page).min(len - done);
            let page = &mut self.pages[position / PAGE_BYTES].0;
            visit(done, &mut page[in_page..in_page + count]);
            done += count;
        }
    }
}
