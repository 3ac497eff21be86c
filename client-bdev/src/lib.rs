//! Client of the block-device module: pools on files, devices and memory, divided into blocks.
//!
//! ```no_run
//! use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Runtime};
//!
//! # fn main() -> Result<(), chimaera_bdev_client::Error> {
//! let runtime = Runtime::connect()?;
//! let bdev = Client::new(&runtime, PoolId::new(8000, 0));
//! bdev.create(PoolQuery::Dynamic, "/dev/nvme0n1", &CreateOptions::file().io_depth(64))?;
//! let blocks = bdev.allocate_blocks(PoolQuery::Local, 512 * 1024)?;
//! let mut buffer = runtime.allocate_buffer(4096)?;
//! buffer.fill(0xAB);
//! let written: u64 = bdev.write(PoolQuery::Local, &blocks[0], &buffer)?;
//! let read: u64 = bdev.read(PoolQuery::Local, &blocks[0], &mut buffer)?;
//! let stats = bdev.get_stats()?;
//!
//! let task = bdev.async_write(PoolQuery::Local, &blocks[0], buffer);
//! let (written, buffer) = task.wait()?;
//! bdev.free_blocks(PoolQuery::Local, &blocks)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] has every operation twice: one that blocks, and an `async_` twin that gives a
//! [`Task`] to wait for, to ask, or to await. A buffer goes along with such a task and comes back with its
//! result. Connecting has no twin ([`chimaera_client`](chimaera_client#without-blocking)). Every method can be
//! called from any number of threads.
//!
//! A completed write has been given to the device; [`Client::flush`] makes everything that completed
//! before it durable: data, allocations and frees. A program finds its blocks again by the owner tag
//! that it allocated them with ([`Client::all_blocks`]).
//!
//! A name or id means a pool of the calling user's, or else an operator's. [`Client::open_of`] opens another user's,
//! given by user id: `Client::open_of(&runtime, 1001, "cache")`. Operators make and open pools for others by
//! [`CreateOptions::owner`]. `OWNER:NAME` is for the command line alone: in this crate it is a name with a colon.
//!
//! A connection belongs to one process. After a fork the child connects anew, as the example `forked_workers` does; on
//! the parent's connection every call fails with [`Status::Forked`], and nothing else happens
//! ([`chimaera_client`](chimaera_client#forking)).
//!
//! Laws of this crate:
//! - Whatever the host answers is validated before it is used: lists, counts, lengths.
//! - A call that cannot succeed is refused here with the status that the host would give, before anything is sent.

#![forbid(unsafe_code)]

mod across;
mod blocks;
mod bytes;
mod client;
mod creation;
#[cfg(feature = "embed")]
mod embed;
mod listing;
mod options;
mod paths;
mod transfer;

pub use chimaera_bdev_proto::{
    AllocationPlan, BdevType, Block, BlockType, CreateParams, FileState, IoEngine, ListedTag,
    MODULE_NAME, MegabyteState, OperationCounts, OwnedBlock, OwnerTag, PerfMetrics, ScrubPolicy,
    Stats,
};
pub use chimaera_client::{
    AdminClient, Buffer, BufferSlice, BufferSliceMut, Call, ChangingPool, ConnectOptions,
    ContainerId, DaemonInfo, Error, Failure, Finished, GetOrCreatePool, Hang, HangPlace, KeepAlive,
    LogLine, LogStatus, ModuleCall, ModuleInfo, ModuleReplacement, NodeId, ParsePoolIdError,
    PartError, Permissions, PoolChoice, PoolId, PoolInfo, PoolKey, PoolList, PoolName, PoolQuery,
    PoolStep, Restriction, Right, Rights, Runtime, RuntimeStatus, SetPermissions, Severity,
    SocketPlace, Status, Task, TaskError, TaskSet, Values, default_socket_path,
};
#[cfg(feature = "embed")]
pub use chimaera_client::{Embed, Module, Polling};
pub use client::Client;
#[cfg(feature = "embed")]
pub use embed::{connect_or_embed, embed};
pub use listing::{AllBlocks, BlockPage, MapPage, PageCursor};
pub use options::CreateOptions;

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Client>();
    shared::<Task<Vec<Block>>>();
};

/// Keeps the README's example compiling.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
