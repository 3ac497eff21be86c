//! The pools of a host, as the control side sees them.

mod changes;
mod choosing;
pub(crate) mod errors;
pub(crate) mod lookup;
mod permissions;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chimaera_chimod::{Incarnation, MethodMasks, ModuleError};
use chimaera_proto::admin::{PoolChoice, PoolInfo, PoolKey, PoolStep};
use chimaera_proto::shown::brief;
use chimaera_proto::task::MAX_INSTANCE;
use chimaera_proto::{Permissions, PoolId, Right, Rights};
use chimaera_thread::condition::{Condvar, Mutex, MutexGuard};

use crate::accounts;
use crate::caller::Caller;
use crate::config::Operators;
use crate::ending::UnendedPool;
use crate::pool_container::PoolContainer;
use errors::{lacks_right, mismatch, not_found, shown, shutting_down, with_whose_panic};
use lookup::PoolRef;

/// A pool that tasks can be sent to.
#[derive(Debug)]
pub(crate) struct Pool {
    /// No other pool of this host has it, now or later.
    pub(crate) number: u64,
    pub(crate) id: PoolId,
    pub(crate) name: String,
    /// Whether its container opened a pool that existed already.
    pub(crate) opened: bool,
    pub(crate) incarnation: Incarnation,
    /// The rights that its methods need.
    pub(crate) methods: MethodMasks,
    /// Changed under the lock of the registry, which has the owner too.
    permissions: Mutex<Permissions>,
    /// Held while they are being changed: recorded, entered in the registry, then told to all workers.
    pub(crate) changing_permissions: Mutex<()>,
    pub(crate) container: PoolContainer,
}

/// What a new [`Pool`] is.
pub(crate) struct PoolParts {
    pub(crate) id: PoolId,
    pub(crate) name: String,
    pub(crate) opened: bool,
    pub(crate) incarnation: Incarnation,
    pub(crate) permissions: Permissions,
    pub(crate) container: PoolContainer,
}

impl Pool {
    pub(crate) fn new(parts: PoolParts) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let PoolParts {
            id,
            name,
            opened,
            incarnation,
            permissions,
            container,
        } = parts;
        Self {
            // Relaxed: the number stands for itself.
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            id,
            name,
            opened,
            incarnation,
            methods: container.module().methods(),
            permissions: Mutex::new(permissions),
            changing_permissions: Mutex::default(),
            container,
        }
    }

    /// Makes durable what has completed in the pool. Blocks.
    pub(crate) fn flush(&self) -> Result<(), ModuleError> {
        let flushed = self.container.flush();
        flushed.map_err(|error| with_whose_panic(error, &self.name, self.container.module().name()))
    }

    pub(crate) fn permissions(&self) -> Permissions {
        *self.permissions.lock()
    }

    /// The number by which tasks mean this pool and no other of its id.
    pub(crate) fn instance(&self) -> u32 {
        (self.number % u64::from(MAX_INSTANCE)) as u32 + 1
    }

    /// Names the pool among all of the host's. Stays the same once the pool is withdrawn.
    pub(crate) fn key(&self) -> PoolKey {
        PoolKey {
            id: self.id,
            owner: self.permissions().owner,
        }
    }

    /// What somebody may do with the pool.
    pub(crate) fn rights_of(&self, caller: &Caller) -> Rights {
        caller.rights_to(self.permissions())
    }

    /// Checks that somebody has this right to the pool.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`](chimaera_proto::Status::PermissionDenied).
    pub(crate) fn require(&self, right: Right, caller: &Caller) -> Result<(), ModuleError> {
        match self.rights_of(caller) {
            rights if rights.has(right) => Ok(()),
            rights => Err(lacks_right(self, right, rights, caller)),
        }
    }

    /// Checks that somebody has any right to the pool.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`](chimaera_proto::Status::PermissionDenied).
    pub(crate) fn require_any(&self, caller: &Caller) -> Result<(), ModuleError> {
        match self.rights_of(caller) {
            rights if rights.is_none() => Err(lacks_right(self, Right::Read, rights, caller)),
            _ => Ok(()),
        }
    }

    /// What somebody is told of the pool.
    pub(crate) fn info(&self, created: bool, caller: &Caller) -> PoolInfo {
        let permissions = self.permissions();
        PoolInfo {
            id: self.id,
            name: self.name.clone(),
            module: self.container.module().name().to_owned(),
            created,
            opened: self.opened,
            incarnation: self.incarnation.current,
            predecessor: self.incarnation.predecessor,
            instance: self.instance(),
            permissions,
            rights: caller.rights_to(permissions),
        }
    }
}

