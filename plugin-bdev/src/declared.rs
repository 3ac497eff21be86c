//! The characteristics that are declared of a pool's device: GetStats returns them, and nothing else depends
//! on them.
//!
//! Laws:
//! - Only the pool's owner and operators may declare others. Anybody may name those that are declared already.
//! - A change is recorded on the device before it shows here: what others see is durable.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

use chimaera_bdev_proto::PerfMetrics;
use chimaera_chimod::{CreateAgain, ModuleError};
use chimaera_proto::Status;
use parking_lot::Mutex;

/// The declared characteristics of a pool that is open.
pub(crate) struct Declared {
    /// Whose the pool is, for a text. Stands for itself, so it is relaxed.
    owner_uid: AtomicU32,
    // Held for no longer than a copy takes.
    metrics: Mutex<PerfMetrics>,
}

impl Declared {
    pub(crate) fn new(owner_uid: u32, metrics: PerfMetrics) -> Self {
        Self {
            owner_uid: AtomicU32::new(owner_uid),
            metrics: Mutex::new(metrics),
        }
    }

    pub(crate) fn metrics(&self) -> PerfMetrics {
        *self.metrics.lock()
    }

    pub(crate) fn set_owner(&self, owner_uid: u32) {
        self.owner_uid.store(owner_uid, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, metrics: PerfMetrics) {
        *self.metrics.lock() = metrics;
    }

    /// Returns the characteristics that `asked` has in place of the declared ones, if they differ.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`] if they differ and whoever asks `again` may not change them.
    pub(crate) fn change(
        &self,
        asked: Option<PerfMetrics>,
        again: CreateAgain<'_>,
    ) -> Result<Option<PerfMetrics>, ModuleError> {
        let owner_uid = self.owner_uid.load(Ordering::Relaxed);
        let by = (again.creator.uid, again.may_manage);
        change(self.metrics(), owner_uid, asked, by)
    }
}

/// As [`Declared::change`], of a pool that is being opened; `uid` is the user who asks.
pub(crate) fn change(
    declared: PerfMetrics,
    owner_uid: u32,
    asked: Option<PerfMetrics>,
    (uid, may_manage): (u32, bool),
) -> Result<Option<PerfMetrics>, ModuleError> {
    let changed = asked.filter(|asked| *asked != declared);
    if changed.is_none() || may_manage {
        return Ok(changed);
    }
    Err(ModuleError::new(
        Status::PermissionDenied,
        format!(
            "perf_metrics are not those that are declared of the pool, and only its owner (user {owner_uid}) \
             and operators may declare others, over a socket that lets them, not user {uid}: leave them out to use the \
             pool as it is"
        ),
    ))
}
