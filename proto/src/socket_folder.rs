//! The folder in which a daemon's socket is to lie: why it is trusted, and what may be wrong with it.

use std::fs::{self, DirBuilder, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use nix::errno::Errno;

/// The environment variable that names the daemon's socket.
pub const SOCKET_VARIABLE: &str = "CHIMAERA_SOCKET";

/// The rights of others than the owner to change what is in a folder.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// All bits of a mode that are rights.
pub(crate) const ALL_RIGHTS: u32 = 0o7777;

/// Why the folder of a socket is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FolderTrust {
    /// Somebody named it, who may decide that and has to make it.
    Named,
    /// [`SOCKET_VARIABLE`] names it; otherwise as above.
    Variable,
    /// Only root can have made it.
    System,
    /// It is the user's own and nobody else can write to it.
    Private,
    /// It is the user's own and nobody else can even look into it. It lies where everybody may make
    /// folders, so it must be a folder itself and not a link to one.
    AmongOthers,
}

impl FolderTrust {
    /// Looks whether a folder is one in which only this user's daemon can listen.
    pub(crate) fn check(self, folder: &Path, user: u32) -> Result<(), SocketFolderError> {
        let wrong = |reason: WrongFolder| reason.at(folder);
        let look: fn(&Path) -> io::Result<Metadata> = match self {
            Self::Named | Self::Variable | Self::System => return Ok(()),
            Self::Private => |folder| fs::metadata(folder),
            // In a sticky folder like `/tmp`, nobody else can replace what is the user's own now.
            Self::AmongOthers => |folder| fs::symlink_metadata(folder),
        };
        let found = look(folder).map_err(|error| wrong(WrongFolder::System(error)))?;
        let remedy = match self {
            // The folder has no other use.
            Self::AmongOthers => "remove it",
            _ => "set XDG_RUNTIME_DIR to a folder of this user's own",
        };
        let mode = found.mode() & ALL_RIGHTS;
        let private = match self {
            Self::AmongOthers => mode == 0o700,
            Self::Named | Self::Variable | Self::System | Self::Private => {
                mode & WRITABLE_BY_OTHERS == 0
            }
        };
        if !found.is_dir() {
            Err(wrong(WrongFolder::NotAFolder { remedy }))
        } else if found.uid() != user {
            Err(wrong(WrongFolder::Owner {
                owner: found.uid(),
                user,
                remedy,
            }))
        } else if !private {
            Err(wrong(WrongFolder::Mode { mode }))
        } else {
            Ok(())
        }
    }

    /// Makes a folder for this user's daemon if it is missing and nobody named it, and checks it.
    pub(crate) fn prepare(self, folder: &Path, user: u32) -> Result<(), SocketFolderError> {
        let mut builder = DirBuilder::new();
        match self {
            Self::Named | Self::Variable => return check_exists(folder),
            Self::System => {
                create_open(folder).map_err(|error| WrongFolder::System(error).at(folder))?;
                return self.check(folder, user);
            }
            Self::Private => builder.recursive(true).mode(0o700),
            // Fails for a link, too; `check` then looks at the link and does not follow it.
            Self::AmongOthers => builder.mode(0o700),
        };
        match builder.create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(WrongFolder::System(error).at(folder))
            }
            _ => self.check(folder, user),
        }
    }
}

/// Makes a folder that is missing, and those above it, so that everybody may look into them, whatever the umask. Those
/// that exist stay as they are.
///
/// # Errors
/// The system's.
pub fn create_open(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        create_open(above)?;
    }
    match DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) => let_everybody_look_into(folder).inspect_err(|_| {
            // Left as it is it would be taken the next time.
            let _ = fs::remove_dir(folder);
        }),
        // Somebody else has made it since, or it is not a folder, which whoever uses it is told.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes back what the umask has taken from a folder that was made just now. If the one above is somebody else's,
/// another folder may be there by now, or a link to one: only one of one's own is changed, and no link is followed.
fn let_everybody_look_into(folder: &Path) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(folder)?;
    if opened.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::Error::other("another folder has come into its place"));
    }
    opened.set_permissions(Permissions::from_mode(0o755))
}

/// Looks whether a folder that somebody named exists.
pub(crate) fn check_exists(folder: &Path) -> Result<(), SocketFolderError> {
    let reason = match fs::metadata(folder) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => WrongFolder::NoFolder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => WrongFolder::Missing,
        Err(error) => WrongFolder::System(error),
    };
    Err(reason.at(folder))
}

/// Why a folder, or something in it, cannot be used for a daemon's socket.
#[derive(Debug, thiserror::Error)]
#[error("{} {reason}", folder.display())]
pub struct SocketFolderError {
    folder: PathBuf,
    reason: WrongFolder,
}

/// What is wrong with a folder, or with what lies at the socket's path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongFolder {
    #[error("is not there: make it, or choose another place for the socket")]
    Missing,
    #[error("is not a folder: choose another place for the socket")]
    NoFolder,
    #[error("is not a socket: remove it, or choose another place for the socket")]
    NoSocket,
    #[error("cannot be used: {0}")]
    System(io::Error),
    #[error(
        "is not a folder, so anybody might listen there: {remedy}, or set {SOCKET_VARIABLE} to \
         another socket"
    )]
    NotAFolder { remedy: &'static str },
    #[error(
        "belongs to user {owner}, not to user {user}, so somebody else might listen there: {remedy}, or \
         set {SOCKET_VARIABLE} to another socket"
    )]
    Owner {
        owner: u32,
        user: u32,
        remedy: &'static str,
    },
    #[error(
        "is open to other users (mode {mode:04o}), so somebody else might listen there: make its mode \
         0700, or set {SOCKET_VARIABLE} to another socket"
    )]
    Mode { mode: u32 },
}

impl WrongFolder {
    pub(crate) fn at(self, folder: &Path) -> SocketFolderError {
        SocketFolderError {
            folder: folder.to_path_buf(),
            reason: self,
        }
    }
}

impl SocketFolderError {
    /// The system's error number for the same fault; `None` for a folder that is open to others, which has none.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let errno = match &self.reason {
            WrongFolder::System(error) => return error.raw_os_error(),
            WrongFolder::Missing => Errno::ENOENT,
            WrongFolder::NoFolder => Errno::ENOTDIR,
            WrongFolder::NoSocket | WrongFolder::NotAFolder { .. } | WrongFolder::Owner { .. } => {
                Errno::EEXIST
            }
            WrongFolder::Mode { .. } => return None,
        };
        Some(errno as i32)
    }

    /// Whether the folder does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match &self.reason {
            WrongFolder::Missing => true,
            WrongFolder::System(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
