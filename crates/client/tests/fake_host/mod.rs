//! A host in this process that is just enough to test clients against: it answers the control
//! messages and serves lanes on one thread, with a function of the test's as its only module. It
//! can be killed at any moment.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chimaera_client::proto::control::{self, ControlReply, ControlRequest};
use chimaera_client::proto::limits::{LANE_DEPTH, LAYOUT_VERSION, PROTOCOL_VERSION};
use chimaera_client::proto::task::DESCRIPTOR_WORDS;
use chimaera_client::proto::{Completion, Descriptor};
use chimaera_client::{ConnectOptions, Runtime, Status};
use chimaera_shm::{Doorbell, Lane, LaneMemory, Segment, Taken};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixAddr, recvmsg, sendmsg, shutdown, socketpair,
};
use parking_lot::Mutex;

/// What the test's module does with a task.
pub(crate) enum Verdict {
    /// Completes it.
    Done(Completion),
    /// Keeps it until [`FakeHost::release_held`].
    Hold,
}

impl Verdict {
    pub(crate) fn ok(values: &[u64]) -> Self {
        Self::Done(Completion::success(values))
    }

    pub(crate) fn fail(status: Status) -> Self {
        Self::Done(Completion::failure(status))
    }
}

/// A task's buffer, as the host sees it.
#[derive(Clone, Copy)]
pub(crate) struct HostBuffer {
    address: NonNull<u8>,
    len: usize,
}

impl HostBuffer {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self) -> usize {
        self.address.as_ptr() as usize
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        // SAFETY: the range was checked to lie in a segment that the host keeps mapped.
        unsafe {
            std::ptr::copy_nonoverlapping(self.address.as_ptr(), bytes.as_mut_ptr(), self.len);
        }
        bytes
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        // SAFETY: as in `read`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.as_ptr(), bytes.len());
        }
    }
}

/// The test's module.
pub(crate) trait Module:
    FnMut(Descriptor, Option<HostBuffer>) -> Verdict + Send + 'static
{
}
impl<F: FnMut(Descriptor, Option<HostBuffer>) -> Verdict + Send + 'static> Module for F {}

/// What becomes of a request.
pub(crate) enum Next {
    /// It is carried out, and its answer kept until [`FakeHost::send_late_answers`].
    Late,
    /// It is lost.
    Lost,
    /// It is refused.
    Refused(Status),
    /// It is carried out, and answered under this number.
    Numbered(u64),
}

/// A reply with the number of its request, and the file beside it.
type Answer = (u64, ControlReply, Option<RawFd>);

pub(crate) struct FakeHost {
    shared: Arc<Shared>,
    socket: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    lanes: Mutex<Vec<Lane>>,
    lane_count: AtomicUsize,
    /// Lanes that are open, by index.
    opened: AtomicU64,
    segments: Mutex<Vec<Arc<Segment>>>,
    /// What becomes of the next requests; those after them are answered.
    next_answers: Mutex<VecDeque<Next>>,
    late: Mutex<Vec<Answer>>,
    doorbell: Doorbell,
    /// Set: the worker stops at once.
    dead: AtomicBool,
    /// Set: the worker completes what it holds.
    gate: AtomicBool,
    /// Tasks that the worker holds.
    held: AtomicUsize,
    parked: AtomicBool,
}

impl FakeHost {
    /// Starts a host and connects to it.
    pub(crate) fn connect(module: impl Module) -> (Self, Runtime) {
        Self::connect_with(ConnectOptions::new().buffer_bytes(16 << 20), module)
    }

    pub(crate) fn connect_with(options: ConnectOptions, module: impl Module) -> (Self, Runtime) {
        let (host, socket) = Self::start(module);
        let runtime = options.from_socket(socket).expect("connects");
        (host, runtime)
    }

    /// Starts a host; the socket is for a client.
    pub(crate) fn start(module: impl Module) -> (Self, OwnedFd) {
        Self::start_as((PROTOCOL_VERSION, LAYOUT_VERSION), module)
    }

    /// Starts a host that speaks other versions.
    pub(crate) fn start_as(versions: (u32, u32), module: impl Module) -> (Self, OwnedFd) {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("socketpair");
        let shared = Arc::new(Shared {
            lanes: Mutex::default(),
            lane_count: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            segments: Mutex::default(),
            next_answers: Mutex::default(),
            late: Mutex::default(),
            doorbell: Doorbell::new().expect("eventfd"),
            dead: AtomicBool::new(false),
            gate: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
        });
        let socket = Arc::new(ours);
        let (for_control, control_socket) = (Arc::clone(&shared), Arc::clone(&socket));
        let for_worker = Arc::clone(&shared);
        let threads = vec![
            thread::spawn(move || for_control.serve_control(&control_socket, versions)),
            thread::spawn(move || for_worker.work(module)),
        ];
        let host = Self {
            shared,
            socket,
            threads,
        };
        (host, theirs)
    }

