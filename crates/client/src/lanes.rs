//! Which lane a thread uses.
//!
//! Each thread has a lane of its own, opened when it first submits and given to another thread
//! when it ends. When all lanes are open and in use, threads share. Having a lane for oneself is
//! a matter of speed only: a lane is safe to share, so nothing here has to be exact.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use chimaera_proto::Status;
use chimaera_proto::control::{Reply, Request};
use chimaera_proto::limits::MAX_LANES;
use chimaera_shm::{Doorbell, Segment};
use parking_lot::Mutex;

use crate::error::Error;
use crate::lane::ClientLane;
use crate::link::Link;
use crate::waiting::Patience;

thread_local! {
    /// The lane that this thread used last: session and index. No destructor, so it can be read
    /// at any time in a thread's life, at the price of a plain load.
    static LAST: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
    /// All lanes of this thread, one per session; given back when it ends.
    static LEASES: RefCell<Vec<Lease>> = const { RefCell::new(Vec::new()) };
}

/// A thread's use of a lane.
struct Lease {
    session: u64,
    index: usize,
    /// Whether the lane was taken for this thread alone.
    own: bool,
    lanes: Weak<Lanes>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(lanes) = self.lanes.upgrade()
            && self.own
        {
            lanes.directory.lock().idle.push(self.index);
        }
    }
}

/// The lanes of a session.
pub(crate) struct Lanes {
    session: u64,
    lanes: [OnceLock<Arc<ClientLane>>; MAX_LANES],
    directory: Mutex<Directory>,
    segment: Arc<Segment>,
    patience: Patience,
    link: Arc<Link>,
}

#[derive(Default)]
struct Directory {
    /// Open lanes whose threads ended.
    idle: Vec<usize>,
    /// Lanes `0..opened` are open.
    opened: usize,
    /// Counts those who share, to spread them.
    shared: usize,
}

impl Lanes {
    pub(crate) fn new(segment: Arc<Segment>, patience: Patience, link: Arc<Link>) -> Self {
        static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);
        Self {
            session: NEXT_SESSION.fetch_add(1, Ordering::Relaxed),
            lanes: [const { OnceLock::new() }; MAX_LANES],
            directory: Mutex::default(),
            segment,
            patience,
            link,
        }
    }

    /// The calling thread's lane.
    ///
    /// # Errors
    /// The thread has none yet, and the daemon refuses one or is gone.
    #[inline]
    pub(crate) fn current(self: &Arc<Self>) -> Result<&Arc<ClientLane>, Error> {
        let (session, index) = LAST.get();
        if session == self.session
            && let Some(lane) = self.lanes[index].get()
        {
            return Ok(lane);
        }
        self.find()
    }

    #[cold]
    fn find(self: &Arc<Self>) -> Result<&Arc<ClientLane>, Error> {
        // A thread that is ending has no leases any more; what it does now needs none.
        let leased = LEASES
            .try_with(|leases| {
                let leases = leases.borrow();
                let lease = leases.iter().find(|lease| lease.session == self.session);
                lease.map(|lease| lease.index)
            })
            .ok()
            .flatten();
        let index = match leased {
            Some(index) => index,
            None => self.lease()?,
        };
        LAST.set((self.session, index));
        Ok(self.lanes[index].get().expect("leased lanes are open"))
    }

    /// Takes a lane for this thread: an idle one, a new one, or one that is shared.
    fn lease(self: &Arc<Self>) -> Result<usize, Error> {
        let (index, own) = {
            let mut directory = self.directory.lock();
            if let Some(index) = directory.idle.pop() {
                (index, true)
            } else if directory.opened < MAX_LANES {
                let index = directory.opened;
                let lane = self.open(index)?;
                assert!(self.lanes[index].set(lane).is_ok(), "lanes are opened once");
                directory.opened += 1;
                (index, true)
            } else {
                directory.shared += 1;
                (directory.shared % MAX_LANES, false)
            }
        };
        let lease = Lease {
            session: self.session,
            index,
            own,
            lanes: Arc::downgrade(self),
        };
        // Where there is no place for it any more, it is dropped and the lane idle at once.
        let _ = LEASES.try_with(|leases| {
            let mut leases = leases.borrow_mut();
            leases.retain(|lease| lease.lanes.strong_count() != 0);
            leases.push(lease);
        });
        Ok(index)
    }

    fn open(&self, index: usize) -> Result<Arc<ClientLane>, Error> {
        let operation = "opening a lane";
        let request = Request::OpenLane { lane: index as u32 };
        let (reply, file) = self.link.control.request(&request, None, operation)?;
        let (Reply::LaneOpened, Some(doorbell)) = (reply, file) else {
            return Err(Error::new(Status::ProtocolViolation, operation)
                .with_detail("the daemon's reply is not the expected one"));
        };
        let lane = Arc::new(ClientLane::new(
            index,
            Arc::clone(&self.segment),
            Doorbell::from_host(doorbell),
            self.patience,
            Arc::clone(&self.link),
        ));
        self.link.enrol(&lane)?;
        Ok(lane)
    }

    /// Frees what dropped handles left behind, on all lanes.
    pub(crate) fn reap_orphans(&self) {
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            if lane.orphans() != 0 {
                lane.reap_orphans();
            }
        }
    }
}
