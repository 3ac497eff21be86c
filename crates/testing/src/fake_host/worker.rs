//! The worker of the fake host: it serves all lanes until the host dies.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::task::DESCRIPTOR_WORDS;
use chimaera_proto::{Completion, Descriptor};
use chimaera_shm::{Lane, LaneMemory, Segment, Taken};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{FakeModule, HostBuffer, HostState, Verdict};

/// After so many passes without a task the worker parks.
const IDLE_PASSES: u32 = 2000;

/// Takes tasks to the module and completes them.
pub(super) fn work(state: &HostState, module: impl FakeModule) {
    let mut worker = FakeWorker {
        state,
        module,
        lanes: Vec::new(),
        segments: Vec::new(),
        held: VecDeque::new(),
    };
    let mut idle_passes = 0;
    while !state.is_dead.load(Ordering::Acquire) {
        worker.take_up_lanes();
        let taken = worker.take_tasks();
        let released = worker.release_held();
        if taken + released > 0 {
            idle_passes = 0;
            worker.wake_waiters();
            continue;
        }
        idle_passes += 1;
        if idle_passes > IDLE_PASSES {
            idle_passes = 0;
            worker.park();
        } else {
            std::hint::spin_loop();
        }
    }
}

struct FakeWorker<'a, M> {
    state: &'a HostState,
    module: M,
    lanes: Vec<ServedLane>,
    /// Those that are known here; the host may have more by now.
    segments: Vec<Arc<Segment>>,
    held: VecDeque<HeldTask>,
}

struct ServedLane {
    lane: Lane,
    /// The sequence of the next task.
    next: u64,
    /// A bit for each record that was completed since its waiters were woken.
    completed: u64,
}

struct HeldTask {
    lane: usize,
    sequence: u32,
    task: Descriptor,
}

impl<M: FakeModule> FakeWorker<'_, M> {
    fn take_up_lanes(&mut self) {
        let known = self.lanes.len();
        if self.state.lane_count.load(Ordering::Acquire) > known {
            let lanes = self.state.lanes.lock();
            self.lanes
                .extend(lanes[known..].iter().map(|lane| ServedLane {
                    lane: lane.clone(),
                    next: 1,
                    completed: 0,
                }));
        }
    }

    /// Takes at most one task of each lane. Gives their number.
    fn take_tasks(&mut self) -> usize {
        let mut count = 0;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let mut words = [0; DESCRIPTOR_WORDS];
            match lane.lane.take(lane.next, &mut words) {
                Taken::Nothing => continue,
                Taken::Task => {}
                Taken::Violation { found } => {
                    panic!("{found} where {} was expected", lane.next)
                }
            }
            let sequence = lane.next as u32;
            lane.next += 1;
            count += 1;
            let task = Descriptor::parse(&words).expect("a valid descriptor");
            let buffer = self.buffer_of(&task);
            match (self.module)(task, buffer) {
                Verdict::Done(completion) => {
                    self.lanes[index].complete(&task, sequence, &completion);
                }
                Verdict::Hold => {
                    self.held.push_back(HeldTask {
                        lane: index,
                        sequence,
                        task,
                    });
                    let count = self.held.len();
                    self.state.held_count.store(count, Ordering::Release);
                }
            }
        }
        count
    }

    fn buffer_of(&mut self, task: &Descriptor) -> Option<HostBuffer> {
        let range = task.buffer?;
        let index = usize::from(range.segment);
        if index >= self.segments.len() {
            self.segments.clone_from(&self.state.segments.lock());
        }
        Some(HostBuffer::of(&self.segments[index], &range))
    }

    /// Completes what is held, if it may be. Gives the number of such tasks.
    fn release_held(&mut self) -> usize {
        if !self.state.is_released.load(Ordering::Acquire) {
            return 0;
        }
        let count = self.held.len();
        for HeldTask {
            lane,
            sequence,
            task,
        } in self.held.drain(..)
        {
            let completion = Completion::success(&task.arguments);
            self.lanes[lane].complete(&task, sequence, &completion);
        }
        self.state.held_count.store(0, Ordering::Release);
        count
    }

    /// Wakes those who wait for what was completed.
    fn wake_waiters(&mut self) {
        LaneMemory::<LANE_DEPTH>::fence_before_looking();
        let mut must_ring = false;
        for ServedLane {
            lane, completed, ..
        } in &mut self.lanes
        {
            let (sleepers, rings) = lane.look_for_waiters(std::mem::take(completed));
            lane.wake_sleepers(sleepers);
            must_ring |= rings;
        }
        if must_ring {
            self.state.segments.lock()[0].ring_bell();
        }
    }

    fn park(&self) {
        let state = self.state;
        // Empties the doorbell first: one that rings later is seen by the poll.
        let mut count = [0; 8];
        let _ = nix::unistd::read(&state.doorbell, &mut count);
        self.lanes.iter().for_each(|lane| lane.lane.begin_park());
        LaneMemory::<LANE_DEPTH>::fence_before_parking();
        let mut lanes = self.lanes.iter();
        let is_busy = lanes.any(|lane| !lane.lane.finish_park(lane.next));
        let is_news = state.lane_count.load(Ordering::Acquire) > self.lanes.len()
            || state.is_dead.load(Ordering::Acquire)
            || (state.is_released.load(Ordering::Acquire) && !self.held.is_empty());
        if !is_busy && !is_news {
            state.is_parked.store(true, Ordering::Release);
            let mut bells = [PollFd::new(state.doorbell.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut bells, PollTimeout::NONE);
            state.is_parked.store(false, Ordering::Release);
        }
        self.lanes.iter().for_each(|lane| lane.lane.unpark());
    }
}

impl ServedLane {
    fn complete(&mut self, task: &Descriptor, sequence: u32, completion: &Completion) {
        let record = usize::from(task.record);
        let Completion {
            status_word,
            values,
        } = completion;
        self.lane.complete(record, sequence, *status_word, values);
        self.completed |= 1 << record;
    }
}
