//! What a lane does when the daemon dies ([`crate::connection`]): it completes every task in flight itself.
//!
//! No task is missed. The connection's hangup thread stores `lost`, issues a fence, and reads every claim. A submitter
//! stores its claim, publishes, issues a fence (in `must_ring`), and reads `lost`. One of the two fences comes first:
//! either the thread sees the claim, or the submitter sees `lost`, and the one that sees it completes the task, under
//! the lock of the handle table. Where submitters leave their fence to the host's barrier, the thread calls that
//! barrier in place of the host, which is gone. The record is not given to another task meanwhile: whoever takes a
//! record reads `lost` afterwards, and a record that became free through such a completion was freed by somebody who
//! had seen `lost` or its consequences.

use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::Duration;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{Completion, Status};
use chimaera_shm::{LaneMemory, PublishOrder, barrier};

use super::ClientLane;
use super::claim::ClaimState;
use crate::wakers::{Wakers, wake_all};

/// Far longer than a store takes to become visible to other processors.
const STORES_ARRIVE_WITHIN: Duration = Duration::from_millis(10);

impl ClientLane {
    /// Completes everything in flight in place of a daemon that is gone, and wakes whoever waits for it. From now on
    /// nothing can be submitted.
    pub(crate) fn complete_all_as_lost(&self) {
        self.flags.mark_lost();
        // Pairs with what orders `must_ring`; see the module's documentation.
        match self.connection.publish_order() {
            PublishOrder::Fence => fence(Ordering::SeqCst),
            PublishOrder::HostBarrier => {
                if !barrier::barrier() {
                    // A sandbox refuses the barrier now. A submitter that did not see `lost` stored its claim before
                    // it looked, and that store becomes visible within this time.
                    thread::sleep(STORES_ARRIVE_WITHIN);
                }
            }
        }
        self.complete_as_lost();
        // A seat that is taken after this sees `lost`: the queue's lock orders the two.
        let mut wakers = Wakers::new();
        self.queue.notify_all(&mut wakers);
        wake_all(wakers);
    }

    /// Completes what is in flight and was not completed by the daemon, which is gone. Wakes whoever waits, also for
    /// tasks that the daemon did complete: it may have died before it woke anybody.
    #[cold]
    pub(crate) fn complete_as_lost(&self) {
        let lost = Completion::failure(Status::ConnectionLost);
        let mut completed = 0;
        // One thread at a time: another might stop between looking and completing.
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
