//! The host's side of the table: a module and its containers as safe types.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;
use std::sync::Arc;

use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{ModuleError, Permissions, PoolId, Status};

use crate::abi::{
    Activity, Header, HostVTable, IncompatibleTable, LentBytes, MODULE_MAGIC, ModuleVTable,
    RawAllowedFolder, RawCreateAgain, RawCreateContext, RawIncarnation, RawPermissions, RawTask,
};
use crate::container::{AllowedPaths, CreateAgain, Creator, Incarnation};
use crate::failing_call::call;
use crate::methods::MethodMasks;

pub use crate::failing_call::{failure_of_module, report};

/// The pool that a module makes a container for.
#[derive(Clone, Copy, Debug)]
pub struct NewPool<'a> {
    /// The pool's id.
    pub id: PoolId,
    /// Whether the host chose the id, and the container may have another of its own
    /// ([`ContainerHandle::pool_id`]).
    pub id_is_chosen: bool,
    /// The pool's name.
    pub name: &'a str,
    /// The module's own creation parameters.
    pub params: &'a [u8],
    /// Who asked for the pool.
    pub creator: Creator,
    /// What a new pool is to have.
    pub permissions: Permissions,
    /// Workers have indexes below this.
    pub worker_count: u32,
    /// The number by which the container identifies itself when it logs.
    pub speaker: u64,
    /// A file that whoever asks has passed.
    pub file: Option<BorrowedFd<'a>>,
    /// Which paths the module may open that it is told.
    pub allowed: AllowedPaths<'a>,
}

/// A module that can make containers: linked into this program, or loaded from a library.
#[derive(Clone)]
pub struct Module {
    table: &'static ModuleVTable,
    // The library stays loaded as long as anything of it may be called.
    library: Option<Arc<dyn Any + Send + Sync>>,
}

impl Module {
    /// A module that is linked into this program.
    #[must_use]
    pub fn linked(table: &'static ModuleVTable) -> Self {
        Self {
            table,
            library: None,
        }
    }

    /// A module that a library exports. `library` is kept until the module and all of its
    /// containers are gone.
    ///
    /// # Errors
    /// The table is not of this version.
    ///
    /// # Safety
    /// `table` points to a module's table of some version, which stays valid as long as
    /// `library` is kept. Whatever its header says of this version must be true.
    pub unsafe fn loaded(
        table: NonNull<c_void>,
        library: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self, IncompatibleTable> {
        // SAFETY: every version's table starts with a header.
        let header = unsafe { table.cast::<Header>().read() };
        header.check::<ModuleVTable>(MODULE_MAGIC)?;
        // SAFETY: the header vouches for version and size; the table is valid as long as the
        // library is kept, which is as long as this value and its containers live.
        let table = unsafe { table.cast::<ModuleVTable>().as_ref() };
        Ok(Self {
            table,
            library: Some(library),
        })
    }

    /// The module's name, without suffix.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text(self.table.name)
    }

