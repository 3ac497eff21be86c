//! Calls into modules that last too long, as the host's watchdog reports them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::PoolId;

/// The most of [`RuntimeStatus::hangs`](crate::admin::RuntimeStatus::hangs).
pub const MAX_HANGS: usize = 8;

/// A call that has lasted too long, and goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// Where it hangs.
    pub place: HangPlace,
    /// The thread that makes the call.
    pub thread: String,
    /// The system's number of that thread.
    pub thread_id: i32,
    /// Whether that thread is a worker, which serves nobody meanwhile.
    pub is_worker: bool,
    /// For how long, at least.
    pub seconds: u64,
}

/// What a thread hangs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HangPlace {
    /// A call of a module's.
    Module {
        /// The module.
        module: String,
        /// The beginning of the pool's name, of at most
        /// [`MAX_CHANGING_NAME_BYTES`](crate::admin::MAX_CHANGING_NAME_BYTES).
        pool: String,
        /// The pool's id, once it is known.
        id: Option<PoolId>,
        /// Which call.
        call: ModuleCall,
    },
    /// No module's call: the runtime itself does not go on.
    Runtime,
}

/// A call that the host makes into a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ModuleCall {
    /// Makes a pool's container.
    Create = 1,
    /// Takes a task.
    Submit = 2,
    /// Moves on what is under way.
    Poll = 3,
    /// Prepares for a task.
    Prefetch = 4,
    /// Makes what was done durable.
    Flush = 5,
    /// Ends the container.
    Close = 6,
    /// Tells what wakes a worker.
    WakeFile = 7,
    /// Tells what the pool is and whose.
    Describe = 8,
    /// Records permissions.
    SetPermissions = 9,
    /// Compares parameters with those of a pool that is there.
    CreateAgain = 10,
}

impl ModuleCall {
    /// All calls.
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Submit,
        Self::Poll,
        Self::Prefetch,
        Self::Flush,
        Self::Close,
        Self::WakeFile,
        Self::Describe,
        Self::SetPermissions,
        Self::CreateAgain,
    ];
}

impl fmt::Display for ModuleCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "making the pool",
            Self::Submit => "submitting tasks",
            Self::Poll => "polling",
            Self::Prefetch => "preparing for tasks",
            Self::Flush => "flushing",
            Self::Close => "closing the pool",
            Self::WakeFile => "telling what wakes a worker",
            Self::Describe => "telling what the pool is",
            Self::SetPermissions => "recording permissions",
            Self::CreateAgain => "comparing parameters",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_numbered_from_one() {
        let numbers = ModuleCall::ALL.map(|call| call as usize);
        assert!(numbers.into_iter().eq(1..=ModuleCall::ALL.len()));
    }
}
