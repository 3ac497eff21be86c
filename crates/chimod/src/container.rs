//! The safe side of the contract: what a module's author implements and is given.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::path::Path;

use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{ModuleError, Permissions, PoolId};

use crate::abi::Activity;
use crate::host_handle::Host;
use crate::methods::DeclaredMethod;
use crate::request::Request;

/// A pool's instance of a module on this node.
pub trait Container: Send + Sync + Sized + 'static {
    /// The module's methods, and the right to the pool that each needs. The host hands over no other tasks than these,
    /// and of these no task whose sender lacks the right.
    const METHODS: &'static [DeclaredMethod];

    /// Makes the container of a new pool. Runs on the control side and may block. If it turns out that whoever asked
    /// cannot have the pool, the container is dropped before it has had a task or a flush.
    ///
    /// # Errors
    /// Whatever prevents it, in words for whoever asked for the pool. Nothing stays behind.
    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError>;

    /// The id that is recorded for the pool, on a device for example. Called once, after [`Self::create`] and before
    /// anything else. Runs on the control side and may block.
    ///
    /// With `None` the pool takes the id of the context. Another id than that becomes the pool's if the context said
    /// [`CreateContext::id_is_chosen`] and no other pool has it; else the pool is not made, and the container is
    /// dropped. The same happens for [`PoolId::NULL`] and [`PoolId::ADMIN`], which no pool of a module can have.
    fn pool_id(&self) -> Option<PoolId> {
        None
    }

    /// Whether [`Self::create`] opened a pool that existed already, on a device for example, and did not
    /// make a new one: whoever asked for the pool is told. Called once, after [`Self::pool_id`]. Runs on the
    /// control side and may block.
    fn was_opened(&self) -> bool {
        false
    }

    /// Which opening of the pool this is, where the pool outlives its container. Called once, after
    /// [`Self::was_opened`]. Runs on the control side and may block. With `None` the host draws random bits: what
    /// clients know of an earlier pool does not hold for this one.
    fn incarnation(&self) -> Option<Incarnation> {
        None
    }

    /// The permissions that are recorded for the pool, on a device for example, if they can be believed. Called once,
    /// after [`Self::incarnation`]. Runs on the control side and may block. With `None` the pool has those of the
    /// context.
    fn permissions(&self) -> Option<Permissions> {
        None
    }

    /// Records other permissions for good, where the pool outlives its container. The host enforces them. Runs on the
    /// control side and may block; one call at a time.
    ///
    /// # Errors
    /// They cannot be recorded. The pool keeps those that it has.
    fn set_permissions(&self, permissions: Permissions) -> Result<(), ModuleError> {
        let _ = permissions;
        Ok(())
    }

    /// Takes another creation request for a pool of this name, which gives this very container. On success the
    /// container has the parameters that were asked for: either it had them before, or it has changed them, where the
    /// module lets whoever asks do that. Runs on the control side and may block; several of these may run at the same
    /// time.
    ///
    /// # Errors
    /// [`Status::ParameterMismatch`](chimaera_proto::Status::ParameterMismatch) with a text that says what differs,
    /// [`Status::PermissionDenied`](chimaera_proto::Status::PermissionDenied) for a change that whoever asks may not
    /// make, or whatever makes the parameters unusable. Nothing has changed then.
    fn create_again(&self, asked: CreateAgain<'_>) -> Result<(), ModuleError>;

    /// Takes a task: completes it now, or keeps the request and completes it later, from any
    /// thread. Runs on a worker and must not block. Returns [`Activity::PENDING`] if `poll` has
    /// to be called on this worker.
    fn submit(&self, worker: &mut Worker<'_>, request: Request) -> Activity;

    /// Whether the host calls [`Self::prefetch`].
    const PREFETCHES: bool = false;

    /// Prefetches what a task will touch that a worker submits within the next microseconds, after others: by hints to
    /// the processor that have no other effect. The arguments are as the client wrote them: not yet validated.
    #[inline]
    fn prefetch(&self, method: u16, arguments: &[u64; ARGUMENT_COUNT]) {
        let _ = (method, arguments);
    }

    /// Moves forward what is under way on this worker. Called on every pass of the worker's
    /// loop from the time `submit` or `poll` returned [`Activity::PENDING`] until `poll` does
    /// not. Must not block.
    fn poll(&self, worker: &mut Worker<'_>) -> Activity {
        let _ = worker;
        Activity::IDLE
    }

    /// A file that becomes readable when `poll` has something to do on the worker with this
    /// index, so that the worker may sleep meanwhile. It must stay the same and open as long as
    /// the container lives.
    fn wake_fd(&self, worker_index: usize) -> Option<BorrowedFd<'_>> {
        let _ = worker_index;
        None
    }

    /// Makes everything that completed before this call durable. Runs on the control side and
    /// may block.
    ///
    /// It is also the last call when the pool ends, whether the pool is destroyed or the host stops:
    /// after the last task has completed, before the container is dropped. What it makes durable is
    /// there when the pool is created again. The container does not learn why the pool ends.
    ///
    /// # Errors
    /// What went wrong; nothing is known to be durable then. Whoever asked to flush, to destroy the
    /// pool or to stop the host is told. A pool that is being ended ends all the same.
    fn flush(&self) -> Result<(), ModuleError> {
        Ok(())
    }
}

