//! Only zeroes are blank, and few pages are read to find out.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a range of bytes is meant, and not each of them"
)]

use std::cell::Cell;
use std::io;

use super::*;

/// Sizes that the formats round to different ends.
pub(super) const SIZES: [u64; 5] = [
    4 * MIB,
    4 * MIB + 252 * KIB,
    64 * MIB + 68 * KIB,
    MIB + 128 * KIB,
    (1 << 50) + 124 * KIB,
];

/// A disk of zeroes, except where it was written.
pub(super) struct Image {
    size_bytes: u64,
    written: Vec<(u64, Vec<u8>)>,
}

impl Image {
    pub(super) fn blank(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            written: Vec::new(),
        }
    }

    pub(super) fn with(mut self, offset: u64, bytes: &[u8]) -> Self {
        assert!(offset + bytes.len() as u64 <= self.size_bytes);
        self.written.push((offset, bytes.to_vec()));
        self
    }

    /// Fills pages with those from this number on.
    fn fill(&self, first: u64, pages: &mut [Page]) {
        for (number, page) in (first..).zip(pages) {
            page.0.fill(0);
            for (offset, bytes) in &self.written {
                for (offset, byte) in (*offset..).zip(bytes) {
                    if offset / PAGE == number {
                        page.0[(offset % PAGE) as usize] = *byte;
                    }
                }
            }
        }
    }

    pub(super) fn probe(&self) -> DeviceContents {
        let mut numbers = Vec::new();
        let contents = probe_pages(self.size_bytes, &mut |first, pages| {
            numbers.extend(first..first + pages.len() as u64);
            self.fill(first, pages);
            Ok(())
        });
        assert!(numbers.len() as u64 <= MAX_READ_PAGES, "{}", numbers.len());
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        let last = numbers.last().copied();
        assert!(last.is_none_or(|last| (last + 1) * PAGE <= self.size_bytes));
        contents.expect("no read fails")
    }
}

#[test]
fn zeroes_are_blank() {
    for size_bytes in SIZES {
        assert_eq!(Image::blank(size_bytes).probe(), DeviceContents::Blank);
    }
}

#[test]
fn one_byte_is_enough_not_to_be_blank() {
    for size_bytes in SIZES {
        let tail = size_bytes - 128 * KIB;
        for offset in [
            0,
            1,
            511,
            4095,
            4096,
            0x7fff,
            300 * KIB + 5,
            MIB - 1,
            tail,
            tail + 1,
            tail + 77 * KIB,
            size_bytes - 4096,
            size_bytes - 1,
        ] {
            for byte in [1, 0x80, 0xff] {
                assert_eq!(
                    Image::blank(size_bytes).with(offset, &[byte]).probe(),
                    DeviceContents::Unknown {
                        first_nonzero_offset: offset
                    },
                    "{byte:#x} in {size_bytes:#x}"
                );
            }
        }
    }
}

#[test]
fn the_first_of_several_nonzero_bytes_is_named() {
    let image = Image::blank(4 * MIB)
        .with(4 * MIB - 1, &[1])
        .with(0x1000, &[7, 7])
        .with(0x5000, &[1]);
    let contents = image.probe();
    assert_eq!(
        contents.to_string(),
        "data of an unknown kind (first non-zero byte at offset 0x1000)"
    );
}

#[test]
fn data_behind_zeroes_is_not_blank() {
    let size_bytes = 1 << 40;
    let sample = size_bytes / SAMPLE_PAGES;
    let geometry = Geometry::new(size_bytes / PAGE).expect("room");
    let metadata_end = geometry.reserved().next().expect("metadata").end * PAGE;
    for offset in [
        MIB,
        5 * MIB + 77,
        WHOLE_BYTES - 1,
        128 * MIB,
        1 << 39,
        7 * sample + 9,
        metadata_end,
        metadata_end.next_multiple_of(MIB) + 5,
    ] {
        assert_eq!(
            Image::blank(size_bytes).with(offset, &[1]).probe(),
            DeviceContents::Unknown {
                first_nonzero_offset: offset
            },
        );
    }
    // Data between the samples of a large device is not found.
    let between = Image::blank(size_bytes).with(129 * MIB, &[1]);
    assert_eq!(between.probe(), DeviceContents::Blank);
}

/// A file that knows where something was written, and counts the pages that are read of it.
struct SparseFile {
    image: Image,
    data: Vec<Range<u64>>,
    read: Cell<u64>,
}

impl SparseFile {
    fn new(image: Image, data: &[Range<u64>]) -> Self {
        Self {
            image,
            data: data.to_vec(),
            read: Cell::new(0),
        }
    }

    fn probe(&self) -> DeviceContents {
        let mut next_data = |offset| {
            let range = self.data.iter().find(|range| range.end > offset);
            Ok(range.map(|range| range.start.max(offset)..range.end))
        };
        let size_bytes = self.image.size_bytes;
        let mut passed = 0;
        let contents = probe_data(self, size_bytes, &[], &mut next_data, &mut |done, of| {
            assert!(passed < done && done <= of && of == size_bytes);
            passed = done;
        });
        contents.expect("no read fails")
    }
}

impl Disk for SparseFile {
    fn read(&self, first: u64, pages: &mut [Page]) -> io::Result<()> {
        let count = pages.len() as u64;
        assert!((first + count) * PAGE <= self.image.size_bytes);
        self.read.set(self.read.get() + count);
        self.image.fill(first, pages);
        Ok(())
    }

