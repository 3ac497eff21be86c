//! What the control side asks of a worker, and how a worker does it.
//!
//! All of a worker's tables are changed here. A session or a pool that is removed is released only when the last of its
//! tasks has completed. It is dropped on the control side, which holds it too: unmapping memory and destroying
//! containers is not for workers.

use std::sync::Arc;

use chimaera_proto::shown::quoted;
use chimaera_shm::{Doorbell, Lane};
use crossbeam::channel::Sender;

use super::completions::Completions;
use super::lane_tasks::LaneTasks;
use super::sleep::Wake;
use super::wake_file::{self, WakeFile};
use super::{LanePool, LaneState, ModulePool, PoolTarget, ServedLane, ServedPool, WorkerThread};
use crate::log;
use crate::messages::{ControlEvent, MemoryInUse, WorkerCommand};
use crate::pools::Pool;
use crate::session::Session;

impl WorkerThread {
    /// Carries out the commands in the inbox. Returns how many there were.
    pub(super) fn take_commands(&mut self) -> u64 {
        let mut count = 0;
        while let Some(command) = self.inbox.receive() {
            count += 1;
            match command {
                WorkerCommand::AddLane {
                    session,
                    lane,
                    bell,
                } => self.add_lane(session, lane, bell),
                WorkerCommand::CloseSession { session } => self.close_session(session),
                WorkerCommand::AddPool { pool, done } => {
                    self.add_pool(pool);
                    let _ = done.send(());
                }
                WorkerCommand::RefuseTasks { done } => {
                    self.refuse_tasks();
                    let _ = done.send(());
                }
                WorkerCommand::Attach {
                    caller,
                    id,
                    pool,
                    done,
                } => {
                    self.attach(caller, id, pool);
                    let _ = done.send(());
                }
                WorkerCommand::ForgetCaller { session } => self.forget_caller(session),
                WorkerCommand::SetPermissions {
                    pool,
                    permissions,
                    done,
                } => {
                    self.set_permissions(pool, permissions);
                    let _ = done.send(());
                }
                WorkerCommand::RemovePool { pool, done } => self.remove_pool(pool, done),
                WorkerCommand::Complete(token, completion) => {
                    Completions::with(|all| all.complete_for(token, &completion));
                }
                WorkerCommand::Stop => self.stopping = true,
                WorkerCommand::LetGo { report } => {
                    let sessions = Completions::with(|all| all.sessions_written_to());
                    let worker = self.index;
                    self.has_let_go = true;
                    let _ = report.send(MemoryInUse { worker, sessions });
                    break;
                }
            }
        }
        count
    }

    fn add_lane(&mut self, session: Arc<Session>, lane: Lane, bell: Arc<Doorbell>) {
        let free = self.lanes.iter().position(Option::is_none);
        let index = free.unwrap_or(self.lanes.len());
        let is_watched = self.watches(&bell, index as u32);
        self.note_processor();
        lane.note_worker(self.sharing.processor());
        let tasks = Arc::new(LaneTasks::new());
        Completions::with(|all| {
            let tasks = Arc::clone(&tasks);
            all.add_lane(index as u32, lane.clone(), tasks, Arc::clone(&session));
        });
        let served = ServedLane {
            lane,
            tasks,
            session,
            bell,
            is_watched,
            state: LaneState::Active,
            next: 1,
            last_task: self.now,
            had_task: false,
            was_busy: false,
            pool: LanePool::ADMIN,
        };
        match free {
            Some(index) => self.lanes[index] = Some(served),
            None => self.lanes.push(Some(served)),
        }
        self.active.push(index as u32);
    }

    /// Watches a bell. Returns false if the system has no room for another watch, which is logged once.
    pub(super) fn watches(&mut self, bell: &Doorbell, lane: u32) -> bool {
        match self.sleeper.watch(bell, Wake::Lane(lane)) {
            Ok(()) => true,
            Err(error) => {
                if !std::mem::replace(&mut self.warned_of_bells, true) {
                    let remedy = wake_file::remedy(&error).unwrap_or("until it can");
                    log::warning(format_args!(
                        "a doorbell cannot be watched ({error}), so its lane is polled: {remedy}"
                    ));
                }
                false
            }
        }
    }

    fn close_session(&mut self, session: u64) {
        for served in self.lanes.iter_mut().flatten() {
            if served.session.id == session {
                self.parked -= usize::from(served.state == LaneState::Parked);
                served.state = LaneState::Ended;
            }
        }
        let lanes = &self.lanes;
        self.active.retain(|&index| {
            lanes[index as usize]
                .as_ref()
                .is_some_and(|lane| lane.state == LaneState::Active)
        });
        self.closing.push(session);
    }