    /// Completes what is held, and holds nothing from now on.
    pub(crate) fn release_held(&self) {
        self.shared.gate.store(true, Ordering::Release);
        self.shared.doorbell.ring();
    }

    /// Waits until this many tasks are held.
    pub(crate) fn wait_for_held(&self, count: usize) {
        while self.shared.held.load(Ordering::Acquire) < count {
            thread::yield_now();
        }
    }

    /// Says what becomes of the next requests.
    pub(crate) fn next(&self, answers: impl IntoIterator<Item = Next>) {
        self.shared.next_answers.lock().extend(answers);
    }

    /// Waits until so many answers are kept.
    pub(crate) fn wait_for_late(&self, count: usize) {
        while self.shared.late.lock().len() < count {
            thread::yield_now();
        }
    }

    /// Sends the answers that were kept. Gives their number.
    pub(crate) fn send_late_answers(&self) -> usize {
        let late = std::mem::take(&mut *self.shared.late.lock());
        let versions = (PROTOCOL_VERSION, LAYOUT_VERSION);
        for answer in &late {
            send(&self.socket, versions, answer);
        }
        late.len()
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.shared.parked.load(Ordering::Acquire)
    }

    pub(crate) fn lane_count(&self) -> usize {
        self.shared.lane_count.load(Ordering::Acquire)
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.shared.segments.lock().len()
    }

