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
//! Reading order: [`Runtime`] submits a [`Call`] on the lane of its thread (`lane_pool`, `lane`) and gets a [`Task`].
//! The documentation of `lane` says where to find what happens when a lane is full, and when a handle is dropped or
//! awaited; `connection` and `lane::disconnect` have what happens when the daemon dies. [`Buffer`]s come from `memory`.
//!
//! # Without blocking
//!
//! Every call that blocks until its task has ended has a twin that gives the [`Task`]: [`Runtime::submit`] for the
//! `call`s, [`Runtime::submit_parts`] for many parts of a buffer, `async_` methods in the clients of modules. It can be
//! awaited, also with an executor's timeout in the place of [`Task::wait_timeout`]. These have none:
//!
//! - Connecting, and starting a runtime inside the process. That takes several exchanges over a socket, and starts
//!   threads, once in a connection's life: do it before the executor runs, or on a thread that may block.
//! - [`Runtime::allocate_buffer`], and the first call of a thread on a connection. They do not block for any task, but
//!   may ask the daemon's control thread for memory or a lane. A daemon that runs answers in microseconds, whatever its
//!   devices do. One that does not (suspended by SIGSTOP, or starved of its processor) **holds the thread for up to 20
//!   seconds**, and then the call fails with [`Status::Busy`]; so does an `async_` call on a thread without a lane, or
//!   one that needs a buffer of its own (lists, statistics, `_bytes`, everything of [`AdminClient`]). Several threads
//!   that need something new at the same time wait for one another, and none of them for longer than that in all.
//!
//! An executor's thread never waits for that if it has its lane beforehand ([`AdminClient::ping`] when the thread
//! starts, as in a runtime's `on_thread_start`), and if memory suffices: a connection begins with
//! [`ConnectOptions::buffer_bytes`], which is 256 MiB, and buffers that are allocated beforehand and used again need no
//! more.
//!
//! # Forking
//!
//! A connection belongs to the process that made it; so does an embedded runtime. In a process that was forked from it,
//! every call fails with [`Status::Forked`], tasks end with that error, buffers hold zeros of the child's own, and
//! dropping any of these does nothing. The child connects anew, and both work:
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
//! # Signal handlers
//!
//! No call of this crate is async-signal-safe, and neither is dropping what it gives. Let the handler set a
//! flag, or write to a pipe or an `eventfd`, and make the call where the program looks at that; or block the signal
//! and take it by `signalfd` or `sigwait`. The crate's own threads block all signals but those of faults.
//!
//! If a handler calls all the same: if it has interrupted its thread in a step that must not be left half done (while
//! the thread submits or holds a lock of this crate, also while it opens a lane and waits for the daemon), the call is
//! refused, and what was interrupted goes on unharmed. Elsewhere, also while the thread waits for a task, the call is
//! carried out as any other, before the interrupted one goes on.
//!
//! | refused in a handler | |
//! |---|---|
//! | calls, allocating buffers, connecting | fail with [`Status::Busy`], and a text that names the handler |
//! | [`Runtime::submit`] and the `async_` calls | give a task that has failed so; its buffer is with the error |
//! | [`Task::wait`], a [`Task`] that is polled | end with that error. After [`Task::wait`] the task goes on as if dropped |
//! | [`Task::try_wait`], [`Task::wait_timeout`] | `None`, at once; the handle is as before |
//! | [`TaskSet::wait_any`] | that error, of no task; all of them stay |
//! | [`Runtime::reap`] | does nothing |
//! | dropping a [`Task`] | does what it always does; its record and buffer are free a little later |
//! | dropping a [`Buffer`] | leaves its memory taken until the connection ends |
//! | dropping a task that was polled and not submitted | leaves its seat in the lane's queue taken |
//!
//! This crate cannot protect the allocator. Every refusal allocates its text, and most of what is not refused allocates
//! too, so a handler that interrupts `malloc` or `free`, also in the program's own code, may hang or corrupt the heap.
//! The same holds for other locks that the handler may need: those of the standard library, of the program, and those
//! that this crate takes to make and end connections. A handler must not drop the last handle of a connection, nor end
//! an embedded runtime.
//!
//! Laws of this crate:
//! - Nothing of a connection is touched in another process than its own: every call checks that first, before it takes
//!   any lock, and a value that is dropped in another process is leaked.
//! - No safe code can free, reuse or alias a buffer that a task in flight may touch.
//! - Every task handle is completed, whatever dies.
//! - A task takes no system call while both sides are awake, and no allocation.
//! - Every public handle is `Send + Sync`, and threads do not queue for one another's locks.

mod adaptive_spin;
mod admin;
mod buffer;
mod call;
mod call_parts;
mod connect;
mod connection;
mod control;
#[cfg(feature = "embed")]
mod embed;
mod error;
mod finding;
mod known_pools;
mod lane;
mod lane_pool;
mod memory;
mod offer;
mod offer_numbers;
mod operator;
mod options;
mod pool_handle;
mod reentrancy;
#[cfg(all(test, not(loom), feature = "embed"))]
mod reentrancy_tests;
mod request_error;
mod runtime;
mod runtime_inner;
mod submit_parts;
mod task;
mod task_error;
mod task_set;
mod wakers;

pub use admin::AdminClient;
pub use buffer::{Buffer, BufferSlice, BufferSliceMut};
pub use call::{Call, Finished, Values};
pub use call_parts::PartError;
#[cfg(feature = "embed")]
pub use chimaera_chimod::Module;
pub use chimaera_proto as proto;
pub use chimaera_proto::admin::{
    AttachPool, ChangingPool, GetOrCreatePool, LogLine, LogStatus, ModuleInfo, ModuleReplacement,
    PoolChoice, PoolInfo, PoolKey, PoolList, PoolName, PoolStep, Restriction, RuntimeStatus,
    SetPermissions, Severity,
};
pub use chimaera_proto::hangs::{Hang, HangPlace, ModuleCall};
pub use chimaera_proto::ids::ParsePoolIdError;
pub use chimaera_proto::socket_path::{SocketPlace, default_socket_path};
pub use chimaera_proto::{
    ContainerId, Failure, NodeId, Permissions, PoolId, PoolQuery, Right, Rights, Status,
};
#[cfg(feature = "embed")]
pub use chimaera_runtime::Polling;
#[cfg(feature = "embed")]
pub use embed::Embed;
pub use error::Error;
pub use offer::OfferedFile;
pub use operator::OperatorConnection;
pub use options::{ConnectOptions, KeepAlive};
pub use pool_handle::PoolHandle;
pub use runtime::Runtime;
pub use runtime_inner::DaemonInfo;
pub use task::Task;
pub use task_error::TaskError;
pub use task_set::TaskSet;

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Runtime>();
    shared::<AdminClient>();
    shared::<PoolHandle>();
    shared::<Buffer>();
    shared::<BufferSlice<'_>>();
    shared::<BufferSliceMut<'_>>();
    shared::<Task<(u64, Buffer)>>();
    shared::<TaskSet<(u64, Buffer)>>();
    shared::<Error>();
    shared::<TaskError>();
};
