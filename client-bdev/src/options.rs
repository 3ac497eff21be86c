//! Parameters of a pool's creation.

use chimaera_bdev_proto::{BdevType, CreateParams, IoEngine, PerfMetrics, ScrubPolicy};
use chimaera_client::GetOrCreatePool;

/// What a pool is created with. Begin with [`CreateOptions::file`] or [`CreateOptions::ram`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CreateOptions {
    params: CreateParams,
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<u16>,
    incarnation: Option<u64>,
}

impl CreateOptions {
    /// A file or block device, whose path is the pool's name. All of it, unless
    /// [`Self::size`] says less. The calling process opens it, with the rights of its user. What was flushed
    /// ([`Client::flush`](crate::Client::flush)) outlives the pool and the runtime: create it again to
    /// open it.
    #[must_use]
    pub const fn file() -> Self {
        Self::new(BdevType::File, 0)
    }

    /// Memory of this many bytes. Its contents are lost when the pool or the runtime ends.
    #[must_use]
    pub const fn ram(size: u64) -> Self {
        Self::new(BdevType::Ram, size)
    }

    const fn new(bdev_type: BdevType, total_size: u64) -> Self {
        Self {
            params: CreateParams {
                bdev_type,
                total_size,
                io_depth: None,
                alignment: None,
                io_engine: IoEngine::Auto,
                perf_metrics: None,
                overwrite: false,
                read_only: false,
                trust_owner: false,
                opened_by_daemon: false,
                scrub: None,
            },
            owner: None,
            group: None,
            mode: None,
            incarnation: None,
        }
    }

    /// Bytes to manage; 0 for all of a file or device.
    #[must_use]
    pub const fn size(mut self, bytes: u64) -> Self {
        self.params.total_size = bytes;
        self
    }

    /// Operations in flight on the device per worker (16 to 128 are usual). Without, those that the
    /// pool was made with, 32 for a new one. They hold for as long as the pool is open: opening it
    /// again may name others, asking for an open pool may not. Ignored for memory.
    #[must_use]
    pub const fn io_depth(mut self, operations: u32) -> Self {
        self.params.io_depth = Some(operations);
        self
    }

    /// Alignment of device operations in bytes: a power of two from 512 to 4096 that the device
    /// supports. Without, and with 0, that which the pool was made with, 4096 for a new one. It holds
    /// as [`Self::io_depth`] does. Ignored for memory.
    #[must_use]
    pub const fn alignment(mut self, bytes: u32) -> Self {
        self.params.alignment = Some(bytes);
        self
    }

    /// What carries out the I/O of a file pool ([`IoEngine::Auto`]: whichever serves the file
    /// better; of a pool that is there, that which it was made with). One that is named here and that
    /// the system forbids makes the creation fail. It holds as [`Self::io_depth`] does. Ignored for
    /// memory.
    #[must_use]
    pub const fn io_engine(mut self, engine: IoEngine) -> Self {
        self.params.io_engine = engine;
        self
    }

    /// The device's characteristics, as [`Client::get_stats`](crate::Client::get_stats) is to
    /// give them back. Without, it gives those that the pool has, conservative defaults for a new one.
    /// Given for a pool that is there, they take the place of its own, at once and for good
    /// (read-only pools: for as long as they are open); that is for the pool's creator and root.
    #[must_use]
    pub const fn perf_metrics(mut self, metrics: PerfMetrics) -> Self {
        self.params.perf_metrics = Some(metrics);
        self
    }

    /// Makes a new, empty pool whatever the file or device holds: another pool, a file system. What
    /// it holds is lost. Without it, only a blank file or device becomes a new pool, one that holds
    /// a pool is opened as that, and all else is refused ([`Status::NotBlank`]). Ignored for memory.
    ///
    /// [`Status::NotBlank`]: crate::Status::NotBlank
    #[must_use]
    pub const fn overwrite(mut self, overwrite: bool) -> Self {
        self.params.overwrite = overwrite;
        self
    }

    /// Opens the pool that the file or device holds for reading only, also if its metadata is
    /// damaged, and writes nothing to it: writes, allocations and frees fail with
    /// [`Status::ReadOnly`]. Ignored for memory.
    ///
    /// [`Status::ReadOnly`]: crate::Status::ReadOnly
    #[must_use]
    pub const fn read_only(mut self, read_only: bool) -> Self {
        self.params.read_only = read_only;
        self
    }

    /// Whose pool is meant, by user id. Without, it is one of the calling user's; or an operator's, if that has one of
    /// this name and the user has none. Only operators make pools for others.
    #[must_use]
    pub const fn owner(mut self, user: u32) -> Self {
        self.owner = Some(user);
        self
    }

    /// The group of a new pool, one of the calling process's (that of the process).
    #[must_use]
    pub const fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// The mode of a new pool, as that of a file: who may read it, and who may write to it (0600, which is the owner
    /// alone). Execute bits mean nothing.
    #[must_use]
    pub const fn mode(mut self, mode: u16) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Believes owner, group and mode that the file or device records, although somebody else may have written them.
    /// For operators. Ignored for memory.
    #[must_use]
    pub const fn trust_owner(mut self, trust: bool) -> Self {
        self.params.trust_owner = trust;
        self
    }

    /// Has the daemon open the path, with its own rights, in place of this process: for operators, and only beneath the
    /// folders that the daemon allows (`--allow-path`); a daemon that serves nobody but its own user, who is not root,
    /// allows any without them. Ignored for memory.
    #[must_use]
    pub const fn opened_by_daemon(mut self, by_daemon: bool) -> Self {
        self.params.opened_by_daemon = by_daemon;
        self
    }

    /// When the space of blocks is zeroed. Without, it is as the pool has it: never, for a new one, so that a new block
    /// holds what was last written there, by whichever user of the pool; [`ScrubPolicy::Allocate`] zeroes a block
    /// before it is handed out. A pool that does so does it for good. It begins to also when its owner or an operator
    /// creates it again with this, and when its permissions are changed so that they may let others in.
    #[must_use]
    pub const fn scrub(mut self, policy: ScrubPolicy) -> Self {
        self.params.scrub = Some(policy);
        self
    }

    /// What the program knows of the pool, such as blocks, is of this incarnation
    /// ([`Client::incarnation`](crate::Client::incarnation)). If that does not hold any more, creating fails with
    /// [`Status::PoolChanged`]: create without this, and list the blocks to see which are left.
    ///
    /// [`Status::PoolChanged`]: crate::Status::PoolChanged
    #[must_use]
    pub const fn incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = Some(incarnation);
        self
    }

    pub(crate) fn request(&self, request: GetOrCreatePool) -> GetOrCreatePool {
        GetOrCreatePool {
            owner: self.owner,
            group: self.group,
            mode: self.mode,
            incarnation: self.incarnation,
            ..request
        }
    }

    /// The parameters as they travel.
    #[must_use]
    pub const fn params(&self) -> &CreateParams {
        &self.params
    }
}
