//! The state of a scan: which commits are complete, and where their records' copies lie.

use std::collections::BTreeMap;

use super::rivals::Rivals;
use super::{LoneRecord, Scan};
use crate::journal::{self, Commit, JournalPayload, JournalRecord};
use crate::limits::{MAX_EPOCH_CHANGES, MAX_READ_CHANGES, MAX_READ_MEGABYTES};
use crate::version::FormatVersion;
use crate::weakness::{CrashWeakness, weakened};

/// A place in the half: the region, and the page of the half.
type Place = (usize, u64);

/// The state of a scan.
pub(super) struct ScanProgress {
    version: FormatVersion,
    epoch: u64,
    scan: Scan,
    /// Records of complete commits that have one sound copy.
    lone: Vec<LonePlaces>,
    /// Megabytes and tags that were left when commits were last merged into one payload.
    merged: (usize, usize),
    /// Updates of megabytes in all commits that were seen.
    seen_changes: usize,
    /// Updates of megabytes in the records of the commit whose last record was not seen yet.
    partial_changes: usize,
    /// The commit whose last record was not seen yet.
    partial: Option<PartialCommit>,
    /// The last commit that counts.
    last: Option<Commit>,
    /// Records that contradict each other if both of their commits are whole.
    rivals: Option<Rivals>,
}

/// A commit of which some records were seen.
struct PartialCommit {
    commit: Commit,
    /// Sequence of its next record.
    next: u64,
    payloads: Vec<JournalPayload>,
    records: Vec<RecordCopies>,
}

/// A record that has one sound copy.
struct LonePlaces {
    sequence: u64,
    commit_last: u64,
    /// Where the copy is, and where the other should be.
    present: Place,
    missing: Place,
    pages: u64,
}

/// The copies of a record that were seen.
struct RecordCopies {
    /// Pages of a copy.
    pages: u64,
    /// Where they lie.
    places: Vec<Place>,
}

impl ScanProgress {
    pub(super) fn new(version: FormatVersion, epoch: u64, next_sequence: u64) -> Self {
        Self {
            version,
            epoch,
            scan: Scan {
                next_sequence,
                ..Scan::default()
            },
            lone: Vec::new(),
            merged: (0, 0),
            seen_changes: 0,
            partial_changes: 0,
            partial: None,
            last: None,
            rivals: None,
        }
    }

    /// Takes notice of records at one place that differ, before it sees each of them.
    pub(super) fn see_rivals(&mut self, rivals: Option<Rivals>) {
        let first = self.scan.next_sequence;
        let is_known = |known: &Rivals| known.are_of_commits_from(first);
        if self.rivals.as_ref().is_some_and(is_known) {
            return;
        }
        let partial = self.partial.as_ref();
        let partial = partial.map(|partial| (partial.commit, partial.next));
        let matters = |rivals: &Rivals| rivals.continue_commit(first, partial);
        if let Some(rivals) = rivals.filter(matters) {
            self.rivals = Some(rivals);
        }
    }

    /// Takes notice of a record in the page `at` of the half, in one or both regions. Gives those two that contradict
    /// each other, if this record shows it.
    #[must_use]
    pub(super) fn see(
        &mut self,
        record: JournalRecord,
        at: u64,
        is_in_region: [bool; 2],
    ) -> Option<Rivals> {
        let position = record.position;
        if position.epoch == self.epoch {
            let contradictory = self.rivals.take_if(|rivals| rivals.see(position));
            if contradictory.is_some() {
                return contradictory;
            }
        }
        self.count(record, at, is_in_region);
        None
    }

    fn count(&mut self, record: JournalRecord, at: u64, is_in_region: [bool; 2]) {
        let position = record.position;
        let committed = self.scan.next_sequence;
        if position.epoch > self.epoch {
            self.damage(format!(
                "the journal has a record of epoch {}, the superblock is of epoch {} at most",
                position.epoch,
                self.epoch - 1
            ));
        }
        if position.epoch != self.epoch {
            return;
        }
        if let Some(kind) = record.unknown_section {
            self.damage(format!(
                "record {} of the journal has a section of kind {kind}, which this program does not know: \
                 use a newer one",
                position.sequence
            ));
        }
        let places = (0..2)
            .filter(|region| is_in_region[*region])
            .map(|region| (region, at));
        if position.sequence < committed {
            // The second copy of a record that counts, or a record that a crash has left behind that one.
            if position.sequence + 1 == committed && self.last == Some(position.commit) {
                let found: Vec<Place> = places.collect();
                self.lone.retain(|lone| !found.contains(&lone.missing));
            }
        } else if position.commit.first > committed {
            self.damage(format!(
                "the journal has record {} of epoch {}, and record {committed} is missing",
                position.sequence, self.epoch
            ));
        } else if position.commit.first == committed {
            self.add_to_partial(record, places.collect());
        }
    }