/// The most pools that a host has.
const MAX_POOLS: usize = accounts::MAX_POOLS as usize;

/// How long the end of all pools waits, before it says so, for pools that are being made or ended.
const FIRST_NOTICE: Duration = Duration::from_secs(1);

/// Every pool by id and owner, including those that are being made or ended: an id and a name are taken
/// from the first step of creation to the last step of destruction. Both are unique among the pools of one owner, so
/// nobody takes them from anybody else.
#[derive(Debug)]
pub(crate) struct PoolRegistry {
    operators: Operators,
    state: Mutex<PoolRegistryState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PoolRegistryState {
    by_key: BTreeMap<PoolKey, PoolEntry>,
    closed: bool,
}

#[derive(Debug)]
struct PoolEntry {
    name: String,
    /// The name of its module.
    module: String,
    /// The pool's number, as soon as it has one.
    number: Option<u64>,
    phase: PoolPhase,
}

#[derive(Debug)]
enum PoolPhase {
    Creating,
    Ready(Arc<Pool>),
    /// Never [`PoolStep::Making`].
    Ending(PoolStep),
}

/// What [`PoolRegistry::withdraw_any`] gives.
pub(crate) enum Withdrawal {
    /// A pool, for the caller to end.
    Pool(Arc<Pool>),
    /// No pool is left.
    NoneLeft,
    /// There is no more time for these.
    OutOfTime(Vec<UnendedPool>),
}

/// How the end of a pool begins.
const ENDING: PoolPhase = PoolPhase::Ending(PoolStep::Draining);

impl PoolRegistry {
    pub(crate) fn new(operators: Operators) -> Self {
        Self {
            operators,
            state: Mutex::default(),
            changed: Condvar::default(),
        }
    }

    /// Frees an id and its name.
    pub(crate) fn release(&self, key: PoolKey) {
        self.state.lock().by_key.remove(&key);
        self.changed.notify_all();
    }

