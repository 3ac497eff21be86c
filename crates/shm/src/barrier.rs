//! A full fence on every thread of other processes, called by the worker in place of a fence per task in its clients:
//! `membarrier(2)`, the global expedited kind.
//!
//! A lane's client publishes and then looks whether it must ring; its worker parks and then looks
//! whether something was published. One of the two must see the other, so both need a full fence
//! between their store and their look. The client's fence would be the most expensive step of a task's way: the
//! entry's cache line is with the worker, and the fence waits until it has come over. Parking is rare, so the
//! worker can pay for both: its call returns after every running thread of a registered process
//! has passed through a full fence, and a thread that was not running has passed through one in
//! the scheduler.
//!
//! For a client between its publishing store and its look, that fence falls either before the look, which then sees
//! `need_wakeup`, set before the call; or after the look, and so after the store, which the worker then sees, since it
//! looks after the call.

use std::io;

use libc::c_int;

// As `linux/membarrier.h` has them.
const MEMBARRIER_CMD_QUERY: c_int = 0;
const MEMBARRIER_CMD_GLOBAL_EXPEDITED: c_int = 1 << 1;
const MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED: c_int = 1 << 2;

/// Which side orders the publishing of a task before the look whether to ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOrder {
    /// The client, by a fence with every task.
    Fence,
    /// The host, by a [`barrier`] whenever it parks a lane. The client's process is registered
    /// ([`register`]), and the host has said that it does this.
    HostBarrier,
}

/// Whether this system has the barrier, so that a host can promise it to its clients. Some
/// sandboxes and old kernels (before 4.16) do not.
#[must_use]
pub fn is_available() -> bool {
    let needed = MEMBARRIER_CMD_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
    // The call is tried as well: a sandbox may let one command pass and refuse another.
    membarrier(MEMBARRIER_CMD_QUERY).is_ok_and(|commands| commands & needed == needed) && barrier()
}

/// Registers this process for the barriers of others. Once is enough, more do no harm. Returns whether it is
/// registered; if not, its clients use [`PublishOrder::Fence`].
#[must_use]
pub fn register() -> bool {
    membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED).is_ok()
}

/// Returns after every thread of every registered process has passed through a full fence. Takes
/// some microseconds, and interrupts those threads for as long as a fence takes.
///
/// Returns whether the system did so. After [`is_available`] has returned true it does, unless this process has since
/// entered a sandbox that forbids the call.
#[must_use]
pub fn barrier() -> bool {
    membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED).is_ok()
}

fn membarrier(command: c_int) -> io::Result<c_int> {
    // SAFETY: the call takes three integers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as c_int)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use chimaera_proto::limits::MIN_SEGMENT_BYTES;
    use chimaera_proto::task::DESCRIPTOR_WORDS;

    use super::*;
    use crate::{Lane, Segment};

    const ROUNDS: u32 = 100_000;

    /// How often a lane was parked with a task in it that nobody rang for.
    fn rounds_left_behind(parks: impl Fn()) -> u32 {
        let segment = Segment::create("test", MIN_SEGMENT_BYTES).expect("segment");
        let lane = Arc::new(segment).lane(0);
        let (begun, rung) = (AtomicU32::new(0), AtomicU32::new(0));
        let mut left_behind = 0;
        thread::scope(|scope| {
            scope.spawn(|| publish_all(&lane, &begun, &rung));
            for round in 1..=ROUNDS {
                begun.store(round, Ordering::Release);
                // Sometimes earlier, sometimes later than the client, which begins when it has seen the round.
                (0..round % 512).for_each(|step| {
                    std::hint::black_box(step);
                });
                lane.begin_park();
                parks();
                let is_parked = lane.finish_park(u64::from(round));
                // The low bit says whether the client rang.
                let answer = loop {
                    let answer = rung.load(Ordering::Acquire);
                    if answer >> 1 == round {
                        break answer;
                    }
                    thread::yield_now();
                };
                left_behind += u32::from(is_parked && answer & 1 == 0);
                lane.unpark();
            }
        });
        left_behind
    }

    fn publish_all(lane: &Lane, begun: &AtomicU32, rung: &AtomicU32) {
        for round in 1..=ROUNDS {
            while begun.load(Ordering::Acquire) != round {
                std::hint::spin_loop();
            }
            let mut words = [7; DESCRIPTOR_WORDS];
            words[0] = round.into();
            // A first look fetches the cache line, so that the second one is quicker than the store.
            let rings = lane.must_ring(PublishOrder::HostBarrier) | {
                lane.publish(round, &words);
                lane.must_ring(PublishOrder::HostBarrier)
            };
            rung.store(round << 1 | u32::from(rings), Ordering::Release);
        }
    }

    #[test]
    fn no_task_is_left_behind_a_barrier() {
        if !is_available() || !register() {
            let _ = io::Write::write_all(
                &mut io::stderr(),
                b"skipped: this system has no expedited membarrier(2)\n",
            );
            return;
        }
        let left_behind = rounds_left_behind(|| {
            crate::LaneMemory::<{ chimaera_proto::limits::LANE_DEPTH }>::fence_before_parking();
            assert!(barrier());
        });
        assert_eq!(left_behind, 0);
    }

    #[test]
    #[ignore = "shows what the barrier is for: without it one task in twenty is left behind here"]
    fn without_it_tasks_are_left_behind() {
        let left_behind = rounds_left_behind(|| {
            crate::LaneMemory::<{ chimaera_proto::limits::LANE_DEPTH }>::fence_before_parking();
        });
        assert_eq!(left_behind, 0);
    }
}
