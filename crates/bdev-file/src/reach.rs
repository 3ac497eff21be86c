//! Which files a path may lead to.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use chimaera_proto::{ModuleError, Status};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::path::{PathUse, refused};

/// How often resolving a path is repeated while something on its way is being renamed.
const MAX_RETRIES: usize = 100;

/// Which files a path may lead to.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    /// All that this process may open: for a process that does what its own user wants.
    All,
    /// As before, but not by what other processes have open: the links of `/proc/PID/fd` and the like, which lead past
    /// all folders.
    NoMagicLinks,
    /// What lies in a folder, or in a folder there, without a symbolic link on the way.
    Beneath {
        /// The folder, open.
        folder: BorrowedFd<'a>,
        /// Its path, with which each path begins.
        path: &'a Path,
    },
}

impl Reach<'_> {
    /// Opens what the path leads to.
    pub(crate) fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        let (resolve, start, rest) = match self {
            Self::All => return open(path, flags, Mode::empty()),
            Self::NoMagicLinks => (
                ResolveFlag::RESOLVE_NO_MAGICLINKS,
                AT_FDCWD,
                path.to_path_buf(),
            ),
            Self::Beneath {
                folder,
                path: beneath,
            } => (
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS
                    | ResolveFlag::RESOLVE_NO_SYMLINKS,
                *folder,
                rest_of(path, beneath).ok_or(Errno::EXDEV)?,
            ),
        };
        let how = OpenHow::new().flags(flags).resolve(resolve);
        for _ in 0..MAX_RETRIES {
            match openat2(start, &rest, how) {
                Err(Errno::EAGAIN) => {}
                opened => return opened,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The error that something could not be done with a path.
    pub(crate) fn refused(&self, access: PathUse, path: &Path, error: &io::Error) -> ModuleError {
        let denied = |text: &str| {
            ModuleError::new(
                Status::PermissionDenied,
                format!("the daemon does not open {}: {text}", path.display()),
            )
        };
        let errno = error.raw_os_error().map(Errno::from_raw);
        match (self, errno) {
            (Self::All, _) => refused(access, path, error),
            (_, Some(Errno::ENOSYS)) => denied(
                "this kernel cannot open a path without following links (openat2, Linux 5.6), or a sandbox forbids it: \
                 have the client open the file",
            ),
            (Self::Beneath { .. }, Some(Errno::ELOOP)) => denied(
                "a symbolic link is on its way, and the daemon follows none beneath an --allow-path: name the file \
                 itself",
            ),
            (Self::Beneath { path: beneath, .. }, Some(Errno::EXDEV)) => denied(&format!(
                "it leads out of {}, which is what --allow-path allows: name the file without `..`",
                beneath.display()
            )),
            (Self::NoMagicLinks, Some(Errno::ELOOP)) if path.metadata().is_ok() => denied(
                "a link of /proc is on its way, to what a process has open: name the file itself",
            ),
            _ => refused(access, path, error),
        }
    }
}

/// The way from a folder to a path that begins with it. `None` for a path that does not.
fn rest_of(path: &Path, beneath: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(beneath).ok()?;
    Some(match rest.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => rest.to_path_buf(),
    })
}
