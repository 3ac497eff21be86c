//! A worker: a thread that polls lanes, hands tasks to containers and sleeps when there is
//! nothing to do.
//!
//! The way of a task through a worker reads top to bottom: [`Worker::run`] makes passes,
//! [`Worker::serve`] takes the tasks of a lane, [`Worker::dispatch`] validates one and hands it to
//! its container; [`completions`] is the way back.
//!
//! Invariants:
//! - A lane is in `active` exactly if its state is [`LaneState::Active`].
//! - A pool's container is called only by tasks of this worker, so it may go once as many
//!   completed as were submitted.

mod commands;
pub(crate) mod completions;
mod lane_tasks;
mod sleep;

pub(crate) use commands::Command;

use std::collections::HashMap;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_chimod::Activity;
use chimaera_chimod::abi::RawTask;
use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::task::{DESCRIPTOR_WORDS, DescriptorError};
use chimaera_proto::{Access, Descriptor, Failure, PoolId, Status};
use chimaera_shm::{Doorbell, Lane, LaneMemory, Taken, barrier};
use crossbeam::channel::Sender;

use crate::admin::Admin;
use crate::config::Polling;
use crate::control::Event;
use crate::inbox::Inbox;
use crate::pools::Pool;
use crate::routing::Placement;
use crate::session::Session;
use completions::{Completions, Router, Token};
use lane_tasks::LaneTasks;
use sleep::{Sleeper, Wake};

/// Tasks taken from a lane before the others have their turn.
const LANE_BUDGET: u64 = 32;

/// Tasks copied from a lane before the first of them is dispatched.
const BATCH: usize = 16;

/// Work between two looks at the clock and the doorbells, in tasks or copies of 4 KiB.
const WORK_PER_TICK: u64 = 256;

/// Passes between two looks at the clock. They are counted whether there was work or not: a client
/// with one task at a time gives work to few passes, and would put the look off for long.
const PASSES_PER_TICK: u32 = 64;

/// Time between two looks at the doorbells of parked lanes while others keep the worker busy.
const DOORBELL_INTERVAL: Duration = Duration::from_micros(25);

pub(crate) struct Worker {
    index: u16,
    inbox: Arc<Inbox<Command>>,
    events: Arc<Inbox<Event>>,
    admin: Admin,
    sleeper: Sleeper,
    polling: Polling,
    /// Whether clients rely on a barrier when a lane is parked.
    parks_with_barrier: bool,

    lanes: Vec<Option<ServedLane>>,
    active: Vec<u32>,
    closing: Vec<u64>,

    /// Where tasks are copied to as they are taken.
    batch: Box<[[u64; DESCRIPTOR_WORDS]; BATCH]>,

    pools: Vec<Option<ServedPool>>,
    pool_indexes: HashMap<PoolId, u16>,
    polled: Vec<u16>,
    removing: Vec<(u16, Sender<()>)>,

    /// The time as of the last tick.
    now: Instant,
    last_look: Instant,
    last_work: Instant,
    work_since_tick: u64,
    stopping: bool,
}

struct ServedLane {
    lane: Lane,
    tasks: Arc<LaneTasks>,
    session: Arc<Session>,
    bell: Arc<Doorbell>,
    state: LaneState,
    /// Sequence of the next task, counted from 1 without wrapping.
    next: u64,
    /// The last tick before which a task was taken, or the last in flight completed.
    last_task: Instant,
    /// Whether a task was taken since the last tick.
    had_task: bool,
    /// Whether tasks were in flight at the last tick.
    was_busy: bool,
    /// Index of the last task's pool: most tasks of a lane are for one pool.
    pool: u16,
}

impl ServedLane {
    /// Whether there was nothing for as long as is polled for.
    fn is_quiet(&self, now: Instant, polling: Polling) -> bool {
        let patience = if self.was_busy {
            polling.duration_in_flight()
        } else {
            polling.duration()
        };
        now.saturating_duration_since(self.last_task) >= patience
    }
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
    /// The id that tasks name it by; none once it is being removed.
    id: Option<PoolId>,
    target: Target,
    submitted: u64,
    is_polled: bool,
    wake_fd: Option<std::os::fd::RawFd>,
}

enum Target {
    Admin,
    Module(Arc<Pool>),
}

