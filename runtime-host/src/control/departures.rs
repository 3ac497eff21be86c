//! Connections that end: workers release their sessions, and their sockets are closed.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use chimaera_proto::Status;
use chimaera_proto::control::NO_REQUEST;
use chimaera_proto::rights::OVERFLOW_ID;
use chimaera_shm::packet;
use nix::sys::socket::{Shutdown, shutdown};

use super::refusal::Refusal;
use super::{
    Connection, ConnectionState, Control, Ended, Entrance, GREETING_PATIENCE, OpenSession, send,
};
use crate::log;
use crate::messages::{ControlEvent, WorkerCommand};

impl Control {
    /// Ends a connection: at once if there is no session yet, else as soon as the workers have
    /// released it.
    pub(super) fn end(&mut self, id: u64, reason: &str) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.at_receiver = None;
        if let Some(process) = connection.process.take() {
            // Closing it would not end the watch if a forked child holds a copy.
            let _ = self.epoll.delete(&process);
        }
        match std::mem::replace(&mut connection.state, ConnectionState::Greeting) {
            ConnectionState::Greeting | ConnectionState::Asking(_) => {
                log::debug(format_args!(
                    "connection {id} of {} ended: {reason}",
                    connection.peer
                ));
                let _ = self.epoll.delete(&*connection.socket);
                let ended = self.connections.remove(&id);
                self.ended.extend(ended.map(Ended::from));
            }
            ConnectionState::Open(OpenSession { session, lanes, .. }) => {
                log::debug(format_args!("{session} ended: {reason}"));
                let _ = self.epoll.delete(&*connection.socket);
                self.shared.session_count.fetch_sub(1, Ordering::Relaxed);
                self.shared.sessions.end(id);
                let workers_left = self.shared.inboxes.by_worker.len();
                connection.state = ConnectionState::Closing {
                    session,
                    workers_left,
                    lanes,
                };
                for inbox in &self.shared.inboxes.by_worker {
                    inbox.send(WorkerCommand::CloseSession { session: id });
                }
            }
            closing @ ConnectionState::Closing { .. } => connection.state = closing,
        }
    }

    /// Ends connections on which nobody has said hello in time, after telling them so.
    pub(super) fn end_silent(&mut self) {
        let now = Instant::now();
        while self
            .greeting
            .front()
            .is_some_and(|&(until, _)| until <= now)
        {
            let (_, id) = self.greeting.pop_front().expect("it was looked at");
            let Some(connection) = self.connections.get(&id) else {
                continue;
            };
            if !matches!(connection.state, ConnectionState::Greeting)
                || connection.at_receiver.is_some()
            {
                continue;
            }
            let seconds = GREETING_PATIENCE.as_secs();
            let reason = format!(
                "nothing was said on this connection for {seconds} s: connect again to open a session"
            );
            let refusal = Refusal::new(Status::ProtocolViolation, reason);
            // A client that cannot be told still learns that the connection is closed.
            let _ = send(&connection.socket, NO_REQUEST, &refusal.into_reply(), None);
            self.end(id, "it has opened no session in time");
        }
    }

    /// Notes that a worker has released a session. The last one to do so ends the connection.
    pub(super) fn release(&mut self, id: u64) {
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
            let offered: Vec<_> = session.caller.take_all_offered().collect();
            if !offered.is_empty() {
                // Closing some kinds of files takes as long as their owner likes.
                self.shared.threads.closers.run(move || drop(offered));
            }
            // After all that its tasks have asked of workers.
            for inbox in &self.shared.inboxes.by_worker {
                inbox.send(WorkerCommand::ForgetCaller { session: id });
            }
            self.shared.sessions.remove(id);
            // This unmaps the session's memory. The socket is closed afterwards.
            let ended = self.connections.remove(&id);
            self.ended.extend(ended.map(Ended::from));
        }
    }

    /// Closes ended connections. Their clients learn of it at once. One that still holds messages may hold files of a
    /// stranger's, which the kernel closes with it: it is closed by a process of the receiver's.
    pub(super) fn close_ended(&mut self) {
        for ended in std::mem::take(&mut self.ended) {
            // It fails if the client has left already.
            let _ = shutdown(ended.socket.as_raw_fd(), Shutdown::Both);
            // Told when the descriptor is free, if this thread waits for one.
            let waiting = (self.reserve.is_spent() || self.spare.is_spent())
                .then(|| Arc::clone(&self.events));
            let tell = move || {
                if let Some(events) = waiting {
                    events.send(ControlEvent::DescriptorFreed);
                }
            };
            if ended.sent_files
                && !ended.is_own
                && packet::is_unread(&*ended.socket).unwrap_or(false)
            {
                self.unread.push(ended);
                tell();
            } else if ended.is_own {
                self.shared.threads.closers.run(move || {
                    drop(ended);
                    tell();
                });
            } else if packet::holds_any(&*ended.socket).unwrap_or(true) {
                self.receiving.close(ended);
                tell();
            } else {
                drop(ended);
                tell();
            }
        }
    }

    /// Looks which clients whose connections have ended have read what they were sent, or have left.
    pub(super) fn close_read(&mut self) {
        let is_read = |ended: &mut Ended| !packet::is_unread(&*ended.socket).unwrap_or(false);
        let read: Vec<_> = self.unread.extract_if(.., is_read).collect();
        self.ended.extend(read);
    }

    /// Ends every connection, when called for the first time. Clients that have not been welcomed yet, or whose
    /// connections have not been accepted, are told why.
    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let failure = self.shared.ending.failure();
        for Entrance { listener, .. } in std::mem::take(&mut self.entrances) {
            let _ = self.epoll.delete(&listener);
            listener.stop_connections();
            while let Ok(Some(socket)) = listener.accept() {
                self.send_stopping(&socket);
                self.leave_unserved(socket, OVERFLOW_ID);
            }
            listener.close(failure.as_ref());
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get(&id)
                && matches!(connection.state, ConnectionState::Greeting)
            {
                self.send_stopping(&connection.socket);
            }
            self.end(id, "the runtime stops");
        }
    }

    /// Tells a client that the host is stopping.
    pub(super) fn send_stopping(&self, socket: &OwnedFd) {
        // A client that cannot be told still learns that the connection is closed.
        let _ = send(socket, NO_REQUEST, &Refusal::stopping().into_reply(), None);
    }

    /// Logs that a client broke the protocol, by mistake or on purpose. A client may do so as often as it likes, so
    /// each user has a share of the log.
    pub(super) fn log_fault(&mut self, id: u64, reason: &str) {
        let Some(Connection {
            state: ConnectionState::Open(client),
            peer,
            ..
        }) = self.connections.get(&id)
        else {
            return;
        };
        if let Some(skipped) = self.fault_shares.admit(peer.user_id.into(), Instant::now()) {
            let session = &client.session;
            log::warning(format_args!(
                "{session} is ended, as it broke the protocol: {reason}{skipped}"
            ));
        }
    }
}

impl From<Connection> for Ended {
    fn from(connection: Connection) -> Self {
        Self {
            user: connection.peer.user_id,
            socket: connection.socket,
            is_own: connection.is_own,
            sent_files: connection.sent_files,
            _charges: connection.charges,
        }
    }
}
