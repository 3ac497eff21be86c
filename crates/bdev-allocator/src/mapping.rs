//! Arrays as long as the largest pool needs, which take memory only where they are used.
//!
//! Laws:
//! - All of the module's unsafe code is here; what it hands out is an ordinary slice.
//! - Only types of which zero bytes are a value ([`zerocopy::FromZeros`]) are stored, for which `Default` gives the
//!   same value, and only shared references are given out, so what changes in place is atomic.
#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;

/// A fixed number of elements, all zero at first, in memory that appears when it is written.
#[cfg(not(loom))]
pub(crate) struct SparseArray<T> {
    first: std::ptr::NonNull<T>,
    length: usize,
}

/// Loom's atomics lie on the heap and are made one by one, by `Default`.
#[cfg(loom)]
pub(crate) struct SparseArray<T>(Box<[T]>);

#[cfg(not(loom))]
mod mapped {
    use std::num::NonZeroUsize;
    use std::ops::Range;
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
    use zerocopy::FromZeros;

    use super::{Deref, SparseArray, io};

    // SAFETY: the array owns its mapping as a box owns its memory, so it may be sent wherever its
    // elements may.
    unsafe impl<T: Send> Send for SparseArray<T> {}
    // SAFETY: a shared array gives out nothing but shared references to its elements.
    unsafe impl<T: Sync> Sync for SparseArray<T> {}

    impl<T: FromZeros> SparseArray<T> {
        /// Reserves address space for `length` elements.
        ///
        /// # Errors
        /// The system's, if it has no such address space.
        pub(crate) fn new(length: usize) -> io::Result<Self> {
            // A mapping is aligned to a page, and no page is smaller than this.
            const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
            const { assert!(!std::mem::needs_drop::<T>()) };
            let bytes = length
                .checked_mul(size_of::<T>())
                .and_then(NonZeroUsize::new);
            let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
            // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
            let first = unsafe {
                mmap_anonymous(
                    None,
                    bytes,
                    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                    MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
                )
            }?;
            // Huge pages would spend 2 MiB where a few bytes are used. A kernel without them
            // refuses the advice, and does not need it.
            // SAFETY: the range is the mapping just made; the advice changes no contents.
            let _ = unsafe { madvise(first, bytes.get(), MmapAdvise::MADV_NOHUGEPAGE) };
            Ok(Self {
                first: first.cast(),
                length,
            })
        }

        /// Populates the memory of these elements at once, which is cheaper than page by page. A hint:
        /// where it fails, memory appears as it is written.
        pub(crate) fn populate(&self, elements: Range<usize>) {
            let end = elements.end.min(self.length) * size_of::<T>();
            let start = elements.start * size_of::<T>() / 4096 * 4096;
            if start < end {
                let first: NonNull<std::ffi::c_void> = self.first.cast();
                // SAFETY: the range lies within this array's mapping and begins at a page's border;
                // the advice changes no contents.
                let _ = unsafe {
                    let at = first.byte_add(start);
                    madvise(at, end - start, MmapAdvise::MADV_POPULATE_WRITE)
                };
            }
        }

        /// Bytes that are backed by memory now.
        #[cfg(test)]
        pub(crate) fn resident_bytes(&self) -> usize {
            let bytes = self.length * size_of::<T>();
            let mut pages = vec![0_u8; bytes.div_ceil(4096)];
            // SAFETY: the range is this array's mapping, and the vector has a byte for each of its
            // pages.
            let result =
                unsafe { libc::mincore(self.first.as_ptr().cast(), bytes, pages.as_mut_ptr()) };
            assert_eq!(result, 0, "mincore: {}", io::Error::last_os_error());
            pages.iter().filter(|page| **page & 1 != 0).count() * 4096
        }
    }

    impl<T> Deref for SparseArray<T> {
        type Target = [T];

        #[inline]
        fn deref(&self) -> &[T] {
            // SAFETY: the mapping holds this many elements, aligned, valid since it was made
            // (all zero, which `FromZeros` allows), and lives until `drop`, so longer than `self` is borrowed.
            // Nobody gets a mutable reference.
            unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
        }
    }

    impl<T> Drop for SparseArray<T> {
        fn drop(&mut self) {
            let address: NonNull<std::ffi::c_void> = self.first.cast();
            // SAFETY: it is exactly the mapping made in `new`, and no borrow of it outlives `self`.
            let result = unsafe { munmap(address, self.length * size_of::<T>()) };
            debug_assert_eq!(result, Ok(()));
        }
    }
}

#[cfg(loom)]
impl<T: Default> SparseArray<T> {
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        Ok(Self((0..length).map(|_| T::default()).collect()))
    }

    pub(crate) fn populate(&self, _: std::ops::Range<usize>) {}
}

#[cfg(loom)]
impl<T> Deref for SparseArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}
