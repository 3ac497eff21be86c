//! Which pools a session's tasks reach, and which methods of them.
//!
//! A session is attached to pools by the control side, which has checked that it may be. What that allows follows from
//! the permissions of the pool and the rights that its module's methods need. It is worked out here once, when a
//! session is attached and when permissions change, and remembered as a bit for each method: a task costs the look at
//! its bit.
//!
//! Invariant: what a lane remembers of its pool ([`ServedLane::pool`](super::ServedLane)) is what the attachment says.
//! Both change in one command, between two tasks. So once the control side has been answered, no task is taken any more
//! that only the former permissions allow.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use chimaera_proto::{Descriptor, Permissions, PoolId, Status};

use super::{Attachment, LanePool, ModulePool, PoolTarget, ServedPool, WorkerThread};
use crate::caller::{Caller, MAX_ATTACHMENTS};

impl WorkerThread {
    /// Lets a session's tasks reach a pool by this id, unless it is being removed already.
    pub(super) fn attach(&mut self, caller: Arc<Caller>, id: PoolId, number: u64) {
        let Some((index, pool)) = self.module_pool(number) else {
            return;
        };
        let session = caller.session;
        let attachment = Attachment {
            pool: Some(LanePool {
                id,
                instance: pool.pool.instance(),
                index,
                allowed: allowed(pool, &caller),
            }),
            caller,
            number,
        };
        if self.attachments.count(session) >= MAX_ATTACHMENTS {
            // Tasks for these are told less exactly then what has become of their pools.
            self.attachments.forget(session, true);
        }
        self.attachments.insert(session, id, attachment);
        self.forget_in_lanes(|lane| lane == id);
    }

    /// Forgets what a session was attached to.
    pub(super) fn forget_caller(&mut self, session: u64) {
        self.attachments.forget(session, false);
    }

    /// From now on a pool has these permissions.
    pub(super) fn set_permissions(&mut self, number: u64, permissions: Permissions) {
        let Some(index) = self.module_pool(number).map(|(index, _)| index) else {
            return;
        };
        let Some(ServedPool {
            target: PoolTarget::Module(pool),
            ..
        }) = &mut self.pools[usize::from(index)]
        else {
            return;
        };
        pool.permissions = permissions;
        self.attachments.change(number, |attachment| {
            if let Some(attached) = &mut attachment.pool {
                attached.allowed = allowed(pool, &attachment.caller);
            }
        });
        self.forget_in_lanes(|_| true);
    }

    /// Lets no task reach a pool that is being removed any more.
    pub(super) fn detach_all(&mut self, number: u64) {
        self.attachments
            .change(number, |attachment| attachment.pool = None);
        self.forget_in_lanes(|_| true);
    }

    /// Has lanes look up their next task's pool, where the last one had an id like this.
    fn forget_in_lanes(&mut self, is_meant: impl Fn(PoolId) -> bool) {
        for served in self.lanes.iter_mut().flatten() {
            if is_meant(served.pool.id) {
                served.pool = LanePool::ADMIN;
            }
        }
    }

    /// The pool with this number and its index, unless it is being removed.
    fn module_pool(&self, number: u64) -> Option<(u16, &ModulePool)> {
        let &index = self.pool_indexes.get(&number)?;
        match &self.pools[usize::from(index)].as_ref()?.target {
            PoolTarget::Module(pool) if !pool.is_leaving => Some((index, pool)),
            _ => None,
        }
    }

    /// The status of a session's task that reached no method of a pool.
    #[cold]
    pub(super) fn why_unreached(
        &self,
        session: u64,
        task: &Descriptor,
        unreached: Unreached,
    ) -> Status {
        let is_declared = |pool: u16| match self.pools[usize::from(pool)].as_ref()?.target {
            PoolTarget::Module(ref pool) => Some(pool.pool.methods.declares(task.method)),
            PoolTarget::Admin => None,
        };
        match unreached {
            Unreached::Method(pool) if is_declared(pool) == Some(true) => Status::PermissionDenied,
            Unreached::Method(_) => Status::UnknownMethod,
            Unreached::Instance => Status::PoolChanged,
            Unreached::Pool if self.refuses_tasks => Status::ShuttingDown,
            Unreached::Pool if !self.has_pool(task.pool) => Status::PoolNotFound,
            // Another one than the one that it was attached to.
            Unreached::Pool if self.attachments.get(session, task.pool).is_some() => {
                Status::PoolChanged
            }
            Unreached::Pool => Status::NotAttached,
        }
    }

    /// Whether anybody has a pool with this id.
    fn has_pool(&self, id: PoolId) -> bool {
        self.ids.contains_key(&id)
    }

    /// Notes that there is one more pool with this id, which this index has.
    pub(super) fn note_pool(&mut self, number: u64, id: PoolId, index: u16) {
        self.pool_indexes.insert(number, index);
        *self.ids.entry(id).or_default() += 1;
    }

    /// Notes that a pool is being removed.
    pub(super) fn note_leaving(&mut self, number: u64, id: PoolId) {
        self.pool_indexes.remove(&number);
        if let Entry::Occupied(mut count) = self.ids.entry(id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What a task did not reach.
#[derive(Clone, Copy)]
pub(super) enum Unreached {
    /// A pool: its session is attached to none of that id.
    Pool,
    /// The pool that it means: the session is attached to another one of that id.
    Instance,
    /// The method, which its session may not use of the pool with this index.
    Method(u16),
}

fn allowed(pool: &ModulePool, caller: &Caller) -> u64 {
    let rights = caller.rights_to(pool.permissions);
    pool.pool.methods.allowed(rights)
}
