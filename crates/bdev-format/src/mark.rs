//! The mark of a failure: what a program leaves in a pool when the pool's device has failed.
//!
//! After an error of the device nothing more is written to a pool, save this. Nothing depends on it: it may not have
//! reached the device, so that its absence proves nothing. But a pool that has one is not opened for writing until
//! somebody has looked.

use std::fmt;
use std::io;

use chimaera_proto::shown::printable;
use chimaera_proto::timestamp::show_unix_seconds;

use crate::geometry::Geometry;
use crate::limits::PAGE_BYTES;
use crate::page::{Checksum, Disk, Page, put_u32, put_u64, u32_at, u64_at};

const MAGIC: u32 = u32::from_le_bytes(*b"CMRK");
const SECONDS_AT: usize = 8;
const HISTORY_AT: usize = 16;
const TEXT_BYTES_AT: usize = 24;
const TEXT_AT: usize = 32;
const MAX_TEXT_BYTES: usize = 1024;

const _: () = assert!(TEXT_AT + MAX_TEXT_BYTES <= PAGE_BYTES);

/// The mark of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureMark {
    /// When, in seconds since 1970.
    pub seconds: u64,
    /// The history of the opening that failed.
    pub history: u64,
    /// What failed.
    pub text: String,
}

impl fmt::Display for FailureMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = printable(&self.text);
        write!(f, "\"{text}\", {}", show_unix_seconds(self.seconds))
    }
}

impl FailureMark {
    fn to_page(&self, checksum: Checksum) -> Page {
        let mut page = Page::ZERO;
        let end = self.text.floor_char_boundary(MAX_TEXT_BYTES);
        let text = &self.text.as_bytes()[..end];
        put_u64(&mut page.0, SECONDS_AT, self.seconds);
        put_u64(&mut page.0, HISTORY_AT, self.history);
        put_u32(&mut page.0, TEXT_BYTES_AT, text.len() as u32);
        page.0[TEXT_AT..TEXT_AT + text.len()].copy_from_slice(text);
        checksum.seal(MAGIC, &mut page.0);
        page
    }

    fn read(page: &Page, checksum: Checksum) -> Option<Self> {
        let len = u32_at(&page.0, TEXT_BYTES_AT) as usize;
        if !checksum.holds(MAGIC, &page.0) || len > MAX_TEXT_BYTES {
            return None;
        }
        let text = String::from_utf8_lossy(&page.0[TEXT_AT..TEXT_AT + len]);
        Some(Self {
            seconds: u64_at(&page.0, SECONDS_AT),
            history: u64_at(&page.0, HISTORY_AT),
            text: text.into_owned(),
        })
    }

    /// The mark that a pool has, if one of its mark pages can be read and has one. Blocks.
    pub(crate) fn find<D: Disk>(disk: &D, geometry: &Geometry, checksum: Checksum) -> Option<Self> {
        let mut pages = Page::zeroes(1);
        geometry.marks().into_iter().find_map(|mark| {
            disk.read(mark, &mut pages).ok()?;
            Self::read(&pages[0], checksum)
        })
    }

    /// Leaves the mark in each of a pool's mark pages, as far as the device still works. Blocks.
    pub(crate) fn leave<D: Disk>(&self, disk: &D, geometry: &Geometry, checksum: Checksum) {
        let page = self.to_page(checksum);
        let marks = geometry.marks();
        let written = marks
            .iter()
            .map(|mark| disk.write(*mark, std::slice::from_ref(&page)));
        if written.fold(false, |any, result| any | result.is_ok()) {
            let _ = disk.flush();
        }
    }

    /// Removes the mark. Blocks.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn clear<D: Disk>(disk: &D, geometry: &Geometry) -> io::Result<()> {
        for mark in geometry.marks() {
            disk.write(mark, &[Page::ZERO])?;
        }
        disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_as_it_is_written_in_its_own_pool() {
        let checksum = Checksum::begin_with(3);
        let mut mark = FailureMark {
            seconds: 1_700_000_000,
            history: 5,
            text: "cannot write: Input/output error".to_owned(),
        };
        let page = mark.to_page(checksum);
        assert_eq!(FailureMark::read(&page, checksum), Some(mark.clone()));
        let shown = "\"cannot write: Input/output error\", 2023-11-14T22:13:20Z";
        assert_eq!(mark.to_string(), shown);
        assert_eq!(FailureMark::read(&page, Checksum::begin_with(4)), None);
        assert_eq!(FailureMark::read(&Page::ZERO, checksum), None);
        mark.text = "ä".repeat(MAX_TEXT_BYTES);
        let read = FailureMark::read(&mark.to_page(checksum), checksum).expect("it fits");
        assert_eq!(read.text, "ä".repeat(MAX_TEXT_BYTES / 2));
    }
}
