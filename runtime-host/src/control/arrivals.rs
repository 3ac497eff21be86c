//! Connections that come in: accepted and watched, or told why they are not served.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use chimaera_fork::Private;
use chimaera_proto::Status;
use chimaera_proto::control::NO_REQUEST;
use chimaera_proto::rights::OVERFLOW_ID;
use chimaera_shm::{Shortage, peer_process};
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::refusal::Refusal;
use super::{
    Connection, ConnectionState, Control, ENTRANCE, Ended, Entrance, GREETING_PATIENCE, INTEREST,
    PROCESS_ENDED, REPLY_BUFFER_BYTES, send,
};
use crate::accounts::{Charge, Exceeded, Holder, Resource};
use crate::caller::{Peer, Standing};
use crate::config::UsersCeiling;
use crate::log;

/// Why a connection that was accepted is not served.
enum Unserved {
    /// The process that made it has ended.
    ProcessEnded,
    /// There is no descriptor left for watching that process.
    Shortage(io::Error),
}

impl Control {
    pub(super) fn resume_accepting(&mut self) -> io::Result<()> {
        if self.accepting {
            return Ok(());
        }
        for (index, entrance) in self.entrances.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, ENTRANCE | index as u64);
            match self.epoll.add(&entrance.listener, event) {
                // One that was watched when another could not be.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.accepting = true;
        Ok(())
    }

    /// Takes a connection that waits at an entrance.
    pub(super) fn accept(&mut self, index: usize) {
        let Some(Entrance { listener, max }) = self.entrances.get(index) else {
            return;
        };
        let max = *max;
        if max.is_some() && self.receiving.holds_too_many() {
            // They wait, and operators do not. Tried again after a pause.
            let _ = self.epoll.delete(listener);
            self.accepting = false;
            return;
        }
        match listener.accept() {
            Ok(Some(socket)) => self.add_connection(socket, Some(max)),
            Ok(None) => {}
            Err(error) => {
                self.reserve.note("a connection cannot be accepted", &error);
                if max.is_none()
                    && self.spare.spend()
                    && let Ok(Some(socket)) = listener.accept()
                {
                    self.add_connection(socket, Some(max));
                    return;
                }
                if self.reserve.spend()
                    && let Ok(Some(socket)) = listener.accept()
                    && let Ok(peer) = getsockopt(&socket, sockopt::PeerCredentials)
                {
                    self.turn_away(socket, &error, peer.into());
                    return;
                }
                // A listener that stays ready would keep the thread from everything else.
                for entrance in &self.entrances {
                    let _ = self.epoll.delete(&entrance.listener);
                }
                self.accepting = false;
            }
        }
    }

    /// Closes a connection that is not served, after telling its client what the system has refused.
    fn turn_away(&mut self, socket: Private<OwnedFd>, error: &io::Error, client: Peer) {
        let refusal = Refusal::of_system(error, "another client", client);
        // A client that cannot be told still learns that the connection is closed.
        let _ = send(&socket, NO_REQUEST, &refusal.into_reply(), None);
        self.reserve.count_turned_away();
        self.leave_unserved(socket, client.user_id);
    }

    /// Has a connection closed that is not served.
    pub(super) fn leave_unserved(&mut self, socket: Private<OwnedFd>, user: u32) {
        self.ended.push(Ended {
            user,
            socket: Arc::new(socket),
            is_own: false,
            sent_files: false,
            _charges: Vec::new(),
        });
    }

    /// Serves a connection that came through an entrance with this ceiling, `Some(None)` for that of operators; or one
    /// of the process that embeds the host.
    pub(super) fn add_connection(
        &mut self,
        socket: Private<OwnedFd>,
        entrance: Option<Option<UsersCeiling>>,
    ) {
        if self.stopping {
            self.send_stopping(&socket);
            return self.leave_unserved(socket, OVERFLOW_ID);
        }
        let identity = getsockopt(&socket, sockopt::PeerCredentials)
            .map_err(io::Error::from)
            .and_then(|peer| Ok((Peer::from(peer), peer_process::groups(&socket)?)));
        let (peer, groups) = match identity {
            Ok(identity) => identity,
            Err(error) => {
                log::warning(format_args!(
                    "a connection without credentials is dropped: {error}"
                ));
                return self.leave_unserved(socket, OVERFLOW_ID);
            }
        };
        let standing = match entrance {
            Some(Some(max)) => Standing::of_user(max),
            Some(None) if !self.operators.admit(peer, &groups) => {
                self.refuse_as_no_operator(socket, peer);
                return;
            }
            Some(None) | None => Standing::Operator,
        };
        let account = self
            .shared
            .accounts
            .holder(peer.user_id, standing == Standing::Operator);
        let charges = match charge_connection(&account) {
            Ok(charges) => charges,
            // An operator is heard all the same: what asks about the daemon as a whole takes nothing else.
            Err(_) if standing == Standing::Operator => Vec::new(),
            Err(exceeded) => {
                self.refuse_connection(socket, peer, exceeded);
                return;
            }
        };
        let id = self.next_id;
        let Some((socket, process)) = self.watch(id, socket, peer, standing) else {
            return;
        };
        if entrance.is_some() {
            let until = Instant::now() + GREETING_PATIENCE;
            self.greeting.push_back((until, id));
        }
        self.connections.insert(
            id,
            Connection {
                socket,
                peer,
                groups,
                standing,
                account,
                charges,
                process,
                is_own: entrance.is_none(),
                sent_files: false,
                at_receiver: None,
                state: ConnectionState::Greeting,
            },
        );
    }

