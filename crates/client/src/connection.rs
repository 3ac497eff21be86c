//! The connection: its socket, the thread that learns of the daemon's death, and the thread that
//! wakes futures.
//!
//! Laws of this module:
//! - When the daemon's end of the socket closes, nothing of it touches the segments any more: the
//!   kernel sees to that for a process that died, the host for a session that it ended. Only then
//!   are tasks completed in its place, and their buffers given back to their owners.
//! - Neither thread uses the processor while nothing happens. The second begins with the first
//!   future that has to wait. While tasks wait for a record it looks now and then whether those that
//!   were told of one came for it ([`crate::lane::wait_queue`]).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use chimaera_fork::Home;
use chimaera_proto::Status;
use chimaera_shm::thread::JoinHandle;
use chimaera_shm::{PublishOrder, Segment, thread};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use crate::control::ControlSocket;
use crate::error::Error;
use crate::options::KeepAlive;
use crate::reentrancy::Mutex;
use crate::wakers::{Wakers, wake_all};

/// How long to do without a thread that the system did not give, before asking for it again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A connection. It is closed when nobody can wait for a task any more: the runtime and all task
/// handles are dropped.
pub(crate) struct ClientConnection {
    /// The process that has the threads, the socket and the lanes. In any other nothing here is used.
    pub(crate) home: Home,
    pub(crate) control: ControlSocket,
    registry: Arc<LaneRegistry>,
    hangup_watcher: Mutex<Option<JoinHandle<()>>>,
    bell_watcher: OnceLock<JoinHandle<()>>,
    /// When the system last gave no thread for it. Held while it is started.
    bell_refusal: Mutex<Option<Instant>>,
    keep_alive: Option<KeepAlive>,
    publish_order: PublishOrder,
}

/// What a connection's threads tell its lanes.
pub(crate) trait LaneEvents: Send + Sync {
    /// The daemon is gone: whatever is in flight is to be completed in its place.
    fn connection_lost(&self);

    /// The bell has rung. Gives the wakers of tasks that have completed or may be submitted, and the time
    /// after which the lane is to be told again even if the bell does not ring.
    fn bell_rang(&self, wakers: &mut Wakers) -> Option<Duration>;
}

/// What the threads work on. It does not keep the lanes alive, nor the connection.
struct LaneRegistry {
    lanes: Mutex<Vec<Weak<dyn LaneEvents>>>,
    /// The segment that has the bell.
    segment: Arc<Segment>,
    lost: AtomicBool,
    /// The connection is closed from this side.
    ended: AtomicBool,
}

impl ClientConnection {
    /// Begins to watch a connection whose handshake is done.
    pub(crate) fn new(
        home: Home,
        control: ControlSocket,
        segment: Arc<Segment>,
        publish_order: PublishOrder,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Self, Error> {
        let registry = Arc::new(LaneRegistry {
            lanes: Mutex::default(),
            segment,
            lost: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let connection = Self {
            home,
            control,
            registry,
            hangup_watcher: Mutex::default(),
            bell_watcher: OnceLock::new(),
            bell_refusal: Mutex::default(),
            keep_alive,
            publish_order,
        };
        let (registry, socket) = (
            Arc::clone(&connection.registry),
            Arc::clone(connection.control.socket()),
        );
        let watcher = thread::spawn("chimaera-link", move || registry.watch_for_hangup(&socket))
            .map_err(|error| Error::no_thread(&error, "starting a thread for the connection"))?;
        *connection.hangup_watcher.lock() = Some(watcher);
        Ok(connection)
    }

    /// The first segment, which has the lanes and the bell.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.registry.segment
    }

    /// Who sees to it that publishing a task and looking whether to ring stay in this order.
    #[inline]
    pub(crate) fn publish_order(&self) -> PublishOrder {
        self.publish_order
    }

    /// Includes a new lane in what happens when the daemon dies.
    pub(crate) fn register(&self, lane: Weak<dyn LaneEvents>) -> Result<(), Error> {
        let mut lanes = self.registry.lanes.lock();
        // Under the lock: the list is gone through after `lost` is set.
        if self.is_lost() {
            return Err(Error::new(Status::ConnectionLost, "opening a lane"));
        }
        lanes.push(lane);
        Ok(())
    }

    /// Whether the daemon went away.
    pub(crate) fn is_lost(&self) -> bool {
        self.registry.lost.load(Ordering::Relaxed)
    }

    /// Sees to it that left wakers are woken. Returns whether they will be: false where there is no
    /// thread to be had, for which is asked again later.
    pub(crate) fn watch_the_bell(&self) -> bool {
        self.bell_watcher.get().is_some() || self.start_bell_watcher()
    }

    #[cold]
    fn start_bell_watcher(&self) -> bool {
        let mut refusal = self.bell_refusal.lock();
        if self.bell_watcher.get().is_some() {
            return true;
        }
        // Whoever is told so asks again at once and without end.
        if refusal.is_some_and(|last| last.elapsed() < RETRY_INTERVAL) {
            return false;
        }
        let registry = Arc::clone(&self.registry);
        match thread::spawn("chimaera-bell", move || registry.watch_the_bell()) {
            Ok(watcher) => self.bell_watcher.set(watcher).is_ok(),
            Err(_) => {
                *refusal = Some(Instant::now());
                false
            }
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.registry.ended.store(true, Ordering::Release);
        // Wakes the thread that watches for a hangup, and is one to the daemon.
        let _ = shutdown(self.control.socket().as_raw_fd(), Shutdown::Both);
        self.registry.segment.ring_bell();
        let bell_watcher = self.bell_watcher.take();
        for watcher in [self.hangup_watcher.get_mut().take(), bell_watcher]
            .into_iter()
            .flatten()
        {
            // A thread that dropped the last handle ends on its own.
            if !watcher.is_current() {
                let _ = watcher.join();
            }
        }
        drop(self.keep_alive.take());
    }
}

impl LaneRegistry {
    /// Sleeps until the socket is closed from either side. Completes what is in flight if it was
    /// the daemon's.
    fn watch_for_hangup(&self, socket: &OwnedFd) {
        // Nothing is asked for, since replies are others' business: a hangup comes unasked, and
        // only when both directions are closed.
        let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        while !matches!(poll(&mut sockets, PollTimeout::NONE), Ok(1..)) {}
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let lanes = {
            let lanes = self.lanes.lock();
            self.lost.store(true, Ordering::Relaxed);
            lanes.clone()
        };
        for lane in lanes.iter().filter_map(Weak::upgrade) {
            lane.connection_lost();
        }
    }

    /// Sleeps until the bell rings, and wakes the futures whose tasks have completed, and those for
    /// which there is a record.
    fn watch_the_bell(&self) {
        loop {
            // Before looking: what completes afterwards rings once more.
            let seen = self.segment.bell_count();
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            let mut wakers = Wakers::new();
            let lanes = self.lanes.lock().clone();
            let mut look_again = None;
            for lane in lanes.iter().filter_map(Weak::upgrade) {
                look_again = look_again.or(lane.bell_rang(&mut wakers));
            }
            wake_all(wakers);
            self.segment.wait_for_bell(seen, look_again);
        }
    }
}
