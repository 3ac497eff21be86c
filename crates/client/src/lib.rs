//! Client of the Chimaera runtime: what every module's client builds on.
//!
//! ```no_run
//! use chimaera_client::Runtime;
//!
//! # fn main() -> Result<(), chimaera_client::Error> {
//! let runtime = Runtime::connect()?;
//! for pool in runtime.admin().list_pools()? {
//!     println!("{} {} ({})", pool.id, pool.name, pool.module);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`Runtime`] submits a [`Call`] on its thread's lane (`lanes`, `lane`) and gets
//! a [`Task`]. What happens when a lane is full, a handle is dropped or awaited is in `desk`,
//! what happens when the daemon dies in `link` and `loss`. [`Buffer`]s come from `memory`.
//!
//! # Without blocking
//!
//! Every call that blocks until its task has ended has a twin that gives the [`Task`]: [`Runtime::submit`] for the
//! `call`s, [`Runtime::submit_parts`] for many parts of a buffer, `async_` methods in the clients of modules. It can be
//! awaited, also with an executor's timeout in the place of [`Task::wait_timeout`]. These have none:
//!
//! - Connecting, and starting a runtime inside the process. That takes several exchanges over a socket, and threads
//!   that begin, once in a connection's life: do it before the executor runs, or on a thread that may block.
//! - [`Runtime::allocate_buffer`], and the first call of a thread on a connection. They do not block for any task, but may
//!   ask the daemon's control thread for memory or a lane, which waits for nobody. Memory is asked for beforehand with
//!   [`ConnectOptions::buffer_bytes`].
//!
//! # Forking
//!
//! A connection is the process's that made it. In one that was forked from it, also if it is a runtime that is
//! embedded, every call fails with [`Status::Forked`], tasks end with that error, buffers hold zeros of the
//! child's own, and dropping any of it does nothing. The child connects anew, and both work:
//!
//! ```no_run
//! # use chimaera_client::{Runtime, Status};
//! # fn is_child() -> bool { true }
//! # fn main() -> Result<(), chimaera_client::Error> {
//! let runtime = Runtime::connect()?;
//! if is_child() {
//!     let error = runtime.admin().ping().expect_err("it is the parent's");
//!     assert_eq!(error.status(), Status::Forked);
//!     let own = Runtime::connect()?;
//!     own.admin().ping()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `docs/FORK.md` has the rest, also of children that a bare `clone(2)` makes.
//!
//! Laws of this crate:
//! - Nothing of a connection is touched in another process than its own: whoever begins looks first
//!   whether this is it, before any lock, and what is dropped elsewhere is forgotten.
//! - No safe code can free, reuse or alias a buffer that a task in flight may touch.
//! - Every task handle is completed, whatever dies.
//! - A task costs no system call while both sides are awake, and no allocation.
//! - Every public handle is `Send + Sync`, and threads do not queue for one another's locks.

mod admin;
mod aside;
mod buffer;
mod call;
mod compound;
mod control;
mod desk;
#[cfg(feature = "embed")]
mod embed;
mod error;
mod finding;
mod lane;
#[cfg(all(test, not(loom)))]
mod lane_tests;
mod lanes;
mod link;
mod loss;
mod memory;
mod options;
mod part_tasks;
mod parts;
mod place;
mod queue;
mod room;
mod runtime;
mod set;
mod submission;
mod sync;
mod task;
mod unsubmitted;
mod waiting;

pub use admin::AdminClient;
pub use buffer::{Buffer, BufferSlice, BufferSliceMut};
pub use call::{Call, Finished, Values};
#[cfg(feature = "embed")]
pub use chimaera_chimod::Module;
pub use chimaera_proto as proto;
pub use chimaera_proto::admin::{
    ChangingPool, LogLine, LogStatus, ModuleInfo, PoolInfo, PoolStep, RuntimeStatus, Severity,
};
pub use chimaera_proto::socket_path::{SocketPlace, default_socket_path};
pub use chimaera_proto::{ContainerId, Failure, NodeId, PoolId, PoolQuery, Status};
#[cfg(feature = "embed")]
pub use chimaera_runtime::Polling;
#[cfg(feature = "embed")]
pub use embed::Embed;
pub use error::{Error, TaskError};
pub use options::{ConnectOptions, KeepAlive};
pub use parts::PartError;
pub use runtime::{DaemonInfo, Runtime};
pub use set::TaskSet;
pub use task::Task;

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Runtime>();
    shared::<AdminClient>();
    shared::<Buffer>();
    shared::<BufferSlice<'_>>();
    shared::<BufferSliceMut<'_>>();
    shared::<Task<(u64, Buffer)>>();
    shared::<TaskSet<(u64, Buffer)>>();
    shared::<Error>();
    shared::<TaskError>();
};
