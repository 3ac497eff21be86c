//! What all cases share: the processors, the daemon, the partner, the peers.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chimaera_client::{ConnectOptions, Runtime};
use chimaera_echo_client::{Client as EchoClient, PoolId, PoolQuery};

use crate::Options;
use crate::cases::file::FilePool;
use crate::cases::idle::Crowd;
use crate::cases::ram::RamPool;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::machine::{Processors, pin_to, raise_file_limit};
use crate::memory::HugeMemory;
use crate::partner::Partner;
use crate::peers::Peers;

/// Bytes of address space for the buffers of a client.
const BUFFER_BYTES: u64 = 64 << 20;

/// A worker with the default policy sleeps by then if it has nothing to do.
const SETTLE: Duration = Duration::from_millis(2);

/// A quick run makes up for no dropped round from then on: it is to take no longer than it must.
const QUICK_RETRIES: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    // Pools go before the connection and the daemon do.
    pub(crate) ram_pool: Kept<u64, RamPool>,
    pub(crate) file_pool: Kept<PathBuf, FilePool>,
    pub(crate) crowd: Kept<(), Crowd>,
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

    /// The same where a device sets the pace.
    pub(crate) fn device_window(&self) -> Duration {
        Duration::from_millis(if self.is_quick { 250 } else { 1000 })
    }

    /// Whether rounds that were dropped may be made up for.
    pub(crate) fn has_time(&self) -> bool {
        !self.is_quick || self.begin.elapsed() < QUICK_RETRIES
    }

    /// Whether the run is to end with what there is.
    pub(crate) fn is_stopped(&self) -> bool {
        // Relaxed: it says nothing of anything else.
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

    /// Memory for the yardstick of a memory pool.
    pub(crate) fn memory(&self, len: usize) -> Result<Rc<RefCell<HugeMemory>>> {
        self.memory
            .get(len, || Ok(RefCell::new(HugeMemory::new(len)?)))
    }
}

/// Something that is costly to make and that neighbouring cases share: the last one is kept.
pub(crate) struct Kept<K, T>(RefCell<Option<(K, Rc<T>)>>);

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<K: PartialEq, T> Kept<K, T> {
    /// The one that is kept, or another in its place.
    pub(crate) fn get(&self, key: K, make: impl FnOnce() -> Result<T>) -> Result<Rc<T>> {
        let mut slot = self.0.borrow_mut();
        if let Some((kept, value)) = slot.as_ref()
            && *kept == key
        {
            return Ok(Rc::clone(value));
        }
        *slot = None;
        let value = Rc::new(make()?);
        *slot = Some((key, Rc::clone(&value)));
        Ok(value)
    }
}

/// A connection to a daemon.
pub(crate) fn connect(daemon: &Daemon) -> Result<Runtime> {
    connect_to(daemon.socket(), BUFFER_BYTES)
}

/// A connection with so much address space for buffers.
pub(crate) fn connect_to(socket: &Path, buffer_bytes: u64) -> Result<Runtime> {
    let options = ConnectOptions::new().buffer_bytes(buffer_bytes);
    Ok(options.connect_to(socket)?)
}

/// The echo pool of a connection's daemon.
pub(crate) fn echo_over(runtime: &Runtime) -> Result<EchoClient> {
    let echo = EchoClient::new(runtime, PoolId::new(9000, 0));
    echo.create(PoolQuery::Dynamic, "bench-echo", "")?;
    Ok(echo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_kept() -> Result<()> {
        let kept = Kept::default();
        let first = kept.get(1, || Ok("one"))?;
        assert!(Rc::ptr_eq(&first, &kept.get(1, || Ok("again"))?));
        assert_eq!(*kept.get(2, || Ok("two"))?, "two");
        assert!(kept.get(3, || Err("it cannot be made".into())).is_err());
        assert_eq!(*kept.get(2, || Ok("made again"))?, "made again");
        Ok(())
    }
}
