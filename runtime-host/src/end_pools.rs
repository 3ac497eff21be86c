//! The end of pools: of one that is destroyed, and of all when the runtime stops.

use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_proto::admin::PoolStep;
use chimaera_proto::shown::quoted;

use crate::caller::Caller;
use crate::control_side::ControlSide;
use crate::log::{self, Level, Source};
use crate::messages::WorkerCommand;
use crate::pools::{Pool, Withdrawal};

impl ControlSide {
    /// Ends every pool because the runtime stops, several at a time. Returns when none is left, whoever ends
    /// them, or when there is no more time ([`Config::stop_timeout`](crate::Config::stop_timeout)): with what could not
    /// be flushed, and what was given up. The log names the pools for which this waits long.
    ///
    /// Before the first pool ends, every worker refuses tasks for any pool: no client is told that a pool does not
    /// exist while it is only being ended.
    pub(crate) fn end_all_pools(self: &Arc<Self>) -> Result<(), ModuleError> {
        let end = self.ending.begin();
        self.pools.close();
        let refused = self.tell_workers(|done| WorkerCommand::RefuseTasks { done });
        // A worker that hangs keeps its own tasks, and no pool from being flushed.
        refused.come_by(self.ending.flushes_at());
        let tell = |waited_for: &str| {
            log::warning(format_args!("stopping waits for pools, {waited_for}"));
        };
        loop {
            match self.pools.withdraw_any(tell, end) {
                Withdrawal::Pool(pool) => {
                    let shared = Arc::clone(self);
                    self.threads.ends.run(move || shared.end_at_stop(pool));
                }
                Withdrawal::NoneLeft => break,
                Withdrawal::OutOfTime(left) => {
                    self.ending.give_up(&left);
                    break;
                }
            }
        }
        self.ending.result()
    }

    /// Ends a withdrawn pool, and notes whether it could not be flushed.
    fn end_at_stop(&self, pool: Arc<Pool>) {
        let (key, name) = (pool.key(), pool.name.clone());
        if let Err(error) = self.end_pool(pool, None) {
            // Noted before the pool is gone, so that whoever waits for that finds it.
            self.ending.note_failure(ModuleError {
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
        let left = self.tell_workers(|done| WorkerCommand::RemovePool { pool: number, done });
        if client.is_none() && !left.come_by(self.ending.flushes_at()) {
            self.flush_before_its_end(&pool);
        }
        left.wait();
        self.pools.enter(key, PoolStep::InUse);
        if client.is_none() && !self.pools.is_unused_by(&pool, self.ending.flushes_at()) {
            self.flush_before_its_end(&pool);
        }
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

    /// Flushes what has completed in a pool whose tasks in flight do not complete, or which somebody still uses,
    /// because the runtime stops: it may never come to its end.
    fn flush_before_its_end(&self, pool: &Pool) {
        // An error is met again at the pool's end, or else the pool counts as not flushed.
        if pool.flush().is_ok() {
            self.ending.note_flushed(pool.key());
        }
    }
}
