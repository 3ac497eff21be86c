//! Peers that are not there, and how to get them.

use std::io::{Error, ErrorKind};

use serde::Serialize;

use crate::error::Result;

/// How to build the program with the drivers that are left out by default.
#[cfg(not(all(feature = "peer-blkio", feature = "peer-iceoryx2")))]
pub(super) const NOT_BUILT_IN: &str = "this program was built without its driver; build it with \
                            cargo build --release --workspace --features peers";

/// A peer that is not there.
#[derive(Clone, Debug, Serialize)]
pub struct Absent {
    /// Its name.
    pub name: String,
    /// Why, and how to get it.
    pub reason: String,
}

/// What was found of a peer, or why it is absent and how to get it.
pub(crate) type FoundPeer<T> = std::result::Result<T, Absent>;

/// A peer, for a case that cannot be run without it.
pub(crate) fn need<T>(found: &FoundPeer<T>) -> Result<&T> {
    // The reason is reported once, in the list of absent peers.
    let explain = |absent: &Absent| format!("not run: {} is absent", absent.name).into();
    found.as_ref().map_err(explain)
}

/// Why a peer's program cannot be run to ask what it can do.
pub(super) fn cannot_run(program: &str, error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("the program {program} is not on the PATH; install it"),
        _ => format!("the program {program} cannot be run: {error}"),
    }
}
