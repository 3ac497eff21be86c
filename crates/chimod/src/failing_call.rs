//! Calls across the ABI that may fail, and how their errors travel: a status word comes back, and the text goes into
//! the caller's sink.

use std::ffi::c_void;

use chimaera_proto::limits::MAX_ERROR_TEXT_BYTES;
use chimaera_proto::status::result_from_word;
use chimaera_proto::{Failure, ModuleError, Status};

use crate::abi::{LentBytes, TextSink};

/// Makes a call with a sink for its error.
pub(crate) fn call(function: impl FnOnce(*const TextSink) -> u32) -> Result<(), ModuleError> {
    let mut text = Vec::<u8>::new();
    let sink = TextSink {
        context: (&raw mut text).cast(),
        write: append,
    };
    let word = function(&raw const sink);
    if word == 0 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let said = result_from_word(word).map_or_else(|failure| failure, |()| Status::Ok.into());
    let failure = failure_of_module(word);
    let message = match (text.trim().is_empty(), failure == said) {
        (true, true) => failure.to_string(),
        (false, true) => text,
        (true, false) => not_of_a_module(said.status),
        (false, false) => format!("{text} ({})", not_of_a_module(said.status)),
    };
    Err(ModuleError { failure, message })
}

/// The failure in a module's status word, which is not 0. A status that only the runtime gives becomes
/// [`Status::Aborted`]: a client would take it for the runtime's, and look for another daemon, for example.
#[must_use]
pub fn failure_of_module(word: u32) -> Failure {
    match result_from_word(word) {
        Err(failure) if !failure.status.is_of_runtime() => failure,
        _ => Failure::new(Status::Aborted),
    }
}

fn not_of_a_module(status: Status) -> String {
    format!(
        "the module failed with the status {status:?} ({status}), which only the runtime gives: a mistake in the module"
    )
}

unsafe extern "C" fn append(context: *mut c_void, text: LentBytes) {
    // SAFETY: `call` passes its own vector as the context, and the module calls this only during
    // the call, on one thread, with a text that is valid meanwhile.
    unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(text.as_slice()) };
}

/// Reports an error to whoever made the call: gives the status word, after the text.
///
/// # Safety
/// `error` must point to a valid sink.
pub unsafe fn report(failed: &ModuleError, error: *const TextSink) -> u32 {
    let text = &failed.message[..failed.message.floor_char_boundary(MAX_ERROR_TEXT_BYTES)];
    // SAFETY: the sink is valid, and takes any text for the time of the call.
    unsafe { ((*error).write)((*error).context, LentBytes::new(text.as_bytes())) };
    match failed.failure.status {
        // A module that reports "ok" as its error has failed all the same.
        Status::Ok => Failure::new(Status::Aborted).to_word(),
        _ => failed.failure.to_word(),
    }
}
