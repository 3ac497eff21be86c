//! The block device module inside the calling process: for programs that do not care whether a daemon runs.

use chimaera_client::{Embed, Error, Runtime};

/// Prepares a runtime inside the calling process that has the block device module linked in.
///
/// A file pool of an embedded runtime is flushed when the runtime ends, which it does with the last handle to it. A
/// process that exits before, by `std::process::exit` or with a handle in a `static`, ends as a crash does: what was
/// allocated since the last [`flush`](crate::Client::flush) may be forgotten.
pub fn embed() -> Embed {
    Runtime::embed().with_module(chimaera_bdev_runtime::module())
}

/// Connects to the daemon, as [`Runtime::connect`] does, or runs a host inside the calling process if there is
/// none. Blocks for some milliseconds; there is no twin that does not. See [`embed`] for how such a runtime ends.
///
/// # Errors
/// As [`Embed::connect_or_start`]: a daemon that is there and cannot be used is an error, not a reason to run
/// another.
pub fn connect_or_embed() -> Result<Runtime, Error> {
    embed().connect_or_start()
}