    fn add_pool(&mut self, pool: Arc<Pool>) {
        let free = self.pools.iter().position(Option::is_none);
        let index = free.unwrap_or(self.pools.len());
        let wake_file = pool.container.wake_fd(u32::from(self.index)).map(|file| {
            let sleeper = &self.sleeper;
            // SAFETY: the container keeps the file open, and is kept until `finish_removals` has forgotten
            // the file.
            let watch = |file| unsafe { sleeper.watch_raw(file) };
            let (wake_file, watched) = WakeFile::new(file, self.now, watch);
            if let Err(error) = watched {
                let module = pool.container.module().name();
                let what = wake_file::remedy(&error).map_or_else(
                    || wake_file::mistake_of(module),
                    |remedy| format!("until it can: {remedy}"),
                );
                log::warning(format_args!(
                    "pool {}, module {module}: worker {} cannot be woken ({error}), so it does not sleep while the \
                     pool works: {what}",
                    quoted(&pool.name),
                    self.index
                ));
            }
            wake_file
        });
        let served = ServedPool {
            target: PoolTarget::Module(ModulePool {
                permissions: pool.permissions(),
                is_leaving: self.refuses_tasks,
                pool,
            }),
            submitted: 0,
            is_polled: false,
            pause: None,
            wake_file,
        };
        if let PoolTarget::Module(ModulePool { pool, .. }) = &served.target {
            self.note_pool(pool.number, pool.id, index as u16);
        }
        Completions::with(|all| all.add_pool(index as u16));
        match free {
            Some(index) => self.pools[index] = Some(served),
            None => self.pools.push(Some(served)),
        }
    }

    fn remove_pool(&mut self, number: u64, done: Sender<()>) {
        self.detach_all(number);
        let index = self.pool_indexes.get(&number).copied();
        let place = index.map(|index| &mut self.pools[usize::from(index)]);
        if let Some((
            index,
            Some(ServedPool {
                target: PoolTarget::Module(module),
                ..
            }),
        )) = index.zip(place)
        {
            module.is_leaving = true;
            let id = module.pool.id;
            self.note_leaving(number, id);
            self.removing.push((index, done));
            return;
        }
        let _ = done.send(());
    }

    /// Lets no task find a pool any more but the admin pool. Tasks do not pay for that: only a task that has found no
    /// pool asks for the reason.
    fn refuse_tasks(&mut self) {
        self.refuses_tasks = true;
        for pool in self.pools.iter_mut().flatten() {
            if let PoolTarget::Module(module) = &mut pool.target {
                module.is_leaving = true;
            }
        }
        self.attachments.clear();
        for served in self.lanes.iter_mut().flatten() {
            served.pool = LanePool::ADMIN;
        }
    }

    /// Releases sessions and pools whose last task has completed.
    pub(super) fn finish_removals(&mut self) {
        let (pools, polled, sleeper) = (&mut self.pools, &mut self.polled, &self.sleeper);
        self.removing.retain(|(index, done)| {
            let place = &mut pools[usize::from(*index)];
            let Some(pool) = place else { return false };
            if pool.submitted != Completions::with(|all| all.of_pool(*index)) {
                return true;
            }
            if let Some(file) = pool.wake_file.as_ref().and_then(WakeFile::watched) {
                // SAFETY: the container is still here, so its file is open.
                unsafe { sleeper.forget_raw(file) };
            }
            // The index may be another pool's soon, which is not to be polled for this one.
            polled.retain(|polled| polled != index);
            // The control side holds the pool too, so its container is not destroyed here.
            *place = None;
            let _ = done.send(());
            false
        });
        let (lanes, events) = (&mut self.lanes, &self.events);
        self.closing.retain(|&session| {
            let mut is_busy = false;
            for (index, place) in lanes.iter_mut().enumerate() {
                let index = index as u32;
                let Some(served) = place else { continue };
                if served.session.id != session {
                    continue;
                }
                if !served.tasks.is_idle() {
                    is_busy = true;
                    continue;
                }
                sleeper.forget(&*served.bell);
                Completions::with(|all| all.remove_lane(index));
                // The control side holds the session too, so nothing is unmapped here.
                *place = None;
            }
            if !is_busy {
                events.send(ControlEvent::SessionReleased { session });
            }
            is_busy
        });
    }
}