    /// The module's own version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.text(self.table.version)
    }

    fn text(&self, bytes: LentBytes) -> &str {
        // SAFETY: the table's texts are static data of the library, which `self` keeps loaded.
        std::str::from_utf8(unsafe { bytes.as_slice() }).unwrap_or("?")
    }

    /// What the module declares of its methods. A method that the table declares wrongly is not declared.
    #[must_use]
    pub fn methods(&self) -> MethodMasks {
        // SAFETY: the table's methods are static data of the library, which `self` keeps loaded.
        let declared = unsafe { self.table.methods.as_slice() };
        MethodMasks::of(declared)
    }

    fn flags_of(&self, pool: &NewPool<'_>) -> u32 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        flag(pool.id_is_chosen, RawCreateContext::ID_IS_CHOSEN)
            | flag(self.library.is_some(), RawCreateContext::IS_LIBRARY)
            | flag(
                pool.creator.is_operator,
                RawCreateContext::CREATOR_IS_OPERATOR,
            )
            | flag(
                matches!(pool.allowed, AllowedPaths::Any),
                RawCreateContext::ANY_PATH,
            )
    }

    /// Makes the container of a new pool. Blocks as long as the module takes. The host's table is
    /// never freed after this.
    ///
    /// # Errors
    /// What the module reported.
    pub fn create(
        &self,
        host: Arc<HostVTable>,
        pool: &NewPool<'_>,
    ) -> Result<ContainerHandle, ModuleError> {
        let allowed: Vec<_> = match pool.allowed {
            AllowedPaths::Any => Vec::new(),
            AllowedPaths::Beneath(folders) => folders
                .iter()
                .map(|allowed| RawAllowedFolder {
                    path: LentBytes::new(allowed.path.as_os_str().as_bytes()),
                    folder: allowed.folder.as_raw_fd(),
                })
                .collect(),
        };
        let arguments = RawCreateContext {
            // Never freed: a module may log from a thread that outlives the container.
            host: Arc::into_raw(host),
            name: LentBytes::new(pool.name.as_bytes()),
            params: LentBytes::new(pool.params),
            pool_major: pool.id.major,
            pool_minor: pool.id.minor,
            worker_count: pool.worker_count,
            flags: self.flags_of(pool),
            creator_uid: pool.creator.uid,
            creator_gid: pool.creator.gid,
            permissions: pool.permissions.into(),
            speaker: pool.speaker,
            allowed: allowed.as_ptr(),
            allowed_count: allowed.len() as u32,
            file: pool.file.map_or(-1, |file| file.as_raw_fd()),
        };
        let mut container = std::ptr::null_mut();
        // SAFETY: everything passed is valid during the call, and the host's table for ever.
        call(|error| unsafe {
            (self.table.create)(&raw const arguments, &raw mut container, error)
        })?;
        let container = NonNull::new(container).ok_or_else(|| {
            ModuleError::new(
                Status::Aborted,
                "the module reported success without a container",
            )
        })?;
        Ok(ContainerHandle {
            container,
            module: self.clone(),
        })
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// A container, as the host holds it. Dropping it destroys the container and may block.
pub struct ContainerHandle {
    container: NonNull<c_void>,
    module: Module,
}

// SAFETY: the ABI lets every entry be called from any thread, within the rules that the unsafe
// methods below repeat.
unsafe impl Send for ContainerHandle {}
// SAFETY: as above.
unsafe impl Sync for ContainerHandle {}

impl ContainerHandle {
    /// The module that the container is of.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The id that is recorded for the pool, on a device for example, if there is one. To be called once,
    /// after creation. May block.
    ///
    /// # Errors
    /// What the module reported: it panicked.
    pub fn pool_id(&self) -> Result<Option<PoolId>, ModuleError> {
        let mut id = PoolId::NULL;
        let (major, minor) = (&raw mut id.major, &raw mut id.minor);
        // SAFETY: the container lives as long as the handle; the places are valid during the call.
        call(|error| unsafe {
            (self.module.table.pool_id)(self.container.as_ptr(), major, minor, error)
        })?;
        Ok((!id.is_null()).then_some(id))
    }

    /// Whether the container opened a pool that existed already, and did not make a new one. To be called once,
    /// after [`Self::pool_id`]. May block.
    ///
    /// # Errors
    /// What the module reported: it panicked.
    pub fn was_opened(&self) -> Result<bool, ModuleError> {
        let mut opened = 0;
        // SAFETY: the container lives as long as the handle; the place is valid during the call.
        call(|error| unsafe {
            (self.module.table.was_opened)(self.container.as_ptr(), &raw mut opened, error)
        })?;
        Ok(opened != 0)
    }

    /// Which opening of the pool this is, if the module has that. To be called once, after [`Self::was_opened`]. May
    /// block.
    ///
    /// # Errors
    /// What the module reported: it panicked.
    pub fn incarnation(&self) -> Result<Option<Incarnation>, ModuleError> {
        let mut raw = RawIncarnation::default();
        // SAFETY: the container lives as long as the handle; the place is valid during the call.
        call(|error| unsafe {
            (self.module.table.incarnation)(self.container.as_ptr(), &raw mut raw, error)
        })?;
        Ok((raw.current != 0).then_some(Incarnation {
            current: raw.current,
            predecessor: (raw.predecessor != 0).then_some(raw.predecessor),
        }))
    }

    /// The permissions that are recorded for the pool, if any are. To be called once, after [`Self::incarnation`]. May
    /// block.
    ///
    /// # Errors
    /// What the module reported: it panicked.
    pub fn permissions(&self) -> Result<Option<Permissions>, ModuleError> {
        let mut raw = RawPermissions::default();
        // SAFETY: the container lives as long as the handle; the place is valid during the call.
        call(|error| unsafe {
            (self.module.table.permissions)(self.container.as_ptr(), &raw mut raw, error)
        })?;
        Ok((raw.is_recorded != 0).then_some(raw.to_permissions()))
    }

    /// Has other permissions recorded. One call at a time. May block.
    ///
    /// # Errors
    /// What the module reported.
    pub fn set_permissions(&self, permissions: Permissions) -> Result<(), ModuleError> {
        let raw = RawPermissions::from(permissions);
        // SAFETY: the container lives as long as the handle; the permissions are valid during the call.
        call(|error| unsafe {
            (self.module.table.set_permissions)(self.container.as_ptr(), &raw const raw, error)
        })
    }

    /// Hands over another creation request for the container's pool. May block.
    ///
    /// # Errors
    /// What differs or may not be changed, in the module's words.
    pub fn create_again(&self, asked: CreateAgain<'_>) -> Result<(), ModuleError> {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let arguments = RawCreateAgain {
            params: LentBytes::new(asked.params),
            creator_uid: asked.creator.uid,
            creator_gid: asked.creator.gid,
            flags: flag(
                asked.creator.is_operator,
                RawCreateAgain::CREATOR_IS_OPERATOR,
            ) | flag(asked.may_manage, RawCreateAgain::MAY_MANAGE),
        };
        // SAFETY: the container lives as long as the handle; the arguments are valid during the
        // call.
        call(|error| unsafe {
            (self.module.table.create_again)(self.container.as_ptr(), &raw const arguments, error)
        })
    }

    /// Makes everything that completed before durable. May block.
    ///
    /// # Errors
    /// What the module reported.
    pub fn flush(&self) -> Result<(), ModuleError> {
        // SAFETY: the container lives as long as the handle.
        call(|error| unsafe { (self.module.table.flush)(self.container.as_ptr(), error) })
    }

    /// Hands a task to the container.
    ///
    /// # Safety
    /// The current thread is the worker with this index and inside no other call of a
    /// container; the task is handed over only once, and stays where it is, unchanged, until it
    /// completes; its buffer stays mapped until then; and the handle outlives the task.
    #[inline]
    #[must_use]
    pub unsafe fn submit(&self, worker: u32, task: NonNull<RawTask>) -> Activity {
        let (container, task) = (self.container.as_ptr(), task.as_ptr());
        // SAFETY: by this function's contract.
        Activity(unsafe { (self.module.table.submit)(container, worker, task) })
    }

    /// Whether [`Self::prefetch`] has an effect.
    #[must_use]
    pub fn prefetches(&self) -> bool {
        self.module.table.prefetch.is_some()
    }

    /// Tells the container of a task that will be submitted soon, if it takes such hints. Any thread.
    #[inline]
    pub fn prefetch(&self, method: u16, arguments: &[u64; ARGUMENT_COUNT]) {
        if let Some(prefetch) = self.module.table.prefetch {
            // SAFETY: the container lives as long as the handle.
            unsafe { prefetch(self.container.as_ptr(), method, arguments) };
        }
    }

    /// Lets the container move forward what is under way on a worker.
    ///
    /// # Safety
    /// The current thread is the worker with this index and inside no other call of a container.
    #[must_use]
    pub unsafe fn poll(&self, worker: u32) -> Activity {
        // SAFETY: by this function's contract.
        Activity(unsafe { (self.module.table.poll)(self.container.as_ptr(), worker) })
    }

    /// The file that tells a sleeping worker that the container can move forward, if there is
    /// one. It is open as long as the handle lives.
    #[must_use]
    pub fn wake_fd(&self, worker: u32) -> Option<RawFd> {
        // SAFETY: the container lives as long as the handle.
        let file = unsafe { (self.module.table.wake_fd)(self.container.as_ptr(), worker) };
        (file >= 0).then_some(file)
    }
}

impl Drop for ContainerHandle {
    fn drop(&mut self) {
        // SAFETY: the handle is gone after this, and tasks do not outlive it (`submit`).
        unsafe { (self.module.table.destroy)(self.container.as_ptr()) };
    }
}

impl fmt::Debug for ContainerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerHandle")
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}
