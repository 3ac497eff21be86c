//! The admin module's contract: pools and the runtime itself.
//!
//! An admin task carries a buffer of [`ADMIN_BUFFER_BYTES`](crate::limits::ADMIN_BUFFER_BYTES).
//! Its request stands there encoded ([`crate::codec`]), `arguments[0]` bytes long. The reply
//! comes back in the same buffer, `values[0]` bytes long: the method's reply type where the
//! status is ok, else a text (UTF-8) that says what happened, to what, and what to do. Only
//! [`Method::Ping`] has neither.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hangs::Hang;
use crate::ids::PoolId;
use crate::rights::{Permissions, Rights};

/// What the admin module does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// Does nothing and completes at once, on the worker. Shows that the runtime answers.
    Ping = 0,
    /// [`GetOrCreatePool`] → [`PoolInfo`].
    GetOrCreatePool = 1,
    /// [`DestroyPool`] → `()`, after the pool's tasks in flight have completed.
    DestroyPool = 2,
    /// [`ListPools`] → [`PoolList`].
    ListPools = 3,
    /// [`FindPool`] → [`PoolInfo`].
    FindPool = 4,
    /// [`FlushPools`] → `()`, when what was completed before is on stable storage.
    FlushPools = 5,
    /// `()` → `()`: the runtime stops accepting tasks, completes those in flight and ends.
    StopRuntime = 6,
    /// `()` → [`RuntimeStatus`].
    GetStatus = 7,
    /// [`AttachPool`] → [`PoolInfo`].
    AttachPool = 8,
    /// [`SetPermissions`] → [`PoolInfo`], when no task is taken any more that only the former ones allow.
    SetPermissions = 9,
    /// [`ListSessions`](crate::accounts::ListSessions) → [`SessionList`](crate::accounts::SessionList).
    ListSessions = 10,
}

impl Method {
    /// The method with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Ping,
            1 => Self::GetOrCreatePool,
            2 => Self::DestroyPool,
            3 => Self::ListPools,
            4 => Self::FindPool,
            5 => Self::FlushPools,
            6 => Self::StopRuntime,
            7 => Self::GetStatus,
            8 => Self::AttachPool,
            9 => Self::SetPermissions,
            10 => Self::ListSessions,
            _ => return None,
        })
    }
}

/// Names a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolName {
    /// By its id.
    Id(PoolId),
    /// By its name, exactly.
    Name(String),
}

/// Chooses a pool. Ids and names are unique among the pools of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolChoice {
    /// Which pool.
    pub pool: PoolName,
    /// Whose pool, as a user id. `None`: the asking user's own, else one of an operator's.
    pub owner: Option<u32>,
}

impl From<PoolId> for PoolChoice {
    fn from(id: PoolId) -> Self {
        Self {
            pool: PoolName::Id(id),
            owner: None,
        }
    }
}

impl From<&str> for PoolChoice {
    fn from(name: &str) -> Self {
        Self {
            pool: PoolName::Name(name.to_owned()),
            owner: None,
        }
    }
}

impl From<&String> for PoolChoice {
    fn from(name: &String) -> Self {
        name.as_str().into()
    }
}

/// Asks for a pool: gives the existing one, or creates it. The session is attached to it then ([`AttachPool`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetOrCreatePool {
    /// The module, a bare word without suffix, for example `chimaera_bdev`.
    pub module: String,
    /// The pool's name, unique among its owner's pools. Its meaning is the module's: a path, for example.
    pub name: String,
    /// The pool's id, or [`PoolId::NULL`] for whichever it has: the id of the existing pool with this name, else the
    /// one that is recorded on its device, for example, else one that the host chooses.
    pub id: PoolId,
    /// Whose pool, as a user id: only operators make pools for others. `None`: the asking user's own; or one of an
    /// operator's, if there is one of this name and the user has none.
    pub owner: Option<u32>,
    /// The group of a new pool, of which the asking user must be a member. `None`: the group of the asking process.
    pub group: Option<u32>,
    /// The mode of a new pool. `None`: [`DEFAULT_MODE`](crate::rights::DEFAULT_MODE).
    pub mode: Option<u16>,
    /// As [`AttachPool::incarnation`].
    pub incarnation: Option<u64>,
    /// The number of a file that this session has offered
    /// ([`ControlRequest::OfferFile`](crate::control::ControlRequest::OfferFile)), on which the module is to make the
    /// pool. The request uses it up, also if the pool is there already.
    pub file: Option<u64>,
    /// The module's creation parameters, encoded as the module defines.
    pub params: Vec<u8>,
}

