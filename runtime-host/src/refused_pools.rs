//! The log's lines about pools that clients asked for and did not get.
//!
//! A client that asks again and again must not fill the log, so lines have shares. What a client does wrong counts
//! against its user. What is wrong with a file or device counts against that pool alone: where a machine comes up with
//! many damaged ones, the log has each.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use chimaera_chimod::{Level, ModuleError};
use chimaera_proto::Status;
use chimaera_proto::admin::GetOrCreatePool;
use chimaera_proto::shown::quoted;
use parking_lot::Mutex;

use crate::caller::Peer;
use crate::log::{self, Shares, Source};

/// The shares of the log for refused pools.
pub(crate) struct RefusedPools {
    of_users: Mutex<Shares>,
    of_pools: Mutex<Shares>,
}

impl Default for RefusedPools {
    fn default() -> Self {
        Self {
            of_users: Mutex::new(Shares::per("user")),
            of_pools: Mutex::new(Shares::per("pool")),
        }
    }
}

impl RefusedPools {
    /// Logs why a client does not get a pool, if its share has room for that. A runtime that shuts down refuses
    /// all, and has said that it does.
    pub(crate) fn log(&self, asked: &GetOrCreatePool, client: Peer, error: &ModuleError) {
        let status = error.failure.status;
        if status == Status::ShuttingDown {
            return;
        }
        let user = u64::from(client.user_id);
        let skipped = match is_of_contents(status) {
            true => self
                .of_pools
                .lock()
                .admit(pool_number(user, &asked.name), Instant::now()),
            false => self.of_users.lock().admit(user, Instant::now()),
        };
        if let Some(skipped) = skipped {
            let text = format_args!(
                "pool not created: {}, module {}, for {client}: {error}{skipped}",
                quoted(&asked.name),
                quoted(&asked.module)
            );
            log::say(level_of(status), Source::Host, text);
        }
    }
}

/// Whether a refusal is about what a file or device holds, whoever asks for it.
fn is_of_contents(status: Status) -> bool {
    matches!(
        status,
        Status::CorruptedMetadata | Status::NotBlank | Status::Unsupported
    )
}

/// Damage and failing devices should not be; the rest is for whoever asked to mend.
fn level_of(status: Status) -> Level {
    match status {
        Status::CorruptedMetadata | Status::IoError => Level::Error,
        _ => Level::Warning,
    }
}

/// A number for a pool that a user asks for, which others hardly have.
fn pool_number(user: u64, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (user, name).hash(&mut hasher);
    hasher.finish()
}
