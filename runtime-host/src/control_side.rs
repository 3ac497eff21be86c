//! The control side of a host: what its threads share.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use chimaera_chimod::abi::HostVTable;
use chimaera_proto::admin::{Method, Restriction};
use chimaera_thread::NoThread;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::accounts::Accounts;
use crate::allowed_folders::AllowedFolders;
use crate::ending::Ending;
use crate::inbox::Inbox;
use crate::jobs::{Jobs, Share};
use crate::messages::{ControlEvent, WorkerCommand};
use crate::modules::Modules;
use crate::pools::PoolRegistry;
use crate::refused_pools::RefusedPools;
use crate::reply_gate::ReplyGate;
use crate::sessions::SessionRegistry;
use crate::stop::Stopper;
use crate::watchdog::Watchlist;
use crate::worker_inboxes::WorkerInboxes;

/// What the threads of the control side share.
pub(crate) struct ControlSide {
    pub(crate) modules: Modules,
    /// Which paths modules may open that clients name.
    pub(crate) allowed_paths: AllowedFolders,
    pub(crate) pools: PoolRegistry,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) threads: ControlThreads,
    pub(crate) session_count: AtomicU32,
    pub(crate) sessions: SessionRegistry,
    pub(crate) stopper: Stopper,
    /// The threads that have to go on.
    pub(crate) watchlist: Arc<Watchlist>,
    /// The inbox of the control thread.
    pub(crate) events: Arc<Inbox<ControlEvent>>,
    /// How the end of the host goes.
    pub(crate) ending: Ending,
    /// Through which replies of the control side's threads come to clients' memory.
    pub(crate) replies: ReplyGate,
    pub(crate) started: Instant,
    /// What the process has given up; not set as long as whoever runs the host has not said it.
    pub(crate) restrictions: OnceLock<Vec<Restriction>>,
    /// Tells the log of pools that clients do not get.
    pub(crate) refused_pools: RefusedPools,
    /// The table points to the inboxes, so it is dropped first.
    pub(crate) table: Arc<HostVTable>,
    pub(crate) inboxes: Arc<WorkerInboxes>,
    /// Whether workers park lanes with a barrier, which spares clients a fence per task.
    pub(crate) parks_with_barrier: bool,
}

impl ControlSide {
    /// Sends every worker a command and waits until each has answered.
    pub(crate) fn ask_workers(&self, command: impl Fn(Sender<()>) -> WorkerCommand) {
        self.tell_workers(command).wait();
    }

    /// Sends every worker a command. Gives what tells when each has answered.
    pub(crate) fn tell_workers(
        &self,
        command: impl Fn(Sender<()>) -> WorkerCommand,
    ) -> WorkersAnswers {
        let (done, answers) = unbounded();
        for inbox in &self.inboxes.by_worker {
            inbox.send(command(done.clone()));
        }
        WorkersAnswers(answers)
    }
}

/// The answers of all workers to a command.
pub(crate) struct WorkersAnswers(Receiver<()>);

impl WorkersAnswers {
    /// Waits until every worker has answered.
    pub(crate) fn wait(self) {
        // Ends when every worker has answered and dropped its sender.
        self.0.iter().for_each(drop);
    }

    /// Waits until every worker has answered, or until then. Gives whether they have.
    pub(crate) fn come_by(&self, end: Instant) -> bool {
        loop {
            match self.0.recv_deadline(end) {
                Ok(()) => {}
                Err(error) => return error == RecvTimeoutError::Disconnected,
            }
        }
    }
}

/// The threads of the control side that carry out work which may block, by the kind of work: no kind keeps another from
/// its turn.
pub(crate) struct ControlThreads {
    /// Make, flush and destroy pools, and load libraries: that takes as long as a device or file likes.
    jobs: Jobs,
    /// Change who may use which pool: that takes as long as a worker or a pool's keeper.
    changes: Jobs,
    /// WorkersAnswers what is known at once: people ask for that when everything else hangs.
    answers: Jobs,
    /// Look at files on behalf of those who ask for the status: that takes as long as a file system likes.
    pub(crate) looks: Jobs,
    /// Stops the runtime.
    pub(crate) stop: Jobs,
    /// End pools because the runtime stops, each on its own: one that hangs keeps no other from being flushed.
    pub(crate) ends: Jobs,
    /// Closes files that clients sent, which may block for ever.
    pub(crate) closers: Jobs,
}

/// The most threads of one kind.
const MAX_THREADS: usize = 32;

/// How many of them jobs of users may have.
const SHARE: Share = Share {
    per_user: MAX_THREADS / 4,
    of_users: MAX_THREADS - MAX_THREADS / 4,
};

impl ControlThreads {
    /// Starts one thread of each kind, so that each kind of work is done even if the system gives no further thread.
    pub(crate) fn start(watchlist: &Arc<Watchlist>) -> Result<Self, NoThread> {
        let all = Share::all(MAX_THREADS);
        let start = |name, max_threads, share| Jobs::start(name, max_threads, share, watchlist);
        Ok(Self {
            jobs: start("chimaera-job", MAX_THREADS, SHARE)?,
            changes: start("chimaera-change", MAX_THREADS, SHARE)?,
            answers: start("chimaera-answer", 1, Share::all(1))?,
            looks: start("chimaera-look", 1, Share::all(1))?,
            stop: start("chimaera-stop", 1, Share::all(1))?,
            ends: start("chimaera-end", MAX_THREADS, all)?,
            closers: start("chimaera-close", MAX_THREADS, all)?,
        })
    }

    /// The threads for a method of the admin module.
    pub(crate) fn of(&self, method: Method) -> &Jobs {
        match method {
            Method::GetOrCreatePool | Method::DestroyPool | Method::FlushPools => &self.jobs,
            Method::AttachPool | Method::SetPermissions => &self.changes,
            Method::Ping | Method::ListPools | Method::FindPool | Method::ListSessions => {
                &self.answers
            }
            Method::GetStatus => &self.looks,
            Method::StopRuntime => &self.stop,
        }
    }
}
