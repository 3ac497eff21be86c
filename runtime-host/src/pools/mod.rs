//! The pools of a host, as the control side sees them.

mod changes;
pub(crate) mod errors;
pub(crate) mod lookup;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_chimod::ModuleError;
use chimaera_proto::PoolId;
use chimaera_proto::admin::{PoolInfo, PoolStep};
use chimaera_proto::shown::brief;
use chimaera_thread::condition::{Condvar, Mutex, MutexGuard};

use crate::pool_container::PoolContainer;
use errors::{mismatch, not_found, shutting_down, with_whose_panic};

/// A pool that tasks can be sent to.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) id: PoolId,
    pub(crate) name: String,
    /// Whether its container opened a pool that existed already.
    pub(crate) opened: bool,
    pub(crate) container: PoolContainer,
}

impl Pool {
    /// Makes durable what has completed in the pool. Blocks.
    pub(crate) fn flush(&self) -> Result<(), ModuleError> {
        let flushed = self.container.flush();
        flushed.map_err(|error| with_whose_panic(error, &self.name, self.container.module().name()))
    }

    pub(crate) fn info(&self, created: bool) -> PoolInfo {
        PoolInfo {
            id: self.id,
            name: self.name.clone(),
            module: self.container.module().name().to_owned(),
            created,
            opened: self.opened,
        }
    }
}

/// The most pools that a host has. Clients create them at will, and each worker identifies pools by an index of 16
/// bits, one of which is the admin pool's.
const MAX_POOLS: usize = 4096;

const _: () = assert!(MAX_POOLS < u16::MAX as usize);

/// How long the end of all pools waits, before it says so, for pools that are being made or ended.
const FIRST_NOTICE: Duration = Duration::from_secs(1);

/// Every pool by id, including those that are being made or ended: an id and a name are taken
/// from the first step of creation to the last step of destruction.
#[derive(Debug, Default)]
pub(crate) struct PoolRegistry {
    state: Mutex<PoolRegistryState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PoolRegistryState {
    by_id: BTreeMap<PoolId, PoolEntry>,
    closed: bool,
}

#[derive(Debug)]
struct PoolEntry {
    name: String,
    /// The name of its module.
    module: String,
    phase: PoolPhase,
}

#[derive(Debug)]
enum PoolPhase {
    Creating,
    Ready(Arc<Pool>),
    /// Never [`PoolStep::Making`].
    Ending(PoolStep),
}

/// How the end of a pool begins.
const ENDING: PoolPhase = PoolPhase::Ending(PoolStep::Draining);

impl PoolRegistry {
    /// Frees an id and its name.
    pub(crate) fn release(&self, id: PoolId) {
        self.state.lock().by_id.remove(&id);
        self.changed.notify_all();
    }

    /// Takes a pool out of use. The caller ends it and then [`PoolRegistry::release`]s the id.
    /// Blocks while the pool is being made.
    pub(crate) fn withdraw(&self, id: PoolId) -> Result<Arc<Pool>, ModuleError> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(shutting_down());
            }
            let Some(entry) = state.by_id.get_mut(&id) else {
                return Err(not_found(format!(
                    "there is no pool {id}: check its id, if it was not destroyed already"
                )));
            };
            match std::mem::replace(&mut entry.phase, ENDING) {
                PoolPhase::Ready(pool) => return Ok(pool),
                ending @ PoolPhase::Ending(_) => {
                    entry.phase = ending;
                    return Err(not_found(format!("pool {id} is being destroyed already")));
                }
                PoolPhase::Creating => {
                    entry.phase = PoolPhase::Creating;
                    self.changed.wait(&mut state);
                }
            }
        }
    }

    /// Waits until nobody on the control side uses a withdrawn pool, so that dropping it destroys
    /// its container.
    pub(crate) fn wait_until_unused(&self, pool: &Arc<Pool>) {
        let mut state = self.state.lock();
        while Arc::strong_count(pool) > 1 {
            self.changed.wait(&mut state);
        }
    }

    /// From now on no pool is made, and only [`PoolRegistry::withdraw_any`] takes pools out of use.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes any pool out of use, after [`PoolRegistry::close`]. Blocks while all pools are being made or ended; `None`
    /// when no pool is left. Calls `tell` with their names, first after a while and then less and less often.
    pub(crate) fn withdraw_any(&self, tell: impl Fn(&str)) -> Option<Arc<Pool>> {
        let mut state = self.state.lock();
        let mut patience = FIRST_NOTICE;
        let mut notice = Instant::now() + patience;
        loop {
            if let Some(pool) = state.withdraw_ready() {
                return Some(pool);
            }
            if state.by_id.is_empty() {
                return None;
            }
            if self.changed.wait_until(&mut state, notice) && !state.by_id.is_empty() {
                let waited_for = state.describe();
                MutexGuard::unlocked(&mut state, || tell(&waited_for));
                patience *= 2;
                notice = Instant::now() + patience;
            }
        }
    }

    /// What is known of the pools that can be used, in order of id.
    pub(crate) fn list(&self) -> Vec<PoolInfo> {
        let state = self.state.lock();
        let ready = state.by_id.values().filter_map(|entry| match &entry.phase {
            PoolPhase::Ready(pool) => Some(pool.info(false)),
            _ => None,
        });
        ready.collect()
    }
}

impl PoolRegistryState {
    /// Takes the first pool out of use that is ready.
    fn withdraw_ready(&mut self) -> Option<Arc<Pool>> {
        self.by_id
            .values_mut()
            .find_map(|entry| match &entry.phase {
                PoolPhase::Ready(pool) => {
                    let pool = Arc::clone(pool);
                    entry.phase = ENDING;
                    Some(pool)
                }
                _ => None,
            })
    }

    /// The error for a pool that is not ready. While the runtime stops it says so: the pool may exist again afterwards.
    fn absent(&self, text: String) -> ModuleError {
        if self.closed {
            shutting_down()
        } else {
            not_found(text)
        }
    }

    /// Whether a pool with this name or id is being made or ended.
    fn is_changing(&self, name: &str, id: PoolId) -> bool {
        self.by_id.iter().any(|(&found, entry)| {
            (found == id || entry.name == name) && !matches!(entry.phase, PoolPhase::Ready(_))
        })
    }

    /// The pool with this name and id; a null id matches any. No pool with either is being made or ended.
    fn find(&self, name: &str, id: PoolId) -> Result<Option<&Arc<Pool>>, ModuleError> {
        let by_name = self.by_id.iter().find(|(_, entry)| entry.name == name);
        match by_name.or_else(|| self.by_id.get_key_value(&id)) {
            None => Ok(None),
            Some((&found, _)) if !id.is_null() && found != id => Err(mismatch(format!(
                "pool {} exists with id {found}, asked for {id}: ask for that id, or for none",
                brief(name)
            ))),
            Some((_, entry)) if entry.name != name => Err(mismatch(format!(
                "pool {id} exists with name {}, asked for {}: ask for another id, or for that name",
                brief(&entry.name),
                brief(name)
            ))),
            Some((_, entry)) => match &entry.phase {
                PoolPhase::Ready(pool) => Ok(Some(pool)),
                PoolPhase::Creating | PoolPhase::Ending(_) => {
                    unreachable!("a changing pool is waited for")
                }
            },
        }
    }

    /// Chooses an id that no pool has here, at random. There are so many more ids than `MAX_POOLS` that the first is
    /// nearly always free.
    fn choose_id(&self) -> PoolId {
        loop {
            let id = PoolId::drawn(RandomState::new().hash_one(()));
            if !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests;
