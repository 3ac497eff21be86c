//! What a worker does when there is little to do: looking at the clock and the doorbells, parking
//! lanes, and sleeping.

use std::time::{Duration, Instant};

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_shm::{LaneMemory, barrier};

use super::sleep::{Sleeper, Wake};
use super::{LaneState, ServedLane, WorkerThread, served_lane};
use crate::calls;
use crate::config::Polling;
use crate::log;

/// Time between two looks at the doorbells of parked lanes while others keep the worker busy. A look
/// is a system call, the only one that a busy worker makes of its own accord.
const DOORBELL_INTERVAL: Duration = Duration::from_micros(25);

impl WorkerThread {
    /// Looks at the clock and the doorbells, parks lanes without traffic, and sleeps if there is
    /// nothing to poll for.
    pub(super) fn tick(&mut self) {
        // Shows the watchdog that the worker goes on, also where it has called no container for long.
        calls::leave();
        self.now = Instant::now();
        self.note_processor();
        let worked = std::mem::take(&mut self.work_since_tick) != 0;
        if worked {
            self.last_work = self.now;
        }
        let mut woken = false;
        // Only parked lanes ring a worker that is awake: the inbox has a flag, and containers are polled.
        if self.parked != 0 && self.now - self.last_look >= DOORBELL_INTERVAL {
            self.last_look = self.now;
            let (sleeper, mut bells) = self.bells();
            woken = sleeper.look(|wake| bells.answer(wake));
        }
        self.park_quiet_lanes();
        // This look may have consumed what woke the worker, so a pass has to come before sleep.
        if worked || woken || !self.active.is_empty() {
            return;
        }
        let is_quiet = self.sharing.parks_at_once()
            || self.now - self.last_work >= self.polling.duration_in_flight();
        if self.polled.is_empty() || (is_quiet && self.is_woken_by_containers()) {
            let until = self.end_of_first_pause();
            let patience = until.map(|until| until.saturating_duration_since(self.now));
            let (sleeper, mut bells) = self.bells();
            calls::fall_asleep();
            sleeper.sleep(patience, |wake| bells.answer(wake));
            calls::leave();
            self.note_processor();
            self.now = Instant::now();
            self.last_look = self.now;
            self.last_work = self.now;
        }
    }

    /// When the first pause of a container ends, so that a sleep is no longer than that.
    fn end_of_first_pause(&self) -> Option<Instant> {
        let polled = self.polled.iter();
        let pools = polled.filter_map(|&index| self.pools[usize::from(index)].as_ref());
        pools
            .filter_map(|pool| Some(pool.pause.as_ref()?.end()))
            .min()
    }

    /// Whether every container with something under way is paused, or wakes this worker when it can move forward.
    fn is_woken_by_containers(&mut self) -> bool {
        let (sleeper, pools, now) = (&self.sleeper, &mut self.pools, self.now);
        self.polled.iter().all(|&index| {
            let Some(pool) = &mut pools[usize::from(index)] else {
                return true;
            };
            if pool.pause.as_ref().is_some_and(|pause| pause.lasts(now)) {
                return true;
            }
            // SAFETY: the container keeps the file open, and is kept until `finish_removals` has forgotten the
            // file.
            let watch = |file| unsafe { sleeper.watch_raw(file) };
            let wake_file = pool.wake_file.as_mut();
            wake_file.is_some_and(|file| file.wakes(now, watch))
        })
    }

    fn bells(&mut self) -> (&mut Sleeper, Bells<'_>) {
        let bells = Bells {
            lanes: &mut self.lanes,
            active: &mut self.active,
            parked: &mut self.parked,
            processor: self.sharing.processor(),
        };
        (&mut self.sleeper, bells)
    }

    /// Parks the lanes that had no task for as long as the worker polls. One barrier serves all
    /// of them; if it is not due yet, they are polled until it is.
    fn park_quiet_lanes(&mut self) {
        let (now, polling, lanes) = (self.now, self.polling, &mut self.lanes);
        let at_once = self.sharing.parks_at_once();
        let may_park = !self.parks_with_barrier || self.barriers.are_due(now);
        let sleeper = &self.sleeper;
        let mut any = false;
        for &index in &self.active {
            let served = served_lane(lanes, index);
            let is_busy = !served.tasks.is_idle();
            if served.had_task || (served.was_busy && !is_busy) {
                served.last_task = now;
            }
            served.had_task = false;
            served.was_busy = is_busy;
            let may_park = may_park && (at_once || served.is_quiet(now, polling));
            if may_park && served.is_heard(index, sleeper, now) {
                served.lane.begin_park();
                any = true;
            }
        }
        if !any {
            return;
        }
        LaneMemory::<LANE_DEPTH>::fence_before_parking();
        if self.parks_with_barrier {
            let begin = Instant::now();
            if !barrier::barrier() {
                self.cancel_parking();
                return;
            }
            self.barriers.note(begin, Instant::now());
        }
        let parked = &mut self.parked;
        self.active.retain(|&index| {
            let served = served_lane(lanes, index);
            let is_quiet = at_once || served.is_quiet(now, polling);
            if served.is_watched && is_quiet && served.lane.finish_park(served.next) {
                served.state = LaneState::Parked;
                *parked += 1;
            }
            served.state == LaneState::Active
        });
    }

    /// Goes on polling quiet lanes: their clients rely on a barrier that the system refuses, so the worker might miss
    /// what they publish from now on, and not be rung either.
    #[cold]
    fn cancel_parking(&mut self) {
        for &index in &self.active {
            served_lane(&mut self.lanes, index).lane.unpark();
        }
        if !std::mem::replace(&mut self.warned_of_barrier, true) {
            log::warning(
                "the system refuses membarrier(2), which it had before: this worker polls its \
                 clients' lanes without end; let the sandbox allow the call",
            );
        }
    }
}

impl ServedLane {
    /// Whether its bell is watched. If there was no room for the watch, it is tried again.
    fn is_heard(&mut self, index: u32, sleeper: &Sleeper, now: Instant) -> bool {
        if !self.is_watched {
            self.is_watched = sleeper.watch(&*self.bell, Wake::Lane(index)).is_ok();
            if !self.is_watched {
                // So it is not tried at every tick.
                self.last_task = now;
            }
        }
        self.is_watched
    }

    /// Whether the lane has had no traffic for as long as the worker polls.
    fn is_quiet(&self, now: Instant, polling: Polling) -> bool {
        let patience = if self.was_busy {
            polling.duration_in_flight()
        } else {
            polling.duration()
        };
        now.saturating_duration_since(self.last_task) >= patience
    }
}

/// The lanes whose doorbells may have been rung.
struct Bells<'a> {
    lanes: &'a mut [Option<ServedLane>],
    active: &'a mut Vec<u32>,
    parked: &'a mut usize,
    /// Where the worker runs.
    processor: u32,
}

impl Bells<'_> {
    fn answer(&mut self, wake: Wake) {
        if let Wake::Lane(index) = wake
            && let Some(Some(served)) = self.lanes.get_mut(index as usize)
            && served.state == LaneState::Parked
        {
            served.lane.note_worker(self.processor);
            served.lane.unpark();
            served.state = LaneState::Active;
            served.last_task = Instant::now();
            self.active.push(index);
            *self.parked -= 1;
        }
    }
}
