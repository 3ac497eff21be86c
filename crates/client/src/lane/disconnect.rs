//! What a lane does when the daemon dies ([`crate::connection`]): every task in flight is completed here
//! instead, and none is missed.
//!
//! The watcher of the connection stores `lost`, then fences, then reads every claim. A submitter
//! stores its claim, publishes, fences (in `must_ring`), then reads `lost`. Of two fences one
//! comes first: either the watcher sees the claim, or the submitter sees `lost`, and whoever sees
//! completes the task, under the desk's lock. Where submitters leave their fence to the host's
//! barrier, the watcher calls that barrier itself in the place of the host that is gone. The record
//! is not given to another task meanwhile: whoever takes a record looks at `lost` after taking it,
//! and a record that became free through such a completion was freed by somebody who had seen
//! `lost` or its consequences.

use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::Duration;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{Completion, Status};
use chimaera_shm::{LaneMemory, PublishOrder, barrier};

use super::ClientLane;
use super::claim::ClaimState;
use crate::wakers::{Wakers, wake_all};

/// Longer by far than a processor keeps a store to itself.
const STORES_ARRIVE_WITHIN: Duration = Duration::from_millis(10);

impl ClientLane {
    /// Completes everything in flight in the place of a daemon that is gone, and wakes whoever
    /// waits for it. Nothing can be submitted from now on.
    pub(crate) fn complete_all_as_lost(&self) {
        self.flags.mark_lost();
        // Pairs with what orders `must_ring`; see the module's documentation.
        match self.connection.publish_order() {
            PublishOrder::Fence => fence(Ordering::SeqCst),
            PublishOrder::HostBarrier => {
                if !barrier::barrier() {
                    // A sandbox refuses it now. The claims of those who did not see `lost` were
                    // stored before they spun, and are on their way to where they are seen.
                    thread::sleep(STORES_ARRIVE_WITHIN);
                }
            }
        }
        self.complete_as_lost();
        // Whoever joins the queue after this sees `lost`: the queue's lock orders the two.
        let mut wakers = Wakers::new();
        self.queue.notify_all(&mut wakers);
        wake_all(wakers);
    }

    /// Completes what is in flight and was not completed by the daemon, which is gone, and wakes whoever
    /// waits, also for what the daemon did complete: it may have died before it woke anybody.
    #[cold]
    pub(crate) fn complete_as_lost(&self) {
        let lost = Completion::failure(Status::ConnectionLost);
        let mut completed = 0;
        // One thread at a time: another might have stopped between looking and completing.
        let handles = self.handles.lock();
        for record in 0..LANE_DEPTH {
            let (flight, state) = self.claim_of(record);
            if state == ClaimState::Done {
                continue;
            }
            if !self.memory.is_complete(record, flight.wire()) {
                self.memory
                    .complete(record, flight.wire(), lost.status_word, &lost.values);
            }
            completed |= flight.bit();
        }
        drop(handles);
        LaneMemory::<LANE_DEPTH>::fence_before_looking();
        let (sleepers, _) = self.memory.look_for_waiters(completed);
        self.memory.wake_sleepers(sleepers);
        self.segment.ring_bell();
    }
}
