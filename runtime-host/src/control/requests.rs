//! Requests of clients: to open a session, to map a segment, to serve a lane.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chimaera_fork::Private;
use chimaera_proto::Status;
use chimaera_proto::control::{self, ControlReply, ControlRequest, MAX_OFFERED_FILES};
use chimaera_proto::limits::MAX_LANES;
use chimaera_shm::packet::PacketBytes;
use chimaera_shm::{Doorbell, Segment, SegmentError, Shortage, check_memory};

use super::refusal::Refusal;
use super::{Connection, ConnectionState, Control, OpenLane, OpenSession, send};
use crate::accounts::{Charge, Resource};
use crate::caller::{Caller, ClientFile, Peer};
use crate::control_side::ControlSide;
use crate::log;
use crate::messages::WorkerCommand;
use crate::session::Session;

impl Control {
    /// Answers a request. Takes from `files` what it uses.
    pub(super) fn answer(
        &mut self,
        (id, peer): (u64, Peer),
        socket: &OwnedFd,
        packet: &PacketBytes,
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
                // Only for developers: a client must not be able to fill the log, and is told itself.
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
            // Too many descriptors are in flight: the lane is open, and the client can ask for it again.
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

    /// Carries a request out, or says why not. The file beside the reply is a lane's doorbell.
    fn handle(
        &mut self,
        (id, peer): (u64, Peer),
        packet: &PacketBytes,
        files: &mut Vec<OwnedFd>,
    ) -> Result<(ControlReply, Option<Arc<Doorbell>>), Refusal> {
        let violation = |error: &dyn std::fmt::Display| {
            Refusal::new(Status::ProtocolViolation, error.to_string())
        };
        let (_, request) = control::decode(&packet.bytes).map_err(|error| violation(&error))?;
        if packet.lost_file {
            return Err(Refusal::no_descriptor("what came with the request", peer));
        }
        self.refill_reserve(peer)?;
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
                let groups = std::mem::take(&mut connection.groups);
                let (account, standing) = (&connection.account, connection.standing);
                let caller = Caller::new(id, (peer, groups), standing, account);
                let session = open_session(client_name, caller, files, &mut connection.charges)?;
                log::debug(format_args!("{session} opened"));
                self.shared.sessions.enter(&session.caller, &session.name);
                connection.state = ConnectionState::Open(OpenSession {
                    session: Arc::new(session),
                    lanes: Vec::new(),
                });
                self.shared.session_count.fetch_add(1, Ordering::Relaxed);
                let welcome = ControlReply::Welcome {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    process_id: std::process::id(),
                    worker_count: self.shared.inboxes.by_worker.len() as u32,
                    parks_with_barrier: self.shared.parks_with_barrier,
                };
                Ok((welcome, None))
            }
            (ControlRequest::OpenLane { lane }, ConnectionState::Open(client)) => {
                let charges = &mut connection.charges;
                let bell = open_lane((client, charges), lane, &mut self.load, &self.shared)?;
                connection.sent_files = true;
                Ok((ControlReply::LaneOpened, Some(bell)))
            }
            (ControlRequest::AddSegment { segment: index }, ConnectionState::Open(client)) => {
                add_segment(&client.session, index, files, &mut connection.charges)?;
                Ok((ControlReply::SegmentAdded, None))
            }
            (ControlRequest::OfferFile { number }, ConnectionState::Open(client)) => {
                offer_file(&client.session.caller, number, files, &self.shared)?;
                Ok((ControlReply::FileOffered, None))
            }
            (_, ConnectionState::Asking(_)) => {
                Err(violation(&"this connection asks without a session"))
            }
            (_, ConnectionState::Greeting) => Err(violation(&"the first request is not a hello")),
            (_, ConnectionState::Open(_)) => Err(violation(&"a second hello")),
            (_, ConnectionState::Closing { .. }) => Err(Refusal::new(
                Status::ShuttingDown,
                "the session is being closed",
            )),
        }
    }

    /// Gets the reserved descriptor back before a request is given any. Else a request could take the descriptor that a
    /// client which was turned away has just left, and nothing would be left to tell the next ones with.
    fn refill_reserve(&mut self, peer: Peer) -> Result<(), Refusal> {
        if self.reserve.is_spent() {
            self.reserve.restore();
        }
        if self.reserve.is_spent() {
            return Err(Refusal::no_descriptor(
                "anything that a request needs",
                peer,
            ));
        }
        Ok(())
    }
}

/// Opens a session with its first segment, which comes beside the hello.
fn open_session(
    client_name: String,
    caller: Caller,
    files: &mut Vec<OwnedFd>,
    charges: &mut Vec<Charge>,
) -> Result<Session, Refusal> {
    let (segment, counted) = receive_segment(files, "a hello without a segment", &caller)?;
    charges.extend(counted);
    Ok(Session::new(client_name, caller, segment))
}

