//! A worker: a thread that polls lanes, hands tasks to containers and sleeps when there is
//! nothing to do.
//!
//! [`WorkerThread::run`] makes passes over lanes and containers. [`tasks`] is the way of a task from its lane
//! to its container, [`completions`] the way back, [`idle`] what a worker does when there is little to do.
//!
//! Invariants:
//! - A lane is in `active` exactly if its state is [`LaneState::Active`].
//! - `parked` is the number of lanes whose state is [`LaneState::Parked`].
//! - This worker calls a pool's container only for its own tasks, so it may release the pool once as many
//!   tasks have completed as were submitted.

mod attachment_table;
mod attachments;
mod barriers;
mod commands;
pub(crate) mod completions;
mod idle;
mod lane_tasks;
mod pause;
mod sharing;
mod sleep;
mod tasks;
mod wake_file;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use chimaera_chimod::Activity;
use chimaera_proto::task::DESCRIPTOR_WORDS;
use chimaera_proto::{Permissions, PoolId};
use chimaera_shm::{Doorbell, Lane};
use crossbeam::channel::Sender;

use crate::builtin::admin::Admin;
use crate::caller::Caller;
use crate::config::Polling;
use crate::inbox::Inbox;
use crate::messages::{ControlEvent, WorkerCommand};
use crate::pools::Pool;
use crate::session::Session;
use crate::worker_inboxes::WorkerInboxes;
use attachment_table::AttachmentTable;
use barriers::Barriers;
use completions::Completions;
use lane_tasks::LaneTasks;
use pause::Pause;
use sharing::Sharing;
use sleep::{Sleeper, Wake};
use wake_file::WakeFile;

/// Tasks copied from a lane before the first of them is dispatched.
const BATCH: usize = 16;

/// Work between two looks at the clock and the doorbells, in tasks or copies of 4 KiB.
const WORK_PER_TICK: u64 = 256;

/// Passes between two looks at the clock, with or without work: a client with one task at a time gives work to few
/// passes, so counting only those would put the look off for long.
const PASSES_PER_TICK: u32 = 64;

pub(crate) struct WorkerThread {
    index: u16,
    inbox: Arc<Inbox<WorkerCommand>>,
    events: Arc<Inbox<ControlEvent>>,
    admin: Admin,
    sleeper: Sleeper,
    polling: Polling,
    sharing: Sharing,
    /// Whether clients rely on a barrier when a lane is parked.
    parks_with_barrier: bool,
    warned_of_barrier: bool,
    barriers: Barriers,
    warned_of_bells: bool,

    lanes: Vec<Option<ServedLane>>,
    active: Vec<u32>,
    parked: usize,
    closing: Vec<u64>,

    /// Tasks are copied here as they are taken.
    batch: Box<[[u64; DESCRIPTOR_WORDS]; BATCH]>,

    pools: Vec<Option<ServedPool>>,
    /// What the id of a pool means in a session's tasks, by session and id.
    attachments: AttachmentTable,
    /// The index of each module's pool that is not being removed, by its number.
    pool_indexes: BTreeMap<u64, u16>,
    /// How many of them have an id.
    ids: BTreeMap<PoolId, u32>,
    polled: Vec<u16>,
    removing: Vec<(u16, Sender<()>)>,

    /// The time as of the last tick.
    now: Instant,
    last_look: Instant,
    last_work: Instant,
    work_since_tick: u64,
    /// The host stops, so tasks for pools are refused.
    refuses_tasks: bool,
    stopping: bool,
    /// Whether the worker ends and leaves everything as it is.
    has_let_go: bool,
}

struct ServedLane {
    lane: Lane,
    tasks: Arc<LaneTasks>,
    session: Arc<Session>,
    bell: Arc<Doorbell>,
    /// Whether the bell wakes the worker. A lane whose bell does not is not parked.
    is_watched: bool,
    state: LaneState,
    /// Sequence of the next task, counted from 1 without wrapping.
    next: u64,
    /// The last tick before which a task was taken, or the last in flight completed.
    last_task: Instant,
    /// Whether a task was taken since the last tick.
    had_task: bool,
    /// Whether tasks were in flight at the last tick.
    was_busy: bool,
    /// What the last task was for: most tasks of a lane are for one pool.
    pool: LanePool,
}

/// The pool that a lane's tasks are for, as long as they name the same one.
#[derive(Clone, Copy)]
struct LanePool {
    /// The id that they name it by.
    id: PoolId,
    /// The number by which they may mean this pool and no other of the id.
    instance: u32,
    /// Its index.
    index: u16,
    /// A bit for each method that they may name.
    allowed: u64,
}

impl LanePool {
    /// The admin pool, which everybody may ask: it decides itself what it does for whom.
    const ADMIN: Self = Self {
        id: PoolId::ADMIN,
        instance: 0,
        index: 0,
        allowed: u64::MAX,
    };
}

