//! A file that was made for a pool, until it is known whether the pool is.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chimaera_proto::{ModuleError, Status};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, syncfs, unlinkat};

use crate::busy;
use crate::path::{PathUse, ends_with_slash};
use crate::reach::Reach;

/// The mode of a file that is made: nobody but the user who makes it may reach what it holds.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// A file that was made, by the descriptor of its folder: what others do to the folders on its path means nothing here.
#[derive(Debug)]
pub struct MadeFile {
    folder: OwnedFd,
    name: OsString,
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl MadeFile {
    /// Makes a file at a path where nothing is.
    pub(crate) fn make(path: &Path, reach: &Reach<'_>) -> Result<(File, Self), ModuleError> {
        let failed = |errno: Errno| reach.refused(PathUse::Create, path, &errno.into());
        let name = path.file_name().filter(|_| !ends_with_slash(path));
        let name = name.ok_or_else(|| failed(Errno::EISDIR))?.to_owned();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        let folder = match reach.open(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            // Files can be made in a folder that may not be read.
            Err(Errno::EACCES) => reach.open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY),
            opened => opened,
        };
        let folder = folder.map_err(failed)?;
        let flags = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let file = openat(&folder, name.as_os_str(), flags, MODE).map_err(|errno| match errno {
            Errno::EEXIST => busy(path, "somebody made it just now"),
            errno => failed(errno),
        })?;
        let file = File::from(file);
        let metadata = file
            .metadata()
            .map_err(|error| reach.refused(PathUse::Look, path, &error))?;
        let made = Self {
            folder,
            name,
            path: path.to_owned(),
            id: (metadata.dev(), metadata.ino()),
        };
        Ok((file, made))
    }

    /// Makes the file's name durable, which a flush of the file need not do. Blocks.
    ///
    /// # Errors
    /// The file system's.
    pub fn sync_folder(&self, file: &File) -> Result<(), ModuleError> {
        // For a folder that may not be read, or that its file system does not sync alone.
        let synced = fsync(&self.folder).or_else(|_| syncfs(file));
        synced.map_err(|errno| {
            let action = format_args!("cannot make the name of {} durable", self.path.display());
            ModuleError::system(action, &errno.into())
        })
    }

    /// Removes the file, unless its name leads elsewhere by now. Blocks.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self) -> io::Result<()> {
        let name = self.name.as_os_str();
        let found = match fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(()),
            found => found?,
        };
        if (found.st_dev, found.st_ino) != self.id {
            return Ok(());
        }
        Ok(unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes the file because of an error, which says so if that fails. Blocks.
    #[must_use]
    pub fn remove_after(&self, mut error: ModuleError) -> ModuleError {
        if let Err(kept) = self.remove() {
            error.message += &format!(
                "; and the file {}, which was made for the pool, could not be removed ({kept}): remove it",
                self.path.display()
            );
        }
        error
    }

    /// The path at which it was made.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The error for a path at which nothing is, where none is to be made.
pub(crate) fn absent(path: &Path) -> ModuleError {
    ModuleError::new(
        Status::NotFound,
        format!(
            "{} does not exist: give a size to have it created, or create it",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_removed_from_the_folder_in_which_it_was_made_and_nowhere_else() {
        let place = tempfile::tempdir().expect("a folder");
        let (own, victim) = (place.path().join("own"), place.path().join("victim"));
        for folder in [&own, &victim] {
            fs::create_dir(folder).expect("made");
        }
        fs::write(victim.join("pool"), "precious").expect("written");
        let path = own.join("pool");
        let (file, made) = MadeFile::make(&path, &Reach::All).expect("made");
        made.sync_folder(&file).expect("synced");
        // Whoever may write to the parent folder puts a link in the place of the folder.
        let moved = place.path().join("moved");
        fs::rename(&own, &moved).expect("moved");
        symlink(&victim, &own).expect("a link");
        made.remove().expect("removed");
        assert!(!moved.join("pool").exists());
        assert_eq!(fs::read(victim.join("pool")).expect("there"), b"precious");
    }

    #[test]
    fn what_came_into_the_place_of_a_file_stays() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("pool");
        let (_file, made) = MadeFile::make(&path, &Reach::All).expect("made");
        let other = place.path().join("other");
        fs::write(&other, "precious").expect("written");
        fs::rename(&other, &path).expect("moved");
        made.remove().expect("there is nothing to do");
        assert_eq!(fs::read(&path).expect("there"), b"precious");
        fs::remove_file(&path).expect("removed");
        made.remove().expect("there is nothing to do");
    }
}
