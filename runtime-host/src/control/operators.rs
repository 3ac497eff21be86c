//! What operators ask of the daemon as a whole, without a session: its status, and its end.
//!
//! Such a connection has no memory, no lane and no worker, so it is served when there is no room for a session, and
//! while workers and jobs hang. Nothing here waits: the status is made of what is known, and what has to be looked at
//! or waited for is left to a thread of its own kind, whose answer comes as an event.

use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_proto::Status;
use chimaera_proto::admin::{ModuleInfo, RuntimeStatus};
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_shm::packet::PacketBytes;

use super::refusal::Refusal;
use super::{Connection, ConnectionState, Control, send};
use crate::caller::{Peer, Standing};
use crate::log;
use crate::messages::ControlEvent;

/// The most questions that wait for a look at the modules' files. Further ones are answered by what is known.
const MAX_LOOKS: usize = 32;

/// A connection of an operator who has asked something without a session.
#[derive(Default)]
pub(super) struct OperatorQuestions {
    /// The number of the request to stop that is not answered yet, if there is one.
    stop: Option<u64>,
}

impl Control {
    /// Answers a packet that asks about the daemon as a whole. Gives whether it does.
    pub(super) fn serve_operator(&mut self, (id, peer): (u64, Peer), packet: &PacketBytes) -> bool {
        let Ok((number, request)) = control::decode(&packet.bytes) else {
            return false;
        };
        let answer = match request {
            ControlRequest::GetStatus { looks_at_files } => self
                .begin_asking(id)
                .map(|()| self.tell_status(id, number, looks_at_files)),
            ControlRequest::Stop => self
                .begin_asking(id)
                .and_then(|()| self.stop_for(id, number, peer)),
            _ => return false,
        };
        match answer {
            Ok(Some(reply)) => self.reply(id, number, &reply),
            // It comes as an event.
            Ok(None) => {}
            Err(refusal) => {
                let ends = refusal.status == Status::PermissionDenied;
                self.reply(id, number, &refusal.into_reply());
                if ends {
                    self.end(id, "it asked what is for operators");
                }
            }
        }
        true
    }

    /// Has a connection be one that asks without a session.
    fn begin_asking(&mut self, id: u64) -> Result<(), Refusal> {
        let connection = self.connections.get_mut(&id);
        let Connection {
            state, standing, ..
        } = connection.expect("the caller has found it");
        match state {
            ConnectionState::Asking(_) => Ok(()),
            ConnectionState::Greeting if *standing == Standing::Operator => {
                *state = ConnectionState::Asking(OperatorQuestions::default());
                Ok(())
            }
            ConnectionState::Greeting => Err(Refusal::new(
                Status::PermissionDenied,
                "this is a socket for users, and only operators ask about the daemon without a session, on their own \
                 socket",
            )),
            ConnectionState::Open(_) | ConnectionState::Closing { .. } => Err(Refusal::new(
                Status::ProtocolViolation,
                "this connection has a session: it asks the admin pool",
            )),
        }
    }

    /// The status, if it is known; else has the modules' files looked at for it.
    fn tell_status(&mut self, id: u64, number: u64, looks_at_files: bool) -> Option<ControlReply> {
        if !looks_at_files || self.looks == MAX_LOOKS {
            return Some(self.status_with(self.shared.modules.known()));
        }
        self.looks += 1;
        let shared = Arc::clone(&self.shared);
        self.shared.threads.looks.run(move || {
            let modules = shared.modules.list();
            shared.events.send(ControlEvent::ModulesListed {
                connection: id,
                number,
                modules,
            });
        });
        None
    }

    /// Answers a question that waited for a look at the modules' files.
    pub(super) fn tell_looked_at(&mut self, id: u64, number: u64, modules: Vec<ModuleInfo>) {
        self.looks -= 1;
        let reply = self.status_with(modules);
        self.reply(id, number, &reply);
    }

