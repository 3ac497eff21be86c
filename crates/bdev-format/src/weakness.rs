//! Steps that the argument of crash safety depends on.
//!
//! A test that never fails proves nothing. So tests can leave out each of these steps, and for each there is a test
//! that sees the simulation of crashes find the fault then.

/// A step to leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashWeakness {
    /// A commit does not flush its record.
    CommitNotFlushed,
    /// A commit of nothing does not flush the data.
    DataNotFlushed,
    /// The table is written before the tags are durable.
    TagsNotFlushed,
    /// The table is written before the second copy of the tags is durable.
    SecondTagsNotFlushed,
    /// Both copies of the table are written without a flush in between.
    TableCopiesTogether,
    /// The first copy of a page of the table is overwritten without a look at the second one.
    SecondCopyNotLookedAt,
    /// The superblock is written before the second copy of the table is durable.
    SecondCopyNotFlushed,
    /// The first copy of the superblock is not flushed: before the second one is written, and before
    /// the journal's old half is used again.
    SuperblockNotFlushed,
    /// Both far superblocks are written without a flush in between.
    FarSuperblocksTogether,
    /// Recovery does not flush what it has found.
    RecoveryNotFlushed,
    /// The checksum of a record of the journal is not checked.
    JournalUnchecked,
    /// The checksum of a page of the table is not checked.
    TableUnchecked,
    /// The checksum of a superblock is not checked.
    SuperblockUnchecked,
    /// The checksum of a sector of tags is not checked.
    TagsUnchecked,
    /// A record of the journal has one copy.
    RecordWrittenOnce,
    /// The copy of a record that a crash has torn is left as it is.
    LoneRecordLeft,
    /// Second copies of the table that look sound after a crash are taken to be durable.
    SecondCopiesTrusted,
    /// Second copies of the table that look sound after a crash are taken to be durable from the second checkpoint on,
    /// whichever pages the first one was about.
    SecondCopiesTrustedSoon,
    /// First copies of the table that look sound after a crash are taken to be durable, and the second ones are
    /// written.
    FirstCopiesTrusted,
    /// Opening leaves second copies of the table as a crash has torn them.
    TornSecondCopyLeft,
    /// Superblocks that look sound after a crash are taken to be durable.
    SuperblocksTrusted,
    /// Superblocks that look sound are taken to be durable where they say that an opening has ended in good order.
    EndTrusted,
    /// Opening writes all superblocks again at once, without a flush in between.
    SuperblocksRestoredTogether,
    /// Opening writes that half of the superblocks again first which is always written last.
    SuperblocksRestoredInWrongOrder,
    /// The history of an opening is not written before the pool is ready.
    HistoryNotWritten,
    /// The history of an opening is not flushed in all superblocks before the pool is ready.
    HistoryNotFlushed,
    /// Two openings have the same random bits.
    HistoryUsedTwice,
    /// Openings are counted from the beginning again.
    OpeningsCountedAnew,
    /// Every opening says that the one before has ended in good order.
    EndAssumed,
    /// It is written that an opening has ended before its last checkpoint.
    EndedEarly,
    /// After a failure the pool is written as before.
    WrittenAfterFailure,
    /// Where no mark of a failure is found, superblocks that look sound are taken to be durable.
    AbsenceOfMarkTrusted,
    /// A repair leaves the mark of the failure.
    MarkLeft,
    /// A repair removes the mark of the failure before it has repaired anything.
    MarkClearedEarly,
    /// The second copy of the tags is not written.
    TagsWrittenOnce,
    /// Both copies of the tags are written without a flush in between.
    TagCopiesTogether,
    /// Tags that look as they should are taken to be durable, and not written.
    TagsTrusted,
    /// What is left of a commit that does not count stays in the journal.
    RemainsLeft,
    /// The upgrade of a pool writes its first superblock before the rest is durable.
    UpgradeNotFlushed,
    /// The upgrade of a pool writes all superblocks without a flush in between.
    UpgradeSuperblocksTogether,
    /// Freed space is allocated again before the free is durable.
    SpaceReusedEarly,
}

/// Whether a step is left out. Only tests, which have the feature `simulation`, leave steps out.
#[cfg(not(any(test, feature = "simulation")))]
#[inline]
pub const fn weakened(_: CrashWeakness) -> bool {
    false
}

#[cfg(any(test, feature = "simulation"))]
pub use tested::{weakened, with_weakness};

#[cfg(any(test, feature = "simulation"))]
mod tested {
    use std::cell::Cell;

    use super::CrashWeakness;

    thread_local! {
        static WEAKNESS: Cell<Option<CrashWeakness>> = const { Cell::new(None) };
    }

    /// Whether this step is left out on this thread.
    pub fn weakened(weakness: CrashWeakness) -> bool {
        WEAKNESS.get() == Some(weakness)
    }

    /// Runs something on this thread with one step left out.
    pub fn with_weakness<T>(weakness: Option<CrashWeakness>, run: impl FnOnce() -> T) -> T {
        struct Restore(Option<CrashWeakness>);
        impl Drop for Restore {
            fn drop(&mut self) {
                WEAKNESS.set(self.0);
            }
        }
        let _restore = Restore(WEAKNESS.replace(weakness));
        run()
    }
}