/// Registers a further segment, unless this very memory has the index already.
fn add_segment(
    session: &Session,
    index: u32,
    files: &mut Vec<OwnedFd>,
    charges: &mut Vec<Charge>,
) -> Result<(), Refusal> {
    let file = files.first();
    if file.is_some_and(|file| session.has_segment(index, file)) {
        return Ok(());
    }
    let received = receive_segment(files, "a segment without its memory", &session.caller);
    let (segment, counted) = received?;
    let added = session.add_segment(index, segment);
    added.map_err(|reason| Refusal::new(Status::InvalidArgument, reason))?;
    charges.extend(counted);
    Ok(())
}

/// Keeps the file beside a request for the pool that a later one asks for.
fn offer_file(
    caller: &Caller,
    number: u64,
    files: &mut Vec<OwnedFd>,
    shared: &ControlSide,
) -> Result<(), Refusal> {
    let violation = |reason: &str| Refusal::new(Status::ProtocolViolation, reason);
    if files.is_empty() {
        return Err(violation("an offer without its file"));
    }
    let counted = caller.account.charge(Resource::Descriptors, 1)?;
    let file = files.pop().expect("there is one");
    let file = Private::adopt(file).map_err(|(file, error)| {
        files.push(file);
        Refusal::of_system(&error, "the place of a file", caller.peer)
    })?;
    let (given_back, offered) = match caller
        .offer(number, ClientFile::new(file.closed_apart(), counted))
    {
        Ok(replaced) => (replaced, Ok(())),
        Err(refused) => {
            let reason = format!(
                "this connection has offered {MAX_OFFERED_FILES} files that no pool was asked for on yet, which is the \
                 most: wait until pools that are being created are there"
            );
            (Some(refused), Err(Refusal::new(Status::Busy, reason)))
        }
    };
    // Closing some kinds of files takes as long as their owner likes.
    if let Some(file) = given_back {
        shared.threads.closers.run(move || drop(file));
    }
    offered
}

/// Memory that has to be left behind a client's segment, for what requests and their refusals allocate.
pub(crate) const SPARE_BYTES: usize = 1 << 20;

/// Maps the segment beside a request, once it is counted for the client. Leaves a file that is not a segment in
/// `files`.
fn receive_segment(
    files: &mut Vec<OwnedFd>,
    missing: &str,
    caller: &Caller,
) -> Result<(Segment, [Charge; 3]), Refusal> {
    let violation = |reason: String| Refusal::new(Status::ProtocolViolation, reason);
    let file = files.last().ok_or_else(|| violation(missing.to_owned()))?;
    let len_bytes = Segment::len_of(file).map_err(|error| violation(error.to_string()))?;
    let counted = [
        caller.account.charge(Resource::Segments, 1)?,
        caller.account.charge(Resource::AddressBytes, len_bytes)?,
        caller.account.charge(Resource::Descriptors, 1)?,
    ];
    let file = files.pop().expect("it was looked at");
    let segment = Segment::receive(file).map_err(|refused| {
        files.push(refused.file);
        match &refused.error {
            SegmentError::Map(error) if Shortage::of(error).is_some() => {
                Refusal::of_system(error, "the segment", caller.peer)
            }
            error => violation(error.to_string()),
        }
    })?;
    let left = check_memory(SPARE_BYTES);
    left.map_err(|error| Refusal::of_system(&error, "the segment", caller.peer))?;
    Ok((segment, counted))
}

/// Hands a lane to the worker with the fewest lanes, unless a worker has it already.
fn open_lane(
    (client, charges): (&mut OpenSession, &mut Vec<Charge>),
    lane: u32,
    load: &mut [usize],
    shared: &ControlSide,
) -> Result<Arc<Doorbell>, Refusal> {
    let index = lane as usize;
    if index >= MAX_LANES {
        let reason = format!("there is no lane {lane}: a session has {MAX_LANES}");
        return Err(Refusal::new(Status::InvalidArgument, reason));
    }
    let account = &client.session.caller.account;
    if let Some(open) = client.lanes.iter().find(|open| open.index == index) {
        // A copy on its way to a client that does not read counts as any descriptor.
        charges.push(account.charge(Resource::Descriptors, 1)?);
        return Ok(Arc::clone(&open.bell));
    }
    let counted = [
        account.charge(Resource::Lanes, 1)?,
        account.charge(Resource::Descriptors, 2)?,
    ];
    let bell = Doorbell::new().map(Arc::new);
    let peer = client.session.caller.peer;
    let bell = bell.map_err(|error| Refusal::of_system(&error, "a doorbell", peer))?;
    let worker = (0..load.len())
        .min_by_key(|&worker| load[worker])
        .expect("a host has workers");
    load[worker] += 1;
    charges.extend(counted);
    client.lanes.push(OpenLane {
        index,
        worker,
        bell: Arc::clone(&bell),
    });
    shared.inboxes.by_worker[worker].send(WorkerCommand::AddLane {
        session: Arc::clone(&client.session),
        lane: client.session.first_segment().lane(index),
        bell: Arc::clone(&bell),
    });
    Ok(bell)
}
