//! A set of megabytes in which a member is found in a few steps, whatever the size of the pool.
//!
//! A tree of words with 64 children each: a bit of the lowest level is a megabyte, a bit above says
//! that the word below it is not empty.
//!
//! Laws:
//! - The bit of a megabyte changes only under that megabyte's lock, except where it is a note. The bits above
//!   change without a lock.
//! - When nobody changes the set, every member is found: a word that is not empty has its bit set. While
//!   others change the set a search may miss a member, so a caller that knows of one searches again.
//! - The reverse does not hold: a bit above an empty word stays set until a search follows it, and that search clears
//!   it. So a megabyte that leaves and comes back touches its own word and little else.
//!
//! **Why no bit is lost.** Two threads may write the bit above a word. One made the word non-empty and sets the
//! bit *afterwards*. The other, a search, found the word empty, clears the bit, and looks at the word once more
//! *afterwards*. Both write the bit, and writes of one word have one order. If the clearing comes
//! first, the bit ends set. If it comes second, it acquires what the setting released, so the second
//! look finds the word non-empty, and sets the bit again. For this the bit has to be written even
//! where it seems set already.
//!
//! [`Index::note`] needs no lock. When it returns, all bits above the note are set: it does not rely on another thread
//! that has made a note in the same word. It writes a bit above only where it finds the bit clear. A note and then
//! its look upwards, a clearing and then its look downwards are all in one order, so one of the two sees the other.
use std::io;

use crate::mapping::SparseArray;
use crate::sync::{AtomicU64, CachePadded, Ordering, Weakness, weakened};

/// A set of megabytes.
pub(crate) struct Index {
    words: SparseArray<AtomicU64>,
    /// The levels from the lowest on; the highest has one word.
    levels: [TreeLevel; MAX_HEIGHT],
    height: usize,
    /// Xored with a word it gives the word with a bit set per member.
    mask: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct TreeLevel {
    first_word: usize,
    words: usize,
}

const MAX_HEIGHT: usize = 5;
const _: () = assert!(super::free_space::MAX_MEGABYTES < 64_u64.pow(MAX_HEIGHT as u32));

impl Index {
    /// An empty set, for a pool of `megabytes`.
    ///
    /// # Errors
    /// If there is no address space for it.
    pub(crate) fn empty(megabytes: usize) -> io::Result<Self> {
        Self::new(megabytes, 0)
    }

    /// A set of all megabytes. It needs no more memory than an empty one: its bits are inverted.
    ///
    /// # Errors
    /// If there is no address space for it.
    pub(crate) fn full(megabytes: usize) -> io::Result<Self> {
        let index = Self::new(megabytes, u64::MAX)?;
        let mut members = megabytes;
        for level in &index.levels[..index.height] {
            if !members.is_multiple_of(64) {
                let last = &index.words[level.first_word + level.words - 1];
                last.store(u64::MAX << (members % 64), Ordering::Relaxed);
            }
            members = level.words;
        }
        Ok(index)
    }

    fn new(megabytes: usize, mask: u64) -> io::Result<Self> {
        let mut levels = [TreeLevel::default(); MAX_HEIGHT];
        let (mut height, mut first_word, mut members) = (0, 0, megabytes);
        while height == 0 || members > 1 {
            let words = members.div_ceil(64);
            levels[height] = TreeLevel { first_word, words };
            (height, first_word, members) = (height + 1, first_word + words, words);
        }
        Ok(Self {
            words: SparseArray::new(first_word)?,
            levels,
            height,
            mask,
        })
    }

    /// Adds a megabyte that is not in the set. Its lock is held.
    #[inline]
    pub(crate) fn insert(&self, megabyte: usize) {
        self.set(0, megabyte);
    }

    /// Adds a megabyte that may be in the set already. A search that begins afterwards finds it, unless it was
    /// removed. For sets only that were made empty and that one thread searches.
    #[inline]
    pub(crate) fn note(&self, megabyte: usize) {
        if weakened(Weakness::NoteLeftToOthers) {
            return self.insert(megabyte);
        }
        let mut position = megabyte;
        for level in 0..self.height {
            let bit = 1 << (position % 64);
            let word = self.word(level, position / 64);
            if level == 0 || word.load(Ordering::SeqCst) & bit == 0 {
                word.fetch_or(bit, Ordering::SeqCst);
            }
            position /= 64;
        }
    }

    /// Removes a megabyte that is in the set. Its lock is held.
    #[inline]
    pub(crate) fn remove(&self, megabyte: usize) {
        self.clear(0, megabyte);
    }

    /// Whether the megabyte is in the set.
    pub(crate) fn contains(&self, megabyte: usize) -> bool {
        let members = self.members(0, megabyte / 64);
        members.is_some_and(|bits| bits >> (megabyte % 64) & 1 == 1)
    }

    /// A member: the first one from `start` on, or, if there is none, the first one of all.
    #[inline]
    pub(crate) fn find(&self, start: usize) -> Option<usize> {
        let onward = if start == 0 {
            None
        } else {
            self.search(0, start)
        };
        onward.or_else(|| self.search(self.height - 1, 0))
    }

