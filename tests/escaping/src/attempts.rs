//! What is tried, and what comes of it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::ptr::null;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};

use crate::contract::EscapeAttempt;

/// What the attempts are made at.
pub(crate) struct Aims {
    file: PathBuf,
    port: u16,
    socket: PathBuf,
    process: i32,
}

impl Aims {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        Some(Self {
            file: lines.next()?.into(),
            port: lines.next()?.parse().ok()?,
            socket: lines.next()?.into(),
            process: lines.next()?.parse().ok()?,
        })
    }

    /// The number of the error that prevents it, or 0.
    pub(crate) fn attempt(&self, attempt: EscapeAttempt) -> i32 {
        match self.result(attempt) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        }
    }

    fn result(&self, attempt: EscapeAttempt) -> io::Result<()> {
        match attempt {
            EscapeAttempt::Read => fs::read(&self.file).map(drop),
            EscapeAttempt::Write => OpenOptions::new().write(true).open(&self.file).map(drop),
            EscapeAttempt::Truncate => {
                let path = CString::new(self.file.as_os_str().as_bytes())?;
                // SAFETY: the path is valid during the call.
                done(unsafe { libc::truncate(path.as_ptr(), 0) })
            }
            EscapeAttempt::Remove => fs::remove_file(&self.file),
            EscapeAttempt::Make => File::create(self.file.with_extension("new")).map(drop),
            EscapeAttempt::ChangeMode => {
                fs::set_permissions(&self.file, Permissions::from_mode(0o666))
            }
            EscapeAttempt::ChangeOwner => chown(&self.file, Some(65532), None),
            EscapeAttempt::ConnectTcp => {
                TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).map(drop)
            }
            EscapeAttempt::Listen => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop),
            EscapeAttempt::ConnectUnix => UnixStream::connect(&self.socket).map(drop),
            EscapeAttempt::Datagram => {
                let (sender, _other) = UnixDatagram::pair()?;
                sender.send_to(b"word", &self.socket).map(drop)
            }
            EscapeAttempt::Execute => execute(),
            EscapeAttempt::Fork => fork(),
            // SAFETY: the calls take numbers alone.
            EscapeAttempt::Signal => done(unsafe { libc::kill(self.process, 0) }),
            EscapeAttempt::Trace => {
                // SAFETY: the call takes numbers alone; nothing of this process is traced.
                let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, self.process, 0, 0) };
                done(traced as i32)
            }
            EscapeAttempt::Environment => {
                fs::read(format!("/proc/{}/environ", self.process)).map(drop)
            }
            // SAFETY: the call takes numbers alone.
            EscapeAttempt::ChangeUser => done(unsafe { libc::setresuid(65532, 65532, 65532) }),
            EscapeAttempt::Mount => self.mount(),
            // SAFETY: the call takes numbers alone.
            EscapeAttempt::Unshare => done(unsafe { libc::unshare(libc::CLONE_NEWUSER) }),
            EscapeAttempt::MakeRing => IoUring::new(4).map(drop),
            EscapeAttempt::ReadByRing => self.read_by_ring(),
            EscapeAttempt::ConnectByRing => self.connect_by_ring(),
            EscapeAttempt::SocketByRing => socket_by_ring(&mut IoUring::new(4)?).map(drop),
        }
    }

    /// Over the test's own folder: where nothing prevents it, nothing of the machine's is hidden.
    fn mount(&self) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(&self.file);
        let place = CString::new(folder.as_os_str().as_bytes())?;
        let kind = c"tmpfs".as_ptr();
        // SAFETY: the texts are valid during the call, and this kind of file system takes no data.
        done(unsafe { libc::mount(kind, place.as_ptr(), kind, 0, null()) })?;
        // SAFETY: as above.
        done(unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) })
    }

    fn read_by_ring(&self) -> io::Result<()> {
        let mut ring = IoUring::new(4)?;
        let path = CString::new(self.file.as_os_str().as_bytes())?;
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr());
        let file = carry_out(&mut ring, &open.flags(libc::O_RDONLY).build())?;
        // SAFETY: the ring has opened it, and nobody else knows of it.
        drop(unsafe { OwnedFd::from_raw_fd(file) });
        Ok(())
    }

    fn connect_by_ring(&self) -> io::Result<()> {
        let mut ring = IoUring::new(4)?;
        let socket = socket_by_ring(&mut ring)?;
        let SocketAddr::V4(aim) = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: aim.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(aim.ip().octets()),
            },
            sin_zero: [0; 8],
        };
        let len = size_of_val(&address) as libc::socklen_t;
        let aim = (&raw const address).cast();
        let connect = opcode::Connect::new(Fd(socket.as_raw_fd()), aim, len).build();
        carry_out(&mut ring, &connect).map(drop)
    }
}

fn done(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// If this succeeds there is no daemon any more, which the test notices.
fn execute() -> io::Result<()> {
    let program = c"/bin/true".as_ptr();
    let arguments = [program, null()];
    // SAFETY: both lists end with null, and are valid during the call.
    done(unsafe { libc::execve(program, arguments.as_ptr(), arguments[1..].as_ptr()) })
}

fn fork() -> io::Result<()> {
    // SAFETY: the child ends at once, with a call that is safe there.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: it ends this process and nothing else.
        unsafe { libc::_exit(0) };
    }
    done(child)
}

fn socket_by_ring(ring: &mut IoUring) -> io::Result<OwnedFd> {
    let make = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
    let socket = carry_out(ring, &make)?;
    // SAFETY: the ring has made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn carry_out(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<i32> {
    // SAFETY: what it names is valid until the callers return, and it has ended before that.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring
        .completion()
        .next()
        .map_or(-libc::EIO, |end| end.result());
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::from_raw_os_error(-result)),
    }
}
