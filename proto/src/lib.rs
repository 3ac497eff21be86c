//! The contract between the processes and libraries of Chimaera.
//!
//! Everything that two sides must agree on stands here once: ids, limits, units, the layout of tasks and
//! completions, status codes and control messages. Nothing here maps memory or blocks, and nothing does I/O but
//! [`socket_path`], which looks at the socket's folder. The only unsafe code is a question to the system in
//! [`environment`].
//!
//! Laws of this crate:
//! - A value that comes from the other side enters through one parsing function that returns a
//!   typed, validated value or an error that says what is wrong. Nothing here panics on input.
//! - A number that both sides use stands in [`limits`], with the inequalities between the
//!   numbers asserted at compile time.

#![deny(unsafe_code)]

pub mod accounts;
pub mod admin;
pub mod codec;
pub mod control;
pub mod environment;
pub mod hangs;
pub mod ids;
pub mod limits;
pub mod module_error;
pub mod module_name;
pub mod query;
pub mod rights;
pub mod shell;
pub mod shown;
mod socket_folder;
pub mod socket_path;
pub mod status;
pub mod task;
pub mod timestamp;

pub use ids::{ContainerId, NodeId, PoolId};
pub use module_error::ModuleError;
pub use module_name::{NotAModuleName, check_module_name};
pub use query::PoolQuery;
pub use rights::{Permissions, Right, Rights};
pub use status::{Failure, Status};
pub use task::{Access, BufferRange, Completion, Descriptor};
