//! Errors of opening a path, with advice.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chimaera_proto::{ModuleError, Status};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::sys::statfs::{
    BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FsType, NSFS_MAGIC,
    PROC_SUPER_MAGIC, RDTGROUP_SUPER_MAGIC, SECURITYFS_MAGIC, SELINUX_MAGIC, SMACK_MAGIC,
    SYSFS_MAGIC, TRACEFS_MAGIC, XENFS_SUPER_MAGIC, fstatfs,
};

/// What is to be done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathUse {
    /// To look at what it leads to.
    Look,
    /// To open that for reading.
    Read,
    /// To open it for reading and writing.
    Write,
    /// To make a file there.
    Create,
}

impl PathUse {
    const fn verb(self) -> &'static str {
        match self {
            Self::Look => "look at",
            Self::Read | Self::Write => "open",
            Self::Create => "create",
        }
    }

    /// What a user needs the right to.
    const fn right(self) -> &'static str {
        match self {
            Self::Look => "pass each directory on its way",
            Self::Read => "read it and to pass each directory on its way",
            Self::Write => "read and write it and to pass each directory on its way",
            Self::Create => "write to its directory and to pass each one on its way",
        }
    }
}

/// The error that something could not be done with a path. To say why, it looks at the path.
#[must_use]
pub fn refused(access: PathUse, path: &Path, error: &io::Error) -> ModuleError {
    let refusal = refused_open(access, path, error);
    match error.raw_os_error() {
        Some(libc::ENOENT) => with_advice(refusal, what_is_missing(path)),
        _ => refusal,
    }
}

/// As [`refused`], of a file that is open already. Its path, which may be somebody else's, is not looked at.
#[must_use]
pub fn refused_open(access: PathUse, path: &Path, error: &io::Error) -> ModuleError {
    let action = format_args!("cannot {} {}", access.verb(), path.display());
    let mut refusal = ModuleError::system(action, error);
    let errno = error.raw_os_error().unwrap_or(0);
    // No file can be opened by such a path, whatever is on the disk.
    if matches!(errno, libc::ELOOP | libc::ENAMETOOLONG | libc::EISDIR) {
        refusal.failure.status = Status::InvalidArgument;
    }
    with_advice(refusal, advice(access, path, errno))
}

fn with_advice(mut refusal: ModuleError, advice: Option<String>) -> ModuleError {
    if let Some(advice) = advice {
        refusal.message = format!("{}: {advice}", refusal.message);
    }
    refusal
}

/// File systems of the kernel's own. Their files look regular, but reading one may block for ever, and writing one
/// may change the machine's settings.
const KERNEL_FILE_SYSTEMS: [FsType; 21] = [
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    DEBUGFS_MAGIC,
    TRACEFS_MAGIC,
    SECURITYFS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    BPF_FS_MAGIC,
    SELINUX_MAGIC,
    SMACK_MAGIC,
    NSFS_MAGIC,
    XENFS_SUPER_MAGIC,
    // resctrl
    RDTGROUP_SUPER_MAGIC,
    // configfs
    FsType(0x6265_6570),
    // efivarfs
    FsType(0xde5e_81e4),
    // pstore
    FsType(0x6165_676c),
    // mqueue
    FsType(0x1980_0202),
    // fusectl
    FsType(0x6573_5543),
    // binfmt_misc
    FsType(0x4249_4e4d),
    // rpc_pipefs
    FsType(0x6759_6969),
    // secretmem, which is memory that the kernel itself does not see
    FsType(0x5345_434d),
];

/// Refuses an open file that stores nothing, and one for writing that whoever starts it has the rights of its owner or
/// group by: the system takes those bits away when somebody without privileges writes to it, but not when root's daemon
/// does. To be called before the file is read.
pub fn check_stores(path: &Path, file: &File) -> Result<(), ModuleError> {
    let system = fstatfs(file).map_err(|errno| refused_open(PathUse::Look, path, &errno.into()))?;
    let text = if KERNEL_FILE_SYSTEMS.contains(&system.filesystem_type()) {
        "is a file of the kernel's own, which stores nothing: a file pool needs a regular file on a disk or in memory, \
         or a block device"
    } else if lends_rights(path, file)? {
        "is a program that lends its owner's or group's rights to whoever starts it (set-user-ID or set-group-ID), and \
         those bits would outlive what a pool writes there: use another file, or take them away (`chmod ug-s`)"
    } else {
        return Ok(());
    };
    Err(ModuleError::new(
        Status::InvalidArgument,
        format!("{} {text}", path.display()),
    ))
}

