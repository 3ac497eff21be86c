//! Records of one epoch and sequence that differ, sound both of them, one in each region.
//!
//! Both copies of a record are written at once, so they are alike, torn, or missing. What a commit that a crash
//! interrupted has left is erased, but where the flush after that fails it may be there again beside a later commit. It
//! was not whole, and is not now: so records that differ contradict each other only if both are of commits that are
//! whole. Then somebody has put back an older state of a part of the device, and nobody can tell which of them counts.

use crate::journal::{Commit, JournalRecord, Position};

/// Two records that differ, and how much was seen of the commit of each.
pub(super) struct Rivals {
    /// Their page of the half.
    pub(super) at: u64,
    sequence: u64,
    commits: [Commit; 2],
    /// The next record of each commit.
    next: [u64; 2],
}

impl Rivals {
    /// Two records at a page of the half, if they are of one epoch and sequence.
    pub(super) fn of([first, second]: [&JournalRecord; 2], at: u64) -> Option<Self> {
        let positions = [first, second].map(|record| record.position);
        let age = |position: Position| (position.epoch, position.sequence);
        let sequence = positions[0].sequence;
        (age(positions[0]) == age(positions[1])).then_some(Self {
            at,
            sequence,
            commits: positions.map(|position| position.commit),
            next: [sequence; 2],
        })
    }

    /// Whether both may be of the commit that begins at `first`, of which all records before `next` were seen, if that
    /// has the range `partial`.
    pub(super) fn continue_commit(&self, first: u64, partial: Option<(Commit, u64)>) -> bool {
        let are_first = self.sequence == first;
        let follow = |commit: &Commit| partial == Some((*commit, self.sequence));
        self.commits.iter().all(|commit| commit.first == first)
            && (are_first || self.commits.iter().all(follow))
    }

    /// Whether they are of commits that begin here.
    pub(super) fn are_of_commits_from(&self, first: u64) -> bool {
        self.commits[0].first == first
    }

    /// Takes notice of a record. Says whether both commits are whole now.
    pub(super) fn see(&mut self, position: Position) -> bool {
        for (commit, next) in self.commits.iter().zip(&mut self.next) {
            if *commit == position.commit && *next == position.sequence {
                *next += 1;
            }
        }
        let mut sides = self.commits.iter().zip(self.next);
        sides.all(|(commit, next)| next > commit.last)
    }

    /// What is wrong, in words. `halves` has the first page of each region's half.
    pub(super) fn describe(&self, halves: &[u64]) -> String {
        let pages: Vec<_> = halves
            .iter()
            .map(|half| (half + self.at).to_string())
            .collect();
        format!(
            "record {} of the journal is sound in pages {}, and differs: a part of the device holds an older state",
            self.sequence,
            pages.join(" and ")
        )
    }
}
