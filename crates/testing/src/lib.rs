//! What the tests of several crates share: limits on time, sizes, data that says where it belongs, devices, futures
//! that are polled by hand, system calls that are refused, and both ends of a connection.
//!
//! Laws of this crate:
//! - It is a dev-dependency of those that use it, and no part of anything that is shipped: `tests/tests/packages.rs`
//!   looks. (`chimaera-tests`, which is test support itself, depends on it in the ordinary way.)
//! - Without features it hands out no type of another crate of the workspace. A crate's unit tests are a second
//!   copy of that crate, while this one is built against the first: to them, a type from here would be a stranger's.
//! - What does hand out such types stands behind a feature, and is for the `tests/` of crates, which are built against
//!   the first copy as well: `fake-host` is a host for tests of clients, `fake-bdev` the bdev module for that
//!   host, `raw-client` clients for tests of the host: one that keeps to the protocol as far as its test likes, and a
//!   peer of which nothing is expected.

use std::io::Write;

mod device;
#[cfg(feature = "fake-bdev")]
mod fake_bdev;
#[cfg(feature = "fake-host")]
mod fake_host;
mod freezable;
mod fuse;
mod fuzz;
#[cfg(feature = "raw-client")]
mod hostile_files;
mod lingering_socket;
mod pattern;
mod polled;
mod random;
#[cfg(feature = "raw-client")]
pub mod raw_client;
#[cfg(feature = "raw-client")]
pub mod raw_peer;
mod sizes;
mod system_calls;
mod task_state;
mod time_limit;

pub use device::{LoopDevice, SmallFileSystem, disk_folder, tmpfs_folder};
#[cfg(feature = "fake-bdev")]
pub use fake_bdev::{LOST_TAG, fake_bdev};
#[cfg(feature = "fake-host")]
pub use fake_host::{FakeHost, FakeModule, Fate, HostBuffer, Verdict, attaching, attaching_to};
pub use freezable::{FreezableFileSystem, Frozen};
pub use fuse::{FuseCall, FuseServer};
pub use fuzz::{Fuzz, FuzzCount, FuzzInput};
#[cfg(feature = "raw-client")]
pub use hostile_files::HostileFiles;
pub use lingering_socket::LingeringSocket;
pub use pattern::Pattern;
pub use polled::{Polled, WakeCount, block_on};
pub use random::Xorshift;
pub use sizes::{GIB, KIB, MIB};
pub use system_calls::SystemCallFilter;
pub use task_state::{is_in_state, thread_sleeps};
pub use time_limit::{PATIENCE, Watchdog, until, within};

/// Whether this process is root's, for a test that needs to be to show `what`. If it is not, that is said.
///
/// # Panics
/// If it is not and the variable `CI` is set: there such tests have to run.
#[must_use]
pub fn is_root(what: &str) -> bool {
    let is_root = nix::unistd::Uid::effective().is_root();
    if !is_root {
        assert!(
            std::env::var_os("CI").is_none(),
            "{what}: only root can show that"
        );
        skipped(what, "only root can show that");
    }
    is_root
}

/// Says what a test did not prove, and why: past the harness, which shows nothing of a test that
/// passes.
pub fn skipped(what: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped {what}: {reason}");
}
