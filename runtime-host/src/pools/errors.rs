//! Why there is no such pool, or none can be made, in words for whoever asked.

use chimaera_chimod::ModuleError;
use chimaera_proto::admin::PoolName;
use chimaera_proto::shown::brief;
use chimaera_proto::{PoolId, Right, Rights, Status};

use super::Pool;
use crate::caller::{Caller, denied};

pub(super) fn mismatch(text: String) -> ModuleError {
    ModuleError::new(Status::ParameterMismatch, text)
}

pub(super) fn not_found(text: String) -> ModuleError {
    ModuleError::new(Status::PoolNotFound, text)
}

/// A pool's id or name, for a text.
pub(super) fn shown(pool: &PoolName) -> String {
    match pool {
        PoolName::Id(id) => id.to_string(),
        PoolName::Name(name) => format!("named {}", brief(name)),
    }
}

pub(super) fn of_somebody_else(named: &str, owner: u32) -> ModuleError {
    denied(format!(
        "the pool {named} is user {owner}'s: name its owner to mean that one (`{owner}:NAME`)"
    ))
}

/// The error for a pool that was opened and turned out to be another user's.
pub(crate) fn recorded_for_another(name: &str, owner: u32) -> ModuleError {
    denied(format!(
        "pool {}: its file or device records that it is user {owner}'s: name its owner to mean that one \
         (`--owner {owner}`); operators can give it another (`chimaera pool chown`)",
        brief(name)
    ))
}

/// The error for a pool that somebody opened whose it is not.
pub(crate) fn opened_by_neither(name: &str, owner: u32) -> ModuleError {
    denied(format!(
        "pool {}: its file or device records that it is user {owner}'s, and only its owner and operators open it: ask \
         them to, and use it then (`{owner}:NAME`)",
        brief(name)
    ))
}

pub(super) fn has_such_a_pool(owner: u32, name: &str, id: PoolId) -> ModuleError {
    let name = brief(name);
    let text = format!(
        "user {owner} has a pool named {name} or with the id {id} already: destroy or rename that one first"
    );
    ModuleError::new(Status::Busy, text)
}

/// The error for a right that somebody lacks. Who has none at all may not know the name, which may be a path.
pub(super) fn lacks_right(pool: &Pool, right: Right, has: Rights, caller: &Caller) -> ModuleError {
    let advice = match right {
        _ if caller.is_held_back(pool.permissions(), right) => {
            "the socket of this connection lets nobody do that: connect to another socket of the daemon"
        }
        Right::Manage => "its owner and operators can do that",
        _ => "its owner and operators can change that (`chimaera pool chmod`)",
    };
    let named = match has.is_none() {
        true => pool.id.to_string(),
        false => brief(&pool.name).to_string(),
    };
    denied(format!(
        "pool {named} ({}): user {} lacks the right to {right}, and has {has}: {advice}",
        pool.permissions(),
        caller.peer.user_id
    ))
}

/// The error for a pool of another module than the one meant.
pub(crate) fn of_another_module(name: &str, is: &str, meant: &str) -> ModuleError {
    ModuleError::new(
        Status::WrongModule,
        format!(
            "pool {} is a pool of the module {is}, not of {}: name another pool, or use a client of that module",
            brief(name),
            brief(meant)
        ),
    )
}

/// The error for a pool of which a client knows what does not hold any more.
pub(crate) fn changed(name: &str) -> ModuleError {
    ModuleError::new(
        Status::PoolChanged,
        format!(
            "pool {} is not what it was: it was made anew, or it did not end in good order and what was not flushed \
             may be forgotten; blocks may be somebody else's now: list the pool's blocks to see which are yours",
            brief(name)
        ),
    )
}

/// Adds to the text of a panic whose it was and where to look. Other errors keep the module's own words.
pub(crate) fn with_whose_panic(mut error: ModuleError, pool: &str, module: &str) -> ModuleError {
    if error.failure.status == Status::ModulePanicked {
        error.message = format!(
            "pool {pool}, module {module}: {}: this is a mistake in the module; the runtime's log says where",
            error.message
        );
    }
    error
}

/// The error for an id that no pool of a module can have.
pub(super) fn of_no_pool(name: &str, id: PoolId, what: &str) -> ModuleError {
    let text = format!(
        "pool {name}: its file or device records the id {id}, which {what}: a mistake in the module, or the file or \
         device is damaged"
    );
    ModuleError::new(Status::Busy, text)
}

pub(super) fn taken(name: &str, id: PoolId, other: &str) -> ModuleError {
    let text = format!(
        "pool {name}: its file or device records the id {id}, which {other} has in this runtime: destroy that one first"
    );
    ModuleError::new(Status::Busy, text)
}

pub(super) fn too_many(max: usize) -> ModuleError {
    let text = format!("the runtime has {max} pools, which is the most: destroy one");
    ModuleError::new(Status::Busy, text)
}

pub(crate) fn shutting_down() -> ModuleError {
    ModuleError::new(
        Status::ShuttingDown,
        "the runtime is shutting down: connect again when it is back",
    )
}