    /// The first member among those below the bit at this position of the level, or below a later bit.
    fn search(&self, level: usize, position: usize) -> Option<usize> {
        let (mut level, mut position) = (level, position);
        loop {
            let word = position / 64;
            // Beyond the end of this level there is nothing at the levels above either.
            let bits = self.members(level, word)?;
            let onward = bits & u64::MAX << (position % 64);
            if onward != 0 {
                position = word * 64 + onward.trailing_zeros() as usize;
                if level == 0 {
                    return Some(position);
                }
                (level, position) = (level - 1, position * 64);
            } else {
                if level + 1 == self.height {
                    return None;
                }
                if bits == 0 {
                    self.correct(level + 1, word);
                }
                (level, position) = (level + 1, word + 1);
            }
        }
    }

    /// Clears the bit above a word that was found empty.
    fn correct(&self, level: usize, position: usize) {
        let bit = 1 << (position % 64);
        if self
            .members(level, position / 64)
            .is_none_or(|bits| bits & bit == 0)
        {
            return;
        }
        self.clear(level, position);
        let refilled = self
            .members(level - 1, position)
            .is_some_and(|bits| bits != 0);
        if refilled && !weakened(Weakness::SummaryNotRechecked) {
            self.set(level, position);
        }
    }

    #[inline]
    fn set(&self, level: usize, position: usize) {
        let (mut level, mut position) = (level, position);
        loop {
            let bit = 1 << (position % 64);
            let word = self.word(level, position / 64);
            if level > 0
                && weakened(Weakness::SummaryNotRewritten)
                && (word.load(Ordering::Acquire) ^ self.mask) & bit != 0
            {
                return;
            }
            let before = if self.mask == 0 {
                word.fetch_or(bit, Ordering::AcqRel)
            } else {
                !word.fetch_and(!bit, Ordering::AcqRel)
            };
            // Above a word that had members the bit is set, or the thread that added the first one will set it.
            if before != 0 || level + 1 == self.height {
                return;
            }
            (level, position) = (level + 1, position / 64);
        }
    }

    #[inline]
    fn clear(&self, level: usize, position: usize) {
        let bit = 1 << (position % 64);
        let word = self.word(level, position / 64);
        if self.mask == 0 {
            // In one order with `note`.
            word.fetch_and(!bit, Ordering::SeqCst);
        } else {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    #[inline]
    fn word(&self, level: usize, word: usize) -> &AtomicU64 {
        &self.words[self.levels[level].first_word + word]
    }

    #[inline]
    fn members(&self, level: usize, word: usize) -> Option<u64> {
        let exists = word < self.levels[level].words;
        exists.then(|| self.word(level, word).load(Ordering::SeqCst) ^ self.mask)
    }

    /// Bytes that are backed by memory now.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn resident_bytes(&self) -> usize {
        self.words.resident_bytes()
    }
}

/// The megabytes whose largest free slot is of one size, and how many they are.
///
/// The count tells whether a search has missed a member or there is none.
pub(crate) struct FillClass {
    pub(crate) index: Index,
    /// Low half: how many there are. High half: how many were ever added.
    census: CachePadded<AtomicU64>,
}

/// A class's census at a moment. If two are equal, nothing was added in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Census(u64);

impl Census {
    /// Whether the class was empty.
    #[inline]
    pub(crate) const fn is_zero(self) -> bool {
        self.0 as u32 == 0
    }
}

impl FillClass {
    /// An empty class, for a pool of `megabytes`.
    ///
    /// # Errors
    /// If there is no address space for it.
    pub(crate) fn new(megabytes: usize) -> io::Result<Self> {
        Ok(Self {
            index: Index::empty(megabytes)?,
            census: CachePadded::default(),
        })
    }

    #[inline]
    pub(crate) fn insert(&self, megabyte: usize) {
        self.index.insert(megabyte);
        self.census.fetch_add((1 << 32) + 1, Ordering::AcqRel);
    }

    #[inline]
    pub(crate) fn remove(&self, megabyte: usize) {
        self.index.remove(megabyte);
        self.census.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many there are.
    #[inline]
    pub(crate) fn census(&self) -> Census {
        Census(self.census.load(Ordering::Acquire))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_in_the_set_is_found(
            size in prop_oneof![1_usize..200, 4000_usize..5000, 262_000_usize..262_300],
            full in any::<bool>(),
            steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let index = if full { Index::full(size) } else { Index::empty(size) }.expect("maps");
            let mut model: BTreeSet<usize> = if full { (0..size).collect() } else { BTreeSet::new() };
            for (place, search) in steps {
                let place = place.index(size);
                if search {
                    let expected = model.range(place..).next().or(model.first());
                    prop_assert_eq!(index.find(place), expected.copied());
                } else if model.insert(place) {
                    index.insert(place);
                } else {
                    model.remove(&place);
                    index.remove(place);
                }
            }
            while let Some(first) = model.pop_first() {
                prop_assert_eq!(index.find(0), Some(first));
                index.remove(first);
            }
            prop_assert_eq!(index.find(size - 1), None);
        }
    }
}
