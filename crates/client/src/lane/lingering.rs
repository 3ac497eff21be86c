//! Lingering lanes: those whose connection has ended, kept until their last handle is dropped.
//!
//! Handles are not reference-counted: that would cost every task two locked instructions, each of which waits until
//! all earlier stores are written. Instead a connection that ends looks which of its lanes still have handles
//! ([`ClientLane::is_held`]), and keeps those.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use chimaera_fork::PerProcess;
use chimaera_thread::spawn;

use super::ClientLane;
use super::claim::ClaimState;
use super::handle_table::HandleTable;
use crate::reentrancy::{Mutex, MutexGuard};

/// The lane of a task handle, without a reference count ([the module](self)).
#[derive(Clone, Copy)]
pub(crate) struct LaneRef(NonNull<ClientLane>);

// SAFETY: a lane is shared among threads.
unsafe impl Send for LaneRef {}
// SAFETY: as above.
unsafe impl Sync for LaneRef {}

impl LaneRef {
    /// For the handle of a task that was submitted on the lane and not yet finished.
    #[inline]
    pub(crate) fn of(lane: &Arc<ClientLane>) -> Self {
        Self(NonNull::from(&**lane))
    }
}

impl Deref for LaneRef {
    type Target = ClientLane;

    #[inline]
    fn deref(&self) -> &ClientLane {
        // SAFETY: the handle's task holds a record of the lane or lies in its handle table, so `is_held` is true; and
        // the lane's connection, or `LINGERING` after that, keeps the lane as long as it is.
        unsafe { self.0.as_ref() }
    }
}

/// Keeps those of a connection's lanes that handles still use. Nobody can submit on them any more, so there will be no
/// new handles.
pub(crate) fn keep_for_handles(lanes: impl Iterator<Item = Arc<ClientLane>>) {
    // Locked first: a handle that sees its lane linger finds it in the list.
    let mut lingering = LINGERING.get().lock();
    let (held, free): (Vec<_>, Vec<_>) = lanes.partition(|lane| lane.linger());
    let weak: Vec<_> = held.iter().map(Arc::downgrade).collect();
    lingering.extend(held);
    drop(lingering);
    if !weak.is_empty() {
        // Without this thread, a lane whose last handle was dropped without `let_go` stays until the next call of that,
        // and with it the connection.
        let _ = spawn("chimaera-linger", move || let_go_in_time(weak));
    }
    drop(free);
}

/// Lanes of connections that have ended, kept for their handles, and with them the connections. A forked child has a
/// list of its own: the parent's lanes cannot be dropped there, as that waits for threads.
///
/// Locked before any handle table is.
static LINGERING: PerProcess<Mutex<Vec<Arc<ClientLane>>>> = PerProcess::new(Mutex::default);

/// Drops the lanes whose last handles are gone. To be called without locks: this may close a connection, and end a
/// runtime in this process.
#[cold]
pub(crate) fn let_go() {
    let gone: Vec<_> = LINGERING
        .get()
        .lock()
        .extract_if(.., |lane| !lane.is_held())
        .collect();
    drop(gone);
}

/// Unlocks the handle table after what may have been the last use of the lane by a handle. The lane may be gone
/// afterwards.
#[inline]
pub(crate) fn unlock_and_let_go(handles: MutexGuard<'_, HandleTable>) {
    let lingers = handles.lingers;
    drop(handles);
    if lingers {
        let_go();
    }
}

const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Drops lanes whose last handle was dropped without a call of [`let_go`].
///
/// A handle that is dropped on a lingering lane calls [`let_go`], unless it was being dropped while the connection
/// ended: its thread may have found itself the owner just before. So this thread checks, less and less often.
fn let_go_in_time(mut lanes: Vec<Weak<ClientLane>>) {
    let mut pause = Duration::from_millis(8);
    loop {
        thread::sleep(pause);
        pause = (pause * 2).min(MAX_PAUSE);
        lanes.retain(|lane| lane.strong_count() != 0);
        if lanes.is_empty() {
            return;
        }
        let_go();
    }
}

impl ClientLane {
    /// Makes the lane linger, now that nobody can submit any more: from now on a handle that is dropped calls
    /// [`let_go`]. Returns whether there are any handles ([`Self::is_held`]).
    pub(crate) fn linger(&self) -> bool {
        // The owner may end and its token become another thread's, without a connection that disowns the lane.
        self.submitter.end_ownership();
        self.handles.lock().lingers = true;
        self.is_held()
    }

    /// Whether a handle may still use the lane. To be called when nobody can submit any more.
    pub(crate) fn is_held(&self) -> bool {
        let mut handles = self.handles.lock();
        self.read_detach_notes(&mut handles);
        // Acquire pairs with the release of a thread that freed a record with its last access.
        let mut taken = !self.submitter.free_records();
        let mut is_held = handles.has_harvested();
        while taken != 0 {
            let (_, state) = self.claim_of(taken.trailing_zeros() as usize);
            is_held |= matches!(state, ClaimState::Attached | ClaimState::Awaited);
            taken &= taken - 1;
        }
        is_held
    }
}
