//! The way back of a task: from a container's completion to the client's record.
//!
//! A task is completed by the worker that took it, so that what is counted per lane and pool
//! needs no atomics. A completion on another thread travels to that worker's inbox.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Arc;

use chimaera_chimod::abi::{HOST_MAGIC, Header, HostVTable, RawTask};
use chimaera_chimod::host::failure_of_module;
use chimaera_proto::Completion;
use chimaera_proto::task::VALUE_COUNT;
use chimaera_shm::{Lane, LaneMemory};

use super::lane_tasks::LaneTasks;
use crate::messages::TaskToken;
use crate::own_files;
use crate::session::Session;
use crate::speakers;
use crate::worker_inboxes::WorkerInboxes;

impl WorkerInboxes {
    /// The table through which containers complete tasks. The inboxes must live until the last of
    /// them has completed.
    pub(crate) fn table(self: &Arc<Self>) -> HostVTable {
        HostVTable {
            header: Header::of::<HostVTable>(HOST_MAGIC),
            context: Arc::as_ptr(self).cast(),
            complete: complete_from_container,
            log: speakers::log_from_container,
            panicked: speakers::panic_from_container,
            adopt_thread: speakers::adopt_thread,
            is_own_file: own_files::is_own_file,
            charge: speakers::charge,
        }
    }

    /// Completes a task if this is the thread of its worker.
    #[inline]
    fn complete_here(&self, token: TaskToken, status_word: u32, values: &[u64]) -> bool {
        // A module's thread may drop a request while it ends and `LOCAL` has been dropped already.
        let is_here = LOCAL.try_with(|local| match &mut *local.borrow_mut() {
            Some(local) if std::ptr::eq(local.inboxes, self) && local.worker == token.worker => {
                local.complete(token, status_word, values);
                true
            }
            _ => false,
        });
        is_here.unwrap_or(false)
    }
}

/// Does not unwind: the token is the host's own, so what it names exists; the ABI allows no more values than a
/// completion has room for, which the SDK checks on its side; and no container is called from inside
/// [`Completions::with`], so the worker's completions are not borrowed.
unsafe extern "C" fn complete_from_container(
    context: *const c_void,
    token: *const [u64; 2],
    status_word: u32,
    values: *const u64,
    value_count: u32,
) {
    // SAFETY: the SDK passes its request's token, and as many values as it says, of which there
    // are at most `VALUE_COUNT`.
    let (token, values) = unsafe {
        let values = std::slice::from_raw_parts(values, value_count as usize);
        (TaskToken::from_words(*token), values)
    };
    let status_word = match status_word {
        0 => 0,
        word => failure_word(token, word),
    };
    let inboxes = context.cast::<WorkerInboxes>();
    // SAFETY: the host does not end before the task has completed, which it has not yet.
    if unsafe { &*inboxes }.complete_here(token, status_word, values) {
        return;
    }
    // SAFETY: as above, and the pointer comes from an `Arc` (`WorkerInboxes::table`). Once the message is
    // in the inbox the host may end, on other threads, before `send` returns on this one: so this
    // call holds a reference of its own.
    let inboxes = unsafe {
        Arc::increment_strong_count(inboxes);
        Arc::from_raw(inboxes)
    };
    inboxes.send_to_worker(token, status_word, values);
}

/// The status word of a failure as the client gets it: a module may not give the runtime's statuses, the admin pool
/// may.
#[cold]
fn failure_word(token: TaskToken, word: u32) -> u32 {
    match token.pool {
        0 => word,
        _ => failure_of_module(word).to_word(),
    }
}

thread_local! {
    /// The completions of the worker that runs on this thread, if one does.
    static LOCAL: RefCell<Option<Completions>> = const { RefCell::new(None) };
}

/// A worker's completions: per pool how many there were, and per lane which records
/// completed since waiters were last looked for.
pub(crate) struct Completions {
    inboxes: *const WorkerInboxes,
    worker: u16,
    lanes: Vec<Option<LaneCompletions>>,
    pools: Vec<u64>,
    /// Lanes with a record that completed since the last look, each once.
    touched: Vec<u32>,
}

struct LaneCompletions {
    lane: Lane,
    tasks: Arc<LaneTasks>,
    session: Arc<Session>,
    /// Records that completed since the last look.
    records: u64,
}

impl Completions {
    /// Makes this thread the one on which the worker's tasks complete.
    pub(crate) fn install(inboxes: &Arc<WorkerInboxes>, worker: u16) {
        LOCAL.set(Some(Self {
            inboxes: Arc::as_ptr(inboxes),
            worker,
            lanes: Vec::new(),
            pools: Vec::new(),
            touched: Vec::new(),
        }));
    }