    /// Takes a pool out of use that somebody may manage. The caller ends it and then [`PoolRegistry::release`]s the id.
    /// Blocks while the pool is being made.
    pub(crate) fn withdraw(
        &self,
        choice: &PoolChoice,
        caller: &Caller,
    ) -> Result<Arc<Pool>, ModuleError> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(shutting_down());
            }
            let key = state.choose(choice, caller, &self.operators)?;
            let entry = state.by_key.get_mut(&key).expect("it was chosen");
            match std::mem::replace(&mut entry.phase, ENDING) {
                PoolPhase::Ready(pool) => match pool.require(Right::Manage, caller) {
                    Ok(()) => return Ok(pool),
                    Err(refused) => {
                        entry.phase = PoolPhase::Ready(pool);
                        return Err(refused);
                    }
                },
                ending @ PoolPhase::Ending(_) => {
                    entry.phase = ending;
                    let named = shown(&choice.pool);
                    return Err(not_found(format!(
                        "pool {named} is being destroyed already"
                    )));
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

    /// As [`Self::wait_until_unused`], until then. Gives whether nobody uses it.
    pub(crate) fn is_unused_by(&self, pool: &Arc<Pool>, end: Instant) -> bool {
        let mut state = self.state.lock();
        while Arc::strong_count(pool) > 1 {
            if self.changed.wait_until(&mut state, end) {
                return Arc::strong_count(pool) == 1;
            }
        }
        true
    }

    /// From now on no pool is made, and only [`PoolRegistry::withdraw_any`] takes pools out of use.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes any pool out of use, after [`PoolRegistry::close`]. Blocks until `end` at most while all pools are being
    /// made or ended. Calls `tell` with their names, first after a while and then less and less often.
    pub(crate) fn withdraw_any(&self, tell: impl Fn(&str), end: Instant) -> Withdrawal {
        let mut state = self.state.lock();
        let mut patience = FIRST_NOTICE;
        let mut notice = Instant::now() + patience;
        loop {
            if let Some(pool) = state.withdraw_ready() {
                return Withdrawal::Pool(pool);
            }
            if state.by_key.is_empty() {
                return Withdrawal::NoneLeft;
            }
            if Instant::now() >= end {
                return Withdrawal::OutOfTime(state.unended());
            }
            let is_quiet = self.changed.wait_until(&mut state, notice.min(end));
            if is_quiet && Instant::now() >= notice && !state.by_key.is_empty() {
                let waited_for = state.describe();
                MutexGuard::unlocked(&mut state, || tell(&waited_for));
                patience *= 2;
                notice = Instant::now() + patience;
            }
        }
    }

    /// The pools that can be used, in order of id and owner.
    pub(crate) fn list(&self) -> Vec<PoolRef<'_>> {
        let state = self.state.lock();
        let ready = state
            .by_key
            .values()
            .filter_map(|entry| match &entry.phase {
                PoolPhase::Ready(pool) => Some(PoolRef::new(self, pool)),
                _ => None,
            });
        ready.collect()
    }

    /// How many pools can be used.
    pub(crate) fn count(&self) -> usize {
        let state = self.state.lock();
        let is_ready = |entry: &&PoolEntry| matches!(entry.phase, PoolPhase::Ready(_));
        state.by_key.values().filter(is_ready).count()
    }

    /// Whether the pool with this number can be used, or is about to be: its end has not begun.
    pub(crate) fn is_live(&self, number: u64) -> bool {
        let state = self.state.lock();
        let of_number = |entry: &&PoolEntry| entry.number == Some(number);
        let entry = state.by_key.values().find(of_number);
        entry.is_some_and(|entry| !matches!(entry.phase, PoolPhase::Ending(_)))
    }
}

impl PoolRegistryState {
    /// Takes the first pool out of use that is ready.
    fn withdraw_ready(&mut self) -> Option<Arc<Pool>> {
        self.by_key
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

    /// Whether a pool of this owner with this name or id is being made or ended.
    fn is_changing(&self, name: &str, id: PoolId, owner: u32) -> bool {
        self.by_key.iter().any(|(key, entry)| {
            key.owner == owner
                && (key.id == id || entry.name == name)
                && !matches!(entry.phase, PoolPhase::Ready(_))
        })
    }

    /// The owner's pool with this name and id; a null id matches any. No pool of the owner with either is being made or
    /// ended. What is compared tells something of the pool, so that needs a right to it.
    fn find(
        &self,
        (name, id): (&str, PoolId),
        owner: u32,
        caller: &Caller,
    ) -> Result<Option<&Arc<Pool>>, ModuleError> {
        let mut owned = self.by_key.iter().filter(|(key, _)| key.owner == owner);
        let by_name = owned.find(|(_, entry)| entry.name == name);
        let by_id = || self.by_key.get_key_value(&PoolKey { id, owner });
        let Some((found, entry)) = by_name.or_else(by_id) else {
            return Ok(None);
        };
        let PoolPhase::Ready(pool) = &entry.phase else {
            unreachable!("a changing pool is waited for")
        };
        pool.require_any(caller)?;
        if !id.is_null() && found.id != id {
            return Err(mismatch(format!(
                "pool {} exists with id {}, asked for {id}: ask for that id, or for none",
                brief(name),
                found.id
            )));
        }
        if entry.name != name {
            return Err(mismatch(format!(
                "pool {id} exists with name {}, asked for {}: ask for another id, or for that name",
                brief(&entry.name),
                brief(name)
            )));
        }
        Ok(Some(pool))
    }

    /// Chooses an id that no pool has here, at random. There are so many more ids than `MAX_POOLS` that the first is
    /// nearly always free.
    fn choose_id(&self) -> PoolId {
        loop {
            let id = PoolId::drawn(RandomState::new().hash_one(()));
            if !self.by_key.keys().any(|key| key.id == id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests;
