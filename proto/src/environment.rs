//! The environment, as far as a process may trust it.

#![expect(unsafe_code, reason = "the system is asked what nothing else tells")]

use std::ffi::OsString;

/// The value of an environment variable that says where something lies or what is loaded. `None` if it is not set or
/// empty; and in a process that has rights which whoever started it may not have (a set-user-ID program, for example),
/// since the environment is that one's.
#[must_use]
pub fn trusted_variable(name: &str) -> Option<OsString> {
    if has_foreign_rights() {
        return None;
    }
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether this process was given rights that whoever started it may not have, by the kernel's word (`AT_SECURE`).
fn has_foreign_rights() -> bool {
    // SAFETY: it reads a value that the kernel gave to the process at its start, and takes a number, not memory.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
