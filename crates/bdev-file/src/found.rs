//! What is at a path, found once: whatever comes into its place later, it is this that is opened.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use chimaera_proto::{ModuleError, Status};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use crate::busy;
use crate::links::{PathEnd, follow};
use crate::node::{OWN_FILES, open_node};
use crate::open::{FileKind, kind_of};
use crate::path::{PathUse, refused};
use crate::reach::Reach;

/// A regular file or block device that was found at a path. It is open to be looked at only (`O_PATH`), which has no
/// effect on a device, and waits for nobody.
#[derive(Debug)]
pub struct FoundFile {
    node: File,
    kind: FileKind,
}

impl FoundFile {
    /// Finds what is at a path. For something that writes, it follows no symbolic link that somebody else may have put
    /// there: one that belongs neither to root, nor to the calling user, nor to the owner of what it leads to.
    ///
    /// # Errors
    /// Such a link is on the way; what is there is something else; or the system refuses it.
    pub fn find(path: &Path, access: PathUse) -> Result<Self, ModuleError> {
        let failed = |errno: Errno| refused(access, path, &errno.into());
        let node = match access {
            PathUse::Look | PathUse::Read => {
                Reach::All.open(path, OFlag::O_PATH).map_err(failed)?
            }
            PathUse::Write | PathUse::Create => match follow(path, access)? {
                PathEnd::Node(node) => node,
                PathEnd::Nothing { .. } => return Err(failed(Errno::ENOENT)),
            },
        };
        let node = File::from(node);
        let metadata = node.metadata();
        let metadata = metadata.map_err(|error| refused(PathUse::Look, path, &error))?;
        let kind = kind_of(path, &metadata)?;
        Ok(Self { node, kind })
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        self.kind
    }

    /// Opens it for reading, and for writing as well if `writes`. A block device that is `exclusive` is opened so
    /// (`O_EXCL`).
    ///
    /// # Errors
    /// The system's: EBUSY for a block device that another has exclusively.
    pub fn open(&self, writes: bool, exclusive: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(writes);
        let flags = match exclusive && self.kind == FileKind::BlockDevice {
            true => OFlag::O_EXCL,
            false => OFlag::empty(),
        };
        open_node(&self.node, &mut options, flags)
    }
}

/// Opens a file for what a command writes, empty, or makes it. Links are followed as by [`FoundFile::find`], and a file
/// that somebody else has put into a shared folder is refused as by [`check_not_planted`].
///
/// # Errors
/// As those; and the system's.
pub fn open_output(path: &Path) -> Result<File, ModuleError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        // It is in the way, where a pool's file would be a wrong name.
        Some(libc::EISDIR) => {
            ModuleError::system(format_args!("cannot create {}", path.display()), &error)
        }
        _ => refused(PathUse::Create, path, &error),
    };
    match follow(path, PathUse::Create)? {
        PathEnd::Node(node) => {
            let node = File::from(node);
            check_not_planted(path, &node)?;
            let mut options = OpenOptions::new();
            options.write(true).truncate(true);
            open_node(&node, &mut options, OFlag::empty()).map_err(failed)
        }
        PathEnd::Nothing { folder, name } => {
            let made = make(&folder, &name);
            made.map_err(|errno| match errno {
                Errno::EEXIST => busy(path, "somebody made it just now"),
                errno => failed(errno.into()),
            })
        }
    }
}

fn make(folder: &OwnedFd, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY
        | OFlag::O_CREAT
        | OFlag::O_EXCL
        | OFlag::O_NOFOLLOW
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o666);
    Ok(openat(folder, name, flags, mode)?.into())
}

