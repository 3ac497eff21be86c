//! Pages, in which metadata is read and written: the disk that has them, and numbers and checksums in them.

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::PAGE_BYTES;

/// A page in memory, aligned for direct I/O on any device.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_BYTES]);

impl Page {
    /// A page of zeroes.
    pub const ZERO: Self = Self([0; PAGE_BYTES]);

    /// `count` pages of zeroes.
    pub fn zeroes(count: usize) -> Vec<Self> {
        vec![Self::ZERO; count]
    }
}

/// The bytes of pages, one after another.
pub(crate) fn bytes_of(pages: &[Page]) -> &[u8] {
    pages.as_bytes()
}

/// A file or device that has metadata on it. Page numbers count from its beginning.
///
/// Until a flush that began after a write has succeeded, the write may reach the medium in part or not at
/// all, sector by sector of 512 bytes, in any order with other writes.
pub trait Disk {
    /// Fills `pages` from this page on. Blocks.
    ///
    /// # Errors
    /// The device's; `UnexpectedEof` if the device ends before.
    fn read(&self, first_page: u64, pages: &mut [Page]) -> io::Result<()>;

    /// Writes `pages` from this page on. Blocks until the device has them, which does not make them
    /// durable.
    ///
    /// # Errors
    /// The device's. What is on the medium then is not known.
    fn write(&self, first_page: u64, pages: &[Page]) -> io::Result<()>;

    /// As [`Self::write`], of the same pages in several places, at once where the device can. Blocks.
    ///
    /// # Errors
    /// The device's. What is on the medium then is not known, in any of the places.
    fn write_copies(&self, first_pages: &[u64], pages: &[Page]) -> io::Result<()> {
        first_pages
            .iter()
            .try_for_each(|first_page| self.write(*first_page, pages))
    }

    /// Makes everything durable that was written before. Blocks.
    ///
    /// # Errors
    /// The device's. What was written since the last flush may be lost then, whatever a later flush
    /// says.
    fn flush(&self) -> io::Result<()>;
}

/// Reads pages. Those that the disk cannot read, or does not have any more, are as good as damaged: they are zero then.
/// Blocks.
pub(crate) fn read_pages<D: Disk>(disk: &D, first_page: u64, pages: &mut [Page]) {
    if disk.read(first_page, pages).is_ok() {
        return;
    }
    for (at, page) in (first_page..).zip(pages) {
        if disk.read(at, std::slice::from_mut(page)).is_err() {
            *page = Page::ZERO;
        }
    }
}

/// Reads a little-endian number.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

/// Reads a little-endian number.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

/// Writes a little-endian number.
pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes a little-endian number.
pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Where a checksum of four bytes stands in each structure: after its magic.
const CHECKSUM_AT: usize = 4;

/// CRC-32C, begun with a seed of the pool's own, so that what an earlier pool left on the device does not
/// count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum {
    seed: u32,
}

impl Checksum {
    /// The checksums of a pool that begin with this seed.
    pub(crate) const fn begin_with(seed: u32) -> Self {
        Self { seed }
    }

    /// The seed of a pool of version 1 with this UUID.
    pub(crate) fn seed_of(uuid: &[u8; 16]) -> u32 {
        crc32c::crc32c(uuid)
    }

    /// The checksums of superblocks, which are read before the pool's UUID is known.
    pub(crate) const UNSEEDED: Self = Self { seed: 0 };

    /// The checksum of a structure, in which the checksum's own bytes count as zero.
    fn compute(self, bytes: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.seed, &bytes[..CHECKSUM_AT]);
        let crc = crc32c::crc32c_append(crc, &[0; 4]);
        crc32c::crc32c_append(crc, &bytes[CHECKSUM_AT + 4..])
    }

    /// Writes a structure's magic and then its checksum.
    pub(crate) fn seal(self, magic: u32, bytes: &mut [u8]) {
        put_u32(bytes, 0, magic);
        put_u32(bytes, CHECKSUM_AT, self.compute(bytes));
    }

    /// Whether a structure has this magic and has not changed since it was sealed.
    pub(crate) fn holds(self, magic: u32, bytes: &[u8]) -> bool {
        u32_at(bytes, 0) == magic && u32_at(bytes, CHECKSUM_AT) == self.compute(bytes)
    }
}