    /// Watches a new connection and its process, unless it is to be closed.
    fn watch(
        &mut self,
        id: u64,
        socket: Private<OwnedFd>,
        peer: Peer,
        standing: Standing,
    ) -> Option<(Arc<Private<OwnedFd>>, Option<OwnedFd>)> {
        if let Err(error) = self.epoll.add(&socket, EpollEvent::new(INTEREST, id)) {
            let error = io::Error::from(error);
            self.reserve.note("a connection cannot be watched", &error);
            self.turn_away(socket, &error, peer);
            return None;
        }
        // Only a limit: without it the system's own applies.
        let _ = setsockopt(&socket, sockopt::SndBuf, &REPLY_BUFFER_BYTES);
        self.next_id += 1;
        let process = match self.watch_process(id, &socket, peer) {
            Ok(process) => process,
            // An operator is heard all the same: what asks about the daemon takes no further descriptor.
            Err(Unserved::Shortage(error)) if standing == Standing::Operator => {
                self.reserve
                    .note("a client's process cannot be watched", &error);
                None
            }
            Err(unserved) => {
                let _ = self.epoll.delete(&socket);
                match unserved {
                    Unserved::ProcessEnded => {
                        log::debug(format_args!(
                            "session {id}: connection dropped: its process has ended"
                        ));
                        self.leave_unserved(socket, peer.user_id);
                    }
                    Unserved::Shortage(error) => {
                        self.reserve
                            .note("a client's process cannot be watched", &error);
                        self.turn_away(socket, &error, peer);
                    }
                }
                return None;
            }
        };
        Some((Arc::new(socket), process))
    }

    /// Closes a connection that is more than its user may have, after telling why.
    fn refuse_connection(&mut self, socket: Private<OwnedFd>, peer: Peer, exceeded: Exceeded) {
        // A client that cannot be told still learns that the connection is closed.
        let _ = send(
            &socket,
            NO_REQUEST,
            &Refusal::from(exceeded).into_reply(),
            None,
        );
        if let Some(skipped) = self.fault_shares.admit(peer.user_id.into(), Instant::now()) {
            log::warning(format_args!(
                "a connection of {peer} is refused: {exceeded}{skipped}"
            ));
        }
        self.leave_unserved(socket, peer.user_id);
    }

    /// Closes a connection to the operators' socket of somebody who is none, after telling why.
    fn refuse_as_no_operator(&mut self, socket: Private<OwnedFd>, peer: Peer) {
        let users = self
            .entrances
            .iter()
            .filter(|entrance| entrance.max.is_some());
        let sockets: Vec<_> = users
            .map(|entrance| entrance.listener.shown_path())
            .collect();
        let advice = match sockets.is_empty() {
            _ if peer.user_id == OVERFLOW_ID => format!(
                "{OVERFLOW_ID} stands for whoever has no user id here, and is never an operator: run the daemon and \
                 its clients as another user"
            ),
            true => "its operator can name users and groups (--operators), or add a socket for users (--listen)"
                .to_owned(),
            false => format!("its sockets for users: {}", sockets.join(", ")),
        };
        let user = peer.user_id;
        let reason = format!(
            "this is the operators' socket of the daemon, and user {user} is not one of them: {advice}"
        );
        let refusal = Refusal::new(Status::PermissionDenied, reason);
        // A client that cannot be told still learns that the connection is closed.
        let _ = send(&socket, NO_REQUEST, &refusal.into_reply(), None);
        if let Some(skipped) = self.fault_shares.admit(user.into(), Instant::now()) {
            // No warning: clients of users try that socket before theirs.
            log::info(format_args!(
                "{peer} came to the operators' socket and is refused: it is none of them{skipped}"
            ));
        }
        self.leave_unserved(socket, peer.user_id);
    }

    /// Has the end of a connection's process end the connection. If the process cannot be watched, its socket
    /// has to tell, which it does unless another process holds a copy.
    ///
    /// # Errors
    /// See [`Unserved`].
    fn watch_process(
        &mut self,
        id: u64,
        socket: &OwnedFd,
        peer: Peer,
    ) -> Result<Option<OwnedFd>, Unserved> {
        let watched = peer_process::watch(socket, peer.process_id).and_then(|process| {
            if let Some(process) = &process {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, id | PROCESS_ENDED);
                self.epoll.add(process, event)?;
            }
            Ok(process)
        });
        match watched {
            Ok(process) => Ok(process),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Unserved::ProcessEnded),
            Err(error) if Shortage::of(&error).is_some() => Err(Unserved::Shortage(error)),
            Err(error) => {
                if !self.has_logged_unwatched {
                    self.has_logged_unwatched = true;
                    log::warning(format_args!(
                        "cannot watch the processes of clients: {error}; the session of one that \
                         dies may last as long as a child that it left behind"
                    ));
                }
                Ok(None)
            }
        }
    }
}

/// Counts a connection: its socket, and the descriptor that watches its process.
fn charge_connection(account: &Holder) -> Result<Vec<Charge>, Exceeded> {
    Ok(vec![
        account.charge(Resource::Connections, 1)?,
        account.charge(Resource::Descriptors, 2)?,
    ])
}
