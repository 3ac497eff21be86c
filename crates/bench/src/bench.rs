//! What all cases share: the processors, the daemon, the partner, the peers.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chimaera_client::Runtime;
use chimaera_echo_client::Client as EchoClient;

use crate::Options;
use crate::connection::{connect, echo_over};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::machine::{Processors, pin_to, raise_file_limit};
use crate::memory::HugeMemory;
use crate::partner::Partner;
use crate::peers::Peers;
use crate::shared::Kept;
use crate::shared::crowd::Crowd;
use crate::shared::file_pool::FilePool;
use crate::shared::ram_pool::{self, RamPool};

/// How long a worker with the default policy takes to fall asleep when it has nothing to do.
const SETTLE: Duration = Duration::from_millis(2);

/// After this time a quick run repeats no dropped round, so that it ends soon.
const QUICK_RETRIES: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    // Pools are dropped before the connection and the daemon.
    ram_pool: Kept<u64, RamPool>,
    file_pool: Kept<PathBuf, FilePool>,
    crowd: Kept<usize, Crowd>,
    memory: Kept<usize, RefCell<HugeMemory>>,
    pub(crate) runtime: Runtime,
    daemon: Daemon,
    pub(crate) partner: Partner,
    pub(crate) processors: Processors,
    pub(crate) peers: Peers,
    /// Where file pools are made.
    pub(crate) folder: PathBuf,
    pub(crate) is_quick: bool,
    stop: Arc<AtomicBool>,
    begin: Instant,
}

impl Bench {
    /// Pins this process and starts the others.
    pub(crate) fn new(options: &Options) -> Result<Self> {
        raise_file_limit()?;
        let processors = Processors::choose()?;
        pin_to(&[processors.client])?;
        let partner = Partner::start(processors.worker)?;
        let daemon = Daemon::start(processors.worker)?;
        let runtime = connect(&daemon)?;
        Ok(Self {
            ram_pool: Kept::default(),
            file_pool: Kept::default(),
            crowd: Kept::default(),
            memory: Kept::default(),
            runtime,
            daemon,
            partner,
            processors,
            peers: Peers::find(),
            folder: options.folder.clone(),
            is_quick: options.quick,
            stop: Arc::clone(&options.stop),
            begin: Instant::now(),
        })
    }

    /// How long one figure of a round is measured.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_millis(if self.is_quick { 50 } else { 250 })
    }

    /// How long a figure is measured where a device sets the pace.
    pub(crate) fn device_window(&self) -> Duration {
        Duration::from_millis(if self.is_quick { 250 } else { 1000 })
    }

    /// Whether there is time to repeat rounds that were dropped.
    pub(crate) fn has_time(&self) -> bool {
        !self.is_quick || self.begin.elapsed() < QUICK_RETRIES
    }

    /// Whether the run is to end with what there is.
    pub(crate) fn is_stopped(&self) -> bool {
        // Relaxed: the flag stands for itself.
        self.stop.load(Ordering::Relaxed)
    }

    /// Lets the worker fall asleep, so that a yardstick has its processor alone.
    pub(crate) fn settle(&self) {
        std::thread::sleep(SETTLE);
    }

    /// One more connection to the daemon.
    pub(crate) fn connect(&self) -> Result<Runtime> {
        connect(&self.daemon)
    }

    /// A client of an echo pool, whose empty method is an empty task.
    pub(crate) fn echo(&self) -> Result<EchoClient> {
        echo_over(&self.runtime)
    }

    /// A memory pool that is full of blocks of this size.
    pub(crate) fn ram_pool(&self, block_bytes: u64) -> Result<Rc<RamPool>> {
        self.ram_pool
            .get(block_bytes, || RamPool::make(&self.runtime, block_bytes))
    }

    /// As much memory as a memory pool has, for the pool's yardstick.
    pub(crate) fn memory(&self) -> Result<Rc<RefCell<HugeMemory>>> {
        let len = ram_pool::POOL_BYTES as usize;
        self.memory
            .get(len, || Ok(RefCell::new(HugeMemory::new(len)?)))
    }

    /// A full pool on a file in a folder.
    pub(crate) fn file_pool(&self, folder: &Path) -> Result<Rc<FilePool>> {
        self.file_pool
            .get(folder.to_owned(), || FilePool::make(&self.runtime, folder))
    }

    /// A daemon with so many clients that do nothing, on the worker's processor.
    pub(crate) fn crowd(&self, count: usize) -> Result<Rc<Crowd>> {
        self.crowd
            .get(count, || Crowd::make(self.processors.worker, count))
    }
}