    fn write(&self, _: u64, _: &[Page]) -> io::Result<()> {
        unreachable!("looking writes nothing")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("looking writes nothing")
    }
}

#[test]
fn a_file_that_knows_where_it_was_written_is_read_there_and_nothing_is_overlooked() {
    let size_bytes = 1 << 40;
    let blank = SparseFile::new(Image::blank(size_bytes), &[]);
    assert_eq!(blank.probe(), DeviceContents::Blank);
    assert!(blank.read.get() <= MAX_READ_PAGES);
    let place = 129 * MIB + 5;
    let zeroes = [0..8192, 70 * MIB + 3..72 * MIB - 1];
    for data in [
        vec![place..place + 1],
        [&zeroes[..], &[128 * MIB + 77..130 * MIB]].concat(),
        // A file system that does not know.
        vec![0..u64::MAX],
    ] {
        let file = SparseFile::new(Image::blank(size_bytes).with(place, &[1]), &data);
        let first_nonzero_offset = place;
        let found = DeviceContents::Unknown {
            first_nonzero_offset,
        };
        assert_eq!(file.probe(), found, "{data:?}");
        let most = MAX_READ_PAGES + 70 * MIB / PAGE;
        assert!(file.read.get() <= most, "it is not read any further");
    }
    let file = SparseFile::new(Image::blank(size_bytes), &zeroes);
    assert_eq!(file.probe(), DeviceContents::Blank, "zeroes are nothing");
    let table = Image::blank(size_bytes).with(129 * MIB, b"CTBL");
    let file = SparseFile::new(table, &[129 * MIB..130 * MIB]);
    assert_eq!(file.probe(), DeviceContents::Known(POOL_REMAINS));
}

#[test]
fn a_file_that_knows_where_it_was_written_may_have_any_size() {
    for size_bytes in SIZES
        .into_iter()
        .chain([0, 1, 4095, 65 * MIB, 65 * MIB + 5])
    {
        let whole = 0..size_bytes.min(1 << 30);
        let file = SparseFile::new(Image::blank(size_bytes), &[whole]);
        assert_eq!(file.probe(), DeviceContents::Blank);
    }
}

#[test]
fn the_table_of_a_pool_is_found_whatever_size_the_pool_was_made_with() {
    for made_with in [
        4 * MIB,
        1 << 30,
        48 << 30,
        64 << 30,
        100 << 30,
        1 << 40,
        1 << 47,
    ] {
        let geometry = Geometry::new(made_with / PAGE).expect("room");
        for device in [made_with, made_with * 3, 1 << 48] {
            let image = Image::blank(device).with(geometry.tables()[0] * PAGE, b"CTBL");
            assert_eq!(image.probe(), DeviceContents::Known(POOL_REMAINS));
        }
    }
}

#[test]
fn metadata_of_a_pool_is_known_without_its_superblocks() {
    for magic in [b"CTBL", b"CJRN"] {
        for offset in [2 * PAGE, 2 * MIB, 15 * MIB] {
            let image = Image::blank(64 * MIB).with(offset, magic);
            assert_eq!(image.probe(), DeviceContents::Known(POOL_REMAINS));
            let image = image.with(0, b"XFSB");
            assert_eq!(image.probe(), DeviceContents::Known("an XFS file system"));
        }
    }
}

#[test]
fn a_disk_may_have_any_size() {
    let odd = [0, 1, 511, 512, 4095, 4097, 8191, 65537, 262_143];
    let pages = (0..600).map(|page| page * PAGE);
    for size_bytes in pages.chain(odd).chain([u64::MAX, u64::MAX - 4095]) {
        assert_eq!(Image::blank(size_bytes).probe(), DeviceContents::Blank);
        if size_bytes < PAGE {
            continue;
        }
        assert_eq!(
            Image::blank(size_bytes).with(0, b"XFSB").probe(),
            DeviceContents::Known("an XFS file system")
        );
    }
    let beyond_pages = Image::blank(2 * PAGE + 5).with(2 * PAGE, b"12345");
    assert_eq!(beyond_pages.probe(), DeviceContents::Blank);
}

#[test]
fn a_read_error_is_passed_on_at_once() {
    let size_bytes = 64 * MIB;
    for bad in [0, 3, 255, (size_bytes - 1) / PAGE] {
        let mut last = None;
        let result = probe_pages(size_bytes, &mut |first, pages| {
            let read = first..first + pages.len() as u64;
            last = Some(read.contains(&bad));
            if read.contains(&bad) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(())
        });
        let error = result.expect_err("a page cannot be read");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(last, Some(true), "nothing is read after it");
    }
}

/// A disk that checks that memory is aligned for direct I/O.
struct Direct;

impl Disk for Direct {
    fn read(&self, _: u64, pages: &mut [Page]) -> io::Result<()> {
        assert!(pages.as_ptr().addr().is_multiple_of(PAGE_BYTES));
        Ok(())
    }

    fn write(&self, _: u64, _: &[Page]) -> io::Result<()> {
        unreachable!("looking writes nothing")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("looking writes nothing")
    }
}

#[test]
fn the_memory_of_a_page_suits_direct_reads() {
    assert_eq!(
        probe(&Direct, MIB, &[]).expect("no read fails"),
        DeviceContents::Blank
    );
}
