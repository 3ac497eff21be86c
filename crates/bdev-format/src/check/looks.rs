//! Looking at a pool that another process may be changing.
//!
//! While metadata is written, what is read of it may be half old and half new, or one copy of it new and the other old.
//! So what one look finds damaged is looked at again, and counts only if it is still the same.

use std::collections::BTreeMap;

use super::Checked;
use crate::metadata::Metadata;
use crate::page::{Disk, Page, read_pages};
use crate::scan::LoneRecord;

/// How often metadata that another process may be changing is looked at, at most, before it counts as damaged.
const MAX_LOOKS: usize = 8;

/// What damage was found in, by its text: a checksum of the bytes there, or `None` if a writer may just be about to
/// complete it. Of damage that is not here, the text says enough.
#[derive(Debug, Default)]
pub(crate) struct Evidence(BTreeMap<String, Option<u32>>);

impl Evidence {
    /// The texts of these pieces of damage, of which this keeps what they were found in.
    pub(super) fn keep(
        &mut self,
        damage: impl IntoIterator<Item = (String, Option<u32>)>,
    ) -> Vec<String> {
        let kept = damage.into_iter().map(|(text, bytes)| {
            self.0.insert(text.clone(), bytes);
            text
        });
        kept.collect()
    }

    /// Whether damage with this text is the same here and there, as far as that can be known beside a writer.
    fn confirms(&self, other: &Self, text: &str) -> bool {
        match (self.0.get(text), other.0.get(text)) {
            (None, None) => true,
            (Some(Some(here)), Some(Some(there))) => here == there,
            _ => false,
        }
    }
}

impl Checked {
    /// Whether nothing is damaged.
    fn is_sound(&self) -> bool {
        self.lost.is_empty()
            && self.repairable.is_empty()
            && self.mark.is_none()
            && self.two_pools.is_none()
    }

    /// Leaves out damage that an earlier look has not found, or has found in other bytes.
    fn confirm(&mut self, earlier: &Self) {
        let same = |text: &String| self.evidence.confirms(&earlier.evidence, text);
        self.lost
            .retain(|text| earlier.lost.contains(text) && same(text));
        self.repairable
            .retain(|text| earlier.repairable.contains(text) && same(text));
        if earlier.two_pools.is_none() {
            self.two_pools = None;
        }
    }
}

/// What looks at a pool agree on that another process may be changing: damage counts only if each of several looks has
/// found it, one after the other. Gives the last look's other findings. Blocks.
///
/// # Errors
/// Those of the last look.
pub(crate) fn agreed<F, E>(
    mut look: impl FnMut() -> Result<(Checked, F), E>,
) -> Result<(Checked, F), E> {
    let mut found = look();
    // Looks that the damage was compared in.
    let mut compared = 1;
    for number in 2.. {
        let is_over = number > MAX_LOOKS && (compared > 1 || found.is_err());
        if is_over || found.as_ref().is_ok_and(|(checked, _)| checked.is_sound()) {
            break;
        }
        found = match (found, look()) {
            (Ok((earlier, _)), Ok((mut checked, more))) => {
                checked.confirm(&earlier);
                compared += 1;
                Ok((checked, more))
            }
            (_, other) => {
                compared = 1;
                other
            }
        };
    }
    found
}

/// Records of the journal that have one copy, each with the bytes in the place of the other. A record of the last
/// commit may be one that is being written.
pub(super) fn describe_lone<D: Disk>(
    metadata: &Metadata<D>,
    lone: &[LoneRecord],
) -> impl Iterator<Item = (String, Option<u32>)> {
    lone.iter().map(|record| {
        let (sequence, page) = (record.sequence, record.missing_at);
        let is_written = record.commit_last + 1 < metadata.next_sequence;
        (
            format!("record {sequence} of the journal has one sound copy, and none at page {page}"),
            is_written.then(|| seen_in(&metadata.disk, page)),
        )
    })
}

/// A checksum of what a page has.
pub(super) fn seen_in<D: Disk>(disk: &D, page: u64) -> u32 {
    let mut pages = Page::zeroes(1);
    read_pages(disk, page, &mut pages);
    crc32c::crc32c(&pages[0].0)
}
