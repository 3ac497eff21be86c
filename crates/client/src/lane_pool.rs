//! The lanes of a connection, and which of them a thread uses.
//!
//! Each thread owns a lane, which is opened when the thread first submits, and lent to another thread after it has
//! ended. The last lanes are shared: by threads that find all others taken, and by threads that are ending and cannot
//! own anything any more.

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
use crate::error::Error;
use crate::lane::ClientLane;
use crate::lane::lingering::keep_for_handles;
use crate::lane::submitter::LaneKind;
use crate::reentrancy::{Inside, Mutex, NO_LANE, ThisThread, is_inside, refuse_inside};
use crate::request_error::RequestError;

/// The number of shared lanes, the last ones of a connection.
const SHARED_LANES: usize = 8;

/// The number of owned lanes, the first ones of a connection.
const OWNED_LANES: usize = MAX_LANES - SHARED_LANES;

/// The lanes of a connection.
pub(crate) struct LanePool {
    /// The connection's number in this process, and 0 in processes that are forked from it. So comparing it with that
    /// of a thread's last lane also says whether this is the connection's process.
    home: Home,
    lanes: [OnceLock<Arc<ClientLane>>; MAX_LANES],
    /// Open lanes whose owners have ended. Locked for moments.
    idle: Mutex<Vec<usize>>,
    /// The number of owned lanes that are open. Locked while a lane is opened, for as long as the daemon takes: only a
    /// thread that needs a new lane, too, waits for that.
    opened: Mutex<usize>,
    /// Counts the threads that share, to spread them over the shared lanes.
    sharers: AtomicUsize,
    /// How long threads spin before they sleep, if the application has chosen that.
    spin: Option<Duration>,
    /// The number of unsubmitted tasks.
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

    /// A number for a new connection, which no other has in this process, nor in one that this was forked from.
    pub(crate) fn next_connection_number() -> u64 {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);
        NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this is the connection's process.
    pub(crate) fn is_here(&self) -> bool {
        self.home.is_here()
    }

    /// The calling thread's lane.
    ///
    /// # Errors
    /// The thread has none yet, and the daemon refuses one or is gone; or this is not the connection's process; or the
    /// caller is a signal handler, and what it has interrupted must not be left half done.
    #[inline]
    pub(crate) fn current(self: &Arc<Self>) -> Result<&Arc<ClientLane>, Error> {
        let last = ThisThread::with(|thread| (!thread.is_inside()).then(|| thread.last_lane.get()));
        if let Some((number, index)) = last
            && number == self.home.number()
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
        let number = self.home.number();
        if number == 0 {
            return Err(Error::forked("using a connection"));
        }
        let leased = LEASES.try_with(|leases| {
            let leases = leases.borrow();
            let lease = leases.iter().find(|lease| lease.connection == number);
            lease.map(|lease| lease.index)
        });
        let index = match leased {
            Ok(Some(index)) => index,
            Ok(None) => self.lease()?,
            // The thread is ending, and cannot have leases any more.
            Err(_) => self.share()?,
        };
        remember_lane((number, index));
        Ok(self.lane(index))
    }

    fn lane(&self, index: usize) -> &Arc<ClientLane> {
        self.lanes[index].get().expect("leased lanes are open")
    }

    /// Takes a lane for this thread: an idle one, a new one, or a shared one.
    fn lease(self: &Arc<Self>) -> Result<usize, Error> {
        let index = match self.take_idle() {
            Some(index) => index,
            None => match self.open_own()? {
                Some(index) => index,
                None => self.share()?,
            },
        };
        let lease = LaneLease {
            connection: self.home.number(),
            index,
            lanes: Arc::downgrade(self),
        };
        LEASES.with_borrow_mut(|leases| {
            leases.retain(|lease| lease.lanes.strong_count() != 0);
            leases.push(lease);
        });
        Ok(index)
    }

    /// Takes a lane whose owner has ended.
    fn take_idle(&self) -> Option<usize> {
        let index = self.idle.lock().pop()?;
        self.lane(index).submitter.own();
        Some(index)
    }

    /// Opens a lane for this thread, or takes one that became idle meanwhile. `None` if all owned lanes are open.
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

    /// Chooses a shared lane.
    fn share(&self) -> Result<usize, Error> {
        let sharer = self.sharers.fetch_add(1, Ordering::Relaxed);
        let index = OWNED_LANES + sharer % SHARED_LANES;
        if self.lanes[index].get().is_none() {
            let since = Instant::now();
            let _opened = self.opened.lock();
            // Another thread may have opened it meanwhile.
            if self.lanes[index].get().is_none() {
                self.open(index, LaneKind::Shared, since)?;
            }
        }
        Ok(index)
    }

    /// Opens a lane. To be called with `opened` locked. A lane that was requested before, without a reply, is requested
    /// again: the daemon may have opened it. The caller has been waiting since `since`.
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
        let weak: Weak<ClientLane> = Arc::downgrade(&lane);
        self.connection.register(weak)?;
        assert!(self.lanes[index].set(lane).is_ok(), "lanes are opened once");
        Ok(self.lane(index))
    }

    /// Frees the records and buffers of detached tasks that have completed, on all lanes.
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
        keep_for_handles(self.lanes.iter_mut().filter_map(OnceLock::take));
    }
}

thread_local! {
    /// The lanes of this thread, one per connection, given back when it ends. Used inside only.
    static LEASES: RefCell<Vec<LaneLease>> = const { RefCell::new(Vec::new()) };
}

/// A thread's use of a lane, until the thread ends.
struct LaneLease {
    connection: u64,
    index: usize,
    lanes: Weak<LanePool>,
}

impl Drop for LaneLease {
    fn drop(&mut self) {
        // What this thread still does while it ends must not use a lane that is not its own any more.
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

/// Remembers the lane that this thread uses from now on.
fn remember_lane(lane: (u64, usize)) {
    let _inside = Inside::enter();
    ThisThread::with(|thread| thread.last_lane.set(lane));
}
