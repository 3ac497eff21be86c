//! How the end of a host goes: until when it waits, and what has not come to its end by then.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use chimaera_chimod::ModuleError;
use chimaera_proto::Status;
use chimaera_proto::admin::{PoolKey, PoolStep};
use chimaera_proto::shown::quoted;
use chimaera_thread::condition::Mutex;

use crate::log;

/// The most failures that are told one after the other. The log has all.
const MAX_TOLD: usize = 8;

/// A pool that was not at its end when there was no more time.
#[derive(Clone, Debug)]
pub(crate) struct UnendedPool {
    pub(crate) key: PoolKey,
    pub(crate) name: String,
    pub(crate) module: String,
    pub(crate) step: PoolStep,
}

/// The end of a host, from when it is asked for.
#[derive(Debug)]
pub(crate) struct Ending {
    /// How long it may take in all.
    patience: Duration,
    begun: OnceLock<Instant>,
    state: Mutex<EndingState>,
}

#[derive(Debug, Default)]
struct EndingState {
    /// Whose data is not known to be safe, each with the name of its pool.
    failures: Vec<ModuleError>,
    /// Pools that could not be ended, and whose completed tasks were flushed all the same.
    flushed: BTreeSet<PoolKey>,
    /// Whether some pools were given up.
    gave_up: bool,
}

impl Ending {
    pub(crate) fn within(patience: Duration) -> Self {
        Self {
            patience,
            begun: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    /// How long the end may take in all.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Notes that the end begins, unless it has begun already. Gives when it has to be over.
    pub(crate) fn begin(&self) -> Instant {
        *self.begun.get_or_init(Instant::now) + self.patience
    }

    /// When a pool is flushed that does not come to its end: what has completed in it is safe then. There is time left
    /// for that.
    pub(crate) fn flushes_at(&self) -> Instant {
        *self.begun.get_or_init(Instant::now) + self.patience / 2
    }

    /// Notes that what a pool has completed was flushed before its end.
    pub(crate) fn note_flushed(&self, pool: PoolKey) {
        self.state.lock().flushed.insert(pool);
    }

    /// Notes that a pool could not be flushed.
    pub(crate) fn note_failure(&self, failure: ModuleError) {
        self.state.lock().failures.push(failure);
    }

    /// Notes which pools have not come to their end, and tells the log of each: once, whoever else waits for the end.
    pub(crate) fn give_up(&self, left: &[UnendedPool]) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.gave_up, true) {
            return;
        }
        let failures: Vec<_> = left
            .iter()
            .map(|pool| self.failure_of(pool, state.flushed.contains(&pool.key)))
            .collect();
        state.failures.extend(failures.iter().cloned());
        drop(state);
        for failure in failures {
            log::error(format_args!("given up: {}", failure.message));
        }
    }

    /// Whether some pools were given up.
    pub(crate) fn gave_up(&self) -> bool {
        self.state.lock().gave_up
    }

    fn failure_of(&self, pool: &UnendedPool, is_flushed: bool) -> ModuleError {
        let (id, name, seconds) = (pool.key.id, quoted(&pool.name), self.patience.as_secs());
        let (step, module) = (pool.step, &pool.module);
        let what = match (step, is_flushed) {
            (PoolStep::Making, _) => format!("was not made within {seconds} s"),
            (PoolStep::Closing, _) => {
                format!("was flushed, and not closed within {seconds} s")
            }
            (_, true) => format!(
                "did not end within {seconds} s, {step}; what was completed in it before was flushed"
            ),
            (_, false) => format!("was not flushed within {seconds} s, {step}"),
        };
        ModuleError::new(
            Status::IoError,
            format!("pool {name} ({id}) of module {module} {what}"),
        )
    }

    /// What is not known to be safe, if anything.
    pub(crate) fn failure(&self) -> Option<ModuleError> {
        let state = self.state.lock();
        let failures = &state.failures;
        let failure = failures.first()?.failure;
        let told: Vec<_> = failures
            .iter()
            .take(MAX_TOLD)
            .map(|one| &*one.message)
            .collect();
        let mut message = told.join("; ");
        if let more @ 1.. = failures.len() - told.len() {
            message = format!("{message}; and so with {more} more, which the log names");
        }
        Some(ModuleError { failure, message })
    }

    /// [`Self::failure`] as a result.
    pub(crate) fn result(&self) -> Result<(), ModuleError> {
        self.failure().map_or(Ok(()), Err)
    }
}
