//! What a forked child has of this process's files and memory: nothing.
//!
//! A connection is memory and files that two processes share, and threads that see to them. A child
//! has none of the threads, copies of all locks, perhaps taken, and would share the rest with its
//! parent: both would publish tasks in the same lane. So nothing of it is the child's:
//!
//! - [`Home`] and [`ProcessIdentity`] tell a value whether it is in the process that made it. They look at a
//!   page that the kernel empties in every child (`MADV_WIPEONFORK`), so they notice children that no
//!   handler runs in, too (`clone(2)`). That is one load, and comes before any lock.
//! - [`Mapping`] is memory that children do not get. Its place in them is filled with private pages,
//!   lest something else come to lie where the child still has pointers to.
//! - [`Private`] is a file that children do not get. Its number in them stands for a file without
//!   meaning, lest the child's copy of the value use or close somebody else's.
//! - [`Native`] is dropped by the process that made it, and by no other.
//! - [`PerProcess`] is a static of which a child has its own, whoever had taken its parent's lock.
//!
//! [`Mapping`] and [`Private`] are seen to by a handler in the child ([`pthread_atfork`](libc::pthread_atfork)).
//! Where none ran (a bare `clone(2)` without `CLONE_VM`), files stay open in the child until it ends
//! or executes another program, and the places of mappings stay empty until the first of this
//! crate's functions is called there: whoever touches one before is ended by SIGSEGV, unless another
//! mapping of the child has come to lie there. `docs/FORK.md` says what this means to users.
//!
//! A library that is loaded has a copy of this crate of its own, with a handler of its own.
//!
//! Laws of this crate:
//! - What children shall not have is made and registered in one step, and taken out and closed in one
//!   step, of which no `fork` sees a half: all of them, and `fork` itself, take one lock.
//! - That lock lies in the emptied page: in a child it is free, whoever had it.
//! - The handler calls nothing but the kernel. It finds what it needs by atomics in memory that is
//!   never given back.

mod file;
mod home;
mod mapping;
mod page;
mod process;
mod registry;

pub use file::Private;
pub use home::{Home, Native, PerProcess};
pub use mapping::Mapping;
pub use process::ProcessIdentity;

#[cfg(test)]
mod tests;
