//! A host in the test's own process that is just enough to test clients against: it answers the control messages on
//! one thread, and serves lanes on another, with a function of the test's as its only module. It can be killed at any
//! moment.

mod attaching;
mod buffer;
mod control;
mod worker;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use chimaera_client::{ConnectOptions, Runtime};
use chimaera_proto::limits::{LAYOUT_VERSION, PROTOCOL_VERSION};
use chimaera_proto::{Completion, Descriptor, Status};
use chimaera_shm::{Doorbell, Lane, Segment};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use parking_lot::Mutex;

use crate::sizes::MIB;
use crate::time_limit::until;
pub use attaching::{attaching, attaching_to};
#[cfg(feature = "fake-bdev")]
pub(crate) use attaching::{parse, reply};
pub use buffer::HostBuffer;
use control::Answer;

/// The host, and its end of the connection. It dies when it is dropped.
#[derive(Debug)]
pub struct FakeHost {
    state: Arc<HostState>,
    socket: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

/// What the test's module does with a task.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// Completes it.
    Done(Completion),
    /// Keeps it until [`FakeHost::release_held`].
    Hold,
}

impl Verdict {
    /// Completes it with these first values.
    #[must_use]
    pub fn ok(values: &[u64]) -> Self {
        Self::Done(Completion::success(values))
    }

    /// Fails it.
    #[must_use]
    pub fn fail(status: Status) -> Self {
        Self::Done(Completion::failure(status))
    }
}

/// The test's module: it is given each task in turn, with the task's buffer if it has one.
pub trait FakeModule: FnMut(Descriptor, Option<HostBuffer>) -> Verdict + Send + 'static {}
impl<F: FnMut(Descriptor, Option<HostBuffer>) -> Verdict + Send + 'static> FakeModule for F {}

/// What becomes of a control request that the host would otherwise carry out and answer.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It is carried out, and its answer kept until [`FakeHost::send_late_answers`].
    Late,
    /// It is lost.
    Lost,
    /// It is refused.
    Refused(Status),
    /// It is carried out, and answered under this number.
    Numbered(u64),
}

/// The versions of the protocol and of the layout that a host says it speaks.
type Versions = (u32, u32);

/// What the host's threads and the test share.
#[derive(Debug)]
struct HostState {
    versions: Versions,
    lanes: Mutex<Vec<Lane>>,
    lane_count: AtomicUsize,
    /// A bit for each lane that is open, by its number.
    opened: AtomicU64,
    segments: Mutex<Vec<Arc<Segment>>>,
    /// What becomes of the next requests; those after them are answered.
    fates: Mutex<VecDeque<Fate>>,
    late_answers: Mutex<Vec<Answer>>,
    doorbell: Doorbell,
    /// Set: the worker stops at once.
    is_dead: AtomicBool,
    /// Set: the worker completes what it holds.
    is_released: AtomicBool,
    /// How many tasks the worker holds.
    held_count: AtomicUsize,
    is_parked: AtomicBool,
}

impl FakeHost {
    /// Starts a host and connects to it.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn connect(module: impl FakeModule) -> (Self, Runtime) {
        Self::connect_with(ConnectOptions::new().buffer_bytes(16 * MIB), module)
    }

    /// As [`Self::connect`], with these options.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn connect_with(options: ConnectOptions, module: impl FakeModule) -> (Self, Runtime) {
        let (host, socket) = Self::start(module);
        let runtime = options.from_socket(socket).expect("connects");
        (host, runtime)
    }

    /// Starts a host; the socket is for a client.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn start(module: impl FakeModule) -> (Self, OwnedFd) {
        Self::start_as((PROTOCOL_VERSION, LAYOUT_VERSION), module)
    }

    /// Starts a host that says it speaks these versions of the protocol and of the layout.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn start_as(versions: (u32, u32), module: impl FakeModule) -> (Self, OwnedFd) {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("socketpair");
        let state = Arc::new(HostState::new(versions));
        let socket = Arc::new(ours);
        let (for_control, control_socket) = (Arc::clone(&state), Arc::clone(&socket));
        let for_worker = Arc::clone(&state);
        let threads = vec![
            thread::spawn(move || for_control.serve_control(&control_socket)),
            thread::spawn(move || worker::work(&for_worker, module)),
        ];
        let host = Self {
            state,
            socket,
            threads,
        };
        (host, theirs)
    }

    /// Completes what is held, and holds nothing from now on.
    pub fn release_held(&self) {
        self.state.is_released.store(true, Ordering::Release);
        self.state.doorbell.ring();
    }

    /// Waits until this many tasks are held.
    ///
    /// # Panics
    /// If they are not in time.
    pub fn wait_for_held(&self, count: usize) {
        until("the host holds the tasks", || {
            self.state.held_count.load(Ordering::Acquire) >= count
        });
    }

    /// Says what becomes of the next requests.
    pub fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state.fates.lock().extend(fates);
    }

    /// Carries out and answers all requests from now on, whatever [`Self::next`] said of those that did not come.
    pub fn answer_all(&self) {
        self.state.fates.lock().clear();
    }

    /// Waits until so many answers are kept.
    ///
    /// # Panics
    /// If they are not in time.
    pub fn wait_for_late(&self, count: usize) {
        until("the host keeps the answers", || {
            self.state.late_answers.lock().len() >= count
        });
    }

    /// Sends the answers that were kept. Gives their number.
    pub fn send_late_answers(&self) -> usize {
        let answers = std::mem::take(&mut *self.state.late_answers.lock());
        for answer in &answers {
            self.state.send(&self.socket, answer);
        }
        answers.len()
    }

    /// Whether the worker sleeps until a client rings.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.state.is_parked.load(Ordering::Acquire)
    }

    /// How many lanes were opened.
    #[must_use]
    pub fn lane_count(&self) -> usize {
        self.state.lane_count.load(Ordering::Acquire)
    }

    /// How many segments were registered.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.state.segments.lock().len()
    }

    /// Dies: the worker stops where it is, then the socket closes.
    ///
    /// # Panics
    /// If one of its threads has panicked, for example because the client broke the protocol.
    pub fn kill(&mut self) {
        self.state.is_dead.store(true, Ordering::Release);
        self.state.doorbell.ring();
        if let Some(worker) = self.threads.pop() {
            worker.join().expect("the fake host's worker panicked");
        }
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().expect("the fake host panicked");
        }
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.kill();
        }
    }
}

impl HostState {
    fn new(versions: Versions) -> Self {
        Self {
            versions,
            lanes: Mutex::default(),
            lane_count: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            segments: Mutex::default(),
            fates: Mutex::default(),
            late_answers: Mutex::default(),
            doorbell: Doorbell::new().expect("eventfd"),
            is_dead: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            held_count: AtomicUsize::new(0),
            is_parked: AtomicBool::new(false),
        }
    }
}
