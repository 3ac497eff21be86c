//! Random numbers and the time, which the rest of the crate is given.

use std::io;
use std::time::SystemTime;

use chimaera_proto::ModuleError;

use crate::Birth;

/// 64 random bits, for an opening of a pool. Blocks while the system has just started.
///
/// # Errors
/// The system has no random numbers.
pub fn random_bits() -> Result<u64, ModuleError> {
    let failed = |error: getrandom::Error| {
        ModuleError::system(
            format_args!("cannot draw random numbers"),
            &io::Error::other(error),
        )
    };
    getrandom::u64().map_err(failed)
}

/// What a pool that is made now is born with. Blocks while the system has just started.
///
/// # Errors
/// The system has no random numbers.
pub fn birth() -> Result<Birth, ModuleError> {
    Ok(Birth {
        uuid: uuid::Uuid::new_v4().into_bytes(),
        seed: random_bits()? as u32,
        history: random_bits()?,
        created: seconds_now(),
    })
}

/// The time, in seconds since 1970.
pub(super) fn seconds_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
