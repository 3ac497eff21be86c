//! The openings of a pool: what each of them has to say of those before, whatever a crash has left.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Numbers;
use super::disk::SimulatedDisk;
use crate::check::Repair;
use crate::{History, Metadata, OpenMode};

/// How far the end of an opening is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// Nobody has ended it.
    #[default]
    None,
    /// It is being written that it has ended, or it is not known how far that came.
    UnderWay,
    /// It is durable that it has ended.
    Durable,
}

/// What is known of a pool's openings. In a pool of version 1, which does not count them, nothing is.
#[derive(Clone, Debug, Default)]
pub struct Openings {
    /// The newest one that was ready, and thus given to somebody.
    newest: Option<(History, End)>,
    /// Those that have begun since, by their random bits. A crash may have interrupted them.
    begun: BTreeMap<u64, End>,
    /// The random bits of those that were ready before.
    earlier: Rc<BTreeSet<u64>>,
    /// Whether the pool may have the mark of a failure.
    may_be_marked: bool,
}

impl Openings {
    /// Whether the pool may have the mark of a failure.
    pub(super) fn may_be_marked(&self) -> bool {
        self.may_be_marked
    }

    /// Begins a repair, which is an opening that ends.
    pub(super) fn begin_repair(&mut self, numbers: &mut Numbers) -> Repair {
        let history = numbers.draw();
        self.begun.insert(history, End::UnderWay);
        Repair {
            history,
            seconds: 1,
            uuid: None,
        }
    }

    /// Begins an opening.
    pub(super) fn begin(&mut self, numbers: &mut Numbers) -> OpenMode {
        let history = numbers.draw();
        self.begun.insert(history, End::None);
        OpenMode::ReadWrite { history }
    }

    /// Checks what a pool that is ready says of the openings before. It is the newest one from now on.
    ///
    /// # Errors
    /// What is wrong with that.
    pub(super) fn ready(
        &mut self,
        metadata: &Metadata<SimulatedDisk>,
        journal_records: u64,
    ) -> Result<(), String> {
        let Some(now) = metadata.superblock().history else {
            return Ok(());
        };
        if let Some((newest, end)) = self.newest {
            self.see_that_it_follows(now, (newest, end), journal_records)?;
            Rc::make_mut(&mut self.earlier).insert(newest.current);
        }
        self.newest = Some((now, End::None));
        self.begun.clear();
        self.may_be_marked = false;
        Ok(())
    }

    fn see_that_it_follows(
        &self,
        now: History,
        (newest, end): (History, End),
        journal_records: u64,
    ) -> Result<(), String> {
        if now.current == newest.current || self.earlier.contains(&now.current) {
            return Err(format!("two openings have one history: {now:?}"));
        }
        if now.openings <= newest.openings {
            return Err(format!("{now:?} counts no more than {newest:?}"));
        }
        let end = match self.begun.get(&now.predecessor) {
            Some(end) => *end,
            None if now.predecessor == newest.current => end,
            None => return Err(format!("{now:?} does not follow {newest:?}")),
        };
        let is_right = match end {
            End::None => !now.predecessor_ended_well,
            End::UnderWay => true,
            End::Durable => now.predecessor_ended_well,
        };
        if !is_right {
            return Err(format!("{now:?} is wrong about the end: {end:?}"));
        }
        match journal_records {
            1.. if now.predecessor_ended_well => Err(format!(
                "{journal_records} records are left of an opening that has ended"
            )),
            _ => Ok(()),
        }
    }

    /// Notes that the newest opening is being ended.
    pub(super) fn ending(&mut self) {
        self.newest = self.newest.map(|(newest, _)| (newest, End::UnderWay));
    }

    /// Notes that the newest opening has ended.
    pub(super) fn ended(&mut self) {
        self.newest = self.newest.map(|(newest, _)| (newest, End::Durable));
    }

    /// Notes that the device has failed, and that a mark is being left.
    pub(super) fn marked(&mut self) {
        self.may_be_marked = true;
    }
}
