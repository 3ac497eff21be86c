//! The pools of a host, as the control side sees them.

mod changes;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_chimod::ModuleError;
use chimaera_proto::admin::{PoolInfo, PoolStep};
use chimaera_proto::shown::brief;
use chimaera_proto::{PoolId, Status};
use chimaera_shm::thread::condition::{Condvar, Mutex, MutexGuard};

use crate::speakers::PoolContainer;

/// A pool that tasks can be sent to.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) id: PoolId,
    pub(crate) name: String,
    /// Whether its container opened what was there.
    pub(crate) opened: bool,
    pub(crate) container: PoolContainer,
}

impl Pool {
    /// Makes durable what was done in it. Blocks.
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

/// Pools that a host has at most. Creating is a client's affair, and each worker names pools by an
/// index of 16 bits, of which the admin pool has one.
const MAX_POOLS: usize = 4096;

const _: () = assert!(MAX_POOLS < u16::MAX as usize);

/// How long whoever ends all pools waits without a word for those that are being made or unmade.
const FIRST_NOTICE: Duration = Duration::from_secs(1);

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
    /// The name of its module.
    module: String,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Creating,
    Ready(Arc<Pool>),
    /// It is not [`PoolStep::Making`].
    Ending(PoolStep),
}

/// What the end of a pool begins with.
const ENDING: Phase = Phase::Ending(PoolStep::Draining);

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
    /// Id and name are now taken for the caller.
    New(Claimed<'a>),
}

/// Id and name of a pool that is being made. They are free again if it is dropped.
#[must_use]
pub(crate) struct Claimed<'a> {
    id: PoolId,
    pools: &'a Pools,
}

impl Claimed<'_> {
    pub(crate) fn id(&self) -> PoolId {
        self.id
    }

    /// Takes another id instead. Does not wait for it: who has it may wait for ours.
    ///
    /// # Errors
    /// [`Status::Busy`] if a pool has it, be it one that is being made or unmade. Nothing changes.
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
        let entry = entry.expect("what is claimed is there");
        state.by_id.insert(id, entry);
        self.id = id;
        drop(state);
        self.pools.changed.notify_all();
        Ok(())
    }

    /// Makes the pool known. Workers know it already. Its maker keeps nothing of it: from now on it
    /// can be destroyed, and only a [`Lease`] tells who waits for that.
    pub(crate) fn publish(self, pool: Arc<Pool>) {
        let mut state = self.pools.state.lock();
        if let Some(entry) = state.by_id.get_mut(&self.id) {
            entry.phase = Phase::Ready(pool);
        }
        drop(state);
        self.pools.changed.notify_all();
        std::mem::forget(self);
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.pools.release(self.id);
    }
}

