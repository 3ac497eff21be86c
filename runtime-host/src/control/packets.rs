//! Packets of connections, from the socket to the request.
//!
//! What comes with a packet is a stranger's. A packet that comes with files is therefore received by the receiver, and
//! its connection is not read meanwhile. Its end is noticed all the same.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use chimaera_proto::Status;
use chimaera_proto::control;
use chimaera_shm::Shortage;
use chimaera_shm::packet::{self, PacketBytes};
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::receiving::{ANSWER_PATIENCE, Hindrance, MAX_RECEIVING, Socket, hear};
use super::refusal::Refusal;
use super::{Connection, Control, INTEREST, send};
use crate::caller::Peer;
use crate::log;
use crate::receiver::{Found, Note, ReceivedFile};

impl Control {
    /// Reads one packet of a connection and answers it, or has the receiver do the first part.
    pub(super) fn receive(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (socket, peer) = (Arc::clone(&connection.socket), connection.peer);
        if connection.at_receiver.is_some() {
            // Only its end is watched for.
            return self.end(id, "it closed the connection");
        }
        if connection.is_own {
            return self.receive_own((id, peer), &socket);
        }
        let packet = packet::peek(&*socket);
        match packet {
            Ok(Some(packet)) if packet.has_files => self.leave_to_receiver(id, packet.bytes),
            Ok(Some(packet)) => match packet::discard(&*socket) {
                Ok(()) => {
                    let packet = PacketBytes {
                        bytes: packet.bytes,
                        lost_file: false,
                    };
                    self.serve((id, peer), &socket, &packet, &mut Vec::new());
                }
                Err(error) => self.end(id, &error.to_string()),
            },
            Ok(None) => self.end(id, "it closed the connection"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.end(id, &error.to_string()),
        }
    }

    /// Reads one packet that this process itself has sent, with files that it has chosen.
    fn receive_own(&mut self, (id, peer): (u64, Peer), socket: &Socket) {
        let mut files = Vec::new();
        match packet::receive_with_files(&**socket, &mut files) {
            Ok(Some(packet)) => self.serve((id, peer), socket, &packet, &mut files),
            Ok(None) => self.end(id, "it closed the connection"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.end(id, &error.to_string()),
        }
        self.close_files(files);
    }

    /// Answers a packet that was received, whatever asks in it.
    fn serve(
        &mut self,
        (id, peer): (u64, Peer),
        socket: &Socket,
        packet: &PacketBytes,
        files: &mut Vec<OwnedFd>,
    ) {
        if !self.serve_operator((id, peer), packet) {
            self.answer((id, peer), socket, packet, files);
        }
    }

    /// Closes files that are not used. That may take some time: the last one to close a removed file frees its blocks.
    fn close_files(&self, files: Vec<OwnedFd>) {
        if !files.is_empty() {
            self.shared.threads.closers.run(move || drop(files));
        }
    }

    fn leave_to_receiver(&mut self, id: u64, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.at_receiver = Some(bytes);
        // Nothing but the end of the connection.
        let mut event = EpollEvent::new(EpollFlags::EPOLLRDHUP, id);
        if let Err(error) = self.epoll.modify(&*connection.socket, &mut event) {
            return self.end(id, &error.to_string());
        }
        self.begin_receiving(id);
    }

    /// Has the receiver receive the message that a connection waits with. Returns false if it does not wait any more.
    fn begin_receiving(&mut self, id: u64) -> bool {
        let Some(connection) = self.connections.get(&id) else {
            return false;
        };
        if connection.at_receiver.is_none() {
            return false;
        }
        let user = connection.peer.user_id;
        match self.receiving.begin(id, user, &connection.socket) {
            Ok(()) => true,
            Err(hindrance) => {
                self.give_up(id, hindrance);
                false
            }
        }
    }

    /// Takes what the receiver has to say.
    pub(super) fn hear_receiver(&mut self) {
        let Some(receiver) = self.receiving.receiver() else {
            return;
        };
        let (answers, notes, is_gone) = hear(receiver);
        for answered in answers {
            match self.receiving.take_answer(answered.request) {
                Some(id) => self.take_received(id, answered),
                None => self.close_files(answered.file.into_iter().collect()),
            }
        }
        for note in notes {
            match note {
                Note::Ended { request } => {
                    if let Some(id) = self.receiving.note_end(request) {
                        self.give_up(id, Hindrance::NoAnswer);
                    }
                }
                Note::NoProcess => log::warning(format_args!(
                    "the receiver gets no further process, so that files of clients wait: {}",
                    Shortage::Threads.remedy()
                )),
            }
        }
        if is_gone {
            self.lose_receiver();
        }
        self.go_on_receiving();
    }

    /// Goes on with messages whose turn it is.
    fn go_on_receiving(&mut self) {
        self.receiving.retry();
        let mut is_passed_on = true;
        while std::mem::take(&mut is_passed_on) {
            for (id, user) in self.receiving.take_ready() {
                if !self.begin_receiving(id) {
                    self.receiving.pass_turn(user);
                    is_passed_on = true;
                }
            }
        }
    }

    fn lose_receiver(&mut self) {
        log::error(format_args!(
            "the receiver's process has ended: no client can open a session or pass a file any more. Was it killed? \
             Restart the daemon"
        ));
        for id in self.receiving.lose_receiver() {
            self.give_up(id, Hindrance::Gone);
        }
    }

    /// Ends connections whose message nobody has received in time, and tries again what has to be.
    pub(super) fn end_overdue(&mut self) {
        for (id, hindrance) in self.receiving.take_overdue() {
            self.give_up(id, hindrance);
        }
        self.go_on_receiving();
    }

    /// Takes what a child has found beside a connection's message.
    fn take_received(&mut self, id: u64, answered: ReceivedFile) {
        let mut files: Vec<_> = answered.file.into_iter().collect();
        let Some(connection) = self.connections.get_mut(&id) else {
            return self.close_files(files);
        };
        let Some(bytes) = connection.at_receiver.take() else {
            return self.close_files(files);
        };
        let (socket, peer) = (Arc::clone(&connection.socket), connection.peer);
        let lost_file = match answered.found {
            Found::Harmless => files.is_empty(),
            Found::NoDescriptor => true,
            Found::Nothing => return self.end(id, "it has closed the connection"),
            refused => {
                let refusal = Refusal::new(status_of(refused), refused.to_string());
                return self.end_with_refusal(id, &bytes, refusal);
            }
        };
        let mut event = EpollEvent::new(INTEREST, id);
        if let Err(error) = self.epoll.modify(&*socket, &mut event) {
            return self.end(id, &error.to_string());
        }
        let packet = PacketBytes { bytes, lost_file };
        self.serve((id, peer), &socket, &packet, &mut files);
        self.close_files(files);
    }

    /// Ends a connection whose message cannot be received.
    fn give_up(&mut self, id: u64, hindrance: Hindrance) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(bytes) = connection.at_receiver.take() else {
            return;
        };
        let peer = connection.peer;
        let refusal = match hindrance {
            Hindrance::System(error) => {
                Refusal::of_system(&error, "what came beside a request", peer)
            }
            hindrance => Refusal::new(Status::OutOfResources, describe(&hindrance, peer)),
        };
        self.end_with_refusal(id, &bytes, refusal);
    }

    /// Refuses a request because of the files beside it, and ends its session.
    fn end_with_refusal(&mut self, id: u64, request: &[u8], refusal: Refusal) {
        let reason = refusal.reason.clone();
        if let Some(Connection { socket, peer, .. }) = self.connections.get(&id) {
            let number = control::number_of(request);
            // A client that cannot be told still learns that the connection is closed.
            let _ = send(socket, number, &refusal.into_reply(), None);
            if let Some(skipped) = self.fault_shares.admit(peer.user_id.into(), Instant::now()) {
                log::warning(format_args!(
                    "connection {id} of {peer} is ended: {reason}{skipped}"
                ));
            }
        }
        self.end(id, &reason);
    }
}

/// The status for a file that is not taken.
const fn status_of(found: Found) -> Status {
    match found {
        Found::SeveralFiles => Status::ProtocolViolation,
        Found::ForeignMount | Found::FileSystem(_) | Found::Unknown => Status::PermissionDenied,
        _ => Status::InvalidArgument,
    }
}

fn describe(hindrance: &Hindrance, peer: Peer) -> String {
    let user = peer.user_id;
    match hindrance {
        Hindrance::Gone => {
            "the daemon's process that receives files has ended: let its operator restart the daemon".to_owned()
        }
        Hindrance::AllHang => format!(
            "{MAX_RECEIVING} processes that received files of user {user} hang, which is the most: end what serves \
             those files, and try again"
        ),
        Hindrance::NoAnswer | Hindrance::System(_) => format!(
            "what came beside a request was not received within {} s: either it hangs, or the daemon has no process \
             for it ({})",
            ANSWER_PATIENCE.as_secs(),
            Shortage::Threads.remedy()
        ),
    }
}
