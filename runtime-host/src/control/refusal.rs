//! Refusals of the control thread, in words for the client.

use std::io;

use chimaera_proto::Status;
use chimaera_proto::control::ControlReply;
use chimaera_shm::Shortage;

use crate::accounts::Exceeded;
use crate::caller::Peer;

/// Why a request is not carried out, or a connection not served.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) reason: String,
    /// What the host has run out of, if that is the reason.
    pub(crate) shortage: Option<Shortage>,
}

impl Refusal {
    /// A refusal because of the request itself, and not of a shortage.
    pub(crate) fn new(status: Status, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            shortage: None,
        }
    }

    /// The system has refused the host `what`, which this client needs.
    pub(crate) fn of_system(error: &io::Error, what: &str, client: Peer) -> Self {
        match Shortage::of(error) {
            Some(shortage) => Self::for_want(shortage, what, client),
            None => {
                let host = match client.is_this_process() {
                    true => "this process",
                    false => "the daemon",
                };
                let reason = format!("{host} cannot have {what}, as its system refuses: {error}");
                let status = error.raw_os_error().map(Status::from_errno);
                Self::new(status.unwrap_or(Status::IoError), reason)
            }
        }
    }

    /// There is no descriptor left for `what`.
    pub(crate) fn no_descriptor(what: &str, client: Peer) -> Self {
        Self::for_want(Shortage::Descriptors, what, client)
    }

    /// The host lacks something. A client can only be told so, unless it is the process that embeds the host.
    fn for_want(shortage: Shortage, what: &str, client: Peer) -> Self {
        let (lack, remedy) = (shortage.what(), shortage.remedy());
        let reason = match client.is_this_process() {
            true => format!("this process has {lack} for {what}: {remedy}, and try again"),
            false => format!(
                "the daemon has {lack} for {what}: try again later, or let its operator {remedy}"
            ),
        };
        Self {
            status: shortage.status(),
            reason,
            shortage: Some(shortage),
        }
    }

    /// The host stops.
    pub(crate) fn stopping() -> Self {
        let reason = format!(
            "the runtime with process id {} is stopping: connect again when it is back",
            std::process::id()
        );
        Self::new(Status::ShuttingDown, reason)
    }

    pub(crate) fn into_reply(self) -> ControlReply {
        ControlReply::Refused {
            status: self.status,
            reason: self.reason,
        }
    }
}

impl From<Exceeded> for Refusal {
    fn from(exceeded: Exceeded) -> Self {
        Self::new(exceeded.status(), exceeded.to_string())
    }
}
