//! The control thread: connections, handshakes, lanes, segments, and the end of sessions.
//!
//! It never blocks on a client: sockets are non-blocking, and a client that does not read its
//! replies is dropped. Whatever may take long is left to the admin module's threads, and files that clients send to
//! the receiver's processes. [`arrivals`], [`packets`], [`requests`] and [`departures`] have the life of a connection.

mod abandoning;
mod arrivals;
mod departures;
pub(crate) mod listener;
mod operators;
mod packets;
mod receiving;
mod refusal;
pub(crate) mod requests;
mod reserve;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_fork::Private;
use chimaera_proto::control::{self, ControlReply};
use chimaera_proto::limits::MAX_CONTROL_MESSAGE_BYTES;
use chimaera_shm::{Doorbell, packet};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::accounts::{Charge, Holder};
use crate::caller::{Peer, Standing};
use crate::config::{Operators, UsersCeiling};
use crate::control_side::ControlSide;
use crate::inbox::Inbox;
use crate::log;
use crate::messages::ControlEvent;
use crate::receiver::Receiver;
use crate::session::Session;
use listener::Listener;
use operators::OperatorQuestions;
use receiving::{Ended, Receiving};
use reserve::{OperatorsSpare, Reserve};

/// Set in an event's number beside the index of an entrance: somebody wants to connect.
const ENTRANCE: u64 = 1 << 61;
const EVENTS: u64 = u64::MAX - 1;
/// The receiver has something to say.
const RECEIVER: u64 = u64::MAX - 2;
/// Set in an event's number beside the id of a connection: the connection's process has ended.
const PROCESS_ENDED: u64 = 1 << 62;

/// What a connection is watched for.
const INTEREST: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP);

/// How long to wait before accepting again when the process has not even the reserve left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often to look whether a shortage is over.
const SHORTAGE_LOOK: Duration = Duration::from_secs(1);

/// How often to look whether clients have read what they were sent last.
const UNREAD_LOOK: Duration = Duration::from_secs(1);

/// How long a connection may last on which no session was opened. A client says hello at once.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// The most kernel memory that replies take which a client has not read yet. This also limits how many descriptors in
/// flight, of those that the daemon's user may have, one client can hold.
const REPLY_BUFFER_BYTES: usize = 32 * 1024;

const _: () = assert!(REPLY_BUFFER_BYTES > MAX_CONTROL_MESSAGE_BYTES);

pub(crate) struct Control {
    shared: Arc<ControlSide>,
    events: Arc<Inbox<ControlEvent>>,
    epoll: Private<Epoll>,
    entrances: Vec<Entrance>,
    operators: Operators,
    accepting: bool,
    reserve: Reserve,
    spare: OperatorsSpare,
    connections: HashMap<u64, Connection>,
    /// Connections that were made last, in order, and when they are to have said hello. Some have, or have ended.
    greeting: VecDeque<(Instant, u64)>,
    next_id: u64,
    /// Lanes per worker.
    load: Vec<usize>,
    /// Connections that have ended, and are to be closed.
    ended: Vec<Ended>,
    /// Connections that have ended, on which their clients were sent doorbells that they have not received: these stay
    /// on their way, in the account of the daemon's user, and so connections and doorbells stay in the client's.
    unread: Vec<Ended>,
    receiving: Receiving,
    /// Whether the log says already that processes cannot be watched.
    has_logged_unwatched: bool,
    fault_shares: log::Shares,
    stopping: bool,
    /// How many questions wait for a look at the modules' files.
    looks: usize,
    /// Whether what is left of the connections is left to the kernel.
    has_let_go: bool,
}

/// A socket that listens, and for whom.
pub(crate) struct Entrance {
    pub(crate) listener: Arc<Listener>,
    /// The most that its clients get; `None` for operators.
    pub(crate) max: Option<UsersCeiling>,
}

struct Connection {
    state: ConnectionState,
    socket: Arc<Private<OwnedFd>>,
    peer: Peer,
    groups: Vec<u32>,
    standing: Standing,
    account: Holder,
    /// What the connection and its session take of what all share.
    charges: Vec<Charge>,
    /// Readable once the client's process has ended.
    process: Option<OwnedFd>,
    /// Whether this process made it: what it sends is its own.
    is_own: bool,
    /// Whether its client was sent files: doorbells.
    sent_files: bool,
    /// The message that the receiver is to receive. Until then nothing else is received.
    at_receiver: Option<Vec<u8>>,
}

enum ConnectionState {
    /// The client has not said hello yet.
    Greeting,
    /// An operator asks without a session.
    Asking(OperatorQuestions),
    Open(OpenSession),
    /// The session has ended, and some workers have not released it yet.
    Closing {
        session: Arc<Session>,
        workers_left: usize,
        lanes: Vec<OpenLane>,
    },
}

struct OpenSession {
    session: Arc<Session>,
    lanes: Vec<OpenLane>,
}

/// A lane that a worker serves. Its client may ask for it again, if it missed the answer.
struct OpenLane {
    index: usize,
    worker: usize,
    bell: Arc<Doorbell>,
}

