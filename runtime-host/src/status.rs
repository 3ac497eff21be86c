//! What a host tells of itself.

use std::sync::atomic::Ordering;

use chimaera_proto::admin::{ModuleInfo, RuntimeStatus};

use crate::control_side::ControlSide;
use crate::log;

impl ControlSide {
    /// The status, with what is known of the modules; what names others' things is for operators. Waits for nothing:
    /// the locks that it takes are held for moments.
    pub(crate) fn status(&self, is_operator: bool, modules: Vec<ModuleInfo>) -> RuntimeStatus {
        let (changing_count, mut changing) = self.pools.changing();
        let (hang_count, mut hangs) = self.watchlist.hangs();
        let mut log = log::status();
        if !is_operator {
            // They name what is other users'.
            changing.clear();
            hangs.clear();
            log.recent.clear();
        }
        let restrictions = self.restrictions.get().filter(|_| is_operator);
        RuntimeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            worker_count: self.inboxes.by_worker.len() as u32,
            session_count: self.session_count.load(Ordering::Relaxed),
            is_stopping: self.pools.is_closed(),
            stop_timeout_seconds: self.ending.patience().as_secs(),
            pool_count: self.pools.count() as u32,
            changing_count: changing_count as u32,
            changing,
            hang_count: hang_count as u32,
            hangs,
            modules,
            restrictions: restrictions.cloned().unwrap_or_default(),
            log,
            is_operator,
            left_out: 0,
        }
    }
}
