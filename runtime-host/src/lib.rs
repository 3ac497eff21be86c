//! The Chimaera host, as a library: a daemon or an application runs it in its own process.
//!
//! Two sides share the work. The **control side** may block: one thread serves the Unix socket
//! (`control`), and a few threads carry out admin tasks (`builtin`). **Workers** never block:
//! each polls the lanes of its clients, hands their tasks to containers, and sleeps when there
//! is nothing to do (`worker`). The control side sends commands to a worker's inbox, and workers
//! send events to the control side. They share no lock that is held while somebody waits: a worker takes
//! that of the accounts and that of the queue of jobs when it hands on an admin task, and no other.
//! What clients send beside messages is received by a process of its own (`receiver`).
//!
//! Laws of this crate:
//! - A client is untrusted. Nothing that it sends or writes makes the host panic, and a fault of
//!   a client ends its session and nothing else.
//! - Every accepted task completes exactly once. A session's memory stays mapped until the last
//!   of its tasks has completed, and a pool lives until then too.
//! - What may block, loads libraries, opens files or unmaps memory stays off the workers.
//! - The host knows modules only through [`chimaera_chimod`]. It knows nothing of block devices.

mod accounts;
mod allowed_folders;
mod builtin;
mod caller;
mod calls;
pub mod config;
mod control;
mod control_side;
mod create_pools;
mod end_pools;
mod ending;
mod error;
mod file_id;
mod host;
mod inbox;
mod jobs;
mod letting_go;
mod lock;
pub mod log;
mod messages;
mod modules;
mod own_files;
mod pool_container;
mod pools;
mod processors;
mod receiver;
mod refused_pools;
mod reply_gate;
mod routing;
mod session;
mod sessions;
mod speakers;
mod status;
mod stop;
pub mod trusted_path;
mod watchdog;
mod worker;
mod worker_inboxes;

pub use accounts::{AccountLimits, Amounts, Resource};
pub use chimaera_proto::admin::Restriction;
pub use config::{Config, Operators, Polling, UsersCeiling, UsersSocket};
pub use control::listener::{DaemonProcess, check_socket_path, process_at, served_by};
pub use error::{HostError, show_process};
pub use host::Host;
pub use lock::holder::lock_holder;
pub use lock::{DaemonEnd, LockFile};
pub use modules::LibraryFolders;
pub use processors::check_processors;
pub use speakers::log_panic;
pub use stop::Stopper;
