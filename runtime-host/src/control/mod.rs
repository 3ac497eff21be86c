//! The control thread: connections, handshakes, lanes, segments, and the end of sessions.
//!
//! It never blocks on a client: sockets are non-blocking, and a client that does not read its
//! replies is dropped. What may take long is the admin module's affair.

mod arrivals;
pub(crate) mod listener;
mod mapped;
mod refusal;
mod requests;
mod reserve;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use chimaera_fork::Private;
use chimaera_proto::Status;
use chimaera_proto::control::{self, ControlReply, ControlRequest, NO_REQUEST};
use chimaera_proto::limits::MAX_CONTROL_MESSAGE_BYTES;
use chimaera_shm::packet;
use chimaera_shm::{Doorbell, Shortage};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Shutdown, shutdown};

use crate::control_side::ControlSide;
use crate::inbox::Inbox;
use crate::log;
use crate::messages::{ControlEvent, WorkerCommand};
use crate::session::{Peer, Session};
use listener::Listener;
use mapped::Mapped;
use refusal::Refusal;
use requests::{open_lane, receive_segment};
use reserve::Reserve;

const LISTENER: u64 = u64::MAX;
const EVENTS: u64 = u64::MAX - 1;
/// Beside the id of a connection: that its process has ended.
const PROCESS_ENDED: u64 = 1 << 62;

/// How long to wait before accepting again when the process has not even the reserve left.
const ACCEPT_PAUSE_MS: u16 = 100;

/// How often to look whether a shortage is over.
const SHORTAGE_LOOK_MS: u16 = 1000;

/// What the replies that a client has not read yet may take of the kernel's memory. With them goes what
/// it may hold of the descriptors that the daemon's user can have on their way.
const REPLY_BUFFER_BYTES: usize = 32 * 1024;

const _: () = assert!(REPLY_BUFFER_BYTES > MAX_CONTROL_MESSAGE_BYTES);

pub(crate) struct Control {
    shared: Arc<ControlSide>,
    events: Arc<Inbox<ControlEvent>>,
    epoll: Private<Epoll>,
    listener: Option<Listener>,
    accepting: bool,
    reserve: Reserve,
    connections: HashMap<u64, Connection>,
    next_id: u64,
    /// Lanes per worker.
    load: Vec<usize>,
    mapped: Mapped,
    /// Connections that have ended, and are to be closed.
    ended: Vec<Arc<Private<OwnedFd>>>,
    /// Whether the log says already that processes cannot be watched.
    told_of_unwatched: bool,
    faults_told: log::Shares,
    stopping: bool,
}

struct Connection {
    state: ConnectionState,
    socket: Arc<Private<OwnedFd>>,
    peer: Peer,
    /// Readable once the client's process has ended.
    process: Option<OwnedFd>,
}

enum ConnectionState {
    /// Has not said hello yet.
    Greeting,
    Open(OpenSession),
    /// Workers that have not let go of it yet.
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

/// A lane that a worker has. Its client may ask for it again, having missed the answer.
struct OpenLane {
    index: usize,
    worker: usize,
    bell: Arc<Doorbell>,
}

impl Control {
    pub(crate) fn new(
        shared: Arc<ControlSide>,
        events: Arc<Inbox<ControlEvent>>,
        listener: Option<Listener>,
    ) -> io::Result<Self> {
        let make = || Ok(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let epoll = Private::with_file(make, |epoll| epoll.0.as_raw_fd())?;
        epoll.add(
            &*events,
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, EVENTS),
        )?;
        let load = vec![0; shared.router.inboxes.len()];
        let mut control = Self {
            shared,
            events,
            epoll,
            listener,
            accepting: false,
            reserve: Reserve::new()?,
            connections: HashMap::new(),
            next_id: 1,
            load,
            mapped: Mapped::default(),
            ended: Vec::new(),
            told_of_unwatched: false,
            faults_told: log::Shares::per("user"),
            stopping: false,
        };
        control.resume_accepting()?;
        Ok(control)
    }

    /// Serves until every session has ended after [`ControlEvent::Stop`].
    pub(crate) fn run(mut self) {
        let mut ready = [EpollEvent::empty(); 64];
        while !(self.stopping && self.connections.is_empty()) {
            let paused = self.listener.is_some() && !self.accepting;
            let timeout = if paused {
                EpollTimeout::from(ACCEPT_PAUSE_MS)
            } else if self.reserve.is_short() {
                EpollTimeout::from(SHORTAGE_LOOK_MS)
            } else {
                EpollTimeout::NONE
            };
            // An error can only be a signal.
            let count = self.epoll.wait(&mut ready, timeout).unwrap_or(0);
            if self.reserve.is_short() {
                self.reserve.restore();
            }
            if paused && let Err(error) = self.resume_accepting() {
                self.reserve
                    .note("connections cannot be watched for", &error);
            }
            for event in &ready[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    EVENTS => self.take_events(),
                    id if id & PROCESS_ENDED != 0 => {
                        self.end(id & !PROCESS_ENDED, "its process has ended");
                    }
                    id => self.receive(id),
                }
            }
            self.close_ended();
        }
    }