impl Worker {
    pub(crate) fn new(
        index: u16,
        router: &Arc<Router>,
        events: Arc<Inbox<Event>>,
        admin: Admin,
        polling: Polling,
        parks_with_barrier: bool,
    ) -> io::Result<Self> {
        let inbox = Arc::clone(&router.inboxes[usize::from(index)]);
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
            parks_with_barrier,
            lanes: Vec::new(),
            active: Vec::new(),
            closing: Vec::new(),
            batch: Box::new([[0; DESCRIPTOR_WORDS]; BATCH]),
            pools: Vec::new(),
            pool_indexes: HashMap::new(),
            polled: Vec::new(),
            removing: Vec::new(),
            now,
            last_look: now,
            last_work: now,
            work_since_tick: 0,
            stopping: false,
        };
        worker.pools.push(Some(ServedPool {
            id: Some(PoolId::ADMIN),
            target: Target::Admin,
            submitted: 0,
            is_polled: false,
            wake_fd: None,
        }));
        worker.pool_indexes.insert(PoolId::ADMIN, 0);
        Ok(worker)
    }

    /// Serves until [`Command::Stop`]. The thread is the worker's alone.
    pub(crate) fn run(mut self, router: &Arc<Router>) {
        Completions::install(router, self.index);
        Completions::with(|completions| completions.add_pool(0));
        let mut passes = 0;
        while !self.stopping {
            let work = self.pass();
            self.work_since_tick += work;
            passes += 1;
            let is_idle = work == 0 && self.active.is_empty();
            if is_idle || passes >= PASSES_PER_TICK || self.work_since_tick >= WORK_PER_TICK {
                passes = 0;
                self.tick();
            } else if work == 0 {
                std::hint::spin_loop();
            }
        }
        Completions::uninstall();
    }

    /// Gives every lane and container its turn. Returns how much there was to do.
    fn pass(&mut self) -> u64 {
        let mut work = 0;
        if self.inbox.is_signalled() {
            work += self.take_commands();
        }
        let mut position = 0;
        while let Some(&lane) = self.active.get(position) {
            work += self.serve(lane);
            // A lane that was ended meanwhile has left its place to another.
            position += usize::from(self.active.get(position) == Some(&lane));
        }
        work += self.poll_containers();
        Completions::with(Completions::wake_waiters);
        if !self.closing.is_empty() || !self.removing.is_empty() {
            self.finish_removals();
        }
        work
    }

    /// Takes the tasks of a lane. Returns how much there was to do.
    ///
    /// Tasks are copied several at a time before the first is dispatched: so the lines of their
    /// entries come over together, not one after the end of the other's task.
    fn serve(&mut self, index: u32) -> u64 {
        let mut work = 0;
        let mut budget = LANE_BUDGET;
        while budget != 0 {
            let (count, violation) = self.take_batch(index);
            for position in 0..count {
                if position + 1 < count {
                    self.prefetch(index, position + 1);
                }
                work += self.dispatch(index, position);
                if self.lane_has_ended(index) {
                    return work;
                }
            }
            if let Some(reason) = violation {
                self.end_lane(index, &reason);
                return work;
            }
            if count < BATCH {
                break;
            }
            budget -= BATCH as u64;
        }
        work
    }

    /// Copies the next tasks of a lane, as many as there are and fit. The second value says what
    /// comes after them that a client must not do.
    #[inline]
    fn take_batch(&mut self, index: u32) -> (usize, Option<String>) {
        let served = served_lane(&mut self.lanes, index);
        let (mut count, mut violation) = (0, None);
        while count < BATCH {
            match served.lane.take(served.next, &mut self.batch[count]) {
                Taken::Nothing => break,
                Taken::Task => {
                    served.next += 1;
                    count += 1;
                }
                Taken::Violation { found } => {
                    let next = served.next;
                    violation = Some(format!("sequence {found} where {next} comes next"));
                    break;
                }
            }
        }
        if count == 0 {
            return (0, violation);
        }
        served.had_task = true;
        if count > 1 {
            // The client is ahead and does not look at these yet: what was copied comes back into
            // lines that are here by then.
            for words in &self.batch[..count] {
                served.lane.prefetch_record(words[3] as usize % LANE_DEPTH);
            }
        }
        (count, violation)
    }

    /// Tells the container of the lane's last task of a task of the batch, which is most likely its
    /// too. A container that gets another's arguments brings the wrong lines near, and no more.
    #[inline]
    fn prefetch(&self, lane: u32, position: usize) {
        let pool = self.lanes[lane as usize].as_ref().map(|served| served.pool);
        let pool = pool.and_then(|pool| self.pools[usize::from(pool)].as_ref());
        if let Some(Target::Module(pool)) = pool.map(|pool| &pool.target) {
            let words = &self.batch[position];
            let arguments = [words[5], words[6], words[7]];
            pool.container.prefetch((words[0] >> 32) as u16, &arguments);
        }
    }

    /// Validates a task of the batch and hands it to its container. Returns how much work it is.
    fn dispatch(&mut self, lane: u32, position: usize) -> u64 {
        let served = served_lane(&mut self.lanes, lane);
        let words = &word_by_word(&self.batch[position]);
        let sequence = words[0] as u32;
        let token = |record, pool| Token {
            worker: self.index,
            pool,
            lane,
            sequence,
            record,
        };
        let (record, task) = match Descriptor::parse(words) {
            Ok(task) => (task.record, Ok(task)),
            Err(DescriptorError::Query { record, .. }) => (record, Err(Status::InvalidArgument)),
            Err(error @ DescriptorError::Record(_)) => {
                // There is nowhere to complete it.
                self.end_lane(lane, &error.to_string());
                return 1;
            }
        };
        if !served.tasks.begin(record) {
            // Nobody has more tasks in flight than their lane has records, either.
            let reason = format!("record {record} is still in use by a task in flight");
            self.end_lane(lane, &reason);
            return 1;
        }
        let task = match task {
            Ok(task) => task,
            Err(status) => return refuse(token(record, 0), status),
        };
        let container = match Placement::SINGLE_NODE.resolve(task.query) {
            Ok(container) => container,
            Err(status) => return refuse(token(record, 0), status),
        };
        let remembered = self
            .pools
            .get(usize::from(served.pool))
            .and_then(Option::as_ref);
        if remembered.is_none_or(|pool| pool.id != Some(task.pool)) {
            match self.pool_indexes.get(&task.pool) {
                Some(&index) => served.pool = index,
                None => return refuse(token(record, 0), Status::PoolNotFound),
            }
        }
        let index = served.pool;
        let pool = self.pools[usize::from(index)]
            .as_mut()
            .expect("a pool with an index is here");
        let (buffer, buffer_len, read_only) = match task.buffer {
            None => (std::ptr::null_mut(), 0, false),
            Some(range) => match served.session.buffer(range) {
                Some(address) => (
                    address.as_ptr(),
                    range.len_bytes,
                    range.access == Access::ReadOnly,
                ),
                None => return refuse(token(record, 0), Status::InvalidBuffer),
            },
        };
        let place = served.tasks.place(record);
        // SAFETY: the task has just begun, so nobody else has the place.
        let place = unsafe {
            place.write(RawTask {
                token: token(record, index).to_words(),
                arguments: task.arguments,
                buffer,
                buffer_len,
                method: task.method,
                buffer_is_read_only: u16::from(read_only),
                pool_major: task.pool.major,
                pool_minor: task.pool.minor,
                container: container.0,
                reserved: 0,
            });
            NonNull::new_unchecked(place)
        };
        pool.submitted += 1;
        let activity = match &pool.target {
            // SAFETY: this thread is the worker with this index and inside no other call; the
            // task is new; its place and its buffer, which was found in the session's memory, are
            // kept by this worker until the lane's tasks have completed; and the pool's place
            // keeps the container until the pool's tasks have.
            Target::Module(pool) => unsafe { pool.container.submit(u32::from(self.index), place) },
            Target::Admin => {
                // SAFETY: as above, with the host itself in the container's place.
                unsafe { self.admin.submit(place) };
                Activity::IDLE
            }
        };
        if activity.contains(Activity::PENDING) && !pool.is_polled {
            pool.is_polled = true;
            self.polled.push(index);
        }
        1 + u64::from(buffer_len >> 12)
    }

    /// Lets containers with something under way move it forward.
    fn poll_containers(&mut self) -> u64 {
        let mut work = 0;
        let (index, pools) = (u32::from(self.index), &mut self.pools);
        self.polled.retain(|&polled| {
            let Some(pool) = &mut pools[usize::from(polled)] else {
                return false;
            };
            let Target::Module(module) = &pool.target else {
                return false;
            };
            // SAFETY: this thread is the worker with this index and inside no other call.
            let activity = unsafe { module.container.poll(index) };
            work += u64::from(activity.contains(Activity::PROGRESS));
            pool.is_polled = activity.contains(Activity::PENDING);
            pool.is_polled
        });
        work
    }

    /// Looks at the clock and the doorbells, parks lanes without traffic, and sleeps if there is
    /// nothing to poll for.
    fn tick(&mut self) {
        self.now = Instant::now();
        let worked = std::mem::take(&mut self.work_since_tick) != 0;
        if worked {
            self.last_work = self.now;
        }
        let mut woken = false;
        if self.now - self.last_look >= DOORBELL_INTERVAL {
            self.last_look = self.now;
            let (lanes, active) = (&mut self.lanes, &mut self.active);
            woken = self.sleeper.look(|wake| on_wake(wake, lanes, active));
        }
        self.park_quiet_lanes();
        // What woke us may have been consumed by this look, so sleeping has to wait for a pass.
        if worked || woken || !self.active.is_empty() {
            return;
        }
        let wakes_us = |index: &u16| {
            self.pools[usize::from(*index)]
                .as_ref()
                .is_none_or(|pool| pool.wake_fd.is_some())
        };
        let is_quiet = self.now - self.last_work >= self.polling.duration_in_flight();
        if self.polled.is_empty() || (is_quiet && self.polled.iter().all(wakes_us)) {
            let (lanes, active) = (&mut self.lanes, &mut self.active);
            self.sleeper.sleep(|wake| on_wake(wake, lanes, active));
            self.now = Instant::now();
            self.last_look = self.now;
            self.last_work = self.now;
        }
    }

    /// Parks the lanes that had no task for as long as the worker polls. One barrier serves all
    /// of them.
    fn park_quiet_lanes(&mut self) {
        let (now, polling, lanes) = (self.now, self.polling, &mut self.lanes);
        let mut any = false;
        for &index in &self.active {
            let served = served_lane(lanes, index);
            let is_busy = !served.tasks.is_idle();
            if served.had_task || (served.was_busy && !is_busy) {
                served.last_task = now;
            }
            served.had_task = false;
            served.was_busy = is_busy;
            if served.is_quiet(now, polling) {
                served.lane.begin_park();
                any = true;
            }
        }
        if !any {
            return;
        }
        LaneMemory::<LANE_DEPTH>::fence_before_parking();
        if self.parks_with_barrier {
            barrier::barrier();
        }
        self.active.retain(|&index| {
            let served = served_lane(lanes, index);
            if served.is_quiet(now, polling) && served.lane.finish_park(served.next) {
                served.state = LaneState::Parked;
            }
            served.state == LaneState::Active
        });
    }

    fn lane_has_ended(&self, index: u32) -> bool {
        self.lanes[index as usize]
            .as_ref()
            .is_none_or(|served| served.state == LaneState::Ended)
    }

    /// Ends a lane whose client broke the protocol, and has its session closed.
    fn end_lane(&mut self, index: u32, reason: &str) {
        let served = self.lanes[index as usize]
            .as_mut()
            .expect("an ended lane was served");
        served.state = LaneState::Ended;
        let session = served.session.id;
        self.active.retain(|&active| active != index);
        self.events.send(Event::SessionFault {
            session,
            reason: reason.to_owned(),
        });
    }
}

