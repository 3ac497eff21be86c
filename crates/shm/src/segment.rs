//! A segment: a memfd of fixed size that a client made and the host maps too.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use chimaera_fork::{Mapping, Private};
use chimaera_proto::limits::{MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, SEGMENT_GRANULE_BYTES};
use chimaera_thread as thread;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;

use crate::futex;
use crate::sync::{AtomicU32, Ordering};

/// A mapped segment. Its pages appear when they are touched. It is this process's: a forked child has
/// neither the memory nor the file.
pub struct Segment {
    memory: Mapping,
    file: Private<OwnedFd>,
}

/// Why a file that the other side sent is not accepted as a segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Without these seals its owner could truncate it, and kill whoever touches it.
    #[error("the segment is not sealed against shrinking and growing")]
    NotSealed,
    /// Another kind of memory may fail when it is touched.
    #[error("the segment is not ordinary shared memory")]
    NotMemory,
    /// Not a size that a segment may have.
    #[error(
        "the segment has {0} bytes; from {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} in steps of \
         {SEGMENT_GRANULE_BYTES} are allowed"
    )]
    Size(i64),
    /// The system refused; a write seal does this too.
    #[error("the segment cannot be mapped: {0}")]
    Map(#[from] io::Error),
}

/// A file that is not accepted as a segment. The caller has to close it, which may take for ever.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct RefusedFile {
    /// The file.
    pub file: OwnedFd,
    /// Why.
    pub error: SegmentError,
}

impl Segment {
    /// Makes a segment of `len_bytes`, sealed against shrinking and growing. The name appears in
    /// `/proc/PID/maps` and nowhere else.
    ///
    /// # Errors
    /// No memory, no address space, no file descriptors; or a limit on the size of files (`EFBIG`), of which this
    /// process gets no signal.
    pub fn create(name: &str, len_bytes: u64) -> io::Result<Self> {
        let len = i64::try_from(len_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = Private::new(|| Ok(memfd_create(name.as_c_str(), flags)?))?;
        thread::without_file_size_signal(|| ftruncate(&file, len))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let memory = map(&file, len)?;
        Ok(Self { memory, file })
    }

    /// Checks and maps a segment that the other side made. Seals are checked first: a file that is sealed
    /// cannot change its size between the check and the use. And only memory can be sealed: any
    /// other question about a file may be answered by a file system of the other side's, or never.
    ///
    /// This takes no further descriptor.
    ///
    /// # Errors
    /// The file, since closing one that is refused may take for ever as well; see [`SegmentError`].
    pub fn receive(file: OwnedFd) -> Result<Self, RefusedFile> {
        let memory = match Self::check(&file).and_then(|len| Ok(map(&file, len)?)) {
            Ok(memory) => memory,
            Err(error) => return Err(RefusedFile { file, error }),
        };
        match Private::adopt(file) {
            Ok(file) => Ok(Self { memory, file }),
            Err((file, error)) => Err(RefusedFile {
                file,
                error: SegmentError::Map(error),
            }),
        }
    }

    /// The bytes of a segment that the other side made, without mapping it. They stay so many.
    ///
    /// # Errors
    /// See [`SegmentError`].
    pub fn len_of(file: &OwnedFd) -> Result<u64, SegmentError> {
        Ok(Self::check(file)?.cast_unsigned())
    }

    /// The length of what may be mapped.
    fn check(file: &OwnedFd) -> Result<i64, SegmentError> {
        check_seals(file)?;
        // Memory of huge pages can be sealed too.
        let kind = fstatfs(file).map_err(io::Error::from)?.filesystem_type();
        if kind != TMPFS_MAGIC {
            return Err(SegmentError::NotMemory);
        }
        let len = nix::sys::stat::fstat(file)
            .map_err(io::Error::from)?
            .st_size;
        let valid = u64::try_from(len).is_ok_and(|len| {
            (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&len)
                && len.is_multiple_of(SEGMENT_GRANULE_BYTES)
        });
        if !valid {
            return Err(SegmentError::Size(len));
        }
        Ok(len)
    }

    /// Whether a file that the other side sent is this segment's memory.
    #[must_use]
    pub fn is_memory_of(&self, file: &OwnedFd) -> bool {
        // Seals are checked first here too: a file that has them is memory, and answers.
        let name_of = |file: &OwnedFd| {
            let found = nix::sys::stat::fstat(file).ok()?;
            Some((found.st_dev, found.st_ino))
        };
        check_seals(file).is_ok()
            && name_of(file).is_some_and(|name| name_of(&self.file) == Some(name))
    }

    /// Bytes of the segment.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Whether the segment has no bytes, which none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// The first byte of a range, if the range lies in the segment. Valid for `len_bytes` as
    /// long as the segment lives; the other side may write there at any time.
    #[must_use]
    #[inline]
    pub fn range(&self, offset_bytes: u64, len_bytes: u64) -> Option<NonNull<u8>> {
        let end = offset_bytes.checked_add(len_bytes)?;
        // SAFETY: the offset is within the mapping, as the end is.
        (end <= self.len()).then(|| unsafe { self.memory.address().add(offset_bytes as usize) })
    }

    fn bell(&self) -> &AtomicU32 {
        // SAFETY: the first word of the first page is mapped as long as the segment lives, and
        // aligned; an atomic is valid with any bytes.
        unsafe { self.memory.address().cast::<AtomicU32>().as_ref() }
    }

    /// How often the bell was rung, for [`Segment::wait_for_bell`].
    #[must_use]
    pub fn bell_count(&self) -> u32 {
        // Acquire pairs with the release in `ring_bell`.
        self.bell().load(Ordering::Acquire)
    }

    /// Sleeps until the bell is rung once more than `seen`, the timeout passes, or for no reason at
    /// all.
    pub fn wait_for_bell(&self, seen: u32, timeout: Option<Duration>) {
        futex::wait(self.bell(), seen, timeout);
    }

    /// Rings the bell, on which a client waits that watches many records at once.
    pub fn ring_bell(&self) {
        // Release pairs with the acquire in `bell_count`: a client that sees the count sees the completions.
        self.bell().fetch_add(1, Ordering::Release);
        futex::wake(self.bell());
    }
}

fn map(file: &OwnedFd, len: i64) -> io::Result<Mapping> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    let map = || {
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
        let address = unsafe { mmap(None, size, protection, flags, file, 0) }?;
        Ok(address.cast())
    };
    // SAFETY: segments are whole pages, and nobody else knows of the mapping.
    unsafe { Mapping::new(len, map) }
}

