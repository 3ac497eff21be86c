//! A child of the receiver: it serves one request and ends.
//!
//! It may hang at any moment, since it has files of a stranger's: nobody waits for it. When a process ends, the kernel
//! does not let sockets linger, and asks nobody about files that were never received.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::messages::{ChildAnswer, ChildRequest, ChildTask, Found, RequestTaken};
use super::verdict::judge;

/// The most files that the kernel lets a message have (`SCM_MAX_FD`).
const MAX_FILES: usize = 253;

/// Where a child gets its request, and where it tells the receiver that it has.
pub(super) struct Place {
    pub(super) requests: RawFd,
    pub(super) taken: RawFd,
    /// Which child this is.
    pub(super) generation: u64,
}

/// Serves the next request. Never returns.
pub(super) fn serve(place: &Place, trusted: &[String]) -> ! {
    let mut bytes = [0; ChildRequest::BYTES];
    let mut given = Files::new();
    let received = given.receive(place.requests, &mut bytes, 0);
    // There are no bytes if the host has ended.
    let len = received.map_or(0, |received| received.len);
    if let Some(request) = bytes.get(..len).and_then(ChildRequest::from_bytes) {
        let taken = RequestTaken {
            generation: place.generation,
            request,
        };
        let bytes = taken.to_bytes();
        // SAFETY: the place has so many bytes. So few are written whole, or not at all.
        unsafe { libc::write(place.taken, bytes.as_ptr().cast(), bytes.len()) };
        carry_out(place, request, given.first(), trusted);
    }
    exit()
}

fn carry_out(
    place: &Place,
    request: ChildRequest,
    socket: Option<BorrowedFd<'_>>,
    trusted: &[String],
) {
    let Some(socket) = socket else {
        return answer(place, request, Found::NoDescriptor, None);
    };
    if request.task == ChildTask::Close {
        loop {
            // Whoever kills it has closed the socket everywhere else, so that it is this process whose end closes it.
            // SAFETY: the call takes nothing.
            unsafe { libc::pause() };
        }
    }
    let mut files = Files::new();
    let received = files.receive(socket.as_raw_fd(), &mut [], libc::MSG_DONTWAIT);
    let is_cut = received.is_some_and(|received| received.is_cut);
    let found = match (files.first(), files.count) {
        (None, _) if is_cut => Found::NoDescriptor,
        (None, _) => Found::Nothing,
        (Some(file), 1) if !is_cut => judge(file, trusted),
        _ => Found::SeveralFiles,
    };
    let passed = files.first().filter(|_| found == Found::Harmless);
    answer(place, request, found, passed);
}

/// Answers, or else answers that there was no descriptor: too many may be in flight.
fn answer(place: &Place, request: ChildRequest, found: Found, file: Option<BorrowedFd<'_>>) {
    let number = request.number;
    if !send(place.requests, ChildAnswer { number, found }, file) && file.is_some() {
        let found = Found::NoDescriptor;
        send(place.requests, ChildAnswer { number, found }, None);
    }
}

/// Sends an answer with at most one file. The library's own way takes memory, which cannot be had here.
fn send(socket: RawFd, answer: ChildAnswer, file: Option<BorrowedFd<'_>>) -> bool {
    let mut bytes = answer.to_bytes();
    let mut slice = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control = ControlArea(MaybeUninit::uninit());
    // SAFETY: a message header of zeros is valid; it points to places that outlive the call, and the macros stay within
    // the control area, which is large enough for many files.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        if let Some(file) = file {
            let len = size_of::<RawFd>() as u32;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(len) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as _;
            let place = libc::CMSG_DATA(header).cast::<RawFd>();
            place.write_unaligned(file.as_raw_fd());
        }
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) >= 0
    }
}

/// Files that came in. They are closed by the end of the process, and not before: closing may hang.
struct Files {
    numbers: [RawFd; MAX_FILES],
    count: usize,
}

/// What else is to be said of a message.
#[derive(Clone, Copy)]
struct Received {
    /// Of its bytes, how many there are here.
    len: usize,
    /// Whether it had more files than came in.
    is_cut: bool,
}

/// Room for the files of any message.
#[repr(align(8))]
struct ControlArea(MaybeUninit<[u8; CONTROL_BYTES]>);

// SAFETY: the macro computes with its argument alone.
const CONTROL_BYTES: usize =
    unsafe { libc::CMSG_SPACE((MAX_FILES * size_of::<RawFd>()) as u32) } as usize;

impl Files {
    const fn new() -> Self {
        Self {
            numbers: [-1; MAX_FILES],
            count: 0,
        }
    }

    fn first(&self) -> Option<BorrowedFd<'_>> {
        let number = *self.numbers[..self.count].first()?;
        // SAFETY: it is open as long as this process.
        Some(unsafe { BorrowedFd::borrow_raw(number) })
    }

    /// Receives a message's files, and as many of its bytes as there is room for. `None` if there is no message.
    fn receive(&mut self, socket: RawFd, bytes: &mut [u8], flags: libc::c_int) -> Option<Received> {
        let mut slice = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut control = ControlArea(MaybeUninit::uninit());
        // SAFETY: a message header of zeros is valid: everything absent.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        // SAFETY: the header points to a place of the length that it says, which outlives the call; the macros stay
        // within what the call has filled in.
        let len = unsafe {
            let flags = flags | libc::MSG_CMSG_CLOEXEC;
            let len = usize::try_from(libc::recvmsg(socket, &raw mut message, flags)).ok()?;
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                self.take((*header).cmsg_level, (*header).cmsg_type, header);
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
            len
        };
        let is_cut = message.msg_flags & libc::MSG_CTRUNC != 0;
        Some(Received { len, is_cut })
    }

    /// # Safety
    /// The header is one that `recvmsg` has filled in.
    unsafe fn take(&mut self, level: i32, kind: i32, header: *const libc::cmsghdr) {
        if (level, kind) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            return;
        }
        // SAFETY: by this function's contract.
        unsafe {
            let data = libc::CMSG_DATA(header);
            let len = (*header).cmsg_len - (data as usize - header as usize);
            for index in 0..len / size_of::<RawFd>() {
                if let Some(place) = self.numbers.get_mut(self.count) {
                    *place = data.cast::<RawFd>().add(index).read_unaligned();
                    self.count += 1;
                }
            }
        }
    }
}

/// Ends this process, without anything that an application has arranged for its end.
pub(super) fn exit() -> ! {
    // SAFETY: the call takes a number, and does not return.
    unsafe { libc::_exit(0) }
}