/// Refuses an open file that somebody else may have put in the place of one that the calling user would make, as
/// `fs.protected_regular` does: in a folder where everybody may make files, and nobody remove those of others.
///
/// # Errors
/// [`Status::PermissionDenied`], which says whose it is.
pub fn check_not_planted(path: &Path, file: &File) -> Result<(), ModuleError> {
    let metadata = file.metadata();
    let metadata = metadata.map_err(|error| refused(PathUse::Look, path, &error))?;
    match may_be_planted(path, file, &metadata, geteuid().as_raw()) {
        false => Ok(()),
        true => Err(ModuleError::new(
            Status::PermissionDenied,
            format!(
                "{} belongs to user {}, and lies in a folder in which everybody can make files: what is written there \
                 would be that user's; use a file of your own, or one in a folder of your own",
                path.display(),
                metadata.uid()
            ),
        )),
    }
}

fn may_be_planted(path: &Path, file: &File, metadata: &Metadata, user: u32) -> bool {
    let is_harmless = metadata.is_dir() || is_device(metadata);
    if is_harmless || [0, user].contains(&metadata.uid()) {
        return false;
    }
    // By its name, which is nobody else's to choose; and where it is, to which a link may have led.
    let real = std::fs::read_link(format!("{OWN_FILES}/{}", file.as_raw_fd()));
    let paths = [Some(path), real.as_deref().ok()];
    paths.into_iter().flatten().any(lies_in_shared_folder)
}

fn is_device(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_block_device() || kind.is_char_device()
}

/// Whether everybody may make files in the folder of this path, and nobody remove those of others.
fn lies_in_shared_folder(path: &Path) -> bool {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let shared = libc::S_ISVTX | libc::S_IWOTH;
    std::fs::metadata(folder).is_ok_and(|folder| folder.mode() & shared == shared)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use nix::unistd::mkfifo;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    const OTHER: u32 = 1002;

    #[test]
    fn what_was_found_is_opened_whatever_comes_into_its_place() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("pool");
        for access in [PathUse::Read, PathUse::Write] {
            fs::write(&path, "mine").expect("written");
            let found = FoundFile::find(&path, access).expect("there");
            assert_eq!(found.kind(), FileKind::Regular);
            fs::remove_file(&path).expect("removed");
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
            let mut held = String::new();
            let mut opened = found.open(access == PathUse::Write, true).expect("opened");
            opened.read_to_string(&mut held).expect("read");
            assert_eq!(held, "mine");
            let flags = fcntl(&opened, FcntlArg::F_GETFL).expect("flags");
            assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
            let error = FoundFile::find(&path, access).expect_err("a FIFO");
            assert_eq!(error.failure.status, Status::InvalidArgument, "{error}");
            fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn an_output_is_made_or_made_empty_where_a_path_leads() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("map");
        let link = place.path().join("link");
        symlink("map", &link).expect("a link");
        for (name, text) in [(&path, "a long text"), (&path, "short"), (&link, "new")] {
            let mut file = open_output(name).expect("opened");
            file.write_all(text.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
        }
        open_output(Path::new("/dev/null")).expect("a device is one too");
        let error = open_output(&place.path().join("nowhere/map")).expect_err("no folder");
        assert_eq!(error.failure.status, Status::NotFound, "{error}");
    }

    #[test]
    fn no_output_goes_into_a_file_that_somebody_else_has_put_there() {
        if !geteuid().is_root() {
            return;
        }
        let place = tempfile::tempdir().expect("a folder");
        let shared = place.path().join("shared");
        fs::create_dir(&shared).expect("made");
        let (path, link) = (shared.join("map"), place.path().join("link"));
        fs::write(&path, "").expect("written");
        symlink(&path, &link).expect("a link");
        for (mode, owner, is_refused) in [
            (0o1777, OTHER, true),
            (0o1777, 0, false),
            (0o0777, OTHER, false),
            (0o1755, OTHER, false),
        ] {
            fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).expect("its own");
            chown(&path, Some(owner), None).expect("root may");
            for name in [&path, &link] {
                let opened = open_output(name);
                assert_eq!(opened.is_err(), is_refused, "{mode:o} {owner}: {opened:?}");
                let Err(error) = opened else { continue };
                assert_eq!(error.failure.status, Status::PermissionDenied, "{error}");
                assert!(error.message.contains("belongs to user 1002"), "{error}");
            }
        }
    }
}
