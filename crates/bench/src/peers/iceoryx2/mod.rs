//! The peer iceoryx2: requests and responses of 64 bytes between two processes, by its API without copies,
//! both sides polling all the time.

pub(crate) mod caller;
pub(crate) mod server;

/// Looks whether it is built in.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn find() -> std::result::Result<(), String> {
    #[cfg(feature = "peer-iceoryx2")]
    return Ok(());
    #[cfg(not(feature = "peer-iceoryx2"))]
    Err(super::absent::NOT_BUILT_IN.to_owned())
}