/// Whether a file is memory whose size cannot change.
fn check_seals(file: &OwnedFd) -> Result<(), SegmentError> {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| SegmentError::NotMemory)?;
    let seals = SealFlag::from_bits_retain(seals);
    if !seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW) {
        return Err(SegmentError::NotSealed);
    }
    Ok(())
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LEN: u64 = MIN_SEGMENT_BYTES;

    fn memfd(flags: MFdFlags) -> OwnedFd {
        memfd_create(c"test", MFdFlags::MFD_CLOEXEC | flags).expect("memfd")
    }

    fn copy(file: &OwnedFd) -> OwnedFd {
        file.try_clone().expect("a descriptor")
    }

    fn refusal(file: OwnedFd) -> SegmentError {
        Segment::receive(file).expect_err("is refused").error
    }

    fn seal(file: &OwnedFd, seals: SealFlag) {
        fcntl(file, FcntlArg::F_ADD_SEALS(seals)).expect("seal");
    }

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let ours = Segment::create("test", LEN).expect("create");
        let theirs = Segment::receive(copy(&ours.file)).expect("receive");
        assert!(theirs.is_memory_of(&ours.file) && ours.is_memory_of(&theirs.file));
        let other = Segment::create("test", LEN).expect("create");
        assert!(!theirs.is_memory_of(&other.file));
        let (a, b) = (
            ours.range(LEN - 8, 8).expect("in"),
            theirs.range(LEN - 8, 8).expect("in"),
        );
        // SAFETY: both ranges are mapped, and nobody else uses them.
        unsafe {
            a.cast::<u64>().write(0x0123_4567_89ab_cdef);
            assert_eq!(b.cast::<u64>().read(), 0x0123_4567_89ab_cdef);
        }
    }

    #[test]
    fn ranges_outside_are_none() {
        let segment = Segment::create("test", LEN).expect("create");
        assert!(segment.range(LEN, 0).is_some());
        for (offset, len) in [
            (LEN, 1),
            (LEN + 1, 0),
            (u64::MAX, 1),
            (1, u64::MAX),
            (0, LEN + 1),
        ] {
            assert!(segment.range(offset, len).is_none(), "{offset} {len}");
        }
    }

    #[test]
    fn a_file_that_its_owner_can_truncate_is_refused() {
        let file = memfd(MFdFlags::MFD_ALLOW_SEALING);
        ftruncate(&file, LEN as i64).expect("truncate");
        seal(&file, SealFlag::F_SEAL_GROW);
        assert!(matches!(refusal(file), SegmentError::NotSealed));
    }

    #[test]
    fn files_that_are_not_memory_are_refused() {
        let file: OwnedFd = std::fs::File::open("/proc/self/exe").expect("open").into();
        assert!(matches!(refusal(file), SegmentError::NotMemory));
        let (reader, _writer) = nix::unistd::pipe().expect("pipe");
        assert!(matches!(refusal(reader), SegmentError::NotMemory));
    }

    #[test]
    fn sizes_that_no_segment_has_are_refused() {
        for size in [0, 4096, LEN as i64 + 1, (MAX_SEGMENT_BYTES + 4096) as i64] {
            let file = memfd(MFdFlags::MFD_ALLOW_SEALING);
            ftruncate(&file, size).expect("truncate");
            seal(&file, SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK);
            assert!(matches!(refusal(file), SegmentError::Size(_)), "{size}");
        }
    }

    #[test]
    fn a_segment_that_cannot_be_written_is_refused() {
        let file = memfd(MFdFlags::MFD_ALLOW_SEALING);
        ftruncate(&file, LEN as i64).expect("truncate");
        seal(
            &file,
            SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE,
        );
        assert!(matches!(refusal(file), SegmentError::Map(_)));
    }
}
