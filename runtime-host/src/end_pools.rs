//! The end of pools: of one that is destroyed, and of all when the runtime stops.

use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_proto::admin::PoolStep;
use chimaera_proto::shown::quoted;

use crate::caller::Caller;
use crate::control_side::ControlSide;
use crate::log::{self, Level, Source};
use crate::messages::WorkerCommand;
use crate::pools::Pool;

impl ControlSide {
    /// Ends every pool because the runtime stops, several at a time. Returns when none is left, whoever ends
    /// them, with the first failure to flush one. The log names the pools for which this waits long.
    ///
    /// Before the first pool ends, every worker refuses tasks for any pool: no client is told that a pool does not
    /// exist while it is only being ended.
    pub(crate) fn end_all_pools(self: &Arc<Self>) -> Result<(), ModuleError> {
        self.pools.close();
        self.ask_workers(|done| WorkerCommand::RefuseTasks { done });
        let tell = |waited_for: &str| {
            log::warning(format_args!("stopping waits for pools, {waited_for}"));
        };
        while let Some(pool) = self.pools.withdraw_any(tell) {
            let shared = Arc::clone(self);
            self.threads.ends.run(move || shared.end_at_stop(pool));
        }
        self.unflushed.get().cloned().map_or(Ok(()), Err)
    }

    /// Ends a withdrawn pool, and notes whether it could not be flushed.
    fn end_at_stop(&self, pool: Arc<Pool>) {
        let (key, name) = (pool.key(), pool.name.clone());
        if let Err(error) = self.end_pool(pool, None) {
            // Noted before the pool is gone, so that whoever waits for that finds it.
            let _ = self.unflushed.set(ModuleError {
                failure: error.failure,
                message: format!("pool {name} ({}): {}", key.id, error.message),
            });
        }
        self.pools.release(key);
    }

    /// Lets a withdrawn pool's tasks complete, flushes it and destroys its container, flushed or not. `client` is who
    /// asked for that, and `None` if the runtime stops: then the log does not speak of destroying, as a pool on a file
    /// exists again when the runtime does.
    pub(crate) fn end_pool(
        &self,
        pool: Arc<Pool>,
        client: Option<&Caller>,
    ) -> Result<(), ModuleError> {
        let (key, number) = (pool.key(), pool.number);
        self.ask_workers(|done| WorkerCommand::RemovePool { pool: number, done });
        self.pools.enter(key, PoolStep::InUse);
        self.pools.wait_until_unused(&pool);
        self.pools.enter(key, PoolStep::Flushing);
        let flushed = pool.flush();
        self.pools.enter(key, PoolStep::Closing);
        let (id, name) = (key.id, quoted(&pool.name));
        let ended = client.map_or("stopped", |_| "destroyed");
        let whom = client.map_or_else(String::new, |client| format!(", for {client}"));
        match &flushed {
            Ok(()) => {
                let line = format_args!("pool {ended}: {id} {name}{whom}");
                let causer = client.and_then(Caller::limited_user);
                log::say_for(causer, Level::Info, Source::Host, line);
            }
            Err(error) => log::error(format_args!(
                "pool {ended}: {id} {name}{whom}, but what it did last may be lost, as it was not \
                 flushed: {error}"
            )),
        }
        flushed
    }
}
