//! What the tests of the whole system stand on: built programs, a daemon of their own, client
//! processes, limits of the system that are met. What tests of other crates need too is `chimaera-testing`'s, and is
//! found here as well.
//!
//! Every test has a daemon of its own, on a socket in a folder of its own, so that tests run at
//! the same time. What a test starts it ends, by process id; what it makes lies in its folder.

#![forbid(unsafe_code)]

mod address_space;
mod background_daemon;
mod build;
mod commands;
mod control_group;
mod daemon;
mod descriptors;
mod faulty;
mod flushed_pool;
mod held_thread;
mod outside;
mod plugins;
mod process;
mod record_holder;
mod refusal;
mod running_command;
mod sandbox;
mod sizes;
mod sources;
mod superblocks;
mod thread_limit;
mod threads;
mod trace;
mod unreadable;
mod users;

pub use address_space::{connect_at_limits, limit_address_space};
pub use background_daemon::BackgroundDaemon;
pub use build::{library_folder, program};
pub use chimaera_testing::{
    FreezableFileSystem, GIB, KIB, LoopDevice, MIB, PATIENCE, Pattern, Polled, SmallFileSystem,
    WakeCount, Watchdog, Xorshift, block_on, disk_folder, is_in_state, is_root, skipped,
    thread_sleeps, tmpfs_folder, until, within,
};
pub use commands::{chimaera, exit, json};
pub use control_group::ControlGroup;
pub use daemon::{Daemon, FailedStart, ProgramOutput, finish};
pub use descriptors::{descriptors, limit_descriptors, limit_for};
pub use faulty::Faulty;
pub use flushed_pool::{FlushedPool, assert_holds, overwrite};
pub use held_thread::HeldThread;
pub use outside::{cargo_outside, checkout, fenced, program_outside};
pub use plugins::Plugins;
pub use process::{ClientProcess, is_ignored, parse_blocks, show_blocks};
pub use record_holder::{HeldRecords, RecordHolder};
pub use refusal::{assert_not_created, assert_refused, client, memory, remaining, text};
pub use running_command::RunningCommand;
pub use sandbox::{NOBODY, ROOT, SOMEBODY_ELSE, Sandbox, SandboxDaemon};
pub use sizes::{assert_empty, file_bytes, whole_megabytes};
pub use sources::sources;
pub use superblocks::{SUPERBLOCK_BYTES, change_superblocks};
pub use thread_limit::{Denial, ThreadLimit};
pub use threads::{keepers, threads, workers};
pub use trace::{SystemCall, Trace};
pub use unreadable::Unreadable;
pub use users::{User, UsersDaemon, has_users};

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