/// A session's attachment to a pool.
struct Attachment {
    caller: Arc<Caller>,
    /// The pool's number.
    number: u64,
    /// What it gives; `None` once the pool is being removed.
    pool: Option<LanePool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LaneState {
    /// Polled on every pass.
    Active,
    /// The client rings when there is a task.
    Parked,
    /// Not served any more; tasks in flight still complete.
    Ended,
}

struct ServedPool {
    target: PoolTarget,
    submitted: u64,
    is_polled: bool,
    /// There is one from a panic in `poll` until `poll` returns.
    pause: Option<Pause>,
    wake_file: Option<WakeFile>,
}

enum PoolTarget {
    Admin,
    Module(ModulePool),
}

/// A module's pool.
struct ModulePool {
    pool: Arc<Pool>,
    /// As far as this worker knows them: what it allows changes with them, and never in between.
    permissions: Permissions,
    /// Whether it is being removed, so that no more tasks are for it.
    is_leaving: bool,
}

impl WorkerThread {
    pub(crate) fn new(
        index: u16,
        inboxes: &Arc<WorkerInboxes>,
        events: Arc<Inbox<ControlEvent>>,
        admin: Admin,
        polling: Polling,
        parks_with_barrier: bool,
    ) -> io::Result<Self> {
        let inbox = Arc::clone(&inboxes.by_worker[usize::from(index)]);
        let sleeper = Sleeper::new()?;
        sleeper.watch(&*inbox, Wake::Inbox)?;
        let now = Instant::now();
        let mut worker = Self {
            index,
            inbox,
            events,
            admin,
            sleeper,
            polling,
            sharing: Sharing::new(now),
            parks_with_barrier,
            warned_of_barrier: false,
            barriers: Barriers::new(now),
            warned_of_bells: false,
            lanes: Vec::new(),
            active: Vec::new(),
            parked: 0,
            closing: Vec::new(),
            batch: Box::new([[0; DESCRIPTOR_WORDS]; BATCH]),
            pools: Vec::new(),
            attachments: AttachmentTable::default(),
            pool_indexes: BTreeMap::new(),
            ids: BTreeMap::new(),
            polled: Vec::new(),
            removing: Vec::new(),
            now,
            last_look: now,
            last_work: now,
            work_since_tick: 0,
            refuses_tasks: false,
            stopping: false,
            has_let_go: false,
        };
        worker.pools.push(Some(ServedPool {
            target: PoolTarget::Admin,
            submitted: 0,
            is_polled: false,
            pause: None,
            wake_file: None,
        }));
        Ok(worker)
    }

    /// Serves until [`WorkerCommand::Stop`]. The thread is the worker's alone.
    pub(crate) fn run(mut self, inboxes: &Arc<WorkerInboxes>) {
        Completions::install(inboxes, self.index);
        Completions::with(|completions| completions.add_pool(0));
        let mut passes = 0;
        while !self.stopping && !self.has_let_go {
            let work = self.pass();
            self.work_since_tick += work;
            passes += 1;
            if self.sharing.is_on() && self.share_processor(work != 0) {
                // The worker has to look at what woke it before it sleeps again.
                continue;
            }
            let is_idle = work == 0 && self.active.is_empty();
            if is_idle || passes >= PASSES_PER_TICK || self.work_since_tick >= WORK_PER_TICK {
                passes = 0;
                self.tick();
            } else if work == 0 {
                std::hint::spin_loop();
            }
        }
        if self.has_let_go {
            // Containers may still use what is here.
            Completions::abandon();
            std::mem::forget(self);
            return;
        }
        Completions::uninstall();
    }

    /// Gives every lane and container its turn. Returns how much there was to do.
    fn pass(&mut self) -> u64 {
        let mut work = 0;
        if self.inbox.is_signalled() {
            work += self.take_commands();
            if self.has_let_go {
                // Nothing is completed any more: clients may have been told so.
                return work;
            }
        }
        let mut position = 0;
        while let Some(&lane) = self.active.get(position) {
            if self.sharing.holds_back() && self.is_held_back(lane) {
                position += 1;
                continue;
            }
            work += self.serve(lane);
            // If the lane was ended meanwhile, another one is at this position.
            position += usize::from(self.active.get(position) == Some(&lane));
        }
        work += self.poll_containers();
        let here = self.sharing.processor();
        if Completions::with(|all| all.wake_waiters(here)) {
            self.sharing.begin();
        }
        if !self.closing.is_empty() || !self.removing.is_empty() {
            self.finish_removals();
        }
        work
    }

    /// Lets containers with something under way move it forward, except those that are paused after a panic.
    fn poll_containers(&mut self) -> u64 {
        let mut work = 0;
        let (index, pools, now) = (u32::from(self.index), &mut self.pools, self.now);
        self.polled.retain(|&polled| {
            let Some(pool) = &mut pools[usize::from(polled)] else {
                return false;
            };
            let PoolTarget::Module(module) = &pool.target else {
                return false;
            };
            if pool.pause.as_ref().is_some_and(|pause| pause.lasts(now)) {
                return true;
            }
            // SAFETY: this thread is the worker with this index and inside no other call.
            let activity = unsafe { module.pool.container.poll(index) };
            if activity.contains(Activity::PANICKED) {
                let completed = Completions::with(|all| all.of_pool(polled));
                pool.pause = Some(Pause::after(pool.pause.take(), completed, Instant::now()));
            } else if pool.pause.is_some() {
                pool.pause = None;
            }
            work += u64::from(activity.contains(Activity::PROGRESS));
            pool.is_polled = activity.contains(Activity::PENDING);
            pool.is_polled
        });
        work
    }
}

fn served_lane(lanes: &mut [Option<ServedLane>], index: u32) -> &mut ServedLane {
    lanes[index as usize]
        .as_mut()
        .expect("an active lane is served")
}
