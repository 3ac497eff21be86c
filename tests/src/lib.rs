//! What the tests of the whole system stand on: built programs, a daemon of their own, client
//! processes, devices.
//!
//! Every test has a daemon of its own, on a socket in a folder of its own, so that tests run at
//! the same time. What a test starts it ends, by process id; what it makes lies in its folder.

#![forbid(unsafe_code)]

use std::io::Write;

mod address_space;
mod build;
mod commands;
mod control_group;
mod daemon;
mod descriptors;
mod detached;
mod device;
mod faulty;
mod holding;
mod outside;
mod pattern;
mod plugins;
mod polled;
mod process;
mod refusal;
mod sandbox;
mod sizes;
mod thread_limit;
mod threads;
mod told;
mod trace;
mod watchdog;

pub use address_space::{connect_at_limits, limit_address_space};
pub use build::{library_folder, program};
pub use commands::{chimaera, exit, json};
pub use control_group::ControlGroup;
pub use daemon::{Daemon, Finished, Refused, finish};
pub use descriptors::{descriptors, limit_descriptors, limit_for};
pub use detached::Detached;
pub use device::{LoopDevice, SmallFileSystem, disk_folder, tmpfs_folder};
pub use faulty::Faulty;
pub use holding::{Held, Holding};
pub use outside::{cargo_outside, checkout, fenced, program_outside};
pub use pattern::Pattern;
pub use plugins::Plugins;
pub use polled::Polled;
pub use process::{ClientProcess, is_ignored, parse_blocks, show_blocks};
pub use refusal::{assert_not_created, assert_refused, client, memory, remaining, text};
pub use sandbox::{NOBODY, ROOT, SOMEBODY_ELSE, Sandbox};
pub use sizes::{assert_empty, file_bytes};
pub use thread_limit::{Denial, ThreadLimit};
pub use threads::{threads, workers};
pub use told::Told;
pub use trace::{SystemCall, Trace};
pub use watchdog::{Watchdog, until, within};

/// Longer than anything in these tests takes on a loaded machine of two cores.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Says what a test did not prove, and why: past the harness, which shows nothing of a test that
/// passes.
pub fn skipped(what: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped {what}: {reason}");
}

/// Keeps the guide's examples compiling.
#[cfg(doctest)]
#[doc = include_str!("../../docs/WRITING_A_CHIMOD.md")]
struct Guide;

/// Keeps the example of forking compiling.
#[cfg(doctest)]
#[doc = include_str!("../../docs/FORK.md")]
struct Forking;

/// Keeps the example of reconnecting compiling.
#[cfg(doctest)]
#[doc = include_str!("../../docs/BDEV.md")]
struct BlockDevices;
