//! Finding pools and reserving ids and names for new ones: what the control side holds of either.

use std::ops::Deref;
use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_proto::PoolId;
use chimaera_proto::shown::brief;

use super::errors::{of_the_admin_pool, shutting_down, taken, too_many};
use super::{MAX_POOLS, Pool, PoolEntry, PoolPhase, PoolRegistry};

impl PoolRegistry {
    /// Finds the pool with this name and id, or reserves both for a new one of this module's. Blocks while a pool with
    /// the id or name is being made or ended.
    pub(crate) fn find_or_reserve(
        &self,
        name: &str,
        id: PoolId,
        module: &str,
    ) -> Result<PoolLookup<'_>, ModuleError> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(shutting_down());
            }
            // Before anything is compared: making the pool may fail, and one that is being ended will be gone.
            if state.is_changing(name, id) {
                self.changed.wait(&mut state);
                continue;
            }
            match state.find(name, id)? {
                Some(pool) => return Ok(PoolLookup::Existing(PoolRef::new(self, pool))),
                None if state.by_id.len() >= MAX_POOLS => return Err(too_many(MAX_POOLS)),
                None => {
                    let id = if id.is_null() { state.choose_id() } else { id };
                    let entry = PoolEntry {
                        name: name.to_owned(),
                        module: module.to_owned(),
                        phase: PoolPhase::Creating,
                    };
                    state.by_id.insert(id, entry);
                    return Ok(PoolLookup::Reserved(PoolReservation::new(self, id)));
                }
            }
        }
    }

    pub(crate) fn find(&self, name: &str) -> Result<PoolRef<'_>, ModuleError> {
        let state = self.state.lock();
        match state.by_id.values().find(|entry| entry.name == name) {
            Some(PoolEntry {
                phase: PoolPhase::Ready(pool),
                ..
            }) => Ok(PoolRef::new(self, pool)),
            _ => Err(state.absent(format!(
                "there is no pool named {}: create it first, or check its name",
                brief(name)
            ))),
        }
    }

    pub(crate) fn get(&self, id: PoolId) -> Result<PoolRef<'_>, ModuleError> {
        let state = self.state.lock();
        match state.by_id.get(&id) {
            Some(PoolEntry {
                phase: PoolPhase::Ready(pool),
                ..
            }) => Ok(PoolRef::new(self, pool)),
            _ => Err(state.absent(format!(
                "there is no pool {id}: create it first, or check its id"
            ))),
        }
    }
}

/// A pool in use on the control side. Its container is not destroyed meanwhile.
pub(crate) struct PoolRef<'a> {
    pool: Option<Arc<Pool>>,
    pools: &'a PoolRegistry,
}

impl<'a> PoolRef<'a> {
    pub(super) fn new(pools: &'a PoolRegistry, pool: &Arc<Pool>) -> Self {
        Self {
            pool: Some(Arc::clone(pool)),
            pools,
        }
    }
}

impl Deref for PoolRef<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        self.pool.as_deref().expect("present until drop")
    }
}

impl Drop for PoolRef<'_> {
    fn drop(&mut self) {
        self.pool = None;
        // Under the lock, so that `wait_until_unused` is not between its look and its wait.
        let _state = self.pools.state.lock();
        self.pools.changed.notify_all();
    }
}

/// The result of [`PoolRegistry::find_or_reserve`].
pub(crate) enum PoolLookup<'a> {
    /// The pool exists.
    Existing(PoolRef<'a>),
    /// Its id and name are now reserved for the caller.
    Reserved(PoolReservation<'a>),
}

/// The id and name of a pool that is being made. Dropping it frees them again.
#[must_use]
pub(crate) struct PoolReservation<'a> {
    id: PoolId,
    pools: &'a PoolRegistry,
}

impl<'a> PoolReservation<'a> {
    /// A reservation of an id and a name that are entered in the registry for the caller.
    pub(super) fn new(pools: &'a PoolRegistry, id: PoolId) -> Self {
        Self { id, pools }
    }

    pub(crate) fn id(&self) -> PoolId {
        self.id
    }

    /// Reserves another id instead. Does not wait for it: whoever has it may wait for ours.
    ///
    /// # Errors
    /// [`Status::Busy`](chimaera_proto::Status::Busy) if a pool has it, be it one that is being made or ended. Nothing
    /// changes then.
    pub(crate) fn move_to(&mut self, id: PoolId) -> Result<(), ModuleError> {
        if id == self.id {
            return Ok(());
        }
        let mut state = self.pools.state.lock();
        let name = &state.by_id[&self.id].name;
        if id == PoolId::ADMIN {
            return Err(of_the_admin_pool(name, id));
        }
        if let Some(other) = state.by_id.get(&id) {
            return Err(taken(name, id, &format!("pool {}", other.name)));
        }
        let entry = state.by_id.remove(&self.id);
        let entry = entry.expect("what is reserved is there");
        state.by_id.insert(id, entry);
        self.id = id;
        drop(state);
        self.pools.changed.notify_all();
        Ok(())
    }

    /// Makes the pool available, which workers know already. The caller keeps no `Arc` of it: from now on it can be
    /// destroyed, and whoever waits for that is told only by a [`PoolRef`].
    pub(crate) fn publish(self, pool: Arc<Pool>) {
        let mut state = self.pools.state.lock();
        if let Some(entry) = state.by_id.get_mut(&self.id) {
            entry.phase = PoolPhase::Ready(pool);
        }
        drop(state);
        self.pools.changed.notify_all();
        std::mem::forget(self);
    }
}

impl Drop for PoolReservation<'_> {
    fn drop(&mut self) {
        self.pools.release(self.id);
    }
}
