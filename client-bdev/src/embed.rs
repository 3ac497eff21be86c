//! The block device module inside the calling process: for programs that do not care whether a daemon runs.

use chimaera_client::{Embed, Error, Runtime};

/// Prepares a runtime inside the calling process that has the block device module linked in.
pub fn embed() -> Embed {
    Runtime::embed().with_module(chimaera_bdev_runtime::module())
}

/// Connects to the daemon, as [`Runtime::connect`] does, or runs a host inside the calling process if there is
/// none. Blocks for some milliseconds; there is no twin that does not.
///
/// # Errors
/// As [`Embed::connect_or_start`]: a daemon that is there and cannot be used is an error, not a reason to run
/// another.
pub fn connect_or_embed() -> Result<Runtime, Error> {
    embed().connect_or_start()
}
