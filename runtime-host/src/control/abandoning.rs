//! Letting go of sessions whose tasks do not come to their end ([`crate::letting_go`]).

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use nix::sys::socket::{Shutdown, shutdown};

use super::{ConnectionState, Control};
use crate::log;
use crate::messages::{MemoryInUse, WorkerCommand};

/// How long a worker may take to say whose memory is in use. One that takes longer hangs.
const WORKER_PATIENCE: Duration = Duration::from_millis(100);

impl Control {
    /// Ends every connection whose client's memory nobody touches any more, and leaves the others to the kernel, which
    /// closes them when it has let go of that memory. With `keeps_all` every session counts as one of these. Workers
    /// that do not hang have ended afterwards.
    pub(super) fn let_go(&mut self, keeps_all: bool) {
        // Workers take no more tasks of any session.
        self.stop();
        self.close_ended();
        let (report, reports) = unbounded();
        for inbox in &self.shared.inboxes.by_worker {
            let report = report.clone();
            inbox.send(WorkerCommand::LetGo { report });
        }
        drop(report);
        let end = Instant::now() + WORKER_PATIENCE;
        let mut silent: BTreeSet<usize> = (0..self.shared.inboxes.by_worker.len()).collect();
        let mut in_use = BTreeSet::new();
        while let Ok(MemoryInUse { worker, sessions }) = reports.recv_deadline(end) {
            silent.remove(&usize::from(worker));
            in_use.extend(sessions);
        }
        let mut kept = Vec::new();
        for (id, connection) in &self.connections {
            let ConnectionState::Closing { session, lanes, .. } = &connection.state else {
                continue;
            };
            let is_silent = |worker| silent.contains(&worker);
            if keeps_all || in_use.contains(id) || lanes.iter().any(|lane| is_silent(lane.worker)) {
                kept.push(session.to_string());
            } else {
                // It fails if the client has left already.
                let _ = shutdown(connection.socket.as_raw_fd(), Shutdown::Both);
            }
        }
        if !kept.is_empty() {
            log::error(format_args!(
                "{} keep their connections until the system lets go of their memory, into which operations of theirs \
                 may still write: {}",
                kept.len(),
                kept.join(", ")
            ));
        }
        self.has_let_go = true;
    }
}
