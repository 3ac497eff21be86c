//! LanePool that stay until their last handle goes.
//!
//! Handles are not counted: counting would cost every task two locked instructions, each of which waits until all
//! that was written before is with the worker. Instead a connection that ends looks which of its lanes still have
//! handles ([`ClientLane::is_held`]), and keeps those.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use chimaera_fork::PerProcess;
use chimaera_shm::thread::spawn;

use super::ClientLane;
use super::claim::ClaimState;
use super::handle_table::HandleTable;
use crate::reentrancy::{Mutex, MutexGuard};

/// A task handle's lane. Not counted: counting would cost every task two locked instructions, each
/// of which waits until all that was written before is with the worker. Instead a session that
/// ends looks which of its lanes still have handles, and keeps those ([`LINGERING`]).
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
        // SAFETY: the handle's task holds a record of the lane or lies at its desk, so `is_held`
        // says that it is held, and whoever keeps the lane does so until it says otherwise.
        unsafe { self.0.as_ref() }
    }
}

/// Keeps those of these lanes that handles still use. Nobody can submit on them any more, so there will be no new
/// handles.
pub(crate) fn keep_for_handles(lanes: impl Iterator<Item = Arc<ClientLane>>) {
    // Locked first: a handle that is asked to tell finds its lane there.
    let mut lingering = LINGERING.get().lock();
    let (held, free): (Vec<_>, Vec<_>) = lanes.partition(|lane| lane.linger());
    let names: Vec<_> = held.iter().map(Arc::downgrade).collect();
    lingering.extend(held);
    drop(lingering);
    if !names.is_empty() {
        // Without a thread the few handles that go unnoticed keep the connection.
        let _ = spawn("chimaera-linger", move || let_go_in_time(names));
    }
    drop(free);
}

/// LanePool of sessions that have ended, kept for their handles, and with them the connections. In a forked
/// child they are its own: its parent's cannot be let go there, as that waits for threads.
///
/// Locked before any desk is.
static LINGERING: PerProcess<Mutex<Vec<Arc<ClientLane>>>> = PerProcess::new(Mutex::default);

/// Lets those lanes go whose last handles are gone. To be called without locks: what goes may
/// close a connection, and end a runtime in this process.
#[cold]
pub(crate) fn let_go() {
    let gone: Vec<_> = LINGERING
        .get()
        .lock()
        .extract_if(.., |lane| !lane.is_held())
        .collect();
    drop(gone);
}

/// Unlocks a desk after what may have been a handle's last use of the lane, which may be gone
/// then.
#[inline]
pub(crate) fn unlock_and_let_go(handles: MutexGuard<'_, HandleTable>) {
    let lingers = handles.lingers;
    drop(handles);
    if lingers {
        let_go();
    }
}

/// Lets lanes go where no handle does.
///
/// A handle that goes on a lingering lane tells ([`let_go`]), unless it was about to go already when
/// the session ended: its thread may have found the lane its own. So this asks, less and less often.
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

const MAX_PAUSE: Duration = Duration::from_secs(1);

impl ClientLane {
    /// Has handles tell when they go, now that nobody can submit any more. Returns whether there
    /// are any ([`Self::is_held`]).
    pub(crate) fn linger(&self) -> bool {
        // Its thread may end, and leave its token to another, without a session to tell it to.
        self.submitter.end_ownership();
        self.handles.lock().lingers = true;
        self.is_held()
    }

    /// Whether a handle may still use the lane. To be asked when nobody can submit any more.
    pub(crate) fn is_held(&self) -> bool {
        let mut handles = self.handles.lock();
        self.read_detach_notes(&mut handles);
        // Acquire pairs with the release of whoever freed a record with its last access.
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