/// Copies a descriptor by loads of single words. Larger ones would find the small stores of
/// [`Lane::take`] still on their way to the cache, and wait for them, and so for all completions
/// before them.
#[inline(always)]
fn word_by_word(words: &[u64; DESCRIPTOR_WORDS]) -> [u64; DESCRIPTOR_WORDS] {
    // SAFETY: every reference is valid for reading; volatile keeps the loads from being merged.
    std::array::from_fn(|word| unsafe { std::ptr::read_volatile(&raw const words[word]) })
}

/// Completes a task without handing it to a container. Returns how much work it was.
#[cold]
fn refuse(token: Token, status: Status) -> u64 {
    let word = Failure::new(status).to_word();
    Completions::with(|all| all.finish(token, word, &[]));
    1
}

fn served_lane(lanes: &mut [Option<ServedLane>], index: u32) -> &mut ServedLane {
    lanes[index as usize]
        .as_mut()
        .expect("an active lane is served")
}

fn on_wake(wake: Wake, lanes: &mut [Option<ServedLane>], active: &mut Vec<u32>) {
    if let Wake::Lane(index) = wake
        && let Some(Some(served)) = lanes.get_mut(index as usize)
        && served.state == LaneState::Parked
    {
        served.lane.unpark();
        served.state = LaneState::Active;
        served.last_task = Instant::now();
        active.push(index);
    }
}
