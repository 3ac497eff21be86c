//! The disk of a pool's metadata, as its keeper has it: both copies of a record are written at once.
//!
//! The copies lie far apart, so that writing one after the other takes a device twice as long. The keeper has an AIO
//! context of its own for them. Where there is none, or the kernel takes nothing, they are written one after the other.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use chimaera_bdev_format::image::{DiskOperation, FileDisk, PoolFile};
use chimaera_bdev_format::{Disk, PAGE_BYTES, Page};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::aio::Aio;
use super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};

/// Copies of anything, at most.
const MAX_COPIES: usize = 2;

/// A file or device that a pool's metadata lies on.
pub(crate) struct MetadataDisk {
    disk: FileDisk,
    /// What writes copies at once, if the kernel has given it.
    pair: RefCell<Option<PairWriter>>,
}

struct PairWriter {
    engine: Aio,
    wake: Arc<EventFd>,
}

impl MetadataDisk {
    /// As `disk`, which is one on this file.
    pub(super) fn new(file: &PoolFile, disk: FileDisk) -> Self {
        Self {
            disk,
            pair: RefCell::new(PairWriter::new(file).ok()),
        }
    }

    /// As [`FileDisk::zero`].
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn zero(&self, bytes: Range<u64>) -> io::Result<u64> {
        self.disk.zero(bytes)
    }

    /// As [`FileDisk::give_back`].
    pub(crate) fn give_back(&self, bytes: Range<u64>) {
        self.disk.give_back(bytes);
    }
}

impl Disk for MetadataDisk {
    fn read(&self, first_page: u64, pages: &mut [Page]) -> io::Result<()> {
        self.disk.read(first_page, pages)
    }

    fn write(&self, first_page: u64, pages: &[Page]) -> io::Result<()> {
        self.disk.write(first_page, pages)
    }

    fn write_copies(&self, first_pages: &[u64], pages: &[Page]) -> io::Result<()> {
        let mut pair = self.pair.borrow_mut();
        let written = match pair.as_mut() {
            Some(pair) if first_pages.len() == MAX_COPIES => {
                let written = pair.write(first_pages, pages);
                let offset = first_pages[0] * PAGE_BYTES as u64;
                written.inspect_err(|_| self.disk.note_failed(DiskOperation::Write { offset }))?
            }
            _ => 0,
        };
        let mut others = first_pages.iter().skip(written);
        others.try_for_each(|first_page| self.disk.write(*first_page, pages))
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl PairWriter {
    fn new(file: &PoolFile) -> io::Result<Self> {
        let wake =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let wake = Arc::new(wake);
        let engine = Aio::new(Arc::clone(file), Arc::clone(&wake), MAX_COPIES as u32)?;
        Ok(Self { engine, wake })
    }

    /// Writes the pages to as many of the places as the kernel takes, from the first on, and gives their number. Blocks
    /// until the device has them.
    ///
    /// # Errors
    /// The device's.
    fn write(&mut self, first_pages: &[u64], pages: &[Page]) -> io::Result<usize> {
        let len_bytes = size_of_val(pages);
        // One operation carries no more, and nothing that is written as copies is as long.
        let Ok(len) = u32::try_from(len_bytes) else {
            return Ok(0);
        };
        let commands: Vec<_> = (0..)
            .zip(first_pages)
            .map(|(tag, first_page)| DeviceCommand {
                tag,
                opcode: Opcode::Write,
                address: pages.as_ptr().cast_mut().cast(),
                len_bytes: len,
                offset_in_device: first_page * PAGE_BYTES as u64,
            })
            .collect();
        // SAFETY: the pages stay borrowed until `wait` has taken the results of all that was started, whatever they
        // are; writes only read them.
        let started = unsafe { self.engine.submit(&commands) };
        let started = match started {
            Ok(started) => started,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        for DeviceResult { result, .. } in self.wait(started) {
            match u64::try_from(result) {
                Ok(written) if written == len_bytes as u64 => {}
                // It ended early. Written again, it says why.
                Ok(_) => return Ok(0),
                Err(_) => return Err(io::Error::from_raw_os_error(-result as i32)),
            }
        }
        Ok(started)
    }

    /// The results of so many operations. Blocks until all of them have ended.
    fn wait(&mut self, count: usize) -> Vec<DeviceResult> {
        let mut results = Vec::with_capacity(count);
        loop {
            self.engine.reap(&mut results);
            if results.len() >= count {
                return results;
            }
            let mut files = [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
            match poll(&mut files, PollTimeout::NONE) {
                // It may have been read already: then the next wake-up comes.
                Ok(_) => drop(self.wake.read()),
                Err(Errno::EINTR) => {}
                // No memory for the call: the operations end all the same.
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::engine::file_and_wake;
    use super::*;

    fn disk_on(file: &PoolFile) -> MetadataDisk {
        MetadataDisk::new(file, FileDisk::new(Arc::clone(file)))
    }

    fn page(number: u8) -> Page {
        Page([number; PAGE_BYTES])
    }

    fn check(disk: &MetadataDisk) {
        for number in 1..100 {
            let places = [u64::from(number), 1000 + u64::from(number)];
            disk.write_copies(&places, &[page(number), page(number + 100)])
                .expect("written");
            for place in places {
                let mut found = Page::zeroes(2);
                disk.read(place, &mut found).expect("read");
                assert_eq!([found[0].0[5], found[1].0[5]], [number, number + 100]);
            }
        }
    }

    #[test]
    fn copies_come_to_lie_in_both_places() {
        let (file, _) = file_and_wake();
        let disk = disk_on(&file);
        assert!(disk.pair.borrow().is_some(), "the kernel has a context");
        check(&disk);
    }

    #[test]
    fn without_a_context_they_are_written_one_after_the_other() {
        let (file, _) = file_and_wake();
        let disk = disk_on(&file);
        disk.pair.take();
        check(&disk);
    }

    #[test]
    fn a_failure_is_the_devices() {
        let path = tempfile::NamedTempFile::new().expect("a file");
        let read_only = std::fs::File::open(path.path()).expect("it is there");
        let file = chimaera_bdev_format::image::pool_file(read_only).expect("memory");
        let disk = disk_on(&file);
        assert!(disk.pair.borrow().is_some(), "the kernel has a context");
        let error = disk
            .write_copies(&[0, 1000], &[page(1)])
            .expect_err("it is open for reading");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