    /// Dies: the worker stops where it is, then the socket closes.
    pub(crate) fn kill(&mut self) {
        self.shared.dead.store(true, Ordering::Release);
        self.shared.doorbell.ring();
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

impl Shared {
    fn serve_control(&self, socket: &OwnedFd, versions: (u32, u32)) {
        loop {
            let mut packet = vec![0; 32 * 1024];
            let mut space = nix::cmsg_space!([RawFd; 2]);
            let mut parts = [IoSliceMut::new(&mut packet)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let Ok(message) =
                recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)
            else {
                return;
            };
            let len = message.bytes;
            let mut files = Vec::new();
            for part in message.cmsgs().expect("control messages") {
                if let ControlMessageOwned::ScmRights(numbers) = part {
                    // SAFETY: the kernel made these for this message.
                    files.extend(numbers.iter().map(|&n| unsafe { OwnedFd::from_raw_fd(n) }));
                }
            }
            if len == 0 {
                return;
            }
            let (number, request) = control::decode(&packet[..len]).expect("a request");
            let next = self.next_answers.lock().pop_front();
            let answered = match next {
                None => number,
                Some(Next::Numbered(other)) => other,
                Some(Next::Lost) => continue,
                Some(Next::Late) => {
                    let (reply, file) = self.answer(request, files.pop());
                    self.late.lock().push((number, reply, file));
                    continue;
                }
                Some(Next::Refused(status)) => {
                    let reason = "not now: the test says so".to_owned();
                    send(
                        socket,
                        versions,
                        &(number, ControlReply::Refused { status, reason }, None),
                    );
                    continue;
                }
            };
            let (reply, file) = self.answer(request, files.pop());
            send(socket, versions, &(answered, reply, file));
        }
    }

    fn answer(
        &self,
        request: ControlRequest,
        file: Option<OwnedFd>,
    ) -> (ControlReply, Option<RawFd>) {
        match request {
            ControlRequest::Hello { client_name } => {
                assert!(!client_name.is_empty());
                if client_name == "refuse me" {
                    let reason = "this client is not welcome: ask the operator".to_owned();
                    let status = Status::PermissionDenied;
                    return (ControlReply::Refused { status, reason }, None);
                }
                self.add_segment(0, file);
                let welcome = ControlReply::Welcome {
                    version: "fake".to_owned(),
                    process_id: std::process::id(),
                    worker_count: 1,
                    parks_with_barrier: false,
                };
                (welcome, None)
            }
            ControlRequest::AddSegment { segment } => {
                self.add_segment(segment as usize, file);
                (ControlReply::SegmentAdded, None)
            }
            ControlRequest::OpenLane { lane } => {
                let segment = Arc::clone(&self.segments.lock()[0]);
                let opened = self.opened.fetch_or(1 << lane, Ordering::Relaxed);
                if opened & 1 << lane == 0 {
                    let mut lanes = self.lanes.lock();
                    lanes.push(segment.lane(lane as usize));
                    self.lane_count.store(lanes.len(), Ordering::Release);
                    self.doorbell.ring();
                }
                (
                    ControlReply::LaneOpened,
                    Some(self.doorbell.as_fd().as_raw_fd()),
                )
            }
        }
    }

    fn add_segment(&self, index: usize, file: Option<OwnedFd>) {
        let file = file.expect("a segment");
        let mut segments = self.segments.lock();
        if let Some(known) = segments.get(index) {
            assert!(known.is_memory_of(&file), "segment {index} is another");
            return;
        }
        let segment = Segment::receive(file).expect("a valid segment");
        assert_eq!(segments.len(), index);
        segments.push(Arc::new(segment));
    }

    fn work(&self, mut module: impl Module) {
        let mut lanes: Vec<(Lane, u64)> = Vec::new();
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut held: VecDeque<(usize, Descriptor, u32)> = VecDeque::new();
        let mut completed: Vec<u64> = Vec::new();
        let mut idle_passes = 0;
        while !self.dead.load(Ordering::Acquire) {
            if self.lane_count.load(Ordering::Acquire) > lanes.len() {
                let known = lanes.len();
                let all = self.lanes.lock();
                lanes.extend(all[known..].iter().map(|lane| (lane.clone(), 1)));
                completed.resize(lanes.len(), 0);
            }
            let mut any = 0;
            for (index, (lane, next)) in lanes.iter_mut().enumerate() {
                let mut words = [0; DESCRIPTOR_WORDS];
                match lane.take(*next, &mut words) {
                    Taken::Nothing => continue,
                    Taken::Task => {}
                    Taken::Violation { found } => panic!("{found} where {next} was expected"),
                }
                let sequence = *next as u32;
                *next += 1;
                any += 1;
                let task = Descriptor::parse(&words).expect("a valid descriptor");
                let buffer = task.buffer.map(|range| {
                    if usize::from(range.segment) >= segments.len() {
                        segments = self.segments.lock().clone();
                    }
                    let len = range.len_bytes as usize;
                    let address = segments[usize::from(range.segment)]
                        .range(range.offset_bytes, len as u64)
                        .expect("the buffer lies in its segment");
                    HostBuffer { address, len }
                });
                match module(task, buffer) {
                    Verdict::Done(done) => {
                        let record = usize::from(task.record);
                        lane.complete(record, sequence, done.status_word, &done.values);
                        completed[index] |= 1 << record;
                    }
                    Verdict::Hold => {
                        held.push_back((index, task, sequence));
                        self.held.store(held.len(), Ordering::Release);
                    }
                }
            }
            if self.gate.load(Ordering::Acquire) {
                for (index, task, sequence) in held.drain(..) {
                    let record = usize::from(task.record);
                    let done = Completion::success(&task.arguments);
                    lanes[index]
                        .0
                        .complete(record, sequence, done.status_word, &done.values);
                    completed[index] |= 1 << record;
                    any += 1;
                }
                self.held.store(0, Ordering::Release);
            }
            if any > 0 {
                idle_passes = 0;
                LaneMemory::<LANE_DEPTH>::fence_before_looking();
                let mut ring = false;
                for ((lane, _), completed) in lanes.iter().zip(&mut completed) {
                    let (sleepers, bell) = lane.look_for_waiters(std::mem::take(completed));
                    lane.wake_sleepers(sleepers);
                    ring |= bell;
                }
                if ring {
                    self.segments.lock()[0].ring_bell();
                }
                continue;
            }
            idle_passes += 1;
            if idle_passes > 2000 {
                idle_passes = 0;
                self.park(&lanes);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn park(&self, lanes: &[(Lane, u64)]) {
        // Empty the bell first: what rings later is seen by the poll.
        let mut count = [0; 8];
        let _ = nix::unistd::read(&self.doorbell, &mut count);
        lanes.iter().for_each(|(lane, _)| lane.begin_park());
        LaneMemory::<LANE_DEPTH>::fence_before_parking();
        let busy = lanes.iter().any(|(lane, next)| !lane.finish_park(*next));
        let news = self.lane_count.load(Ordering::Acquire) > lanes.len()
            || self.dead.load(Ordering::Acquire)
            || (self.gate.load(Ordering::Acquire) && self.held.load(Ordering::Acquire) > 0);
        if !busy && !news {
            self.parked.store(true, Ordering::Release);
            let bell = self.doorbell.as_fd();
            let mut bells = [nix::poll::PollFd::new(bell, nix::poll::PollFlags::POLLIN)];
            let _ = nix::poll::poll(&mut bells, nix::poll::PollTimeout::NONE);
            self.parked.store(false, Ordering::Release);
        }
        for (lane, _) in lanes {
            lane.unpark();
        }
    }
}

fn send(socket: &OwnedFd, versions: (u32, u32), (number, reply, file): &Answer) {
    let packet = control::encode_versions(*number, reply, versions.0, versions.1).expect("encodes");
    let files = file.map(|file| [file]);
    let rights = files
        .as_ref()
        .map(|files| [ControlMessage::ScmRights(files)]);
    let _ = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(&packet)],
        rights.as_ref().map_or(&[][..], |rights| &rights[..]),
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
}

/// Ends the process when a test takes far too long, which is what a lost wake-up looks like.
pub(crate) struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        let (alive, done) = mpsc::channel::<()>();
        let test = thread::current().name().unwrap_or("test").to_owned();
        thread::spawn(move || {
            if done.recv_timeout(Duration::from_secs(30)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = writeln!(std::io::stderr(), "{test} hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}