    pub(crate) fn uninstall() {
        LOCAL.set(None);
    }

    /// As [`Self::uninstall`], for a worker whose tasks are still in flight: what they use stays.
    pub(crate) fn abandon() {
        std::mem::forget(LOCAL.take());
    }

    /// The sessions of tasks in flight that may write into their clients' memory. The admin pool's are none of them:
    /// what answers those writes through a gate ([`crate::reply_gate`]).
    pub(crate) fn sessions_written_to(&self) -> Vec<u64> {
        let is_writer = |task: &RawTask| {
            let token = TaskToken::from_words(task.token);
            token.pool != 0 && !task.buffer.is_null() && task.buffer_is_read_only == 0
        };
        let lanes = self.lanes.iter().flatten();
        let written_to = lanes.filter(|lane| lane.tasks.in_flight().any(|task| is_writer(&task)));
        written_to.map(|lane| lane.session.id).collect()
    }

    /// Runs with this worker's completions. Not to be called from inside a container's call
    /// into the host, where they are in use.
    #[inline]
    pub(crate) fn with<T>(action: impl FnOnce(&mut Self) -> T) -> T {
        LOCAL.with_borrow_mut(|local| action(local.as_mut().expect("runs on a worker")))
    }

    pub(crate) fn add_lane(
        &mut self,
        index: u32,
        lane: Lane,
        tasks: Arc<LaneTasks>,
        session: Arc<Session>,
    ) {
        let index = index as usize;
        if self.lanes.len() <= index {
            self.lanes.resize_with(index + 1, || None);
        }
        self.lanes[index] = Some(LaneCompletions {
            lane,
            tasks,
            session,
            records: 0,
        });
    }

    /// Forgets a lane whose tasks have all completed, and whose waiters were looked for.
    pub(crate) fn remove_lane(&mut self, index: u32) {
        self.lanes[index as usize] = None;
    }

    pub(crate) fn add_pool(&mut self, index: u16) {
        let index = usize::from(index);
        if self.pools.len() <= index {
            self.pools.resize(index + 1, 0);
        }
        self.pools[index] = 0;
    }

    /// How many tasks of a pool have completed.
    pub(crate) fn of_pool(&self, index: u16) -> u64 {
        self.pools[usize::from(index)]
    }

    #[inline]
    fn complete(&mut self, token: TaskToken, status_word: u32, values: &[u64]) {
        self.pools[usize::from(token.pool)] += 1;
        self.finish(token, status_word, values);
    }

    /// Completes a task that was not handed to any pool.
    #[inline]
    pub(crate) fn finish(&mut self, token: TaskToken, status_word: u32, values: &[u64]) {
        let lane = self.lanes[token.lane as usize]
            .as_mut()
            .expect("a lane outlives its tasks");
        let record = usize::from(token.record);
        if status_word == 0 {
            lane.lane
                .complete(record, token.sequence, status_word, values);
        } else {
            // A client may read a failure's values whatever the module; absent ones are zero.
            let mut all = [0; VALUE_COUNT];
            all[..values.len()].copy_from_slice(values);
            lane.lane
                .complete(record, token.sequence, status_word, &all);
        }
        lane.tasks.end(token.record);
        if lane.records == 0 {
            self.touched.push(token.lane);
        }
        lane.records |= 1 << token.record;
    }

    /// Completes a task that another thread completed.
    pub(crate) fn complete_for(&mut self, token: TaskToken, completion: &Completion) {
        self.complete(token, completion.status_word, &completion.values);
    }

    /// Wakes the waiters for records that completed since the last look. Returns whether one of
    /// their lanes' clients waited on `processor`, the worker's.
    #[inline]
    pub(crate) fn wake_waiters(&mut self, processor: u32) -> bool {
        if self.touched.is_empty() {
            return false;
        }
        let mut is_beside = false;
        LaneMemory::<{ chimaera_proto::limits::LANE_DEPTH }>::fence_before_looking();
        for index in self.touched.drain(..) {
            let lane = self.lanes[index as usize]
                .as_mut()
                .expect("a lane outlives its look");
            let (sleepers, watched) = lane
                .lane
                .look_for_waiters(std::mem::take(&mut lane.records));
            if sleepers != 0 {
                lane.lane.wake_sleepers(sleepers);
            }
            if watched {
                lane.session.first_segment().ring_bell();
            }
            is_beside |= lane.lane.client_waits_on(processor);
        }
        is_beside
    }
}
