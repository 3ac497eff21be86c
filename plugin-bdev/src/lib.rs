//! The bdev ChiMod: block devices on memory, files and raw devices.
//!
//! # The way of a request
//!
//! 1. `container` receives a task on a worker and finds its method.
//! 2. `tasks::allocation` allocates and frees, through `chimaera_bdev_allocator`: the only place that
//!    knows which blocks there are. Such a task ends at once, but for a free that waits for transfers.
//! 3. `tasks::transfer` checks a read or write and pins its block; it is a `Transfer` from then on.
//! 4. `backend::ram` copies it, and it is finished.
//! 5. `backend::file` queues it on its worker. The worker's next pass starts all that is queued with one
//!    system call, after it has reaped what ended before, without any.
//! 6. Back in `tasks::transfer` the block is unpinned, the end is counted (`pool::counters`), and the
//!    task completes.
//!
//! What waits for metadata, a flush for example, goes to the pool's `tasks::keeper`; so do allocations whose blocks are
//! zeroed first (`scrub`), save in memory.
//!
//! # The parts
//!
//! `tasks` (what a task of each kind does) uses `pool` (what a pool is, and how it is opened), and that uses
//! `backend` (how bytes get to memory or a device). None knows what lies before it.
//!
//! # Laws
//! - What a client names is checked against the pool's own tables, each time.
//! - What a client's buffer holds is copied once, or moved by the device itself; no reference to
//!   it is ever formed.
//! - A worker waits for nobody: not for a device, not for a client, and for other workers only as long as a
//!   short critical section takes. The kernel may break this inside `io_submit`, where a file system
//!   allocates space for a sparse file or has nothing but the page cache.
//! - Every request is completed exactly once, by the code that holds it; no other list of requests exists.

mod backend;
mod container;
mod declared;
mod params;
mod pool;
mod scrub;
mod tasks;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use container::BdevContainer;

/// Makes so many of io_uring's rings, or as many as the system gives: one for each worker of each pool on a file. From
/// then on the pools of this process have those and no others, so that it can give up the right to make rings. Gives
/// their number, and why they are not more.
pub fn stock_rings(count: usize) -> (usize, Option<std::io::Error>) {
    backend::file::rings::stock(count)
}

chimaera_chimod::export_chimod!(BdevContainer, "chimaera_bdev");
