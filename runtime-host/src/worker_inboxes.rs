//! The inboxes of a host's workers.

use std::sync::Arc;

use chimaera_proto::Completion;
use chimaera_proto::task::VALUE_COUNT;

use crate::inbox::Inbox;
use crate::messages::{TaskToken, WorkerCommand};

/// The inboxes of a host's workers, by worker: the way from any thread to the worker that completes a task.
#[derive(Debug)]
pub(crate) struct WorkerInboxes {
    pub(crate) by_worker: Vec<Arc<Inbox<WorkerCommand>>>,
}

impl WorkerInboxes {
    /// Has the task's worker complete it.
    pub(crate) fn send_to_worker(&self, token: TaskToken, status_word: u32, values: &[u64]) {
        let mut all = [0; VALUE_COUNT];
        all[..values.len()].copy_from_slice(values);
        let completion = Completion {
            status_word,
            values: all,
        };
        self.by_worker[usize::from(token.worker)].send(WorkerCommand::Complete(token, completion));
    }
}