/// Asks that the session be attached to a pool, after which it may send tasks to it, as far as its rights go. Tasks
/// name the pool by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachPool {
    /// The pool.
    pub pool: PoolChoice,
    /// The module that the client means: methods of another one have the same numbers.
    pub module: String,
    /// What the client knows of the pool holds for this [incarnation](PoolInfo::incarnation). If that is not the
    /// pool's, nor the one directly before it that ended in good order, the answer is
    /// [`Status::PoolChanged`](crate::Status::PoolChanged). `None`: the client knows nothing of it.
    pub incarnation: Option<u64>,
}

/// Asks that a pool end in this runtime: its tasks in flight complete, it is flushed, and its id and
/// name are free. What a memory pool held is lost; what a file pool holds stays on its file or
/// device, and creating the pool again opens it. A failure to flush is reported, and the pool is gone
/// all the same. Needs [`Right::Manage`](crate::Right::Manage).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyPool {
    /// The pool.
    pub pool: PoolChoice,
}

/// Asks for other permissions of a pool. Needs [`Right::Manage`](crate::Right::Manage); another owner is for operators
/// to give, and another group must be one of the asking user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPermissions {
    /// The pool.
    pub pool: PoolChoice,
    /// The new owner, or `None` for the one that it has.
    pub new_owner: Option<u32>,
    /// The new group, or `None` for the one that it has.
    pub new_group: Option<u32>,
    /// The new mode, or `None` for the one that it has.
    pub new_mode: Option<u16>,
}

/// Names a pool among all pools of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolKey {
    /// The pool's id.
    pub id: PoolId,
    /// The user id of its owner.
    pub owner: u32,
}

/// Asks for the pools behind `after`, in order of id and owner: those that the asking user has any right to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPools {
    /// The last pool of the page before, or `None` for the first page.
    pub after: Option<PoolKey>,
}

/// A page of pools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolList {
    /// The pools, in order of id and owner.
    pub pools: Vec<PoolInfo>,
    /// Whether there are more after the last of these.
    pub more: bool,
}

/// Asks what the host knows of a pool. Needs any right to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindPool {
    /// The pool.
    pub pool: PoolChoice,
}

/// Asks that pools be flushed. Needs [`Right::Write`](crate::Right::Write).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushPools {
    /// The pool, or `None` for every pool that the asking user may flush.
    pub pool: Option<PoolChoice>,
}

/// What the host knows of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// The pool's id.
    pub id: PoolId,
    /// The pool's name.
    pub name: String,
    /// The module that it belongs to.
    pub module: String,
    /// Whether this very request created it; else it was in use in this runtime already.
    pub created: bool,
    /// Whether the pool existed before it was created in this runtime, on a device for example, so that its module
    /// opened it and made no new one. The module says so.
    pub opened: bool,
    /// Random bits of this opening of the pool. What a client knows of its contents, blocks for example, holds for one
    /// incarnation ([`AttachPool::incarnation`]).
    pub incarnation: u64,
    /// The incarnation directly before, if that ended in good order: what was known of it still holds.
    pub predecessor: Option<u64>,
    /// The number by which tasks say that they mean this pool, and no other one that has its id before or after
    /// ([`Descriptor::instance`](crate::Descriptor::instance)). Never 0. It repeats after 16,777,215 pools.
    pub instance: u32,
    /// Whose it is, and who else may use it.
    pub permissions: Permissions,
    /// What whoever asked may do with it.
    pub rights: Rights,
}

impl GetOrCreatePool {
    /// Asks for a pool of the asking user's own, for that user alone.
    #[must_use]
    pub fn new(module: &str, name: &str, id: PoolId, params: Vec<u8>) -> Self {
        Self {
            module: module.to_owned(),
            name: name.to_owned(),
            id,
            owner: None,
            group: None,
            mode: None,
            incarnation: None,
            file: None,
            params,
        }
    }
}

impl PoolInfo {
    /// Chooses this very pool.
    #[must_use]
    pub fn choice(&self) -> PoolChoice {
        PoolChoice {
            owner: Some(self.permissions.owner),
            ..self.id.into()
        }
    }

    /// Names the pool among all of the host's.
    #[must_use]
    pub const fn key(&self) -> PoolKey {
        PoolKey {
            id: self.id,
            owner: self.permissions.owner,
        }
    }
}

