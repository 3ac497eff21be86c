//! What a process, its user or the system has run out of for the moment.
//!
//! Such a shortage is nobody's fault and passes. So it is distinguished from all other failures, in this one place: it
//! ends no connection, its message says what is lacking and which limit to raise, and a later attempt may succeed.
//!
//! This is about calls that make something: files, mappings, watches, threads, messages with files. A write that finds
//! a device full is another matter, and so is `EAGAIN` of a socket, whose other side does not read.

use std::io;
use std::num::NonZeroUsize;

use chimaera_proto::Status;
use chimaera_thread::NoThread;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// What is lacking for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The process has no file descriptor left.
    Descriptors,
    /// The system has none.
    SystemDescriptors,
    /// Too many descriptors of the user's are in flight between processes.
    DescriptorsInFlight,
    /// There is no room left for shared memory, or for watching a file.
    Room,
    /// No memory, no address space, or too many mappings.
    Memory,
    /// The system gives no thread.
    Threads,
}

impl Shortage {
    /// What is lacking, if that is why a call failed.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref();
        if inner
            .and_then(|inner| inner.downcast_ref::<NoThread>())
            .is_some()
        {
            return Some(Self::Threads);
        }
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE) => Some(Self::Descriptors),
            Some(Errno::ENFILE) => Some(Self::SystemDescriptors),
            Some(Errno::ETOOMANYREFS) => Some(Self::DescriptorsInFlight),
            Some(Errno::ENOSPC) => Some(Self::Room),
            Some(Errno::ENOMEM | Errno::ENOBUFS) => Some(Self::Memory),
            Some(_) => None,
            None => (error.kind() == io::ErrorKind::OutOfMemory).then_some(Self::Memory),
        }
    }

    /// The status by which another process is told.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Memory => Status::OutOfMemory,
            _ => Status::OutOfResources,
        }
    }

    /// What is lacking, in words that follow "has".
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Descriptors => "no file descriptor left",
            Self::SystemDescriptors => "no file descriptor left, as the system has none",
            Self::DescriptorsInFlight => {
                "too many file descriptors on their way to other processes"
            }
            Self::Room => "no room left for shared memory or for watching a file",
            Self::Memory => "no memory, address space or mapping left",
            Self::Threads => "no further thread",
        }
    }

    /// What helps, as an order.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Descriptors | Self::DescriptorsInFlight => "raise `ulimit -n`",
            Self::SystemDescriptors => "raise fs.file-max, or end programs",
            Self::Room => "raise the control group's limit on memory, or fs.epoll.max_user_watches",
            Self::Memory => {
                "raise `ulimit -v`, the control group's limit on memory, or vm.max_map_count"
            }
            Self::Threads => "raise `ulimit -u`, or `pids.max` of the control group",
        }
    }
}

/// Checks that so many bytes are left of the process's address space, and of the system's memory where that is not
/// overcommitted; nothing of them is kept, and a control group's limit is not asked. For a process that has given a
/// large part away, as an allocation that fails later would abort it.
///
/// # Errors
/// If they are not left.
pub fn check_memory(bytes: usize) -> io::Result<()> {
    let Some(size) = NonZeroUsize::new(bytes) else {
        return Ok(());
    };
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the system's choice touches no memory that is in use. Nobody else knows
    // it, so that it may be unmapped.
    unsafe {
        let mapping = mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE)?;
        munmap(mapping, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_that_pass_are_told_from_faults() {
        let wants = [
            (Errno::EMFILE, Status::OutOfResources, "ulimit -n"),
            (Errno::ENFILE, Status::OutOfResources, "fs.file-max"),
            (Errno::ETOOMANYREFS, Status::OutOfResources, "ulimit -n"),
            (Errno::ENOSPC, Status::OutOfResources, "max_user_watches"),
            (Errno::ENOMEM, Status::OutOfMemory, "vm.max_map_count"),
            (Errno::ENOBUFS, Status::OutOfMemory, "ulimit -v"),
        ];
        for (errno, status, limit) in wants {
            let shortage = Shortage::of(&errno.into()).expect("a want");
            assert_eq!(shortage.status(), status, "{errno}");
            assert!(shortage.remedy().contains(limit), "{shortage:?}");
        }
        // `EAGAIN` is a shortage of threads only as a `NoThread`; of a socket it is the other side's doing.
        let faults = [Errno::EAGAIN, Errno::EPIPE, Errno::EINVAL, Errno::EPERM];
        assert!(
            faults
                .iter()
                .all(|&errno| Shortage::of(&errno.into()).is_none())
        );
        let no_thread = NoThread::new("chimaera-test", Errno::EAGAIN.into());
        assert_eq!(Shortage::of(&no_thread.into()), Some(Shortage::Threads));
        let without_errno = io::ErrorKind::OutOfMemory.into();
        assert_eq!(Shortage::of(&without_errno), Some(Shortage::Memory));
    }
}
