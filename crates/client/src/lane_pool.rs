//! Which lane a thread uses.
//!
//! Each thread owns a lane, opened when it first submits and given to another thread when it ends.
//! The last lanes are kept for threads that find all others taken, and for threads that are ending
//! and cannot own anything any more: those share.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use chimaera_fork::Home;
use chimaera_proto::control::{ControlReply, ControlRequest};
use chimaera_proto::limits::MAX_LANES;
use chimaera_shm::Doorbell;

use crate::adaptive_spin::AdaptiveSpin;
use crate::connection::ClientConnection;
use crate::control::RequestError;
use crate::error::Error;
use crate::lane::ClientLane;
use crate::lane::lingering::keep_for_handles;
use crate::lane::submitter::LaneKind;
use crate::reentrancy::{Inside, Mutex, NO_LANE, ThisThread, is_inside, refuse_inside};

thread_local! {
    /// All lanes of this thread, one per session; given back when it ends. Used inside only.
    static LEASES: RefCell<Vec<LaneLease>> = const { RefCell::new(Vec::new()) };
}

/// LanePool that are shared, the last of a session.
const SHARED_LANES: usize = 8;

/// LanePool that are owned, the first of a session.
const OWNED_LANES: usize = MAX_LANES - SHARED_LANES;

/// A thread's use of a lane.
struct LaneLease {
    session: u64,
    index: usize,
    lanes: Weak<LanePool>,
}

impl Drop for LaneLease {
    fn drop(&mut self) {
        // What this thread still does as it ends must not find a lane that is not its own.
        remember_lane(NO_LANE);
        if let Some(lanes) = self.lanes.upgrade()
            && lanes.is_here()
            && self.index < OWNED_LANES
        {
            lanes.lane(self.index).submitter.disown();
            lanes.idle.lock().push(self.index);
        }
    }
}

/// The lane that this thread uses from now on.
fn remember_lane(lane: (u64, usize)) {
    let _inside = Inside::enter();
    ThisThread::with(|thread| thread.last_lane.set(lane));
}

/// The lanes of a session.
pub(crate) struct LanePool {
    /// The session's number in this process, and 0 in those that are forked from it: so the look whether a
    /// thread's last lane is one of this session is a look whether this is its process, too.
    home: Home,
    lanes: [OnceLock<Arc<ClientLane>>; MAX_LANES],
    /// Open lanes whose owners ended. Held for moments.
    idle: Mutex<Vec<usize>>,
    /// Of the lanes that are owned, those before this one are open. Held while a lane is opened, for as long as
    /// the daemon takes: only who needs one that is not open waits for that.
    opened: Mutex<usize>,
    /// Counts those who share, to spread them.
    sharers: AtomicUsize,
    /// How long threads look before they sleep, if that was asked for.
    spin: Option<Duration>,
    /// Tasks that wait to be submitted.
    pub(crate) unsubmitted: AtomicUsize,
    connection: Arc<ClientConnection>,
}

impl LanePool {
    pub(crate) fn new(spin: Option<Duration>, connection: Arc<ClientConnection>) -> Self {
        Self {
            home: connection.home.clone(),
            lanes: [const { OnceLock::new() }; MAX_LANES],
            idle: Mutex::default(),
            opened: Mutex::default(),
            sharers: AtomicUsize::new(0),
            spin,
            unsubmitted: AtomicUsize::new(0),
            connection,
        }
    }

    /// A number for a session that is to be: no other has it in this process, nor in one that this was
    /// forked from.
    pub(crate) fn next_session() -> u64 {
        static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);
        NEXT_SESSION.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this is the session's process.
    pub(crate) fn is_here(&self) -> bool {
        self.home.is_here()
    }

    /// The calling thread's lane.
    ///
    /// # Errors
    /// The thread has none yet, and the daemon refuses one or is gone; or this is another process than the
    /// session's; or a signal handler asks, and what it has interrupted is not to be left half done.
    #[inline]
    pub(crate) fn current(self: &Arc<Self>) -> Result<&Arc<ClientLane>, Error> {
        let last = ThisThread::with(|thread| (!thread.is_inside()).then(|| thread.last_lane.get()));
        if let Some((session, index)) = last
            && session == self.home.number()
            && let Some(lane) = self.lanes[index].get()
        {
            return Ok(lane);
        }
        self.find()
    }