/// What a new container is given.
#[derive(Clone, Copy, Debug)]
pub struct CreateContext<'a> {
    /// The host, for logging.
    pub host: Host,
    /// The pool's id.
    pub pool: PoolId,
    /// Whether the host chose that id, because whoever asked for the pool left it open. The pool may then have another
    /// of its own: see [`Container::pool_id`]. If this is false, the container is made for exactly that id, or not:
    /// [`Status::ParameterMismatch`](chimaera_proto::Status::ParameterMismatch) if it has another.
    pub id_is_chosen: bool,
    /// The pool's name.
    pub name: &'a str,
    /// Who asked for the pool.
    pub creator: Creator,
    /// What a new pool has; one that is opened has its own ([`Container::permissions`]).
    pub permissions: Permissions,
    /// Creation parameters, as the module's client encoded them: not yet validated.
    pub params: &'a [u8],
    /// Workers have indexes below this.
    pub worker_count: usize,
    /// A file that whoever asks has opened and passed, for the module to make the pool on. It stays open during the
    /// call: a module that keeps it duplicates it. What it is, and how it was opened, is for the module to check;
    /// others may have it open too, and change its flags.
    pub file: Option<BorrowedFd<'a>>,
    /// Which paths the module may open that it is told.
    pub allowed: AllowedPaths<'a>,
}

/// Which paths a module may open that it is told by whoever asks for a pool.
#[derive(Clone, Copy, Debug)]
pub enum AllowedPaths<'a> {
    /// All: the host serves its own user alone.
    Any,
    /// What lies beneath these folders.
    Beneath(&'a [AllowedFolder<'a>]),
}

/// A folder beneath which a module may open paths that it is told.
#[derive(Clone, Copy, Debug)]
pub struct AllowedFolder<'a> {
    /// Its absolute path.
    pub path: &'a Path,
    /// The folder, open: paths are resolved from here, whatever becomes of its path.
    pub folder: BorrowedFd<'a>,
}

/// Another creation request for an existing pool.
#[derive(Clone, Copy, Debug)]
pub struct CreateAgain<'a> {
    /// Who asks now, not necessarily the one who asked before.
    pub creator: Creator,
    /// Whether that one may change the pool itself ([`Right::Manage`](chimaera_proto::Right::Manage)). Over some
    /// sockets even its owner may not.
    pub may_manage: bool,
    /// Creation parameters, as the module's client encoded them: not yet validated.
    pub params: &'a [u8],
}

/// Who asked for a pool: the user and group of the process when it connected to the host, by the
/// kernel's word (`SO_PEERCRED`), as numbers of the host's user namespace. For an application that
/// embeds the host and creates a pool itself, its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Whether it has operators' rights in this host.
    pub is_operator: bool,
}

/// Which opening of a pool a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Random bits of this opening; never 0.
    pub current: u64,
    /// Those of the opening directly before, if that ended in good order: what clients learnt in it still holds.
    pub predecessor: Option<u64>,
}

/// Proof that the code runs on a worker of the host, alone with that worker's index.
///
/// It is what makes [`PerWorker`](crate::PerWorker) state accessible without a lock.
#[derive(Debug)]
pub struct Worker<'a> {
    index: usize,
    _not_send: PhantomData<&'a mut *const ()>,
}

impl Worker<'_> {
    /// The worker's index, below [`CreateContext::worker_count`].
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Vouches that the current thread is the only one, and the current call the only one, that
    /// holds a worker of this host with this index.
    ///
    /// # Safety
    /// What is vouched for must be true as long as the value lives.
    #[must_use]
    pub unsafe fn assume(index: usize) -> Self {
        Self {
            index,
            _not_send: PhantomData,
        }
    }
}
