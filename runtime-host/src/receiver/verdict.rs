//! Whether a file can make whoever has it hang: closing it, looking at it, reading it.
//!
//! No file system of this process's mounts is asked before it is known to be harmless: `fstat` of a file that a user's
//! own program serves (FUSE) takes as long as that program likes. Of a mount that this process does not have, a
//! container's or that of a service with a `/tmp` of its own, the kernel lists nothing here. So its file system is
//! asked for its type: the answer holds, since every file system's code in the kernel gives its own; if none comes,
//! that keeps this process, of which there is one for each message, and nobody else.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::fstatfs;

use super::messages::{Found, Name};
use super::mounts;

/// Types of file systems whose files only the machine's own devices can hold up.
const LOCAL: &[&str] = &[
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "tmpfs", "ramfs",
    "devtmpfs", "overlay", "erofs", "squashfs", "iso9660", "vfat", "exfat",
];

/// The same by the numbers that they give for their types, as far as nothing else lies beneath them that may hang: not
/// `overlay`, which users may put over anything in a namespace of theirs.
const LOCAL_NUMBERS: [u64; 8] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
];

/// What a file is, for a host whose operator trusts these further types of file systems.
pub(super) fn judge(file: BorrowedFd<'_>, trusted: &[String]) -> Found {
    match fcntl(file, FcntlArg::F_GETFL) {
        Ok(flags) if flags & OFlag::O_PATH.bits() != 0 => return Found::PathOnly,
        Ok(_) => {}
        Err(_) => return Found::Unknown,
    }
    // Only memory has seals.
    if fcntl(file, FcntlArg::F_GET_SEALS).is_ok() {
        return Found::Harmless;
    }
    match mounts::type_of_file(&file) {
        Err(_) => Found::Unknown,
        Ok(None) => of_no_mount(file),
        Ok(Some(name)) if is_trusted(name, trusted) => by_kind(file),
        Ok(Some(name)) => Found::FileSystem(name),
    }
}

/// Whether files of this type are harmless. A name that the operator gives stands for its subtypes, too: `fuse` for
/// `fuse.sshfs`.
fn is_trusted(name: Name, trusted: &[String]) -> bool {
    let name = name.bytes();
    let is_named = |allowed: &String| {
        let rest = name.strip_prefix(allowed.as_bytes());
        rest.is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b'.'))
    };
    LOCAL.iter().any(|local| local.as_bytes() == name) || trusted.iter().any(is_named)
}

/// Of a harmless file system's file: whether it is one that pools are made of.
fn by_kind(file: BorrowedFd<'_>) -> Found {
    let Ok(found) = fstat(file) else {
        return Found::Unknown;
    };
    match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG | SFlag::S_IFBLK => Found::Harmless,
        SFlag::S_IFDIR => Found::Directory,
        SFlag::S_IFCHR => Found::CharacterDevice,
        SFlag::S_IFIFO => Found::Fifo,
        SFlag::S_IFSOCK => Found::Socket,
        _ => Found::Unknown,
    }
}

/// Whether only the machine's own devices can hold a file up, by its file system's word. This may hang.
fn is_local(file: BorrowedFd<'_>) -> bool {
    // A number of 32 bits, which some C libraries extend by its sign.
    let number = fstatfs(file).map(|found| found.filesystem_type().0 as u32);
    number.is_ok_and(|number| LOCAL_NUMBERS.contains(&u64::from(number)))
}

/// What a file is that belongs to no mount of this process. The kernel's name for it says, which is no file system's.
fn of_no_mount(file: BorrowedFd<'_>) -> Found {
    let mut path = [0; 64];
    let _ = write!(&mut path[..63], "/proc/self/fd/{}", file.as_raw_fd());
    let Ok(path) = CStr::from_bytes_until_nul(&path) else {
        return Found::Unknown;
    };
    let mut text = [0; 256];
    // SAFETY: the path ends in a zero, and the place has as many bytes as is said.
    let len = unsafe { libc::readlink(path.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    let Ok(len) = usize::try_from(len) else {
        return Found::ForeignMount;
    };
    let text = text.get(..len).unwrap_or_default();
    if text.starts_with(b"/") {
        return match is_local(file) {
            true => by_kind(file),
            false => Found::ForeignMount,
        };
    }
    if text.starts_with(b"socket:") {
        return Found::Socket;
    }
    if text.starts_with(b"pipe:") {
        return Found::Fifo;
    }
    let mut name = Name::default();
    text.iter().for_each(|&byte| name.push(byte));
    Found::Special(name)
}
