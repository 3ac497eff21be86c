//! The connection: its socket, the hangup thread, which learns of the daemon's death, and the bell thread, which wakes
//! futures.
//!
//! The lanes lie above: the connection knows them only by what it tells them ([`LaneEvents`]).
//!
//! Laws of this module:
//! - When the daemon's end of the socket is closed, the daemon does not touch the segments any more: the kernel sees to
//!   that for a process that died, the host for a session that it ended. Only then are tasks completed in its place,
//!   and their buffers given back to their owners.
//! - Neither thread uses the processor while nothing happens. The bell thread starts with the first future that has to
//!   wait. While tasks wait for a record, it checks from time to time whether notified seats were used
//!   (`lane::wait_queue`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use chimaera_fork::Home;
use chimaera_proto::Status;
use chimaera_shm::{PublishOrder, Segment};
use chimaera_thread::{self as thread, JoinHandle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use crate::control::ControlSocket;
use crate::error::Error;
use crate::known_pools::KnownPools;
use crate::options::KeepAlive;
use crate::reentrancy::Mutex;
use crate::wakers::{Wakers, wake_all};

/// How long to do without a thread that the system refused, before asking for it again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A connection. It is closed when the runtime and all task handles are dropped, and so nobody can wait for a task.
pub(crate) struct ClientConnection {
    /// The process that has the threads, the socket and the lanes. No other process uses anything here.
    pub(crate) home: Home,
    pub(crate) control: ControlSocket,
    registry: Arc<LaneRegistry>,
    hangup_watcher: Mutex<Option<JoinHandle<()>>>,
    bell_watcher: OnceLock<JoinHandle<()>>,
    /// When the system last refused a thread for it. Locked while it is started.
    bell_refusal: Mutex<Option<Instant>>,
    keep_alive: Option<KeepAlive>,
    publish_order: PublishOrder,
    /// The pools that the session is attached to, as far as this side knows.
    pub(crate) pools: KnownPools,
}

/// What a connection's threads tell a lane.
pub(crate) trait LaneEvents: Send + Sync {
    /// The daemon is gone: the lane completes everything in flight in its place.
    fn connection_lost(&self);

    /// The bell has rung. Adds the wakers of tasks that have completed or may be submitted, and returns the time after
    /// which the lane is to be told again even if the bell does not ring.
    fn bell_rang(&self, wakers: &mut Wakers) -> Option<Duration>;
}

/// What the threads use. It keeps neither the lanes nor the connection alive.
struct LaneRegistry {
    lanes: Mutex<Vec<Weak<dyn LaneEvents>>>,
    /// The segment that has the bell.
    segment: Arc<Segment>,
    lost: AtomicBool,
    /// This side has closed the connection.
    ended: AtomicBool,
}

impl ClientConnection {
    /// Starts to watch a connection after its handshake.
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
            pools: KnownPools::default(),
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

    /// How publishing a task is ordered before looking whether to ring.
    #[inline]
    pub(crate) fn publish_order(&self) -> PublishOrder {
        self.publish_order
    }

    /// Registers a new lane, which is told of the events from now on.
    pub(crate) fn register(&self, lane: Weak<dyn LaneEvents>) -> Result<(), Error> {
        let mut lanes = self.registry.lanes.lock();
        // Under the lock: the hangup thread goes through the list after it sets `lost`.
        if self.is_lost() {
            return Err(Error::new(Status::ConnectionLost, "opening a lane"));
        }
        lanes.push(lane);
        Ok(())
    }

    /// Whether the daemon is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.registry.lost.load(Ordering::Relaxed)
    }

    /// Starts the bell thread unless it runs. Returns whether it runs, so that registered wakers will be woken; false
    /// if the system gives no thread, which a later call asks for again.
    pub(crate) fn watch_the_bell(&self) -> bool {
        self.bell_watcher.get().is_some() || self.start_bell_watcher()
    }

    #[cold]
    fn start_bell_watcher(&self) -> bool {
        let mut refusal = self.bell_refusal.lock();
        if self.bell_watcher.get().is_some() {
            return true;
        }
        // Callers that get false ask again at once, without end.
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
        // Wakes the hangup thread, and is a hangup for the daemon.
        let _ = shutdown(self.control.socket().as_raw_fd(), Shutdown::Both);
        self.registry.segment.ring_bell();
        let bell_watcher = self.bell_watcher.take();
        for watcher in [self.hangup_watcher.get_mut().take(), bell_watcher]
            .into_iter()
            .flatten()
        {
            // One of the threads may drop the last handle. It ends on its own.
            if !watcher.is_current() {
                let _ = watcher.join();
            }
        }
        drop(self.keep_alive.take());
    }
}

impl LaneRegistry {
    /// Sleeps until either side closes the socket. If it was the daemon, tells the lanes.
    fn watch_for_hangup(&self, socket: &OwnedFd) {
        // No events are requested, since other threads read replies. A hangup is reported all the same, but only
        // when both directions are closed.
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

    /// Sleeps until the bell rings; then wakes the futures whose tasks have completed, and those for which there is a
    /// record.
    fn watch_the_bell(&self) {
        loop {
            // Read before looking: what completes afterwards rings once more.
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
