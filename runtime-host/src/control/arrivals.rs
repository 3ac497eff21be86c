//! Connections that come in: accepted and watched, or told why they are not served.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use chimaera_fork::Private;
use chimaera_proto::control::NO_REQUEST;
use chimaera_shm::{Shortage, peer_process};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::refusal::Refusal;
use super::{
    Connection, ConnectionState, Control, LISTENER, PROCESS_ENDED, REPLY_BUFFER_BYTES, send,
};
use crate::log;
use crate::session::Peer;

/// Why a connection that was accepted is not served.
enum Unserved {
    /// The process that made it has ended.
    ProcessEnded,
    /// There is no descriptor left for watching that process.
    Shortage(io::Error),
}

impl Control {
    pub(super) fn resume_accepting(&mut self) -> io::Result<()> {
        if let Some(listener) = self.listener.as_ref().filter(|_| !self.accepting) {
            self.epoll
                .add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
            self.accepting = true;
        }
        Ok(())
    }

    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        match listener.accept() {
            Ok(Some(socket)) => self.add_connection(socket),
            Ok(None) => {}
            Err(error) => {
                self.reserve.note("a connection cannot be accepted", &error);
                if self.reserve.spend()
                    && let Ok(Some(socket)) = listener.accept()
                    && let Ok(peer) = getsockopt(&socket, sockopt::PeerCredentials)
                {
                    self.turn_away(Arc::new(socket), &error, peer.into());
                    return;
                }
                // A listener that stays ready would keep the thread from everything else.
                let _ = self.epoll.delete(listener);
                self.accepting = false;
            }
        }
    }

    /// Closes a connection that is not served, after telling its client what the system has refused.
    fn turn_away(&mut self, socket: Arc<Private<OwnedFd>>, error: &io::Error, client: Peer) {
        let refusal = Refusal::of_system(error, "another client", client);
        // A client that cannot be told still learns that the connection is closed.
        let _ = send(&socket, NO_REQUEST, &refusal.into_reply(), None);
        self.reserve.count_turned_away();
        self.ended.push(socket);
    }

    pub(super) fn add_connection(&mut self, socket: Private<OwnedFd>) {
        if self.stopping {
            self.send_stopping(&socket);
            self.ended.push(Arc::new(socket));
            return;
        }
        let peer = match getsockopt(&socket, sockopt::PeerCredentials) {
            Ok(peer) => Peer::from(peer),
            Err(error) => {
                log::warning(format_args!(
                    "a connection without credentials is dropped: {error}"
                ));
                return;
            }
        };
        let id = self.next_id;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        if let Err(error) = self.epoll.add(&socket, EpollEvent::new(interest, id)) {
            let error = io::Error::from(error);
            self.reserve.note("a connection cannot be watched", &error);
            self.turn_away(Arc::new(socket), &error, peer);
            return;
        }
        // Only a limit: without it the system's own applies.
        let _ = setsockopt(&socket, sockopt::SndBuf, &REPLY_BUFFER_BYTES);
        self.next_id += 1;
        let process = match self.watch_process(id, &socket, peer) {
            Ok(process) => process,
            Err(unserved) => {
                let _ = self.epoll.delete(&socket);
                match unserved {
                    Unserved::ProcessEnded => {
                        log::debug(format_args!(
                            "session {id}: connection dropped: its process has ended"
                        ));
                        self.ended.push(Arc::new(socket));
                    }
                    Unserved::Shortage(error) => {
                        self.reserve
                            .note("a client's process cannot be watched", &error);
                        self.turn_away(Arc::new(socket), &error, peer);
                    }
                }
                return;
            }
        };
        let socket = Arc::new(socket);
        self.connections.insert(
            id,
            Connection {
                socket,
                peer,
                process,
                state: ConnectionState::Greeting,
            },
        );
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
