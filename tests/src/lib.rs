//! What the tests of the whole system stand on: built programs, a daemon of their own, devices.
//!
//! Every test has a daemon of its own, on a socket in a folder of its own, so that tests run at
//! the same time. What a test starts it ends, by process id; what it makes lies in its folder.

#![forbid(unsafe_code)]

mod build;
mod daemon;
mod device;
mod watchdog;

pub use build::{library_folder, program};
pub use daemon::{Daemon, Finished, finish};
pub use device::{LoopDevice, tmpfs_folder};
pub use watchdog::within;

/// Longer than anything in these tests takes on a loaded machine of two cores.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
