//! The way of a task from its lane to its container.

use std::ptr::NonNull;

use chimaera_chimod::abi::RawTask;
use chimaera_chimod::{Activity, MAX_METHODS};
use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::task::{DESCRIPTOR_WORDS, DescriptorError, Unvalidated};
use chimaera_proto::{Access, ContainerId, Descriptor, Failure, PoolId, Status};
use chimaera_shm::Taken;

use super::attachment_table::AttachmentTable;
use super::attachments::Unreached;
use super::completions::Completions;
use super::{
    Attachment, BATCH, LanePool, LaneState, PoolTarget, ServedLane, WorkerThread, served_lane,
};
use crate::messages::{ControlEvent, TaskToken};
use crate::routing::Placement;
use crate::session::Session;

/// Tasks taken from a lane before the others have their turn.
const LANE_BUDGET: u64 = 32;

impl WorkerThread {
    /// Takes the tasks of a lane. Returns how much there was to do.
    ///
    /// Several tasks are copied before the first is dispatched: so the cache lines of their
    /// entries come over together, and not one after each task.
    pub(super) fn serve(&mut self, index: u32) -> u64 {
        let mut work = 0;
        let mut budget = LANE_BUDGET;
        while budget != 0 {
            let (count, violation) = self.take_batch(index);
            // Most tasks of a lane are for one pool, so the next ones are likely for the pool of the last. A
            // container that gets the arguments of another pool's task prefetches the wrong lines, and no more.
            let likely = match count {
                0 | 1 => None,
                _ => self.pool_to_prefetch(index),
            };
            for position in 0..count {
                if position + 1 < count
                    && let Some(pool) = likely
                {
                    self.prefetch(pool, position + 1);
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

    /// Copies the next tasks of a lane, as many as there are and fit. The second value says how the client breaks the
    /// protocol after them, if it does.
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
            // The client is ahead and does not look at these records yet: their cache lines are here by the time that
            // the tasks complete.
            for words in &self.batch[..count] {
                let record = Unvalidated(words).record() as usize;
                served.lane.prefetch_record(record % LANE_DEPTH);
            }
        }
        (count, violation)
    }

    /// The pool of the lane's last task, if its container prefetches.
    fn pool_to_prefetch(&self, lane: u32) -> Option<u16> {
        let index = self.lanes[lane as usize].as_ref()?.pool.index;
        let pool = self.pools[usize::from(index)].as_ref()?;
        matches!(&pool.target, PoolTarget::Module(module) if module.pool.container.prefetches())
            .then_some(index)
    }

    /// Has the container prefetch for a task of the batch.
    #[inline]
    fn prefetch(&self, pool: u16, position: usize) {
        let pool = self.pools[usize::from(pool)]
            .as_ref()
            .map(|pool| &pool.target);
        if let Some(PoolTarget::Module(module)) = pool {
            let task = Unvalidated(&self.batch[position]);
            module
                .pool
                .container
                .prefetch(task.method(), &task.arguments());
        }
    }

    /// Validates a task of the batch and hands it to its container. Returns how much work it is.
    fn dispatch(&mut self, lane: u32, position: usize) -> u64 {
        let served = served_lane(&mut self.lanes, lane);
        let words = &word_by_word(&self.batch[position]);
        let sequence = Unvalidated(words).sequence();
        let token = |record, pool| TaskToken {
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
            // So no client has more tasks in flight than its lane has records, either.
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
        let index = match pool_for(served, &self.attachments, &task) {
            Ok(index) => index,
            Err(unreached) => {
                let session = served.session.id;
                let status = self.why_unreached(session, &task, unreached);
                return refuse(token(record, 0), status);
            }
        };
        let Some(buffer) = TaskBuffer::of(&task, &served.session) else {
            return refuse(token(record, 0), Status::InvalidBuffer);
        };
        let place = served.tasks.place(record);
        // SAFETY: the task has just begun, so nobody else has the place.
        let place = unsafe {
            place.write(raw_task(&task, token(record, index), container, buffer));
            NonNull::new_unchecked(place)
        };
        let pool = self.pools[usize::from(index)]
            .as_mut()
            .expect("a pool with an index is here");
        pool.submitted += 1;
        let activity = match &pool.target {
            // SAFETY: this thread is the worker with this index and inside no other call; the
            // task is new; its place and its buffer, which was found in the session's memory, are
            // kept by this worker until the lane's tasks have completed; and the pool's place
            // keeps the container until the pool's tasks have.
            PoolTarget::Module(module) => unsafe {
                module.pool.container.submit(u32::from(self.index), place)
            },
            PoolTarget::Admin => {
                // SAFETY: as above, with the host itself in the container's place.
                unsafe { self.admin.submit(place, &served.session.caller) };
                Activity::IDLE
            }
        };
        if activity.contains(Activity::PENDING) && !pool.is_polled {
            pool.is_polled = true;
            self.polled.push(index);
        }
        1 + u64::from(buffer.len >> 12)
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
        self.events.send(ControlEvent::SessionFault {
            session,
            reason: reason.to_owned(),
        });
    }
}

/// The index of the pool that a task is for, if its session may use the method of it. The lane remembers the pool.
#[inline]
fn pool_for(
    served: &mut ServedLane,
    attachments: &AttachmentTable,
    task: &Descriptor,
) -> Result<u16, Unreached> {
    if served.pool.id != task.pool {
        served.pool = match attachments.get(served.session.id, task.pool) {
            Some(Attachment {
                pool: Some(pool), ..
            }) => *pool,
            _ if task.pool == PoolId::ADMIN => LanePool::ADMIN,
            _ => return Err(Unreached::Pool),
        };
    }
    let LanePool {
        instance,
        index,
        allowed,
        ..
    } = served.pool;
    if task.instance != instance && task.instance != 0 {
        return Err(Unreached::Instance);
    }
    match task.method < MAX_METHODS && allowed >> task.method & 1 != 0 {
        true => Ok(index),
        false => Err(Unreached::Method(index)),
    }
}

/// A task's buffer in the host's address space; null and empty if it has none.
#[derive(Clone, Copy)]
struct TaskBuffer {
    address: *mut u8,
    len: u32,
    is_read_only: bool,
}

impl TaskBuffer {
    /// `None` if the task names memory that the session does not have.
    #[inline]
    fn of(task: &Descriptor, session: &Session) -> Option<Self> {
        let Some(range) = task.buffer else {
            return Some(Self {
                address: std::ptr::null_mut(),
                len: 0,
                is_read_only: false,
            });
        };
        Some(Self {
            address: session.buffer(range)?.as_ptr(),
            len: range.len_bytes,
            is_read_only: range.access == Access::ReadOnly,
        })
    }
}

/// A task as its container gets it.
#[inline]
fn raw_task(
    task: &Descriptor,
    token: TaskToken,
    container: ContainerId,
    buffer: TaskBuffer,
) -> RawTask {
    RawTask {
        token: token.to_words(),
        arguments: task.arguments,
        buffer: buffer.address,
        buffer_len: buffer.len,
        method: task.method,
        buffer_is_read_only: u16::from(buffer.is_read_only),
        pool_major: task.pool.major,
        pool_minor: task.pool.minor,
        container: container.0,
        reserved: 0,
    }
}

/// Copies a descriptor by loads of single words. A larger load would find the small stores of
/// [`LaneMemory::take`](chimaera_shm::LaneMemory::take) still on their way to the cache, and wait for them, and so for
/// all completions before them.
#[inline(always)]
fn word_by_word(words: &[u64; DESCRIPTOR_WORDS]) -> [u64; DESCRIPTOR_WORDS] {
    // SAFETY: every reference is valid for reading; volatile keeps the loads from being merged.
    std::array::from_fn(|word| unsafe { std::ptr::read_volatile(&raw const words[word]) })
}

/// Completes a task without handing it to a container. Returns how much work it was.
#[cold]
fn refuse(token: TaskToken, status: Status) -> u64 {
    let word = Failure::new(status).to_word();
    Completions::with(|all| all.finish(token, word, &[]));
    1
}
