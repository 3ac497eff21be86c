//! The messages between the two sides of a host, which travel through inboxes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_fork::Private;
use chimaera_proto::admin::ModuleInfo;
use chimaera_proto::{Completion, Permissions, PoolId};
use chimaera_shm::{Doorbell, Lane};
use crossbeam::channel::Sender;

use crate::caller::Caller;
use crate::pools::Pool;
use crate::session::Session;

/// What the control side asks of a worker.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    /// Serve this lane. The bell is the one that its client rings.
    AddLane {
        session: Arc<Session>,
        lane: Lane,
        bell: Arc<Doorbell>,
    },
    /// Stop serving the session's lanes. Answered by [`ControlEvent::SessionReleased`] once the last of
    /// its tasks here has completed.
    CloseSession { session: u64 },
    /// Accept tasks for this pool. Answered at once.
    AddPool { pool: Arc<Pool>, done: Sender<()> },
    /// Accept tasks of this client for the pool with this number, under this id. Answered at once.
    Attach {
        caller: Arc<Caller>,
        id: PoolId,
        pool: u64,
        done: Sender<()>,
    },
    /// Forget the pools that the session is attached to. All of its tasks have completed everywhere.
    ForgetCaller { session: u64 },
    /// From now on, allow what these permissions allow. Answered at once.
    SetPermissions {
        pool: u64,
        permissions: Permissions,
        done: Sender<()>,
    },
    /// The host stops: accept no more tasks for any pool. Answered at once.
    RefuseTasks { done: Sender<()> },
    /// Accept no more tasks for this pool. Answered once the last of them has completed.
    RemovePool { pool: u64, done: Sender<()> },
    /// A task of this worker was completed elsewhere.
    Complete(TaskToken, Completion),
    /// End: there are no lanes and pools any more.
    Stop,
    /// End, and leave lanes and pools as they are: tasks that are in flight do not come to their end. No session is
    /// served any more.
    LetGo { report: Sender<MemoryInUse> },
}

/// A worker's last word: into whose memory operations of modules may still write.
#[derive(Debug)]
pub(crate) struct MemoryInUse {
    pub(crate) worker: u16,
    pub(crate) sessions: Vec<u64>,
}

/// What the control thread is told.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    /// A connection that did not come through the listener.
    Connect { socket: Private<OwnedFd> },
    /// A worker found a client breaking the protocol.
    SessionFault { session: u64, reason: String },
    /// A worker holds nothing of the session any more.
    SessionReleased { session: u64 },
    /// A connection was closed while the reserve was in use.
    DescriptorFreed,
    /// End every session, then the thread.
    Stop,
    /// The modules' files were looked at for this request.
    ModulesListed {
        connection: u64,
        number: u64,
        modules: Vec<ModuleInfo>,
    },
    /// All pools have ended or were given up, as this connection has asked.
    PoolsEnded {
        connection: u64,
        result: Result<(), ModuleError>,
    },
    /// Do not wait for the rest of the sessions any more, of which those stay that may have operations under way, with
    /// `keeps_all` all.
    LetGo { keeps_all: bool, done: Sender<()> },
}

/// Identifies a task in flight. Valid until the task completes, after which nobody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskToken {
    pub(crate) worker: u16,
    pub(crate) pool: u16,
    pub(crate) lane: u32,
    pub(crate) sequence: u32,
    pub(crate) record: u8,
}

impl TaskToken {
    pub(crate) fn to_words(self) -> [u64; 2] {
        [
            u64::from(self.worker) | u64::from(self.pool) << 16 | u64::from(self.lane) << 32,
            u64::from(self.sequence) | u64::from(self.record) << 32,
        ]
    }

    pub(crate) fn from_words(words: [u64; 2]) -> Self {
        Self {
            worker: words[0] as u16,
            pool: (words[0] >> 16) as u16,
            lane: (words[0] >> 32) as u32,
            sequence: words[1] as u32,
            record: (words[1] >> 32) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_as_they_are_written() {
        let token = TaskToken {
            worker: u16::MAX,
            pool: 7,
            lane: u32::MAX,
            sequence: 9,
            record: 63,
        };
        assert_eq!(TaskToken::from_words(token.to_words()), token);
    }
}
