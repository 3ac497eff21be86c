//! Finding pools and reserving ids and names for new ones: what the control side holds of either.

use std::ops::Deref;
use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_proto::PoolId;
use chimaera_proto::admin::{GetOrCreatePool, PoolChoice, PoolKey};

use super::choosing::{check_may_own, is_for};
use super::errors::{has_such_a_pool, of_no_pool, shown, shutting_down, taken, too_many};
use super::{MAX_POOLS, Pool, PoolEntry, PoolPhase, PoolRegistry};
use crate::caller::Caller;

impl PoolRegistry {
    /// Finds the pool that somebody asks for and has any right to, or reserves its id and name for a new one. Blocks
    /// while a pool of the same owner with the id or name is being made or ended.
    pub(crate) fn find_or_reserve(
        &self,
        asked: &GetOrCreatePool,
        caller: &Caller,
    ) -> Result<PoolLookup<'_>, ModuleError> {
        let (name, id) = (&asked.name, asked.id);
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(shutting_down());
            }
            let owner = state.owner_meant(asked, caller, &self.operators);
            // Before anything is compared: making the pool may fail, and one that is being ended will be gone.
            if state.is_changing(name, id, owner) {
                self.changed.wait(&mut state);
                continue;
            }
            match state.find((name, id), owner, caller)? {
                Some(pool) => return Ok(PoolLookup::Existing(PoolRef::new(self, pool))),
                None if state.by_key.len() >= MAX_POOLS => return Err(too_many(MAX_POOLS)),
                None => {
                    check_may_own(caller, owner)?;
                    let id = if id.is_null() { state.choose_id() } else { id };
                    let entry = PoolEntry {
                        name: name.to_owned(),
                        module: asked.module.clone(),
                        number: None,
                        phase: PoolPhase::Creating,
                    };
                    let key = PoolKey { id, owner };
                    state.by_key.insert(key, entry);
                    return Ok(PoolLookup::Reserved(PoolReservation::new(self, key)));
                }
            }
        }
    }

    /// The pool that somebody means, if it is in use. Rights are for the caller to check.
    pub(crate) fn find(
        &self,
        choice: &PoolChoice,
        caller: &Caller,
    ) -> Result<PoolRef<'_>, ModuleError> {
        let state = self.state.lock();
        let key = state.choose(choice, caller, &self.operators)?;
        match &state.by_key[&key].phase {
            PoolPhase::Ready(pool) => Ok(PoolRef::new(self, pool)),
            _ => Err(state.absent(format!(
                "the pool {} is being made or destroyed: try again",
                shown(&choice.pool)
            ))),
        }
    }

    /// Whether a pool that was opened for somebody may be recorded as this owner's.
    pub(crate) fn is_for(&self, owner: u32, caller: &Caller) -> bool {
        is_for(owner, caller.peer.user_id, &self.operators)
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
    key: PoolKey,
    pools: &'a PoolRegistry,
}

impl<'a> PoolReservation<'a> {
    /// A reservation of an id and a name that are entered in the registry for the caller.
    pub(super) fn new(pools: &'a PoolRegistry, key: PoolKey) -> Self {
        Self { key, pools }
    }

    pub(crate) fn key(&self) -> PoolKey {
        self.key
    }

    /// Leaves what is reserved to a pool that takes it over.
    pub(super) fn into_key(self) -> PoolKey {
        let key = self.key;
        std::mem::forget(self);
        key
    }

    /// Reserves another id, and the name among another owner's pools, instead. Does not wait: whoever has them may wait
    /// for ours.
    ///
    /// # Errors
    /// [`Status::Busy`](chimaera_proto::Status::Busy) if a pool has the id or the name there, be it one that is being
    /// made or ended. Nothing changes then.
    pub(crate) fn move_to(&mut self, key: PoolKey) -> Result<(), ModuleError> {
        if key == self.key {
            return Ok(());
        }
        let mut state = self.pools.state.lock();
        let name = &state.by_key[&self.key].name;
        if key.id == PoolId::ADMIN {
            return Err(of_no_pool(
                name,
                key.id,
                "is the admin pool's in every runtime",
            ));
        }
        if key.id.is_null() {
            return Err(of_no_pool(name, key.id, "stands for no pool"));
        }
        if let Some(other) = state.by_key.get(&key) {
            return Err(taken(name, key.id, &format!("pool {}", other.name)));
        }
        let has_name = |(other, entry): (&PoolKey, &PoolEntry)| {
            *other != self.key && other.owner == key.owner && entry.name == *name
        };
        if state.by_key.iter().any(has_name) {
            return Err(has_such_a_pool(key.owner, name, key.id));
        }
        let entry = state.by_key.remove(&self.key);
        let entry = entry.expect("what is reserved is there");
        state.by_key.insert(key, entry);
        self.key = key;
        drop(state);
        self.pools.changed.notify_all();
        Ok(())
    }

    /// Notes the number of the pool that is being made: from now on it is as live as one that is in use, for sessions
    /// that attach to it.
    pub(crate) fn set_number(&self, number: u64) {
        if let Some(entry) = self.pools.state.lock().by_key.get_mut(&self.key) {
            entry.number = Some(number);
        }
    }

    /// Makes the pool available, which workers know already. The caller keeps no `Arc` of it: from now on it can be
    /// destroyed, and whoever waits for that is told only by a [`PoolRef`].
    pub(crate) fn publish(self, pool: Arc<Pool>) {
        let mut state = self.pools.state.lock();
        if let Some(entry) = state.by_key.get_mut(&self.key) {
            entry.phase = PoolPhase::Ready(pool);
        }
        drop(state);
        self.pools.changed.notify_all();
        std::mem::forget(self);
    }
}

impl Drop for PoolReservation<'_> {
    fn drop(&mut self) {
        self.pools.release(self.key);
    }
}
