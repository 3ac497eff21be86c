//! Which pool somebody means who names one: whose pools come first.
//!
//! Laws:
//! - A name or id without an owner means a pool of whoever asks, else one of an operator's. It never leads to the pool
//!   of any other user: whoever asks is told that user, and can name it.
//! - What does not exist is told apart from what is somebody else's: ids are no secrets, nor is whether there is a pool
//!   of a name that somebody knows.

use chimaera_chimod::ModuleError;
use chimaera_proto::admin::{GetOrCreatePool, PoolChoice, PoolKey, PoolName};

use super::errors::{of_somebody_else, shown};
use super::{PoolEntry, PoolRegistryState};
use crate::caller::{Caller, denied, own_user};
use crate::config::Operators;

impl PoolRegistryState {
    /// The pool that somebody means, whatever its phase.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`](chimaera_proto::Status::PoolNotFound);
    /// [`Status::PermissionDenied`](chimaera_proto::Status::PermissionDenied) for a pool of another user who is not
    /// named; [`Status::ShuttingDown`](chimaera_proto::Status::ShuttingDown).
    pub(super) fn choose(
        &self,
        choice: &PoolChoice,
        caller: &Caller,
        operators: &Operators,
    ) -> Result<PoolKey, ModuleError> {
        let is_meant = |(key, entry): &(&PoolKey, &PoolEntry)| match &choice.pool {
            PoolName::Id(id) => key.id == *id,
            PoolName::Name(name) => entry.name == *name,
        };
        let meant = || self.by_key.iter().filter(is_meant).map(|(&key, _)| key);
        let named = shown(&choice.pool);
        if let Some(owner) = choice.owner {
            let found = meant().find(|key| key.owner == owner);
            return found.ok_or_else(|| {
                self.absent(format!(
                    "user {owner} has no pool {named}: check its name or id, and its owner"
                ))
            });
        }
        let own = caller.peer.user_id;
        let found = meant().min_by_key(|key| rank(key.owner, own, operators));
        match found {
            Some(key) if is_for(key.owner, own, operators) => Ok(key),
            Some(key) => Err(of_somebody_else(&named, key.owner)),
            None => {
                let what = match choice.pool {
                    PoolName::Id(_) => "id",
                    PoolName::Name(_) => "name",
                };
                Err(self.absent(format!(
                    "there is no pool {named}: create the pool first, or check its {what}"
                )))
            }
        }
    }

    /// Whose pool a creation request is about.
    pub(super) fn owner_meant(
        &self,
        asked: &GetOrCreatePool,
        caller: &Caller,
        operators: &Operators,
    ) -> u32 {
        let own = caller.peer.user_id;
        let owners = |is_meant: &dyn Fn(&PoolKey, &PoolEntry) -> bool| {
            let meant = self
                .by_key
                .iter()
                .filter(|(key, entry)| is_meant(key, entry));
            meant
                .map(|(key, _)| key.owner)
                .filter(|&owner| is_for(owner, own, operators))
                .min_by_key(|&owner| rank(owner, own, operators))
        };
        let has_id = |key: &PoolKey| key.owner == own && key.id == asked.id;
        let by_name = || owners(&|key, entry| entry.name == asked.name || has_id(key));
        asked.owner.or_else(by_name).unwrap_or(own)
    }
}

/// Checks that somebody may make a pool for this owner.
pub(super) fn check_may_own(caller: &Caller, owner: u32) -> Result<(), ModuleError> {
    caller.check_may_create()?;
    if owner == caller.peer.user_id || caller.is_operator() {
        return Ok(());
    }
    Err(denied(format!(
        "user {owner} has no such pool, and only operators make pools for others, not user {}: leave the owner out",
        caller.peer.user_id
    )))
}

/// Whether a name without an owner may mean a pool of this owner's.
pub(super) fn is_for(owner: u32, own: u32, operators: &Operators) -> bool {
    owner == own || operators.has_user(owner)
}

/// Whose pools come first: the own ones, root's, those of the daemon's user, other operators', all others.
fn rank(owner: u32, own: u32, operators: &Operators) -> (u8, u32) {
    let class = if owner == own {
        0
    } else if owner == 0 {
        1
    } else if owner == own_user() {
        2
    } else if operators.has_user(owner) {
        3
    } else {
        4
    };
    (class, owner)
}
