//! The container of a pool, every call of which is made in the pool's name ([`crate::speakers`]).

use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use chimaera_chimod::abi::RawTask;
use chimaera_chimod::host::ContainerHandle;
use chimaera_chimod::{Activity, CreateAgain, Incarnation, Module, ModuleError};
use chimaera_proto::hangs::ModuleCall;
use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{Permissions, PoolId};

use crate::calls::{enter, leave, word};
use crate::speakers::Speaker;

/// A pool's container, called in the pool's name.
pub(crate) struct PoolContainer {
    /// Dropped by hand, in the pool's name.
    handle: ManuallyDrop<ContainerHandle>,
    speaker: Speaker,
    // What a worker notes before the calls that it makes often, so that it has to work nothing out.
    submitting: u64,
    polling: u64,
    prefetching: u64,
}

impl PoolContainer {
    pub(crate) fn new(handle: ContainerHandle, speaker: Speaker) -> Self {
        let noted = |call| word(speaker.number(), call);
        Self {
            handle: ManuallyDrop::new(handle),
            submitting: noted(ModuleCall::Submit),
            polling: noted(ModuleCall::Poll),
            prefetching: noted(ModuleCall::Prefetch),
            speaker,
        }
    }

    pub(crate) fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    pub(crate) fn module(&self) -> &Module {
        self.handle.module()
    }

    /// As [`ContainerHandle::pool_id`].
    pub(crate) fn pool_id(&self) -> Result<Option<PoolId>, ModuleError> {
        self.speaker
            .during(ModuleCall::Describe, || self.handle.pool_id())
    }

    /// As [`ContainerHandle::was_opened`].
    pub(crate) fn was_opened(&self) -> Result<bool, ModuleError> {
        self.speaker
            .during(ModuleCall::Describe, || self.handle.was_opened())
    }

    /// As [`ContainerHandle::incarnation`].
    pub(crate) fn incarnation(&self) -> Result<Option<Incarnation>, ModuleError> {
        self.speaker
            .during(ModuleCall::Describe, || self.handle.incarnation())
    }

    /// As [`ContainerHandle::permissions`].
    pub(crate) fn permissions(&self) -> Result<Option<Permissions>, ModuleError> {
        self.speaker
            .during(ModuleCall::Describe, || self.handle.permissions())
    }

    /// As [`ContainerHandle::set_permissions`].
    pub(crate) fn set_permissions(&self, permissions: Permissions) -> Result<(), ModuleError> {
        self.speaker.during(ModuleCall::SetPermissions, || {
            self.handle.set_permissions(permissions)
        })
    }

    /// As [`ContainerHandle::create_again`].
    pub(crate) fn create_again(&self, asked: CreateAgain<'_>) -> Result<(), ModuleError> {
        self.speaker
            .during(ModuleCall::CreateAgain, || self.handle.create_again(asked))
    }

    /// As [`ContainerHandle::flush`].
    pub(crate) fn flush(&self) -> Result<(), ModuleError> {
        self.speaker
            .during(ModuleCall::Flush, || self.handle.flush())
    }

    /// As [`ContainerHandle::wake_fd`].
    pub(crate) fn wake_fd(&self, worker: u32) -> Option<RawFd> {
        self.speaker
            .during(ModuleCall::WakeFile, || self.handle.wake_fd(worker))
    }

    /// As [`ContainerHandle::submit`].
    ///
    /// # Safety
    /// As there.
    #[inline]
    pub(crate) unsafe fn submit(&self, worker: u32, task: NonNull<RawTask>) -> Activity {
        enter(self.submitting);
        // SAFETY: by this function's contract.
        let activity = unsafe { self.handle.submit(worker, task) };
        leave();
        activity
    }

    /// As [`ContainerHandle::poll`].
    ///
    /// # Safety
    /// As there.
    #[inline]
    pub(crate) unsafe fn poll(&self, worker: u32) -> Activity {
        enter(self.polling);
        // SAFETY: by this function's contract.
        let activity = unsafe { self.handle.poll(worker) };
        leave();
        activity
    }

    /// As [`ContainerHandle::prefetches`].
    #[inline]
    pub(crate) fn prefetches(&self) -> bool {
        self.handle.prefetches()
    }

    /// As [`ContainerHandle::prefetch`].
    #[inline]
    pub(crate) fn prefetch(&self, method: u16, arguments: &[u64; ARGUMENT_COUNT]) {
        enter(self.prefetching);
        self.handle.prefetch(method, arguments);
        leave();
    }
}

impl Drop for PoolContainer {
    fn drop(&mut self) {
        let handle = &mut self.handle;
        // SAFETY: nothing uses the handle after this.
        self.speaker
            .during(ModuleCall::Close, || unsafe { ManuallyDrop::drop(handle) });
    }
}

impl fmt::Debug for PoolContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}