    fn add_to_partial(&mut self, record: JournalRecord, places: Vec<Place>) {
        if self.is_too_much() {
            return self.damage_by_changes();
        }
        let position = record.position;
        let is_current = |partial: &PartialCommit| partial.commit == position.commit;
        if position.sequence == position.commit.first
            && !self.partial.as_ref().is_some_and(is_current)
        {
            self.partial_changes = 0;
            self.partial = Some(PartialCommit {
                commit: position.commit,
                next: position.sequence,
                payloads: Vec::new(),
                records: Vec::new(),
            });
        }
        let Some(partial) = self.partial.as_mut().filter(|partial| is_current(partial)) else {
            return;
        };
        if partial.next.checked_sub(1) == Some(position.sequence) {
            let last = partial.records.last_mut();
            last.into_iter()
                .for_each(|seen| seen.places.extend(&places));
        }
        if position.sequence != partial.next {
            return;
        }
        self.partial_changes += record.payload.entries.len();
        if self.partial_changes > MAX_EPOCH_CHANGES {
            return self.damage_by_changes();
        }
        partial.payloads.push(record.payload);
        partial.records.push(RecordCopies {
            pages: record.pages as u64,
            places,
        });
        partial.next += 1;
        if position.sequence == position.commit.last {
            self.complete();
        }
    }

    /// Counts the commit, whose last record was seen.
    fn complete(&mut self) {
        let Some(mut partial) = self.partial.take() else {
            return;
        };
        self.last = Some(partial.commit);
        self.scan.next_sequence = partial.next;
        self.seen_changes += self.partial_changes;
        for payload in &partial.payloads {
            self.scan.changes += payload.entries.len();
            self.scan.tags += payload.tags.len();
        }
        self.scan.payloads.append(&mut partial.payloads);
        let begin = self.scan.taken_pages;
        for (sequence, RecordCopies { pages, places }) in
            (partial.commit.first..).zip(partial.records)
        {
            // Commits lie one behind the other, also where copies are damaged.
            let at = self.scan.taken_pages;
            let wanted = match self.version {
                FormatVersion::One => [(0, at), (0, at + pages)],
                FormatVersion::Two => [(0, at), (1, at)],
            };
            let is_there = wanted.map(|place| places.contains(&place));
            if is_there[0] != is_there[1] {
                let present = usize::from(is_there[1]);
                self.lone.push(LonePlaces {
                    sequence,
                    commit_last: partial.commit.last,
                    present: wanted[present],
                    missing: wanted[1 - present],
                    pages,
                });
            }
            self.scan.taken_pages += journal::copies_in_region(self.version) * pages;
        }
        self.scan.last_commit = begin..self.scan.taken_pages;
        let (megabytes, tags) = self.merged;
        if self.scan.changes + self.scan.tags > megabytes + tags + 2 * MAX_EPOCH_CHANGES {
            self.merge();
        }
    }

    /// Brings all commits into one payload, in which the last update of each megabyte and of each tag counts. The first
    /// programs did not bound the changes in an epoch; their number is bounded here by that of the megabytes.
    fn merge(&mut self) {
        let scan = &mut self.scan;
        let (mut entries, mut tags) = (BTreeMap::new(), BTreeMap::new());
        for payload in scan.payloads.drain(..) {
            entries.extend(payload.entries);
            tags.extend(payload.tags);
        }
        (scan.changes, scan.tags) = (entries.len(), tags.len());
        scan.payloads.push(JournalPayload {
            entries: entries.into_iter().collect(),
            tags: tags.into_iter().collect(),
        });
        self.merged = (self.scan.changes, self.scan.tags);
    }

    /// Whether the commits that were seen are about more than is read.
    fn is_too_much(&self) -> bool {
        let (megabytes, _) = self.merged;
        megabytes > MAX_READ_MEGABYTES || self.seen_changes > MAX_READ_CHANGES
    }

    fn damage_by_changes(&mut self) {
        self.damage(format!(
            "the journal has more changes of epoch {} than an epoch can have",
            self.epoch
        ));
    }

    fn damage(&mut self, what: String) {
        self.scan.damage.get_or_insert(what);
    }

    /// The result. `halves` has the first page of each region's half, and `begins` the pages in which a record of the
    /// epoch begins: of the half, and of the device.
    pub(super) fn finish(self, halves: &[u64], half_pages: u64, begins: &[(u64, u64)]) -> Scan {
        let mut scan = self.scan;
        let on_device = |(region, at): Place| halves[region] + at;
        // In a forged journal the place of a missing copy may lie outside the half.
        let inside = self
            .lone
            .iter()
            .filter(|lone| lone.missing.1 + lone.pages <= half_pages);
        scan.lone = inside
            .map(|lone| LoneRecord {
                sequence: lone.sequence,
                commit_last: lone.commit_last,
                present_at: on_device(lone.present),
                missing_at: on_device(lone.missing),
                pages: lone.pages,
            })
            .collect();
        if weakened(CrashWeakness::LoneRecordLeft) || weakened(CrashWeakness::RecordWrittenOnce) {
            scan.lone.clear();
        }
        let behind = begins.iter().filter(|(at, _)| *at >= scan.taken_pages);
        scan.remains = behind.map(|(_, page)| *page).collect();
        scan
    }
}
