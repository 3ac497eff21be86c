//! The pools of a host, as the control side sees them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_chimod::host::ContainerHandle;
use chimaera_proto::admin::PoolInfo;
use chimaera_proto::{PoolId, Status};
use parking_lot::{Condvar, Mutex};

/// A pool that tasks can be sent to.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) id: PoolId,
    pub(crate) name: String,
    pub(crate) container: ContainerHandle,
}

impl Pool {
    pub(crate) fn info(&self, created: bool) -> PoolInfo {
        PoolInfo {
            id: self.id,
            name: self.name.clone(),
            module: self.container.module().name().to_owned(),
            created,
        }
    }
}

/// Pools that a host has at most. Creating is a client's affair, and each worker names pools by an
/// index of 16 bits, of which the admin pool has one.
const MAX_POOLS: usize = 4096;

const _: () = assert!(MAX_POOLS < u16::MAX as usize);

/// Every pool by id, the ones that are being made or unmade included: an id and a name are taken
/// from the first step of creation to the last of destruction.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    by_id: BTreeMap<PoolId, Entry>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    name: String,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Creating,
    Ready(Arc<Pool>),
    Closing,
}

/// A pool in use on the control side. Its container is not destroyed meanwhile.
pub(crate) struct Lease<'a> {
    pool: Option<Arc<Pool>>,
    pools: &'a Pools,
}

impl Deref for Lease<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        self.pool.as_deref().expect("present until drop")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.pool = None;
        // Under the lock, so that `wait_for_leases` is not between its look and its wait.
        let _state = self.pools.state.lock();
        self.pools.changed.notify_all();
    }
}

/// What a creation request comes to.
pub(crate) enum Claim<'a> {
    /// The pool is there.
    Existing(Lease<'a>),
    /// Id and name are now taken for the caller, who must [`Pools::publish`] or
    /// [`Pools::release`] the id.
    New(PoolId),
}

impl Pools {
    fn lease(&self, pool: &Arc<Pool>) -> Lease<'_> {
        Lease {
            pool: Some(Arc::clone(pool)),
            pools: self,
        }
    }

    /// Looks for the pool with this name and id, or takes both for a new one. Blocks while a
    /// pool with the id or name is being made or unmade.
    pub(crate) fn claim(&self, name: &str, id: PoolId) -> Result<Claim<'_>, ModuleError> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(shutting_down());
            }
            // Before anything is compared: a pool that is not made after all, or is gone in a moment,
            // is in nobody's way.
            if state.is_changing(name, id) {
                self.changed.wait(&mut state);
                continue;
            }
            match state.find(name, id)? {
                Some(pool) => return Ok(Claim::Existing(self.lease(pool))),
                None if state.by_id.len() >= MAX_POOLS => return Err(too_many()),
                None => {
                    let id = if id.is_null() { state.choose_id()? } else { id };
                    let entry = Entry {
                        name: name.to_owned(),
                        phase: Phase::Creating,
                    };
                    state.by_id.insert(id, entry);
                    return Ok(Claim::New(id));
                }
            }
        }
    }

    /// Makes a claimed pool known. Workers know it already. Its maker keeps nothing of it: from
    /// now on it can be destroyed, and only a [`Lease`] tells who waits for that.
    pub(crate) fn publish(&self, pool: Arc<Pool>) {
        let mut state = self.state.lock();
        if let Some(entry) = state.by_id.get_mut(&pool.id) {
            entry.phase = Phase::Ready(pool);
        }
        self.changed.notify_all();
    }

    /// Gives an id and its name free again.
    pub(crate) fn release(&self, id: PoolId) {
        self.state.lock().by_id.remove(&id);
        self.changed.notify_all();
    }

    /// Takes a pool out of use. The caller unmakes it and then [`Pools::release`]s the id.
    /// Blocks while the pool is being made.
    pub(crate) fn withdraw(&self, id: PoolId) -> Result<Arc<Pool>, ModuleError> {
        let mut state = self.state.lock();
        loop {
            let Some(entry) = state.by_id.get_mut(&id) else {
                return Err(not_found(format!("there is no pool {id}")));
            };
            match std::mem::replace(&mut entry.phase, Phase::Closing) {
                Phase::Ready(pool) => return Ok(pool),
                Phase::Closing => {
                    return Err(not_found(format!("pool {id} is being destroyed already")));
                }
                Phase::Creating => {
                    entry.phase = Phase::Creating;
                    self.changed.wait(&mut state);
                }
            }
        }
    }

    /// Waits until nobody on the control side uses a withdrawn pool, so that dropping it destroys
    /// its container.
    pub(crate) fn wait_for_leases(&self, pool: &Arc<Pool>) {
        let mut state = self.state.lock();
        while Arc::strong_count(pool) > 1 {
            self.changed.wait(&mut state);
        }
    }

    /// Refuses new pools from now on, waits for those that are being made or unmade, and gives
    /// the ids of those that are left.
    pub(crate) fn close(&self) -> Vec<PoolId> {
        let mut state = self.state.lock();
        state.closed = true;
        self.changed.notify_all();
        while state
            .by_id
            .values()
            .any(|entry| !matches!(entry.phase, Phase::Ready(_)))
        {
            self.changed.wait(&mut state);
        }
        state.by_id.keys().copied().collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Lease<'_>, ModuleError> {
        match self
            .state
            .lock()
            .by_id
            .values()
            .find(|entry| entry.name == name)
        {
            Some(Entry {
                phase: Phase::Ready(pool),
                ..
            }) => Ok(self.lease(pool)),
            _ => Err(not_found(format!("there is no pool named {name}"))),
        }
    }

    pub(crate) fn get(&self, id: PoolId) -> Result<Lease<'_>, ModuleError> {
        match self.state.lock().by_id.get(&id) {
            Some(Entry {
                phase: Phase::Ready(pool),
                ..
            }) => Ok(self.lease(pool)),
            _ => Err(not_found(format!("there is no pool {id}"))),
        }
    }

    /// What is known of the pools that can be used, in order of id.
    pub(crate) fn list(&self) -> Vec<PoolInfo> {
        let state = self.state.lock();
        let ready = state.by_id.values().filter_map(|entry| match &entry.phase {
            Phase::Ready(pool) => Some(pool.info(false)),
            _ => None,
        });
        ready.collect()
    }
}

