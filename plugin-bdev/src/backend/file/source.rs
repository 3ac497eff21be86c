//! Where a pool's file comes from: whoever asks for the pool has opened it and passed it, or this process opens its
//! path.
//!
//! Laws:
//! - A path is opened for operators alone, who have asked for just that, and only where the host allows it.
//! - A file that was passed is taken as it is, or refused. Whoever passed it has it open too: what its flags allow is
//!   checked here once, and nothing relies on the others staying as they are.
//! - No pool has a file that this process itself needs, whoever asks and however it comes.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chimaera_bdev_file::{
    FileKind, HowToOpen, OpenedPath, PathUse, Reach, check_stores, kind_of, refused_open,
};
use chimaera_chimod::{AllowedPaths, CreateContext, Host, ModuleError};
use chimaera_proto::Status;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::params::Parameters;

/// Where a pool's file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileOrigin {
    /// This process has opened its path.
    Opened,
    /// An operator has passed it.
    PassedByOperator,
    /// Somebody else has passed it, who may do harm with what else they have it open for.
    PassedByUser,
}

impl FileOrigin {
    pub(super) const fn is_passed(self) -> bool {
        !matches!(self, Self::Opened)
    }
}

/// Opens a path, or takes the file that was passed.
pub(super) fn open(
    context: &CreateContext<'_>,
    path: &Path,
    parameters: &Parameters,
) -> Result<(OpenedPath, FileOrigin), ModuleError> {
    let Some(file) = context.file else {
        return Ok((open_path(context, path, parameters)?, FileOrigin::Opened));
    };
    let origin = match context.creator.is_operator {
        true => FileOrigin::PassedByOperator,
        false => FileOrigin::PassedByUser,
    };
    let (file, kind) = take(file, path, parameters)?;
    let opened = OpenedPath {
        file,
        kind,
        made: None,
    };
    Ok((opened, origin))
}

fn open_path(
    context: &CreateContext<'_>,
    path: &Path,
    parameters: &Parameters,
) -> Result<OpenedPath, ModuleError> {
    let denied = |text: &str| {
        ModuleError::new(
            Status::PermissionDenied,
            format!("the daemon does not open {}: {text}", path.display()),
        )
    };
    if !parameters.opened_by_daemon {
        return Err(ModuleError::new(
            Status::Busy,
            format!(
                "{}: no file was passed, since the pool was there when it was asked for, and it has ended just now: \
                 try again",
                path.display()
            ),
        ));
    }
    if !context.creator.is_operator {
        return Err(denied(
            "it opens paths for operators only: have the client open the file, which is what it does unless it is told \
             otherwise",
        ));
    }
    let reach = match context.allowed {
        AllowedPaths::Any => Reach::NoMagicLinks,
        AllowedPaths::Beneath(folders) => {
            let beneath = folders
                .iter()
                .filter(|allowed| path.starts_with(allowed.path));
            let innermost = beneath.max_by_key(|allowed| allowed.path.as_os_str().len());
            let allowed = innermost.ok_or_else(|| {
                denied(
                    "it is beneath no --allow-path with which the daemon was started: have the client open the file, \
                     or start the daemon with --allow-path and the folder",
                )
            })?;
            Reach::Beneath {
                folder: allowed.folder,
                path: allowed.path,
            }
        }
    };
    let how = HowToOpen {
        read_only: parameters.read_only,
        makes: parameters.total_size > 0,
    };
    chimaera_bdev_file::open(path, &reach, how)
}

/// Takes a file that was passed, if a pool can have it.
fn take(
    file: BorrowedFd<'_>,
    path: &Path,
    parameters: &Parameters,
) -> Result<(File, FileKind), ModuleError> {
    let failed = |error: io::Error| {
        ModuleError::system(
            format_args!("cannot take the file that was passed as {}", path.display()),
            &error,
        )
    };
    let file = File::from(file.try_clone_to_owned().map_err(failed)?);
    let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(|errno| failed(errno.into()))?;
    let flags = OFlag::from_bits_retain(flags);
    // What it is comes first: nobody opens a directory for writing.
    let kind = kind_of(path, &file.metadata().map_err(failed)?)?;
    check_flags(path, flags, parameters.read_only)?;
    check_stores(path, &file)?;
    // Some kernels take it as the wish that no I/O wait.
    if flags.contains(OFlag::O_NONBLOCK) {
        let waits = FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK);
        fcntl(&file, waits).map_err(|errno| failed(errno.into()))?;
    }
    Ok((file, kind))
}

/// Checks that a file was opened as a pool needs it.
fn check_flags(path: &Path, flags: OFlag, read_only: bool) -> Result<(), ModuleError> {
    let access = flags & OFlag::O_ACCMODE;
    let text = if flags.contains(OFlag::O_PATH) {
        "to be named only (O_PATH): pass one that is open for reading and writing"
    } else if flags.contains(OFlag::O_APPEND) {
        "for appending (O_APPEND), and a pool writes where its blocks are: pass one that was opened without that"
    } else if access == OFlag::O_WRONLY {
        "for writing only, and a pool also reads: pass one that is open for reading and writing"
    } else if access == OFlag::O_RDONLY && !read_only {
        "for reading only, and a pool also writes: pass one that is open for reading and writing, or ask for the pool \
         with read_only"
    } else if access != OFlag::O_RDONLY && access != OFlag::O_RDWR {
        // Linux knows a fourth way, for device drivers.
        "for neither reading nor writing: pass one that is open for reading and writing"
    } else {
        return Ok(());
    };
    Err(ModuleError::new(
        Status::InvalidArgument,
        format!(
            "{}: the file that was passed was opened {text}",
            path.display()
        ),
    ))
}

/// Refuses a file that this process itself needs.
pub(super) fn check_not_own(path: &Path, file: &File, host: Host) -> Result<(), ModuleError> {
    let found = file.metadata();
    let found = found.map_err(|error| refused_open(PathUse::Look, path, &error))?;
    if !(found.is_file() && host.is_own_file(found.dev(), found.ino())) {
        return Ok(());
    }
    Err(ModuleError::new(
        Status::PermissionDenied,
        format!(
            "{} is a file that the daemon itself needs (its log, a lock, its program or a library), which no pool can \
             have: name another file",
            path.display()
        ),
    ))
}

/// Refuses a file without a name, with which all would be gone when the pool ends; and, of somebody who is no operator,
/// one with several: it may be known to others by another of them.
pub(super) fn check_links(
    path: &Path,
    file: &File,
    (kind, origin): (FileKind, FileOrigin),
) -> Result<(), ModuleError> {
    let found = file.metadata();
    let found = found.map_err(|error| refused_open(PathUse::Look, path, &error))?;
    let text = match (kind, found.nlink(), origin) {
        (FileKind::Regular, 0, _) => {
            "it has no name, as it was removed, or is only memory (memfd): what a pool holds there would be gone with \
             the pool; use a file that has one"
                .to_owned()
        }
        (FileKind::Regular, links @ 2.., FileOrigin::PassedByUser) => format!(
            "it has {links} names (hard links), by one of which others may know it: remove all but one, or let an \
             operator create the pool for you"
        ),
        _ => return Ok(()),
    };
    Err(ModuleError::new(
        Status::InvalidArgument,
        format!("{}: {text}", path.display()),
    ))
}