impl Control {
    pub(crate) fn new(
        shared: Arc<ControlSide>,
        events: Arc<Inbox<ControlEvent>>,
        entrances: Vec<Entrance>,
        operators: Operators,
        receiver: Option<Receiver>,
    ) -> io::Result<Self> {
        let make = || Ok(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let epoll = Private::with_file(make, |epoll| epoll.0.as_raw_fd())?;
        epoll.add(
            &*events,
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, EVENTS),
        )?;
        for file in receiver.iter().flat_map(Receiver::files) {
            epoll.add(file, EpollEvent::new(EpollFlags::EPOLLIN, RECEIVER))?;
        }
        let load = vec![0; shared.inboxes.by_worker.len()];
        let mut control = Self {
            shared,
            events,
            epoll,
            entrances,
            operators,
            accepting: false,
            reserve: Reserve::new()?,
            spare: OperatorsSpare::new()?,
            connections: HashMap::new(),
            greeting: VecDeque::new(),
            next_id: 1,
            load,
            ended: Vec::new(),
            unread: Vec::new(),
            receiving: Receiving::new(receiver),
            has_logged_unwatched: false,
            fault_shares: log::Shares::per("user"),
            stopping: false,
            looks: 0,
            has_let_go: false,
        };
        control.resume_accepting()?;
        Ok(control)
    }

    /// Serves until every session has ended after [`ControlEvent::Stop`], or until [`ControlEvent::LetGo`].
    pub(crate) fn run(mut self) {
        let mut ready = [EpollEvent::empty(); 64];
        while !(self.stopping && self.connections.is_empty()) {
            if self.has_let_go {
                // The sessions' memory is in use.
                std::mem::forget(self);
                return;
            }
            let paused = !self.entrances.is_empty() && !self.accepting;
            let timeout = self.timeout(paused);
            // An error can only be a signal.
            let count = self.epoll.wait(&mut ready, timeout).unwrap_or(0);
            if self.reserve.is_short() {
                self.reserve.restore();
            }
            if self.spare.is_spent() && !self.reserve.is_spent() {
                self.spare.refill();
            }
            if paused && let Err(error) = self.resume_accepting() {
                self.reserve
                    .note("connections cannot be watched for", &error);
            }
            for event in &ready[..count] {
                match event.data() {
                    EVENTS => self.take_events(),
                    RECEIVER => self.hear_receiver(),
                    entrance if entrance & ENTRANCE != 0 => {
                        self.accept((entrance & !ENTRANCE) as usize);
                    }
                    id if id & PROCESS_ENDED != 0 => {
                        self.end(id & !PROCESS_ENDED, "its process has ended");
                    }
                    id => self.receive(id),
                }
            }
            self.end_silent();
            self.close_read();
            self.end_overdue();
            self.close_ended();
        }
    }

    /// How long to wait for events.
    fn timeout(&self, paused: bool) -> EpollTimeout {
        let look = if paused {
            Some(ACCEPT_PAUSE)
        } else if self.reserve.is_short() {
            Some(SHORTAGE_LOOK)
        } else {
            None
        };
        let now = Instant::now();
        let silent = self.greeting.front();
        let silent = silent.map(|(until, _)| until.saturating_duration_since(now));
        let receiving = self.receiving.wait(now);
        let unread = (!self.unread.is_empty()).then_some(UNREAD_LOOK);
        let waits = look.into_iter().chain(silent).chain(receiving);
        let Some(wait) = waits.chain(unread).min() else {
            return EpollTimeout::NONE;
        };
        // Not a moment too early, in whole milliseconds.
        let milliseconds = wait.as_micros().div_ceil(1000);
        EpollTimeout::from(u16::try_from(milliseconds).unwrap_or(u16::MAX))
    }

    fn take_events(&mut self) {
        while let Some(event) = self.events.receive() {
            match event {
                ControlEvent::Connect { socket } => {
                    // The process that embeds the host.
                    self.add_connection(socket, None);
                }
                ControlEvent::SessionFault { session, reason } => {
                    self.log_fault(session, &reason);
                    self.end(session, &reason);
                }
                ControlEvent::SessionReleased { session } => self.release(session),
                // The loop gets the descriptor back before it looks at the listener again.
                ControlEvent::DescriptorFreed => {}
                ControlEvent::Stop => self.stop(),
                ControlEvent::ModulesListed {
                    connection,
                    number,
                    modules,
                } => self.tell_looked_at(connection, number, modules),
                ControlEvent::PoolsEnded { connection, result } => {
                    self.tell_stopped(connection, result);
                }
                ControlEvent::LetGo { keeps_all, done } => {
                    self.let_go(keeps_all);
                    let _ = done.send(());
                }
            }
        }
    }
}

fn send(
    socket: &OwnedFd,
    number: u64,
    reply: &ControlReply,
    bell: Option<&Doorbell>,
) -> io::Result<()> {
    let packet = control::encode(number, reply).map_err(io::Error::other)?;
    packet::send(socket, &packet, bell.map(AsFd::as_fd))
}