impl Pools {
    fn lease(&self, pool: &Arc<Pool>) -> Lease<'_> {
        Lease {
            pool: Some(Arc::clone(pool)),
            pools: self,
        }
    }

    /// Looks for the pool with this name and id, or takes both for a new one of this module's. Blocks while a
    /// pool with the id or name is being made or unmade.
    pub(crate) fn claim(
        &self,
        name: &str,
        id: PoolId,
        module: &str,
    ) -> Result<Claim<'_>, ModuleError> {
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
                    let id = if id.is_null() { state.choose_id() } else { id };
                    let entry = Entry {
                        name: name.to_owned(),
                        module: module.to_owned(),
                        phase: Phase::Creating,
                    };
                    state.by_id.insert(id, entry);
                    return Ok(Claim::New(Claimed { id, pools: self }));
                }
            }
        }
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
            if state.closed {
                return Err(shutting_down());
            }
            let Some(entry) = state.by_id.get_mut(&id) else {
                return Err(not_found(format!(
                    "there is no pool {id}: check its id, if it was not destroyed already"
                )));
            };
            match std::mem::replace(&mut entry.phase, ENDING) {
                Phase::Ready(pool) => return Ok(pool),
                ending @ Phase::Ending(_) => {
                    entry.phase = ending;
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

    /// From now on no pool is made, and nobody but who closes takes one out of use.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes any pool out of use, after [`Pools::close`]. Blocks while there are only such as are being made or
    /// unmade; `None` when no pool is left. `tell` is told which those are, once that has taken a while, and
    /// then less and less often.
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

    pub(crate) fn find(&self, name: &str) -> Result<Lease<'_>, ModuleError> {
        let state = self.state.lock();
        match state.by_id.values().find(|entry| entry.name == name) {
            Some(Entry {
                phase: Phase::Ready(pool),
                ..
            }) => Ok(self.lease(pool)),
            _ => Err(state.absent(format!(
                "there is no pool named {}: create it first, or check its name",
                brief(name)
            ))),
        }
    }

    pub(crate) fn get(&self, id: PoolId) -> Result<Lease<'_>, ModuleError> {
        let state = self.state.lock();
        match state.by_id.get(&id) {
            Some(Entry {
                phase: Phase::Ready(pool),
                ..
            }) => Ok(self.lease(pool)),
            _ => Err(state.absent(format!(
                "there is no pool {id}: create it first, or check its id"
            ))),
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
    /// Takes the first pool out of use that can be.
    fn withdraw_ready(&mut self) -> Option<Arc<Pool>> {
        self.by_id
            .values_mut()
            .find_map(|entry| match &entry.phase {
                Phase::Ready(pool) => {
                    let pool = Arc::clone(pool);
                    entry.phase = ENDING;
                    Some(pool)
                }
                _ => None,
            })
    }

    /// Why a pool is not there. One that is not any more because the runtime stops may well be back.
    fn absent(&self, text: String) -> ModuleError {
        if self.closed {
            shutting_down()
        } else {
            not_found(text)
        }
    }

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
                "pool {} exists with id {found}, asked for {id}: ask for that id, or for none",
                brief(name)
            ))),
            Some((_, entry)) if entry.name != name => Err(mismatch(format!(
                "pool {id} exists with name {}, asked for {}: ask for another id, or for that name",
                brief(&entry.name),
                brief(name)
            ))),
            Some((_, entry)) => match &entry.phase {
                Phase::Ready(pool) => Ok(Some(pool)),
                Phase::Creating | Phase::Ending(_) => unreachable!("a changing pool is waited for"),
            },
        }
    }

    /// Chooses an id that no pool has here, at random: it may come to stand on a device, and should
    /// not be the one that another runtime, or a later one, chooses for another pool. There are so
    /// many more than `MAX_POOLS` that the first is nearly always free.
    fn choose_id(&self) -> PoolId {
        const COUNT: u32 = u32::MAX - PoolId::FIRST_CHOSEN_MAJOR + 1;
        loop {
            let random = RandomState::new().hash_one(()) % u64::from(COUNT);
            let id = PoolId::new(PoolId::FIRST_CHOSEN_MAJOR + random as u32, 0);
            if !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}

fn mismatch(text: String) -> ModuleError {
    ModuleError::new(Status::ParameterMismatch, text)
}

fn not_found(text: String) -> ModuleError {
    ModuleError::new(Status::PoolNotFound, text)
}

/// The error with what the text of a panic lacks: whose it was, and where to look. Any other has the module's own words.
pub(crate) fn with_whose_panic(mut error: ModuleError, pool: &str, module: &str) -> ModuleError {
    if error.failure.status == Status::ModulePanicked {
        error.message = format!(
            "pool {pool}, module {module}: {}: this is a mistake in the module; the runtime's log says where",
            error.message
        );
    }
    error
}

fn of_the_admin_pool(name: &str, id: PoolId) -> ModuleError {
    let text = format!(
        "pool {name} has the id {id} by what it stands on, which is the admin pool's in every runtime: a mistake in \
         the module, or what it stands on is damaged"
    );
    ModuleError::new(Status::Busy, text)
}

fn taken(name: &str, id: PoolId, other: &str) -> ModuleError {
    let text = format!(
        "pool {name} has the id {id} by what it stands on, which {other} has in this runtime: \
         destroy that one first"
    );
    ModuleError::new(Status::Busy, text)
}

fn too_many() -> ModuleError {
    let text = format!("the runtime has {MAX_POOLS} pools, which is the most: destroy one");
    ModuleError::new(Status::Busy, text)
}

pub(crate) fn shutting_down() -> ModuleError {
    ModuleError::new(
        Status::ShuttingDown,
        "the runtime is shutting down: connect again when it is back",
    )
}

#[cfg(test)]
mod tests;