/// Whether a file is a regular one that was opened for writing, and has such bits. Without the right of its group to
/// execute it, the bit of the group is of another meaning.
fn lends_rights(path: &Path, file: &File) -> Result<bool, ModuleError> {
    let failed = |error: io::Error| refused_open(PathUse::Look, path, &error);
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|errno| failed(errno.into()))?;
    let metadata = file.metadata().map_err(failed)?;
    let has = |bits: Mode| metadata.mode() & bits.bits() == bits.bits();
    let lends = has(Mode::S_ISUID) || has(Mode::S_ISGID | Mode::S_IXGRP);
    let access = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    Ok(metadata.is_file() && lends && access != OFlag::O_RDONLY)
}

fn advice(access: PathUse, path: &Path, errno: i32) -> Option<String> {
    let advice = match errno {
        libc::ENOTDIR | libc::EISDIR if ends_with_slash(path) => {
            "it ends with a slash, as only a directory's path does; leave that out"
        }
        libc::ENOTDIR => {
            "something on its way is no directory; see that each part of the path is right"
        }
        libc::ELOOP => "its symbolic links lead in a circle, or are too many; name the file itself",
        libc::ENAMETOOLONG => {
            "each name in a path has at most 255 bytes on most file systems, and the path 4095; use a \
             shorter one"
        }
        libc::EACCES => {
            return Some(format!(
                "user {}, as whom this is done, needs the right to {}",
                nix::unistd::geteuid(),
                access.right()
            ));
        }
        // Of the right to open a file the system says EACCES.
        libc::EPERM => {
            "an attribute of the file forbids it (`lsattr` shows `i` for immutable, `a` for append only, and \
             `chattr -i -a` takes both away), or a security module, or the device can only be read"
        }
        libc::EROFS => {
            "it can only be read; if a pool is there, open it with read_only, else use another path"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// What is missing at a path, or on its way.
fn what_is_missing(path: &Path) -> Option<String> {
    match std::fs::read_link(path) {
        Ok(target) => Some(format!(
            "it is a symbolic link to {}, which does not exist; create that, or name it instead of the link, since no \
             file is made through a link",
            target.display()
        )),
        Err(_) if !has_folder(path) => {
            Some("its folder does not exist; create that first".to_owned())
        }
        Err(_) => None,
    }
}

/// Whether a file could lie where the path says.
fn has_folder(path: &Path) -> bool {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.is_none_or(Path::is_dir)
}

/// Whether the path can only be that of a directory.
pub fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Mounts each of these where that is allowed and it exists, in mount namespaces that end with the commands.
    #[test]
    fn file_systems_of_the_kernels_own_are_known() {
        let place = tempfile::tempdir().expect("a folder");
        let script = "mount -t \"$0\" none \"$1\" && stat -f -c %t \"$1\"";
        for name in [
            "mqueue",
            "configfs",
            "efivarfs",
            "pstore",
            "fusectl",
            "resctrl",
            "binfmt_misc",
            "bpf",
            "tracefs",
            "debugfs",
            "securityfs",
            "proc",
            "sysfs",
            "cgroup2",
        ] {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, name]);
            let Ok(said) = command.arg(place.path()).output() else {
                continue;
            };
            let said = String::from_utf8(said.stdout).expect("a number");
            if let Ok(number) = i64::from_str_radix(said.trim(), 16) {
                let known = KERNEL_FILE_SYSTEMS.contains(&FsType(number as _));
                assert!(known, "{name} is {number:x}");
            }
        }
    }

    #[test]
    fn a_missing_right_is_named_and_no_other() {
        let refused = |access| {
            let error = io::Error::from_raw_os_error(libc::EACCES);
            refused(access, Path::new("/folder/pool"), &error).message
        };
        for (access, needs) in [
            (PathUse::Look, "needs the right to pass each"),
            (PathUse::Read, "needs the right to read it and to pass"),
            (
                PathUse::Write,
                "needs the right to read and write it and to pass",
            ),
            (PathUse::Create, "needs the right to write to its directory"),
        ] {
            let said = refused(access);
            assert!(said.contains(needs), "{access:?}: {said}");
        }
    }
}
