//! The memory of the yardsticks: a page that two processes share, and memory in huge pages.
//!
//! Laws:
//! - What is shared consists of atomics only, so the other process may write it at any time.
//! - The file behind shared memory is sealed, or made by the parent process, which seals it.

use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use nix::unistd::ftruncate;

use crate::error::Result;

/// Entries of the bare ring, and its records: as many as a lane has.
pub(crate) const RING_ENTRIES: usize = 64;

/// A value with cache lines of its own, so far apart that the processor does not prefetch them with others.
#[repr(C, align(128))]
pub(crate) struct Alone<T>(pub(crate) T);

/// A cache line of words. The first says which task it holds, and is stored last.
#[repr(C, align(64))]
pub(crate) struct RingLine(pub(crate) [AtomicU64; 8]);

/// What this process and its partner share. It begins as all zero.
#[repr(C)]
pub(crate) struct PartnerPage {
    /// Number of commands given. The partner sleeps on it.
    pub(crate) commands: Alone<AtomicU32>,
    /// Number of commands carried out.
    pub(crate) done: Alone<AtomicU32>,
    /// What the last command is.
    pub(crate) command: AtomicU32,
    /// How often.
    pub(crate) amount: AtomicU64,
    pub(crate) ball: Alone<AtomicU64>,
    /// Answers to the eventfd. This process sleeps on it.
    pub(crate) answers: Alone<AtomicU32>,
    pub(crate) entries: [RingLine; RING_ENTRIES],
    pub(crate) records: [RingLine; RING_ENTRIES],
}

/// A mapped [`PartnerPage`].
pub(crate) struct PartnerMapping {
    page: NonNull<PartnerPage>,
}

// SAFETY: a page consists of atomics.
unsafe impl Send for PartnerMapping {}
// SAFETY: as above.
unsafe impl Sync for PartnerMapping {}

impl PartnerMapping {
    /// Makes a page, and the file by which the partner maps it.
    pub(crate) fn create() -> Result<(Self, OwnedFd)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"chimaera-bench", flags)?;
        ftruncate(&file, size_of::<PartnerPage>() as i64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok((Self::open(&file)?, file))
    }

    /// Maps a page that [`Self::create`] made.
    pub(crate) fn open(file: impl AsFd) -> Result<Self> {
        let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS)?;
        let size = nix::sys::stat::fstat(file.as_fd())?.st_size;
        if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK)
            || size != size_of::<PartnerPage>() as i64
        {
            return Err("the file that was given is no shared page of this program".into());
        }
        let size = NonZeroUsize::new(size_of::<PartnerPage>()).expect("a page has a size");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing. The file
        // is as long as the mapping, and sealed, so that it stays so.
        let address = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self {
            page: address.cast(),
        })
    }
}

impl Deref for PartnerMapping {
    type Target = PartnerPage;

    fn deref(&self) -> &PartnerPage {
        // SAFETY: the mapping is as large as a page, aligned to 4096 bytes, lives as long as
        // `self`, and any bytes are valid atomics, whoever else writes them.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for PartnerMapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping that `open` made, and no reference outlives `self`.
        let _ = unsafe { munmap(self.page.cast(), size_of::<PartnerPage>()) };
    }
}

/// Sleeps while `word` has the value `expected`, or wakes for no reason.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    let none = std::ptr::null::<libc::timespec>();
    let address = word.as_ptr();
    // SAFETY: the kernel reads the word, which is mapped as long as the reference lives. Its
    // errors all mean "look again", which callers do.
    unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAIT, expected, none) };
}

/// Wakes whatever sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    let address = word.as_ptr();
    // SAFETY: the kernel only uses the word's address.
    unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, i32::MAX) };
}

/// Private memory in huge pages where there are any, as memory pools have it.
pub(crate) struct HugeMemory {
    address: NonNull<u8>,
    len: usize,
}

impl HugeMemory {
    /// Memory of this length, with every page touched.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let size = NonZeroUsize::new(len).ok_or("no memory was asked for")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
        let address = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: the range is the mapping just made; this advice does not change its contents.
        let _ = unsafe { madvise(address, len, MmapAdvise::MADV_HUGEPAGE) };
        let mut memory = Self {
            address: address.cast(),
            len,
        };
        memory.fill(0x5A);
        Ok(memory)
    }
}

impl Deref for HugeMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has `len` bytes, is private and initialised by the kernel, and
        // `self` is the only way to it.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }
}

impl DerefMut for HugeMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping that `new` made, and no reference outlives `self`.
        let _ = unsafe { munmap(self.address.cast(), self.len) };
    }
}
