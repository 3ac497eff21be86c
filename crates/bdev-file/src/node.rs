//! Opening for use what is open to be looked at only (`O_PATH`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The links by which a process reaches what it has open.
pub(crate) const OWN_FILES: &str = "/proc/self/fd";

/// Opens what is open to be looked at.
pub(crate) fn open_node(node: &File, options: &mut OpenOptions, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let own = format!("{OWN_FILES}/{}", node.as_raw_fd());
    let file = options.custom_flags(flags.bits()).open(own);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{OWN_FILES} is needed for that: mount the file system /proc"),
        ),
        _ => error,
    })?;
    // Some kernels take it as the wish that no I/O wait.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}