    /// Closes connections. Their clients learn of it at once; what they sent and nobody read, files
    /// among it, is closed with the socket, for which this thread does not wait.
    fn close_ended(&mut self) {
        for socket in self.ended.drain(..) {
            // It fails where the client has left already.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
            // Whose descriptor this thread waits for, if it does.
            let waiting = self.reserve.is_spent().then(|| Arc::clone(&self.events));
            self.shared.threads.closers.run(move || {
                drop(socket);
                if let Some(events) = waiting {
                    events.send(ControlEvent::DescriptorFreed);
                }
            });
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.events.receive() {
            match event {
                ControlEvent::Connect { socket } => self.add_connection(socket),
                ControlEvent::SessionFault { session, reason } => {
                    self.tell_of_fault(session, &reason);
                    self.end(session, &reason);
                }
                ControlEvent::SessionReleased { session } => self.release(session),
                // The descriptor is got back before the next look at the listener.
                ControlEvent::DescriptorFreed => {}
                ControlEvent::Stop => self.stop(),
            }
        }
    }

    /// Ends every connection, when it is told so for the first time. Whoever has not been welcomed yet, or has
    /// connected and was not taken up, learns why.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        if let Some(mut listener) = self.listener.take() {
            listener.leave_word(self.shared.unflushed.get());
            listener.close_entry();
            while let Ok(Some(socket)) = listener.accept() {
                self.tell_of_the_end(&socket);
                self.ended.push(Arc::new(socket));
            }
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get(&id)
                && matches!(connection.state, ConnectionState::Greeting)
            {
                self.tell_of_the_end(&connection.socket);
            }
            self.end(id, "the runtime stops");
        }
    }

    fn tell_of_the_end(&self, socket: &OwnedFd) {
        // A client that cannot be told learns as much as can be: that the connection is closed.
        let _ = send(socket, NO_REQUEST, &Refusal::stopping().into_reply(), None);
    }

    /// Reads one packet of a connection and answers it.
    fn receive(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let socket = Arc::clone(&connection.socket);
        let mut files = Vec::new();
        let peer = connection.peer;
        match packet::receive_with_files(&*socket, &mut files) {
            Ok(Some(packet)) => self.answer((id, peer), &socket, &packet, &mut files),
            Ok(None) => self.end(id, "it closed the connection"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.end(id, &error.to_string()),
        }
        if !files.is_empty() {
            // Whatever they are: to close some files takes as long as their owner wants.
            self.shared.threads.closers.run(move || drop(files));
        }
    }

    /// Answers a request. Takes from `files` what it uses.
    fn answer(
        &mut self,
        (id, peer): (u64, Peer),
        socket: &OwnedFd,
        packet: &packet::PacketBytes,
        files: &mut Vec<OwnedFd>,
    ) {
        let answer = self.handle((id, peer), packet, files);
        let is_greeting = matches!(
            self.connections.get(&id),
            Some(Connection {
                state: ConnectionState::Greeting,
                ..
            })
        );
        let (reply, file) = match answer {
            Ok((reply, bell)) => (reply, bell),
            Err(refusal) => {
                // The client is told; it must not be able to fill the log.
                log::debug(format_args!(
                    "session {id}: request refused: {}",
                    refusal.reason
                ));
                if let Some(shortage) = refusal.shortage {
                    self.reserve.note_refused_request(shortage);
                }
                (refusal.into_reply(), None)
            }
        };
        let number = control::number_of(&packet.bytes);
        let sent = match send(socket, number, &reply, file.as_deref()) {
            // Too many descriptors are on their way: the lane is open, and can be asked for again.
            Err(error) if file.is_some() && Shortage::of(&error).is_some() => {
                self.reserve.note("a doorbell cannot be sent", &error);
                let refusal = Refusal::of_system(&error, "the doorbell's way to the client", peer);
                send(socket, number, &refusal.into_reply(), None)
            }
            sent => sent,
        };
        if let Err(error) = sent {
            self.end(id, &format!("it does not take its replies: {error}"));
        } else if is_greeting {
            self.end(id, "its hello was refused");
        }
    }

    fn handle(
        &mut self,
        (id, peer): (u64, Peer),
        packet: &packet::PacketBytes,
        files: &mut Vec<OwnedFd>,
    ) -> Result<(ControlReply, Option<Arc<Doorbell>>), Refusal> {
        let violation = |error: &dyn std::fmt::Display| {
            Refusal::new(Status::ProtocolViolation, error.to_string())
        };
        let (_, request) = control::decode(&packet.bytes).map_err(|error| violation(&error))?;
        if packet.lost_file {
            return Err(Refusal::no_descriptor("what came with the request", peer));
        }
        // Before anything is given out: a request that took the descriptor which a client that was turned away
        // has just left would leave nothing to tell the next ones with.
        if self.reserve.is_spent() {
            self.reserve.restore();
            if self.reserve.is_spent() {
                return Err(Refusal::no_descriptor(
                    "anything that a request needs",
                    peer,
                ));
            }
        }
        let connection = self
            .connections
            .get_mut(&id)
            .expect("the caller has found it");
        match (request, &mut connection.state) {
            (ControlRequest::Hello { .. }, ConnectionState::Greeting)
                if self.shared.pools.is_closed() =>
            {
                Err(Refusal::stopping())
            }
            (ControlRequest::Hello { client_name }, ConnectionState::Greeting) => {
                let segment = receive_segment(files, "a hello without a segment", peer)?;
                self.mapped
                    .take(segment.len(), None)
                    .map_err(Refusal::no_place)?;
                let session = Session::new(id, client_name, peer, segment);
                log::debug(format_args!("{session} opened"));
                let session = Arc::new(session);
                connection.state = ConnectionState::Open(OpenSession {
                    session,
                    lanes: Vec::new(),
                });
                self.shared.session_count.fetch_add(1, Ordering::Relaxed);
                let welcome = ControlReply::Welcome {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    process_id: std::process::id(),
                    worker_count: self.shared.router.inboxes.len() as u32,
                    parks_with_barrier: self.shared.parks_with_barrier,
                };
                Ok((welcome, None))
            }
            (ControlRequest::OpenLane { lane }, ConnectionState::Open(client)) => {
                let bell = open_lane(client, lane, &mut self.load, &self.shared)?;
                Ok((ControlReply::LaneOpened, Some(bell)))
            }
            (ControlRequest::AddSegment { segment: index }, ConnectionState::Open(client)) => {
                let file = files.first();
                if file.is_some_and(|file| client.session.has_segment(index, file)) {
                    return Ok((ControlReply::SegmentAdded, None));
                }
                let segment = receive_segment(files, "a segment without its memory", peer)?;
                let len_bytes = segment.len();
                self.mapped
                    .take(len_bytes, Some(&client.session))
                    .map_err(Refusal::no_place)?;
                client
                    .session
                    .add_segment(index, segment)
                    .map_err(|reason| {
                        self.mapped.give_back([len_bytes]);
                        Refusal::new(Status::InvalidArgument, reason)
                    })?;
                Ok((ControlReply::SegmentAdded, None))
            }
            (_, ConnectionState::Greeting) => Err(violation(&"the first request is not a hello")),
            (_, ConnectionState::Open(_)) => Err(violation(&"a second hello")),
            (_, ConnectionState::Closing { .. }) => Err(Refusal::new(
                Status::ShuttingDown,
                "the session is being closed",
            )),
        }
    }

    /// Logs that a client broke the protocol: it is a mistake in its program, or an attempt. How often is
    /// up to the client, so each user has a share of the log.
    fn tell_of_fault(&mut self, id: u64, reason: &str) {
        let Some(Connection {
            state: ConnectionState::Open(client),
            peer,
            ..
        }) = self.connections.get(&id)
        else {
            return;
        };
        if let Some(skipped) = self.faults_told.admit(peer.user_id.into(), Instant::now()) {
            let session = &client.session;
            log::warning(format_args!(
                "{session} is ended, as it broke the protocol: {reason}{skipped}"
            ));
        }
    }

    /// Ends a connection: at once if there is no session yet, else as soon as the workers have
    /// let go of it.
    fn end(&mut self, id: u64, reason: &str) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let Some(process) = connection.process.take() {
            // Closing it would do, but not where a forked child holds a copy.
            let _ = self.epoll.delete(&process);
        }
        match std::mem::replace(&mut connection.state, ConnectionState::Greeting) {
            ConnectionState::Greeting => {
                log::debug(format_args!(
                    "connection {id} of {} ended: {reason}",
                    connection.peer
                ));
                let _ = self.epoll.delete(&*connection.socket);
                let ended = self.connections.remove(&id);
                self.ended.extend(ended.map(|connection| connection.socket));
            }
            ConnectionState::Open(OpenSession { session, lanes, .. }) => {
                log::debug(format_args!("{session} ended: {reason}"));
                let _ = self.epoll.delete(&*connection.socket);
                self.shared.session_count.fetch_sub(1, Ordering::Relaxed);
                let workers_left = self.shared.router.inboxes.len();
                connection.state = ConnectionState::Closing {
                    session,
                    workers_left,
                    lanes,
                };
                for inbox in &self.shared.router.inboxes {
                    inbox.send(WorkerCommand::CloseSession { session: id });
                }
            }
            closing @ ConnectionState::Closing { .. } => connection.state = closing,
        }
    }

    fn release(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let ConnectionState::Closing {
            session,
            workers_left,
            lanes,
        } = &mut connection.state
        else {
            return;
        };
        *workers_left -= 1;
        if *workers_left == 0 {
            for lane in &*lanes {
                self.load[lane.worker] -= 1;
            }
            self.mapped.give_back(session.segment_sizes());
            // This unmaps the session's memory. The socket is closed after.
            let ended = self.connections.remove(&id);
            self.ended.extend(ended.map(|connection| connection.socket));
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