    #[cold]
    fn find(self: &Arc<Self>) -> Result<&Arc<ClientLane>, Error> {
        refuse_inside("using a connection")?;
        let _inside = Inside::enter();
        let session = self.home.number();
        if session == 0 {
            return Err(Error::forked("using a connection"));
        }
        let leased = LEASES.try_with(|leases| {
            let leases = leases.borrow();
            let lease = leases.iter().find(|lease| lease.session == session);
            lease.map(|lease| lease.index)
        });
        let index = match leased {
            Ok(Some(index)) => index,
            Ok(None) => self.lease()?,
            // The thread is ending, and has no leases any more.
            Err(_) => self.share()?,
        };
        remember_lane((session, index));
        Ok(self.lane(index))
    }

    fn lane(&self, index: usize) -> &Arc<ClientLane> {
        self.lanes[index].get().expect("leased lanes are open")
    }

    /// Takes a lane for this thread: an idle one, a new one, or one that is shared.
    fn lease(self: &Arc<Self>) -> Result<usize, Error> {
        let index = match self.take_idle() {
            Some(index) => index,
            None => match self.open_own()? {
                Some(index) => index,
                None => self.share()?,
            },
        };
        let lease = LaneLease {
            session: self.home.number(),
            index,
            lanes: Arc::downgrade(self),
        };
        LEASES.with_borrow_mut(|leases| {
            leases.retain(|lease| lease.lanes.strong_count() != 0);
            leases.push(lease);
        });
        Ok(index)
    }

    /// Takes a lane whose owner ended.
    fn take_idle(&self) -> Option<usize> {
        let index = self.idle.lock().pop()?;
        self.lane(index).submitter.own();
        Some(index)
    }

    /// Opens a lane for this thread, or takes one that became idle meanwhile. `None` if there are no more.
    fn open_own(&self) -> Result<Option<usize>, Error> {
        let since = Instant::now();
        let mut opened = self.opened.lock();
        if let Some(index) = self.take_idle() {
            return Ok(Some(index));
        }
        let index = *opened;
        if index == OWNED_LANES {
            return Ok(None);
        }
        self.open(index, LaneKind::Owned, since)?.submitter.own();
        *opened += 1;
        Ok(Some(index))
    }

    /// Chooses a lane that is shared.
    fn share(&self) -> Result<usize, Error> {
        let sharer = self.sharers.fetch_add(1, Ordering::Relaxed);
        let index = OWNED_LANES + sharer % SHARED_LANES;
        if self.lanes[index].get().is_none() {
            let since = Instant::now();
            let _opened = self.opened.lock();
            // Somebody else may have done it meanwhile.
            if self.lanes[index].get().is_none() {
                self.open(index, LaneKind::Shared, since)?;
            }
        }
        Ok(index)
    }

    /// Opens a lane. To be called with `opened` locked. A lane that was asked for before, without an
    /// answer, is asked for again: the daemon may have opened it. The caller waits since that time.
    fn open(
        &self,
        index: usize,
        kind: LaneKind,
        since: Instant,
    ) -> Result<&Arc<ClientLane>, Error> {
        let operation = "opening a lane";
        let request = ControlRequest::OpenLane { lane: index as u32 };
        let (reply, file) = self
            .connection
            .control
            .request(&request, None, since, operation)?;
        let (ControlReply::LaneOpened, Some(doorbell)) = (reply, file) else {
            return Err(RequestError::unexpected(operation).error);
        };
        let lane = Arc::new(ClientLane::new(
            index,
            kind,
            Doorbell::from_host(doorbell).map_err(|error| Error::io(&error, operation))?,
            AdaptiveSpin::new(self.spin),
            Arc::clone(&self.connection),
        ));
        let events: Weak<ClientLane> = Arc::downgrade(&lane);
        self.connection.register(events)?;
        assert!(self.lanes[index].set(lane).is_ok(), "lanes are opened once");
        Ok(self.lane(index))
    }

    /// Frees what dropped handles left behind, on all lanes.
    pub(crate) fn reap_detached(&self) {
        if !self.is_here() || is_inside() {
            return;
        }
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            if lane.flags.detached() != 0 {
                lane.reap_detached();
            }
        }
    }
}

impl Drop for LanePool {
    fn drop(&mut self) {
        // Nobody submits any more, so there will be no new handles.
        keep_for_handles(self.lanes.iter_mut().filter_map(OnceLock::take));
    }
}
