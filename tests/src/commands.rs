//! The program as scripts use it: exit codes, and runs without a daemon in mind.

use std::process::Command;

use serde_json::Value;

use crate::{ProgramOutput, finish, program};

/// Exit codes, as `chimaera help` gives them.
pub mod exit {
    /// Something failed that has no code of its own.
    pub const FAILED: i32 = 1;
    /// The command line makes no sense.
    pub const WRONG_USAGE: i32 = 2;
    /// No runtime at the socket.
    pub const NO_RUNTIME: i32 = 3;
    /// No such pool, file or module.
    pub const NOT_FOUND: i32 = 4;
    /// It exists with other parameters, is in use, or holds something else.
    pub const IN_THE_WAY: i32 = 5;
    /// Not permitted, or open for reading only.
    pub const NOT_PERMITTED: i32 = 6;
    /// Not enough space.
    pub const NO_SPACE: i32 = 7;
    /// The pool's metadata is damaged.
    pub const DAMAGED_METADATA: i32 = 8;
    /// The daemon answers, but something in it hangs.
    pub const HANGING: i32 = 9;
}

/// Runs the program with no daemon in mind, and waits for its end.
#[must_use]
pub fn chimaera(arguments: &[&str]) -> ProgramOutput {
    let mut command = Command::new(program("chimaera"));
    command.args(arguments).env_remove("CHIMAERA_SOCKET");
    finish(command)
}

/// Reads what the program wrote.
///
/// # Panics
/// If it is not JSON.
#[must_use]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
