//! Other permissions of a pool, which may make it another owner's.
//!
//! Whether they can be recorded turns out late, on a device for example. Until then the pool keeps its place among its
//! owner's pools, and the one that it is to have is reserved: nobody else takes either, so there is no way back that
//! could fail.

use chimaera_proto::admin::PoolKey;
use chimaera_proto::shown::brief;
use chimaera_proto::{ModuleError, Permissions};

use super::errors::{has_such_a_pool, not_found};
use super::lookup::PoolReservation;
use super::{Pool, PoolEntry, PoolPhase, PoolRegistry, PoolRegistryState};

impl PoolRegistry {
    /// Reserves the place that a pool will have among the pools of its new owner; `None` if the owner stays the same.
    /// To be called under [`Pool::changing_permissions`], as is [`Self::set_permissions`].
    ///
    /// # Errors
    /// [`Status::Busy`](chimaera_proto::Status::Busy) if the new owner has a pool of this id or name;
    /// [`Status::PoolNotFound`](chimaera_proto::Status::PoolNotFound) if the pool is being ended.
    pub(crate) fn reserve_for(
        &self,
        pool: &Pool,
        owner: u32,
    ) -> Result<Option<PoolReservation<'_>>, ModuleError> {
        let mut state = self.state.lock();
        let key = pool.key();
        let Some(entry) = state.in_use(key) else {
            return Err(is_ending(pool));
        };
        if owner == key.owner {
            return Ok(None);
        }
        let reserved = PoolEntry {
            name: entry.name.clone(),
            module: entry.module.clone(),
            number: None,
            phase: PoolPhase::Creating,
        };
        let (id, name) = (key.id, &reserved.name);
        let mut of_owner = state.by_key.iter().filter(|(key, _)| key.owner == owner);
        if of_owner.any(|(key, entry)| key.id == id || entry.name == *name) {
            return Err(has_such_a_pool(owner, name, id));
        }
        let key = PoolKey { id, owner };
        state.by_key.insert(key, reserved);
        Ok(Some(PoolReservation::new(self, key)))
    }

    /// Gives a pool other permissions, which are recorded by now, and moves it to the place that is reserved for it.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`](chimaera_proto::Status::PoolNotFound) if the end of the pool has begun meanwhile:
    /// whoever ends it knows it by its former place, so it keeps that to the end.
    pub(crate) fn set_permissions(
        &self,
        pool: &Pool,
        permissions: Permissions,
        reserved: Option<PoolReservation<'_>>,
    ) -> Result<(), ModuleError> {
        let mut state = self.state.lock();
        let key = pool.key();
        if state.in_use(key).is_none() {
            // The reservation takes the lock as it is dropped.
            drop(state);
            return Err(is_ending(pool));
        }
        if let Some(reserved) = reserved {
            let entry = state.by_key.remove(&key).expect("it is in use");
            state.by_key.insert(reserved.into_key(), entry);
        }
        *pool.permissions.lock() = permissions;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}

impl PoolRegistryState {
    /// The pool with this key, unless it is being made or ended.
    fn in_use(&self, key: PoolKey) -> Option<&PoolEntry> {
        let entry = self.by_key.get(&key);
        entry.filter(|entry| matches!(entry.phase, PoolPhase::Ready(_)))
    }
}

fn is_ending(pool: &Pool) -> ModuleError {
    not_found(format!("pool {} is being destroyed", brief(&pool.name)))
}
