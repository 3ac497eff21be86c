//! What is declared of a pool's device: GetStats gives it back, and nothing else depends on it.
//!
//! Laws:
//! - Only the pool's creator and root may declare it anew. Who names what is declared already may always.
//! - What stands on a device is changed there first: what others see here is durable.

#![forbid(unsafe_code)]

use chimaera_bdev_proto::PerfMetrics;
use chimaera_chimod::{Creator, ModuleError};
use chimaera_proto::Status;
use parking_lot::Mutex;

/// The declared characteristics of a pool that is open.
pub(crate) struct Declared {
    /// Who made the pool.
    owner_uid: u32,
    // Held for no longer than a copy takes.
    metrics: Mutex<PerfMetrics>,
}

const ROOT_UID: u32 = 0;

impl Declared {
    pub(crate) fn new(owner_uid: u32, metrics: PerfMetrics) -> Self {
        Self {
            owner_uid,
            metrics: Mutex::new(metrics),
        }
    }

    pub(crate) fn metrics(&self) -> PerfMetrics {
        *self.metrics.lock()
    }

    pub(crate) fn set(&self, metrics: PerfMetrics) {
        *self.metrics.lock() = metrics;
    }

    /// The characteristics that `asked` are to take the place of the declared ones, if they are others.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`] if they are not for this one to change.
    pub(crate) fn change(
        &self,
        asked: Option<PerfMetrics>,
        by: Creator,
    ) -> Result<Option<PerfMetrics>, ModuleError> {
        change(self.metrics(), self.owner_uid, asked, by)
    }
}

/// As [`Declared::change`], of a pool that is not open yet.
pub(crate) fn change(
    declared: PerfMetrics,
    owner_uid: u32,
    asked: Option<PerfMetrics>,
    by: Creator,
) -> Result<Option<PerfMetrics>, ModuleError> {
    let changed = asked.filter(|asked| *asked != declared);
    if changed.is_none() || by.uid == owner_uid || by.uid == ROOT_UID {
        return Ok(changed);
    }
    Err(ModuleError::new(
        Status::PermissionDenied,
        format!(
            "perf_metrics are not those that are declared of the pool, and only its creator (user {owner_uid}) \
             and root may declare others, not user {}: leave them out to use the pool as it is",
            by.uid
        ),
    ))
}
