//! A client of vhost-user-blk, by way of the crate `blkio`.

/// Looks whether the client is built in.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn find() -> std::result::Result<(), String> {
    #[cfg(feature = "peer-blkio")]
    return Ok(());
    #[cfg(not(feature = "peer-blkio"))]
    Err(super::absent::NOT_BUILT_IN.to_owned())
}

#[cfg(feature = "peer-blkio")]
pub(crate) use driver::VhostDisk;
#[cfg(not(feature = "peer-blkio"))]
pub(crate) use stub::VhostDisk;

#[cfg(feature = "peer-blkio")]
#[expect(
    unsafe_code,
    reason = "completions are handed over in uninitialised memory"
)]
mod driver {
    use std::io::Error as SystemError;
    use std::mem::MaybeUninit;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};
    use hdrhistogram::Histogram;

    use crate::error::Result;
    use crate::shared::file_pool::BLOCK_BYTES;
    use crate::timing::each_call;

    /// The most transfers in flight.
    const MAX_DEPTH: usize = 64;

    /// How long a transfer may take.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A disk behind a socket. It is polled: the server does not notify of completions.
    pub(crate) struct VhostDisk {
        queue: Blkioq,
        memory: MemoryRegion,
        offsets: Vec<u64>,
        next: usize,
        // Dropped after its queue.
        _blkio: Blkio,
    }

    impl VhostDisk {
        /// Connects to a disk. Transfers go to `offsets`, in bytes, one after another.
        pub(crate) fn connect(socket: &Path, offsets: &[u64]) -> Result<Self> {
            let explain =
                |error: blkio::Error| format!("no vhost-user-blk at {}: {error}", socket.display());
            let mut blkio = Blkio::new("virtio-blk-vhost-user").map_err(explain)?;
            let path = socket.to_str().ok_or("the socket's name is not UTF-8")?;
            blkio.set_str("path", path).map_err(explain)?;
            blkio.connect().map_err(explain)?;
            blkio.set_i32("num-queues", 0).map_err(explain)?;
            blkio.set_i32("num-poll-queues", 1).map_err(explain)?;
            let queue = blkio.start().map_err(explain)?.poll_queues.pop();
            let bytes = blkio.get_u64("capacity").map_err(explain)?;
            if offsets.iter().any(|offset| offset + BLOCK_BYTES > bytes) {
                return Err(format!("the disk at {} is too small", socket.display()).into());
            }
            let len = MAX_DEPTH * BLOCK_BYTES as usize;
            let memory = blkio.alloc_mem_region(len).map_err(explain)?;
            blkio.map_mem_region(&memory).map_err(explain)?;
            Ok(Self {
                queue: queue.ok_or("blkio made no queue")?,
                memory,
                offsets: offsets.to_owned(),
                next: 0,
                _blkio: blkio,
            })
        }

        /// The latencies of single transfers, one after another.
        pub(crate) fn latencies(
            &mut self,
            window: Duration,
            is_write: bool,
        ) -> Result<Histogram<u64>> {
            self.next = 0;
            each_call(window, || {
                self.submit(0, is_write);
                self.reap(|_| {})?;
                Ok(())
            })
        }

        /// Transfers per second, `depth` of them in flight.
        pub(crate) fn rate(
            &mut self,
            depth: usize,
            window: Duration,
            is_write: bool,
        ) -> Result<f64> {
            assert!(depth <= MAX_DEPTH, "every transfer has a buffer");
            self.next = 0;
            let begin = Instant::now();
            for slot in 0..depth {
                self.submit(slot, is_write);
            }
            let (mut done, mut free) = (0, Vec::with_capacity(depth));
            let elapsed = loop {
                done += self.reap(|slot| free.push(slot))?;
                let elapsed = begin.elapsed();
                if elapsed >= window {
                    break elapsed;
                }
                for slot in free.drain(..) {
                    self.submit(slot, is_write);
                }
            };
            let mut flying = depth - free.len();
            while flying > 0 {
                flying -= self.reap(|_| {})?;
            }
            Ok(done as f64 / elapsed.as_secs_f64())
        }

        /// Puts a transfer of the next place into the queue, with the buffer of a slot.
        fn submit(&mut self, slot: usize, is_write: bool) {
            let (len, none) = (BLOCK_BYTES as usize, ReqFlags::empty());
            let buffer = self.memory.addr + slot * len;
            let offset = self.offsets[self.next % self.offsets.len()];
            self.next += 1;
            if is_write {
                self.queue
                    .write(offset, buffer as *const u8, len, slot, none);
            } else {
                self.queue.read(offset, buffer as *mut u8, len, slot, none);
            }
        }

        /// Hands the queue over, waits until at least one transfer is done, and says how many are.
        fn reap(&mut self, mut each: impl FnMut(usize)) -> Result<usize> {
            let mut completions = [const { MaybeUninit::<Completion>::uninit() }; MAX_DEPTH];
            let mut patience = PATIENCE;
            let count = self
                .queue
                .do_io(&mut completions, 1, Some(&mut patience), None)
                .map_err(|error| format!("vhost-user-blk: {error}"))?;
            for completion in &completions[..count] {
                // SAFETY: `do_io` says how many it has written, from the first on.
                let completion = unsafe { completion.assume_init_ref() };
                if completion.ret != 0 {
                    let error = SystemError::from_raw_os_error(-completion.ret);
                    return Err(format!("a transfer over vhost-user-blk failed: {error}").into());
                }
                each(completion.user_data);
            }
            Ok(count)
        }
    }
}

#[cfg(not(feature = "peer-blkio"))]
mod stub {
    use std::path::Path;
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use crate::error::Result;

    /// There is none, since [`super::find`] finds nothing.
    pub(crate) enum VhostDisk {}

    impl VhostDisk {
        pub(crate) fn connect(_socket: &Path, _offsets: &[u64]) -> Result<Self> {
            Err(crate::peers::absent::NOT_BUILT_IN.into())
        }

        pub(crate) fn latencies(&mut self, _: Duration, _: bool) -> Result<Histogram<u64>> {
            match *self {}
        }

        pub(crate) fn rate(&mut self, _: usize, _: Duration, _: bool) -> Result<f64> {
            match *self {}
        }
    }
}
