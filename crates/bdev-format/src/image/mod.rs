//! Files and devices with pools on them: reading and writing their pages, locking a file for one pool, and inspecting,
//! checking and renaming a pool without a daemon. For a daemon's pools the bdev plugin opens the files.

// This module has the files that the rest of the crate does without.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod disk;
mod exclusive;
mod inspect;
mod random;
mod refusal;
mod upgrade;
mod writable;

pub use chimaera_bdev_file::{PathUse, busy, check_stores, ends_with_slash, refused};
pub use chimaera_proto::ModuleError;
pub use disk::{DiskOperation, FileDisk, PoolFile, pool_file, size_and_tail, size_of};
pub use exclusive::{FileLock, lock, lock_passed};
pub use inspect::{
    COUNTED, CheckMode, FoundTwoPools, Inspection, NewIdentity, check, inspect, rename,
    rename_copy, set_owner,
};
pub use random::{birth, random_bits};
pub use refusal::{ImageRefusal, Remedy};
pub use upgrade::{Upgrade, upgrade};
pub use writable::{check_size_limit, is_read_only};
