//! Updates that are in the journal and not yet in the table.

use std::collections::{BTreeMap, BTreeSet};

use crate::geometry::TablePage;
use crate::journal::JournalPayload;
use crate::table::TableEntry;

/// The updates of one epoch of the journal: the last one of each megabyte, and of each tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) entries: BTreeMap<u32, TableEntry>,
    /// By unit of the pool.
    pub(crate) tags: BTreeMap<u64, u64>,
    /// Megabytes that were not tagged before: what the device has in the place of their tags means nothing.
    pub(crate) newly_tagged: BTreeSet<u32>,
}

impl Overlay {
    /// Adds the updates of a record of the journal, and keeps `tagged` up to date.
    pub(crate) fn apply(&mut self, payload: JournalPayload, tagged: &mut MegabyteSet) {
        for (megabyte, entry) in payload.entries {
            if entry.tagged && tagged.insert(megabyte) {
                self.newly_tagged.insert(megabyte);
            }
            self.entries.insert(megabyte, entry);
        }
        self.tags.extend(payload.tags);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A set of megabytes: a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MegabyteSet {
    words: Vec<u64>,
}

impl MegabyteSet {
    /// An empty set, for a pool of `megabytes`.
    pub(crate) fn new(megabytes: u32) -> Self {
        // Zeroed memory takes no space before it is touched.
        Self {
            words: vec![0; megabytes.div_ceil(64) as usize],
        }
    }

    /// Adds a megabyte; `true` if it was not in the set.
    pub(crate) fn insert(&mut self, megabyte: u32) -> bool {
        let word = megabyte as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (megabyte % 64);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    /// Removes the megabytes from `end` on.
    pub(crate) fn truncate(&mut self, end: u32) {
        let word = end as usize / 64;
        if word < self.words.len() {
            self.words[word] &= (1 << (end % 64)) - 1;
            self.words[word + 1..].fill(0);
        }
    }

    /// The number of megabytes in it.
    pub(crate) fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(crate) fn contains(&self, megabyte: u32) -> bool {
        let word = self.words.get(megabyte as usize / 64);
        word.is_some_and(|bits| bits >> (megabyte % 64) & 1 == 1)
    }
}

/// A set of pages of the table: a bit each, up to the last one that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TablePageSet {
    /// By extent.
    words: Vec<Vec<u64>>,
}

impl TablePageSet {
    /// Adds a page.
    pub(crate) fn insert(&mut self, at: TablePage) {
        let word = at.page as usize / 64;
        if at.extent >= self.words.len() {
            self.words.resize(at.extent + 1, Vec::new());
        }
        let words = &mut self.words[at.extent];
        if word >= words.len() {
            words.resize(word + 1, 0);
        }
        words[word] |= 1 << (at.page % 64);
    }

    pub(crate) fn contains(&self, at: TablePage) -> bool {
        let words = self.words.get(at.extent);
        let word = words.and_then(|words| words.get(at.page as usize / 64));
        word.is_some_and(|bits| bits >> (at.page % 64) & 1 == 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_pages_that_were_put_into_it_and_no_others() {
        let at = |extent, page| TablePage { extent, page };
        let mut set = TablePageSet::default();
        assert!(set.is_empty() && !set.contains(at(0, 0)));
        let pages = [at(2, 64), at(0, 63), at(2, 0)];
        pages.iter().for_each(|page| set.insert(*page));
        for page in (0..4).flat_map(|extent| (0..200).map(move |page| at(extent, page))) {
            assert_eq!(set.contains(page), pages.contains(&page), "{page:?}");
        }
    }
}
