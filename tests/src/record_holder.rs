//! Lanes that are full for as long as a test wants.

use std::sync::atomic::{AtomicU32, Ordering};

use chimaera_bdev_client::{Buffer, Runtime, Task};
use chimaera_client::Values;
use chimaera_faulty_runtime::Method;

use crate::daemon::Daemon;
use crate::faulty::Faulty;
use chimaera_testing::until;

/// The number of a pool that tells of what others hold, and releases it. Those have lower ones.
const TELLER: u32 = 1000;

/// Takes records of lanes, and gives them back. It has a connection of its own for that.
#[derive(Debug)]
pub struct RecordHolder {
    control: Runtime,
    teller: Faulty,
    pools: AtomicU32,
}

/// Records that are taken by tasks which the host holds.
#[derive(Debug)]
pub struct HeldRecords {
    pool: Faulty,
    /// The tasks, in order of submission.
    pub tasks: Vec<Task<(Values, Option<Buffer>)>>,
}

impl RecordHolder {
    /// Connects to the daemon.
    ///
    /// # Panics
    /// If it does not load the module that holds tasks.
    #[must_use]
    pub fn new(daemon: &Daemon) -> Self {
        let control = daemon.connect();
        Self {
            teller: Faulty::created(&control, TELLER),
            control,
            pools: AtomicU32::new(0),
        }
    }

    /// A new pool that holds what it is asked to hold, as this connection sees it.
    ///
    /// # Panics
    /// If there are too many.
    pub fn pool(&self, runtime: &Runtime) -> Faulty {
        let number = self.pools.fetch_add(1, Ordering::Relaxed);
        assert!(number < TELLER);
        let _ = Faulty::created(&self.control, number);
        let pool = Faulty::new(runtime, number);
        pool.attach();
        pool
    }

    /// Takes so many records of the calling thread's lane, and returns when the host has the tasks.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn take(&self, runtime: &Runtime, count: usize) -> HeldRecords {
        let pool = self.pool(runtime);
        let tasks: Vec<_> = (0..count).map(|_| pool.start(Method::Hold, None)).collect();
        assert!(tasks.iter().all(Task::is_submitted), "there is no room");
        until("the host holds the tasks", || self.count(&pool) == count);
        HeldRecords { pool, tasks }
    }

    /// How many tasks a pool holds.
    #[must_use]
    pub fn count(&self, pool: &Faulty) -> usize {
        self.teller.about_held(Method::CountHeld, pool.pool_id()) as usize
    }

    /// Has what a pool holds completed.
    pub fn release(&self, pool: &Faulty) {
        let _ = self.teller.about_held(Method::Release, pool.pool_id());
    }

    /// Has the tasks completed. Their records stay taken until they are waited for, or needed.
    pub fn let_go(&self, held: &HeldRecords) {
        self.release(&held.pool);
    }
}