impl State {
    /// Whether a pool with this name or id is being made or unmade.
    fn is_changing(&self, name: &str, id: PoolId) -> bool {
        self.by_id.iter().any(|(&found, entry)| {
            (found == id || entry.name == name) && !matches!(entry.phase, Phase::Ready(_))
        })
    }

    /// The pool with this name and id, none of which is changing; a null id matches any.
    fn find(&self, name: &str, id: PoolId) -> Result<Option<&Arc<Pool>>, ModuleError> {
        let by_name = self.by_id.iter().find(|(_, entry)| entry.name == name);
        match by_name.or_else(|| self.by_id.get_key_value(&id)) {
            None => Ok(None),
            Some((&found, _)) if !id.is_null() && found != id => Err(mismatch(format!(
                "pool {name} exists with id {found}, asked for {id}"
            ))),
            Some((_, entry)) if entry.name != name => Err(mismatch(format!(
                "pool {id} exists with name {}, asked for {name}",
                entry.name
            ))),
            Some((_, entry)) => match &entry.phase {
                Phase::Ready(pool) => Ok(Some(pool)),
                Phase::Creating | Phase::Closing => unreachable!("a changing pool is waited for"),
            },
        }
    }

    fn choose_id(&self) -> Result<PoolId, ModuleError> {
        let first = PoolId::new(PoolId::FIRST_CHOSEN_MAJOR, 0);
        let last = self
            .by_id
            .range(first..)
            .next_back()
            .map(|(id, _)| id.major);
        let major = last.map_or(Some(first.major), |last| last.checked_add(1));
        let free = || {
            let majors = PoolId::FIRST_CHOSEN_MAJOR..=u32::MAX;
            majors
                .map(|major| PoolId::new(major, 0))
                .find(|id| !self.by_id.contains_key(id))
        };
        major
            .map(|major| PoolId::new(major, 0))
            .or_else(free)
            .ok_or_else(|| {
                ModuleError::new(
                    Status::Busy,
                    "every pool id that the host chooses from is taken",
                )
            })
    }
}

fn mismatch(text: String) -> ModuleError {
    ModuleError::new(Status::ParameterMismatch, text)
}

fn not_found(text: String) -> ModuleError {
    ModuleError::new(Status::PoolNotFound, text)
}

fn too_many() -> ModuleError {
    let text = format!("the runtime has {MAX_POOLS} pools, which is the most: destroy one");
    ModuleError::new(Status::Busy, text)
}

fn shutting_down() -> ModuleError {
    ModuleError::new(Status::ShuttingDown, "the runtime is shutting down")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_limited_and_an_end_makes_room() {
        let pools = Pools::default();
        let claim = |number: usize| pools.claim(&format!("pool {number}"), PoolId::NULL);
        let mut last = PoolId::NULL;
        for number in 0..MAX_POOLS {
            match claim(number).expect("there is room") {
                Claim::New(id) => last = id,
                Claim::Existing(_) => panic!("pool {number} is new"),
            }
        }
        let error = claim(MAX_POOLS).err().expect("is refused");
        assert_eq!(error.failure.status, Status::Busy);
        pools.release(last);
        assert!(matches!(claim(MAX_POOLS), Ok(Claim::New(_))));
    }

    #[test]
    fn a_name_is_free_once_its_pool_is_gone_whatever_id_is_asked_for() {
        let pools = Pools::default();
        let (first, second) = (PoolId::new(8000, 0), PoolId::new(9000, 0));
        assert!(matches!(pools.claim("name", first), Ok(Claim::New(_))));
        std::thread::scope(|scope| {
            let claimed = scope.spawn(|| pools.claim("name", second).map(|_| ()));
            // Long enough to find the name taken; nothing depends on whether it does.
            std::thread::sleep(std::time::Duration::from_millis(20));
            pools.release(first);
            assert_eq!(claimed.join().expect("joins"), Ok(()));
        });
    }
}
