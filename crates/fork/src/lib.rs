//! What a forked child has of this process's files and memory: nothing.
//!
//! A connection is memory and files that two processes share, and threads that serve it. A forked child has none of the
//! threads, and copies of all locks, some of them taken; the rest it would share with its parent, and both would
//! publish tasks in the same lane. So a child gets nothing of it:
//!
//! - [`Home`] and [`ProcessIdentity`] tell a value whether it is in the process that made it. They read a page
//!   that the kernel empties in every child (`MADV_WIPEONFORK`), and so recognise also children in which no fork
//!   handler ran (`clone(2)`). That is one load, and comes before any lock.
//! - [`Mapping`] is memory that children do not get. Its address range is filled with private pages in them, so that
//!   nothing else comes to lie where the child still has pointers.
//! - [`Private`] is a file that children do not get. Its descriptor number names a stand-in in them, so that the
//!   child's copy of the value cannot use or close somebody else's file.
//! - [`Native`] is dropped by the process that made it, and by no other.
//! - [`PerProcess`] is a static of which each process has a value of its own, so that a lock which a thread of the
//!   parent holds is not taken in the child.
//!
//! A handler in the child ([`pthread_atfork`](libc::pthread_atfork)) takes mappings and files away. Where none ran (a
//! bare `clone(2)` without `CLONE_VM`), files stay open in the child until it ends or executes another program, and the
//! address ranges of mappings stay unmapped until the child first calls a function of this crate: touching one before
//! ends the child with SIGSEGV, unless another mapping of the child lies there by now. `docs/FORK.md` says what this
//! means to users.
//!
//! A loaded library has its own copy of this crate, with its own handler.
//!
//! Laws of this crate:
//! - What children shall not have is made and registered in one step, and closed and taken out of the registry in one
//!   step. No `fork` comes in between: each step holds a lock that `fork` takes, too.
//! - That lock lies in the emptied page, so in a child it is free, whoever held it.
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
