//! State that each worker has for itself.

use std::cell::UnsafeCell;
use std::fmt;

use crate::container::{CreateContext, Worker};

/// One `T` per worker of the host, reachable only from that worker, without a lock.
///
/// It belongs to one container: it is made from the container's [`CreateContext`] and must live
/// inside the container, where only the workers of the container's host can reach it.
pub struct PerWorker<T> {
    cells: Box<[PaddedCell<T>]>,
}

// Each cell has cache lines of its own, so that workers do not slow each other down.
#[repr(align(128))]
struct PaddedCell<T>(UnsafeCell<T>);

// SAFETY: a cell is reached only through `get_mut`, which takes the one `Worker` that exists with
// the cell's index, so no two threads touch a cell at a time; and through drop,
// which has the whole value to itself. `T` moves between those threads, hence `Send`.
unsafe impl<T: Send> Sync for PerWorker<T> {}

impl<T> PerWorker<T> {
    /// Makes the state of every worker, called with each worker's index.
    ///
    /// # Errors
    /// The first error that `make` returns.
    ///
    /// # Safety
    /// The value must be reached only by calls of the container that `context` is for: a worker
    /// of another host may have the same index at the same time.
    pub unsafe fn try_new<E>(
        context: &CreateContext<'_>,
        make: impl FnMut(usize) -> Result<T, E>,
    ) -> Result<Self, E> {
        let cells = (0..context.worker_count)
            .map(make)
            .map(|value| value.map(|value| PaddedCell(UnsafeCell::new(value))))
            .collect::<Result<_, E>>()?;
        Ok(Self { cells })
    }

    /// The state of the worker that this code runs on.
    ///
    /// # Panics
    /// If the worker belongs to a host with more workers than the one in the context.
    pub fn get_mut<'a>(&'a self, worker: &'a mut Worker<'_>) -> &'a mut T {
        let cell = &self.cells[worker.index()];
        // SAFETY: `worker` is the only one with its index on this host (`Worker::assume`), it is
        // borrowed mutably as long as the reference lives, and workers of other hosts do not
        // come here (`try_new`). So this is the only reference into the cell.
        unsafe { &mut *cell.0.get() }
    }
}

impl<T> fmt::Debug for PerWorker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerWorker")
            .field("workers", &self.cells.len())
            .finish()
    }
}
