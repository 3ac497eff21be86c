//! The rights of root, one by one.

use std::fmt;
use std::io;

use crate::SandboxMeasure;

pub(crate) const NAME: &str = "capabilities";

/// A capability that a daemon may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To give a file to a group that this process is not in.
    Chown,
    /// To open files whatever their permissions say.
    DacOverride,
}

impl Capability {
    const fn number(self) -> u32 {
        match self {
            Self::Chown => 0,
            Self::DacOverride => 1,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chown => "CAP_CHOWN",
            Self::DacOverride => "CAP_DAC_OVERRIDE",
        })
    }
}

/// `struct __user_cap_header_struct` of `linux/capability.h`.
#[repr(C)]
struct Header {
    version: u32,
    process: libc::c_int,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`, which has 64 of them.
const VERSION: u32 = 0x2008_0522;

/// Has no program that this process executes give it rights that it does not have.
pub(crate) fn gain_no_privileges() -> SandboxMeasure {
    const NAME: &str = "privileges";
    match nix::sys::prctl::set_no_new_privs() {
        Ok(()) => SandboxMeasure::in_force(NAME, "no program gives it further ones (no_new_privs)"),
        Err(error) => SandboxMeasure::missing(NAME, format!("no_new_privs was refused: {error}")),
    }
}

/// Gives up all capabilities of this thread but those in `kept` that it has, for good.
pub(crate) fn keep_only(kept: &[Capability]) -> SandboxMeasure {
    let Ok(had) = read() else {
        return SandboxMeasure::missing(NAME, "this system does not say which there are");
    };
    let mask = kept.iter().fold(0, |mask, one| mask | 1 << one.number());
    let permitted = had[0].permitted & mask;
    // While there still is the right to do so. Without it, no_new_privs makes that set mean nothing.
    let mut number = 0;
    while bounding_drop(number).is_ok() {
        number += 1;
    }
    clear_ambient();
    let low = Half {
        effective: permitted,
        permitted,
        inheritable: 0,
    };
    if let Err(error) = write(&[low, Half::default()]) {
        return SandboxMeasure::missing(NAME, format!("they could not be given up: {error}"));
    }
    let names: Vec<_> = kept
        .iter()
        .filter(|one| permitted & 1 << one.number() != 0)
        .map(ToString::to_string)
        .collect();
    SandboxMeasure::in_force(
        NAME,
        match names.is_empty() {
            true => "none".to_owned(),
            false => format!("none but {}, which its options need", names.join(" and ")),
        },
    )
}

fn read() -> io::Result<[Half; 2]> {
    let mut header = Header {
        version: VERSION,
        process: 0,
    };
    let mut halves = [Half::default(); 2];
    // SAFETY: the call reads and writes the header, and writes two halves for this version; both are valid meanwhile.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    match result {
        0 => Ok(halves),
        _ => Err(io::Error::last_os_error()),
    }
}

fn write(halves: &[Half; 2]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        process: 0,
    };
    // SAFETY: the call reads and writes the header, and reads two halves for this version; both are valid meanwhile.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a capability out of the bounding set. Fails behind the last one.
fn bounding_drop(number: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the call takes numbers alone.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn clear_ambient() {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    // A kernel that does not know the set has none.
    // SAFETY: the call takes numbers alone.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0) };
}
