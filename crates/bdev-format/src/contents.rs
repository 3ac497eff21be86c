//! Names what a file or device holds that is not a pool, so that its owner learns what a new pool would
//! overwrite.
//!
//! Laws:
//! - Nothing is written. A name is a hint for people and decides nothing: what is not all zeroes is not
//!   blank, whatever its name.
//! - Whole aligned pages are read, front to back, each once and at most `MAX_READ_PAGES`, because
//!   the file may be open for direct I/O and the device may be slow.
//! - Zeroes at the start do not make a device blank: whatever zeroed its first megabyte by mistake left the data
//!   behind it. So its beginning is read as far as a pool of any size has the first pages of its table, and the rest
//!   in samples. That is no proof: data that lies between the samples only is not found.
//! - A regular file says where anything was ever written to it. If the samples are blank, all of that is read, once,
//!   however much it is: what is called blank then is.

mod signatures;

use std::fmt;
use std::io;
use std::ops::Range;

use crate::geometry::{Geometry, MAX_FIRST_TABLE_PAGE};
use crate::limits::PAGE_BYTES;
use crate::page::{Disk, Page, read_pages};
use crate::{journal, table};
use signatures::{SIGNATURES, ZFS_LABEL_BYTES, ZFS_UBERBLOCKS_OFFSET, boot_sector_kind};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PAGE: u64 = PAGE_BYTES as u64;

/// Bytes at the start that are read in whole: the journal of a pool of any size, and the beginning of its table.
const WHOLE_BYTES: u64 = 65 * MIB;
/// Pages that are read at equal distances over all of the device.
const SAMPLE_PAGES: u64 = 256;
/// A page is read at 1, 2, 4 … MiB, so often that no device is larger.
const DOUBLINGS: u64 = 44;
/// Where a new pool of the device's size has its first small block, and its first of 1 MiB.
const FIRST_BLOCKS: u64 = 2;
/// Pages of one read.
const CHUNK_PAGES: u64 = 64;
/// Pages of one read where all of a file is read.
const DATA_CHUNK_PAGES: u64 = 256;
/// Bytes at the end that are looked at: the earliest signature there, that of RAID 0.90, lies
/// less than this before the end.
const TAIL_BYTES: u64 = 128 * KIB;
/// Bytes of a label's uberblocks that are looked at near the end. A new pool writes slot 4 first,
/// and a slot has 1 to 8 KiB.
const ZFS_SAMPLE_BYTES: u64 = 48 * KIB;

/// Pages that are read, at most.
pub(crate) const MAX_READ_PAGES: u64 =
    (WHOLE_BYTES + ZFS_SAMPLE_BYTES + TAIL_BYTES) / PAGE + SAMPLE_PAGES + DOUBLINGS + FIRST_BLOCKS;

const _: () = {
    assert!(MAX_READ_PAGES <= 17_000);
    assert!(WHOLE_BYTES / PAGE > MAX_FIRST_TABLE_PAGE);
    assert!(2 * ZFS_LABEL_BYTES <= WHOLE_BYTES);
    assert!(5 * 8 * KIB <= ZFS_SAMPLE_BYTES);
    assert!(WHOLE_BYTES.is_multiple_of(PAGE) && TAIL_BYTES.is_multiple_of(PAGE));
};

/// What a file or device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceContents {
    /// Everything that was read is zero: of a regular file all that was ever written, of a device the first 65 MiB, the
    /// last 128 KiB, and samples of the rest.
    Blank,
    /// Something that has a name, which comes with its article: "an XFS file system".
    Known(&'static str),
    /// Data without a signature that is in the list.
    Unknown {
        /// Offset of the first byte that is not zero, of those that were looked at.
        first_nonzero_offset: u64,
    },
}

impl fmt::Display for DeviceContents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => formatter.write_str("nothing but zeroes where it was read"),
            Self::Known(name) => formatter.write_str(name),
            Self::Unknown {
                first_nonzero_offset,
            } => write!(
                formatter,
                "data of an unknown kind (first non-zero byte at offset {first_nonzero_offset:#x})"
            ),
        }
    }
}

/// Finds out what a disk of `size_bytes` holds. `tail` has the bytes behind its last whole page, since direct
/// I/O reads whole pages only. Blocks.
///
/// # Errors
/// The first of the disk's; nothing is read after it.
pub fn probe(disk: &impl Disk, size_bytes: u64, tail: &[u8]) -> io::Result<DeviceContents> {
    let contents = probe_pages(size_bytes, &mut |first, pages| disk.read(first, pages))?;
    let first_nonzero = tail.iter().position(|byte| *byte != 0);
    Ok(match (contents, first_nonzero) {
        (DeviceContents::Blank, Some(at)) => DeviceContents::Unknown {
            first_nonzero_offset: size_bytes - tail.len() as u64 + at as u64,
        },
        (contents, _) => contents,
    })
}

/// As [`probe`], of a disk of which some pages may be unreadable, or behind its end: they count as zeroes. Blocks.
pub(crate) fn probe_readable(disk: &impl Disk, size_bytes: u64) -> DeviceContents {
    let probed = probe_pages(size_bytes, &mut |first, pages| {
        read_pages(disk, first, pages);
        Ok(())
    });
    probed.unwrap_or(DeviceContents::Blank)
}

