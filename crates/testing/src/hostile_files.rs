//! Files that nobody expects beside a message.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ftruncate, pipe};

use chimaera_proto::limits::MIN_SEGMENT_BYTES;
use chimaera_shm::Segment;

/// Files of many kinds, none of which keeps whoever asks for it waiting: memory that is sealed as a segment is, that is
/// not, of a wrong size; and what is no memory at all.
#[derive(Debug)]
pub struct HostileFiles {
    segments: Vec<Segment>,
    others: Vec<OwnedFd>,
}

impl HostileFiles {
    /// One of each kind.
    ///
    /// # Panics
    /// If the system refuses one.
    #[must_use]
    pub fn new() -> Self {
        let memory = |len_bytes: i64| {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let memory = memfd_create("hostile", flags).expect("a memfd");
            ftruncate(&memory, len_bytes).expect("takes its size");
            memory
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = |kind| {
            socketpair(AddressFamily::Unix, kind, None, flags)
                .expect("sockets")
                .0
        };
        let open = |path: &str, flags: i32| -> OwnedFd {
            let mut options = File::options();
            let options = options.read(true).custom_flags(flags);
            options.open(path).expect("opens").into()
        };
        let (reader, writer) = pipe().expect("a pipe");
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
        let sealed = |len| Segment::create("hostile", len).expect("a segment");
        Self {
            segments: vec![sealed(MIN_SEGMENT_BYTES), sealed(4 * MIN_SEGMENT_BYTES)],
            others: vec![
                memory(0),
                memory(MIN_SEGMENT_BYTES as i64),
                socket(SockType::SeqPacket),
                socket(SockType::Stream),
                reader,
                writer,
                eventfd.into(),
                epoll.0,
                open("/dev/null", 0),
                open("/dev/zero", 0),
                open("/", libc::O_DIRECTORY),
                open("/", libc::O_PATH),
                open("/proc/self/status", 0),
            ],
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.segments.len() + self.others.len()
    }

    /// The file with this number, from 0 on; numbers begin again behind the last. The first two are segments.
    #[must_use]
    pub fn file(&self, number: usize) -> BorrowedFd<'_> {
        let number = number % self.count();
        match self.segments.get(number) {
            Some(segment) => segment.as_fd(),
            None => self.others[number - self.segments.len()].as_fd(),
        }
    }

    /// The segment with this number, which has the smallest size or four times that.
    #[must_use]
    pub fn segment(&self, number: usize) -> &Segment {
        &self.segments[number % self.segments.len()]
    }
}

impl Default for HostileFiles {
    fn default() -> Self {
        Self::new()
    }
}
