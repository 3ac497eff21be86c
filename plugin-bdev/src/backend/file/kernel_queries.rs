//! Queries to the kernel about an open file or device: what direct I/O needs, the logical block size, whether it is
//! read-only, and which file a loop device stands on. No safe crate at hand offers these calls.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

nix::ioctl_read_bad!(logical_block_size, libc::BLKSSZGET, libc::c_int);
nix::ioctl_read_bad!(read_only, BLKROGET, libc::c_int);

/// `_IO(0x12, 94)` of `linux/fs.h`, which `libc` lacks.
const BLKROGET: libc::Ioctl = 0x125e as libc::Ioctl;

/// 64-bit words of a `struct loop_info64` of `linux/loop.h`, which `libc` lacks.
const LOOP_INFO_WORDS: usize = 29;

nix::ioctl_read_bad!(loop_status, LOOP_GET_STATUS64, [u64; LOOP_INFO_WORDS]);

const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;

/// What direct I/O on a file needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectNeed {
    /// Offsets, lengths and addresses that are multiples of so many bytes.
    Alignment(u32),
    /// There is no direct I/O on this file.
    Unsupported,
    /// The file system does not say.
    Unknown,
}

/// Asks the file system behind an open file.
pub(super) fn direct_need(file: &File) -> DirectNeed {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH names the open file; the
    // kernel writes one `statx` structure to the place for one.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    // SAFETY: a `statx` consists of integers, for which zeroes are a value, and the kernel wrote
    // integers over them.
    let answer = unsafe { answer.assume_init() };
    if result != 0 || answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return DirectNeed::Unknown;
    }
    match answer.stx_dio_offset_align.max(answer.stx_dio_mem_align) {
        0 => DirectNeed::Unsupported,
        bytes => DirectNeed::Alignment(bytes),
    }
}

/// Bytes of a block device's logical block, the least that it reads or writes.
pub(super) fn device_block_bytes(device: &File) -> nix::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one integer to `bytes`, which is one.
    unsafe { logical_block_size(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes.unsigned_abs())
}

/// Whether a block device refuses to be written.
pub(super) fn device_is_read_only(device: &File) -> nix::Result<bool> {
    let mut flag: libc::c_int = 0;
    // SAFETY: the kernel writes one integer to `flag`, which is one.
    unsafe { read_only(device.as_raw_fd(), &raw mut flag) }?;
    Ok(flag != 0)
}

/// Device and inode of the file that a loop device, or a partition of one, stands on.
pub(super) fn file_of_loop_device(device: &File) -> nix::Result<(u64, u64)> {
    let mut words = [0; LOOP_INFO_WORDS];
    // SAFETY: the kernel writes a `loop_info64` to `words`, which has its size and alignment and consists of integers.
    unsafe { loop_status(device.as_raw_fd(), &raw mut words) }?;
    Ok((words[0], words[1]))
}