/// As [`probe`], of a disk that knows where anything was ever written to it: outside of the ranges of bytes that
/// `next_data` gives, each the first one that ends behind an offset, it reads as zeroes. So nothing is overlooked.
/// Calls `progress` from time to time: how many bytes were passed, and how many there are.
///
/// # Errors
/// The first of the disk's, or of `next_data`.
pub fn probe_data(
    disk: &impl Disk,
    size_bytes: u64,
    tail: &[u8],
    next_data: &mut dyn FnMut(u64) -> io::Result<Option<Range<u64>>>,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<DeviceContents> {
    let sampled = probe(disk, size_bytes, tail)?;
    if sampled != DeviceContents::Blank {
        return Ok(sampled);
    }
    let pages = size_bytes / PAGE;
    let mut chunk = Page::zeroes(DATA_CHUNK_PAGES as usize);
    let mut findings = Findings::default();
    let mut next = WHOLE_BYTES / PAGE;
    while next < pages {
        let Some(range) = next_data(next * PAGE)? else {
            break;
        };
        let end = range.end.div_ceil(PAGE).min(pages);
        let mut first = next.max(range.start / PAGE);
        while first < end {
            let pages = &mut chunk[..(end - first).min(DATA_CHUNK_PAGES) as usize];
            disk.read(first, pages)?;
            findings.add_all(first, pages, size_bytes);
            if findings.first_nonzero_offset.is_some() {
                return Ok(findings.contents());
            }
            first += pages.len() as u64;
            progress(first * PAGE, size_bytes);
        }
        next = end.max(next + 1);
    }
    Ok(DeviceContents::Blank)
}

/// As [`probe`], of the whole pages of a disk: one that is shorter than a page is blank, whatever it holds.
///
/// `read_pages` fills the pages that it is given with those from this number on.
fn probe_pages(
    size_bytes: u64,
    read_pages: &mut dyn FnMut(u64, &mut [Page]) -> io::Result<()>,
) -> io::Result<DeviceContents> {
    let mut chunk = Page::zeroes(CHUNK_PAGES as usize);
    let mut findings = Findings::default();
    let mut next = 0;
    for range in ranges(size_bytes) {
        // Ranges overlap.
        let mut first = range.start.max(next);
        while first < range.end {
            let pages = &mut chunk[..(range.end - first).min(CHUNK_PAGES) as usize];
            read_pages(first, pages)?;
            findings.add_all(first, pages, size_bytes);
            first += pages.len() as u64;
            next = first;
        }
    }
    Ok(findings.contents())
}

/// Metadata of a pool whose superblocks are gone.
const POOL_REMAINS: &str = "what is left of a pool whose beginning was overwritten";

/// What the pages told that were read so far.
#[derive(Default)]
struct Findings {
    /// Index of the signature that gives the name.
    signature: Option<usize>,
    boot_sector: Option<&'static str>,
    has_pool_metadata: bool,
    first_nonzero_offset: Option<u64>,
}

impl Findings {
    fn add_all(&mut self, first: u64, pages: &[Page], size_bytes: u64) {
        for (number, page) in (first..).zip(pages) {
            if page.0 != Page::ZERO.0 {
                self.add(number, page, size_bytes);
            }
        }
    }

    fn add(&mut self, number: u64, page: &Page, size_bytes: u64) {
        let page_offset = number * PAGE;
        let Some(nonzero) = page.0.iter().position(|&byte| byte != 0) else {
            return;
        };
        self.first_nonzero_offset
            .get_or_insert(page_offset + nonzero as u64);
        self.has_pool_metadata |= journal::has_magic(page) || table::has_magic(page);
        let found = SIGNATURES
            .iter()
            .position(|signature| signature.is_in(&page.0, page_offset, size_bytes));
        // Of several signatures the one that stands first in the list counts.
        self.signature = match (self.signature, found) {
            (Some(best), Some(found)) => Some(std::cmp::min::<usize>(best, found)),
            (best, found) => best.or(found),
        };
        if number == 0 {
            self.boot_sector = boot_sector_kind(&page.0);
        }
    }

    fn contents(&self) -> DeviceContents {
        let remains = self.has_pool_metadata.then_some(POOL_REMAINS);
        let name = self.signature.map(|index| SIGNATURES[index].name);
        match (
            name.or(self.boot_sector).or(remains),
            self.first_nonzero_offset,
        ) {
            (Some(name), _) => DeviceContents::Known(name),
            (None, Some(first_nonzero_offset)) => DeviceContents::Unknown {
                first_nonzero_offset,
            },
            (None, None) => DeviceContents::Blank,
        }
    }
}

/// The numbers of the pages to read, in ascending order of their first ones.
fn ranges(size_bytes: u64) -> Vec<Range<u64>> {
    let pages = size_bytes / PAGE;
    let last_label =
        (size_bytes - size_bytes % ZFS_LABEL_BYTES).saturating_sub(ZFS_LABEL_BYTES) / PAGE;
    let label_sample = last_label + ZFS_UBERBLOCKS_OFFSET / PAGE;
    let single = |page: u64| page..pages.min(page + 1);
    let mut ranges = vec![
        0..pages.min(WHOLE_BYTES / PAGE),
        label_sample..pages.min(label_sample + ZFS_SAMPLE_BYTES / PAGE),
        pages.saturating_sub(TAIL_BYTES / PAGE)..pages,
    ];
    ranges.extend((0..DOUBLINGS).map(|doubling| single((MIB / PAGE) << doubling)));
    ranges.extend((0..SAMPLE_PAGES).map(|sample| single(pages / SAMPLE_PAGES * sample)));
    if let Some(metadata) = Geometry::new(pages).and_then(|geometry| geometry.reserved().next()) {
        let first_whole = metadata.end.next_multiple_of(MIB / PAGE);
        ranges.extend([metadata.end, first_whole].map(single));
    }
    ranges.sort_by_key(|range| range.start);
    ranges
}

#[cfg(test)]
mod signature_tests;
#[cfg(test)]
mod tests;