    fn status_with(&self, modules: Vec<ModuleInfo>) -> ControlReply {
        let mut status = self.shared.status(true, modules);
        // Others count themselves by their session.
        status.session_count += 1;
        fitting(status)
    }

    /// Has the host stop.
    fn stop_for(
        &mut self,
        id: u64,
        number: u64,
        peer: Peer,
    ) -> Result<Option<ControlReply>, Refusal> {
        let connection = self.connections.get_mut(&id);
        let Some(Connection {
            state: ConnectionState::Asking(questions),
            ..
        }) = connection
        else {
            return Ok(None);
        };
        if questions.stop.is_some() {
            return Err(Refusal::new(
                Status::ProtocolViolation,
                "this connection has asked for the end already, and is answered when it has come",
            ));
        }
        if self.shared.pools.is_closed() {
            return Err(Refusal::stopping());
        }
        questions.stop = Some(number);
        log::info(format_args!("stopping, as {peer} asks"));
        let shared = Arc::clone(&self.shared);
        self.shared.threads.stop.run(move || {
            let result = shared.end_all_pools();
            shared.events.send(ControlEvent::PoolsEnded {
                connection: id,
                result,
            });
            // Sessions end even if nobody waits for the host to be stopped, as in an application that embeds it.
            shared.events.send(ControlEvent::Stop);
            shared.stopper.stop();
        });
        Ok(None)
    }

    /// Answers whoever asked the host to stop.
    pub(super) fn tell_stopped(&mut self, id: u64, result: Result<(), ModuleError>) {
        let connection = self.connections.get_mut(&id);
        let Some(Connection {
            state: ConnectionState::Asking(questions),
            ..
        }) = connection
        else {
            return;
        };
        let Some(number) = questions.stop.take() else {
            return;
        };
        let reply = match result {
            Ok(()) => ControlReply::Stopped,
            Err(error) => Refusal::new(error.failure.status, error.message).into_reply(),
        };
        self.reply(id, number, &reply);
    }

    /// Sends a reply to whoever has asked, unless the connection has ended.
    fn reply(&mut self, id: u64, number: u64, reply: &ControlReply) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if let Err(error) = send(&connection.socket, number, reply, None) {
            self.end(id, &format!("it does not take its replies: {error}"));
        }
    }
}

/// A status that fits a message: less of its lists, if need be.
fn fitting(mut status: RuntimeStatus) -> ControlReply {
    loop {
        let reply = ControlReply::Status(Box::new(status.clone()));
        if control::encode(u64::MAX, &reply).is_ok() {
            return reply;
        }
        // Modules are known otherwise, too, and have the longest texts. Of the log's lines the last are the best.
        if status.modules.pop().is_none() {
            if status.log.recent.is_empty() {
                return reply;
            }
            status.log.recent.remove(0);
        }
        status.left_out += 1;
    }
}

#[cfg(test)]
mod tests {
    use chimaera_proto::admin::{LogLine, LogStatus, Severity};

    use super::*;

    #[test]
    fn a_status_is_cut_to_what_a_message_takes_and_says_how_much_is_missing() {
        let module = |number: usize| ModuleInfo {
            name: format!("module_{number}"),
            version: None,
            library: Some("x".repeat(4096)),
            removed: false,
            replacement: None,
        };
        let line = LogLine {
            unix_milliseconds: 0,
            severity: Severity::Error,
            text: "y".repeat(512),
        };
        let status = RuntimeStatus {
            modules: (0..9).map(module).collect(),
            log: LogStatus {
                recent: vec![line; 16],
                ..LogStatus::default()
            },
            ..RuntimeStatus::default()
        };
        let ControlReply::Status(cut) = fitting(status.clone()) else {
            panic!("it is a status");
        };
        assert_eq!(cut.modules[..], status.modules[..1]);
        assert_eq!(cut.log, status.log);
        assert_eq!(cut.left_out, 8);
    }
}
