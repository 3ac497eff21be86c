//! A file that was made for a pool, until it is known whether the pool is.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
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

    /// Removes the file, unless its name leads elsewhere by now. For whoever has locked it while it was empty, as the
    /// pool has that is not made, and so knows that nobody else has made anything of it. Blocks.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self) -> io::Result<()> {
        match self.is_at_its_name()? {
            true => Ok(unlinkat(
                &self.folder,
                self.name.as_os_str(),
                UnlinkatFlags::NoRemoveDir,
            )?),
            false => Ok(()),
        }
    }

    /// Removes the file if nobody has made anything of it: others may have opened it by its name, and passed it to a
    /// daemon. Leaves one that is locked, as that of a pool is. Blocks.
    ///
    /// It is locked for that by an opening of its own: the one that was passed shares its lock with the pool that was
    /// made of it. Whoever opened the file before and makes a pool of it later waits for this lock, and then finds that
    /// the file has no name, and is refused. Whoever has had a pool on it before that ended has left it longer than it
    /// was made. And since nobody else removes this file, nothing else comes to its name between the look and the
    /// removal, unless somebody moves files by hand.
    ///
    /// # Errors
    /// The file is not empty, or the file system's.
    pub fn remove_unused(&self) -> io::Result<()> {
        if !self.is_at_its_name()? {
            return Ok(());
        }
        // For writing, without which some file systems lock nothing.
        let flags = OFlag::O_RDWR
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let file = openat(&self.folder, self.name.as_os_str(), flags, Mode::empty())?;
        let file = File::from(file);
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        let removed = self.remove_locked(&file);
        // Closing does that too, but only when a child that was forked meanwhile has closed its copy as well.
        let _ = file.unlock();
        removed
    }

    fn remove_locked(&self, file: &File) -> io::Result<()> {
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != self.id {
            return Ok(());
        }
        match metadata.len() {
            0 => self.remove(),
            _ => Err(io::Error::other("it is not empty any more")),
        }
    }

    fn is_at_its_name(&self) -> io::Result<bool> {
        let name = self.name.as_os_str();
        match fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(false),
            found => {
                let found = found?;
                Ok((found.st_dev, found.st_ino) == self.id)
            }
        }
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

    #[test]
    fn a_file_is_unused_as_long_as_nobody_has_locked_it_or_written_to_it() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("pool");
        let (passed, made) = MadeFile::make(&path, &Reach::All).expect("made");
        let other = File::options().write(true).open(&path).expect("opened");
        // A pool on the file that was passed, or on what somebody else has opened.
        for file in [&passed, &other] {
            file.try_lock().expect("nobody has it");
            made.remove_unused().expect("it stays");
            assert!(path.exists());
            file.unlock().expect("unlocked");
        }
        // What such a pool has left.
        other.set_len(4096).expect("longer");
        let error = made.remove_unused().expect_err("it stays");
        assert!(error.to_string().contains("not empty"), "{error}");
        assert!(path.exists());
        other.set_len(0).expect("shorter");
        made.remove_unused().expect("removed");
        assert!(!path.exists());
        made.remove_unused().expect("there is nothing to do");
        fs::write(&path, "").expect("another one");
        made.remove_unused().expect("there is nothing to do");
        assert!(path.exists());
        other.try_lock().expect("nobody has it");
    }
}