/// What the host knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// Version of the runtime.
    pub version: String,
    /// Its process id.
    pub process_id: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Number of workers.
    pub worker_count: u32,
    /// Connected sessions, the asking one included.
    pub session_count: u32,
    /// Whether it is stopping: it takes no more tasks, and ends its pools.
    pub is_stopping: bool,
    /// Seconds that its end may take, before it gives up what hangs.
    pub stop_timeout_seconds: u64,
    /// Pools that can be used, the admin pool not counted.
    pub pool_count: u32,
    /// Pools that are being made or ended.
    pub changing_count: u32,
    /// The first of these, at most [`MAX_CHANGING_POOLS`], in order of id. Only operators are told.
    pub changing: Vec<ChangingPool>,
    /// Calls into modules that have lasted too long and go on.
    pub hang_count: u32,
    /// The first of these, at most [`MAX_HANGS`](crate::hangs::MAX_HANGS). Only operators are told.
    pub hangs: Vec<Hang>,
    /// Modules in use and modules that are linked into the runtime, in order of name.
    pub modules: Vec<ModuleInfo>,
    /// What its process has given up, or not. Only operators are told.
    pub restrictions: Vec<Restriction>,
    /// Its log. Only operators are told.
    pub log: LogStatus,
    /// Whether the asking session has operators' rights.
    pub is_operator: bool,
    /// How many modules and lines of the log are left out, as the answer has no room for them.
    pub left_out: u32,
}

/// Something that the runtime's process has given up, so that whoever gets hold of it cannot do it either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restriction {
    /// What it is about, for example `paths`.
    pub name: String,
    /// Whether all of it is in force.
    pub in_force: bool,
    /// What was given up, or why it was not.
    pub text: String,
}

/// The most pools of [`RuntimeStatus::changing`].
pub const MAX_CHANGING_POOLS: usize = 8;

/// The most bytes of [`ChangingPool::name`].
pub const MAX_CHANGING_NAME_BYTES: usize = 256;

/// A pool that is being made or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangingPool {
    /// The beginning of its name, of at most [`MAX_CHANGING_NAME_BYTES`].
    pub name: String,
    /// Its module.
    pub module: String,
    /// How far it is.
    pub step: PoolStep,
}

/// How far the making or ending of a pool has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolStep {
    /// Its module makes it.
    Making,
    /// It is being ended, and its tasks in flight have to complete.
    Draining,
    /// Its module flushes it for the last time.
    Flushing,
    /// Its module closes what the pool lies on.
    Closing,
    /// It is being ended and its tasks have completed, but an order that came before has not ended: a flush, for
    /// example.
    InUse,
}

impl fmt::Display for PoolStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Making => "which is being made",
            Self::Draining => "whose tasks in flight have to complete",
            Self::Flushing => "which is being flushed",
            Self::Closing => "which is being closed",
            Self::InUse => "which an order that came before still uses",
        })
    }
}

/// What the host knows of its log: also what its log cannot say, because it cannot be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// The last errors and warnings, the oldest first.
    pub recent: Vec<LogLine>,
    /// Lines that were lost since the host started, as the log could not be written as fast as they came.
    pub lost_lines: u64,
    /// What keeps the log from being written at this moment, if anything does.
    pub problem: Option<String>,
}

/// A complaint that the host logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, in milliseconds since 1970-01-01, UTC.
    pub unix_milliseconds: u64,
    /// How bad it is.
    pub severity: Severity,
    /// What it says. Printable as it is.
    pub text: String,
}

/// How bad something is that the host complains of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// Something failed that should not have.
    Error,
    /// Something works, but not as its user may expect.
    Warning,
}

/// A module, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// Its name, without suffix.
    pub name: String,
    /// Its own version; `None` until its library is loaded.
    pub version: Option<String>,
    /// The file that it was or will be loaded from; `None` if it is linked into the runtime.
    pub library: Option<String>,
    /// Whether that file was removed, or cannot be reached.
    pub removed: bool,
    /// What the runtime would use if it were started now, if that is something else: a module in use stays the same as
    /// long as the runtime runs.
    pub replacement: Option<ModuleReplacement>,
}

/// What a runtime that is started now would use in place of a module in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleReplacement {
    /// This file: another one, or the same file, built anew.
    Library(String),
    /// What is linked into the runtime.
    BuiltIn,
    /// Nothing: it would not find the module.
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    /// The method that follows in the enum, `None` after the last. Every method has an arm, or this does not compile.
    fn method_after(method: Method) -> Option<Method> {
        Some(match method {
            Method::Ping => Method::GetOrCreatePool,
            Method::GetOrCreatePool => Method::DestroyPool,
            Method::DestroyPool => Method::ListPools,
            Method::ListPools => Method::FindPool,
            Method::FindPool => Method::FlushPools,
            Method::FlushPools => Method::StopRuntime,
            Method::StopRuntime => Method::GetStatus,
            Method::GetStatus => Method::AttachPool,
            Method::AttachPool => Method::SetPermissions,
            Method::SetPermissions => Method::ListSessions,
            Method::ListSessions => return None,
        })
    }

    #[test]
    fn every_method_is_found_by_its_number() {
        let methods = iter::successors(Some(Method::Ping), |&method| method_after(method));
        for method in methods {
            assert_eq!(Method::from_number(method as u16), Some(method));
        }
    }
}
