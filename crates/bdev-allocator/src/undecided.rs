//! Frees of lists that are not decided yet.
//!
//! A list of blocks is freed whole or not at all, but its blocks die one after the other. A block of it may turn out to
//! be dead already, because the list names it twice, or because another thread frees it meanwhile. Then the blocks that
//! have died are made live again, and the list is refused. Until that is decided, a dead block may be allocated after
//! all, so nobody may say that it is not:
//!
//! - A list is decided while its thread holds the lock here, shared with other lists. A free of one block is decided by
//!   the instruction that clears the live bit, and takes no lock.
//! - Whoever finds a live bit clear and would refuse something for it, or pass it on, takes the lock alone and looks
//!   again. Either a list has cleared the bit, or its block is really not allocated. In the first case that thread took
//!   the lock before it cleared the bit with release, and the bit was read with acquire. So of the two holders of the
//!   lock, the list comes first, and has been decided by the time that the second look comes.
//! - A list that finds a block dead may have met another list that will be refused in turn. It makes its blocks live
//!   again, gives the lock back, and tries once more with the lock alone. Then no other list is undecided, and what it
//!   finds is final. Of two lists that meet, one is freed.
//!
//! The lock is the first that is taken, before that of a megabyte. Who holds it waits for no I/O and no device. Neither
//! accepted I/O nor the free of one block that is allocated touches it.
use crate::sync::{RwLock, Threads, Weakness, weakened};

/// The lock of the lists that are being freed.
#[derive(Debug, Default)]
pub(crate) struct Undecided(RwLock<()>);

impl Undecided {
    /// Begins the free of a list: until the guard is dropped, its blocks may become live again. Nothing is locked for
    /// a thread that is the only one.
    #[inline]
    pub(crate) fn begin(&self, threads: Threads) -> Option<impl Drop + '_> {
        (threads == Threads::Many).then(|| self.0.read())
    }

    /// Waits until all lists are decided. None begins before the guard is dropped.
    pub(crate) fn decided(&self, threads: Threads) -> Option<impl Drop + '_> {
        (threads == Threads::Many).then(|| self.0.write())
    }

    /// As [`Self::decided`], for who has seen a dead block and looks again.
    #[cold]
    pub(crate) fn for_second_look(&self, threads: Threads) -> Option<impl Drop + '_> {
        if weakened(Weakness::RefusedAtFirstSight) {
            return None;
        }
        self.decided(threads)
    }
}
