//! Places to put a pool on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::build::library_folder;

/// A loop device over a file, detached on drop.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file: PathBuf,
}

impl LoopDevice {
    /// Attaches a new file of this size in `folder`, or says why this machine does not allow it.
    ///
    /// # Errors
    /// The reason, to be printed by a test that is skipped for it.
    pub fn attach(folder: &Path, size: u64) -> Result<Self, String> {
        Self::attach_with(folder, size, &[])
    }

    /// As [`Self::attach`], with further options of `losetup`.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_with(folder: &Path, size: u64, options: &[&str]) -> Result<Self, String> {
        let file = folder.join("loop.img");
        let made = std::fs::File::create(&file).and_then(|file| file.set_len(size));
        made.map_err(|error| format!("cannot make a file for a loop device: {error}"))?;
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(&file)
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| format!("cannot run losetup: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("this machine allows no loop device: {text}"));
        }
        Ok(Self {
            path: String::from_utf8_lossy(&output.stdout).trim().into(),
            file,
        })
    }

    /// Takes the device's storage away, as a disk that fails does.
    ///
    /// # Panics
    /// If its file cannot be truncated.
    pub fn fail(&self) {
        let file = std::fs::File::options().write(true).open(&self.file);
        file.and_then(|file| file.set_len(0))
            .expect("the device's file can be truncated");
    }

    /// The device, for example `/dev/loop0`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
    }
}

/// A file system with little room, unmounted on drop.
#[derive(Debug)]
pub struct SmallFileSystem {
    folder: TempDir,
}

impl SmallFileSystem {
    /// Mounts a file system with these options of tmpfs, or says why this machine does not allow
    /// it.
    ///
    /// # Errors
    /// The reason, to be printed by a test that is skipped for it.
    pub fn mount(options: &str) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("cannot mount a tmpfs: {error}");
        let folder = TempDir::new().map_err(|error| failed(&error))?;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("chimaera-tests"),
            folder.path(),
            Some("tmpfs"),
            flags,
            Some(options),
        )
        .map_err(|errno| failed(&errno))?;
        Ok(Self { folder })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: whoever still uses it then is about to be killed.
        let flags = nix::mount::MntFlags::MNT_DETACH;
        let _ = nix::mount::umount2(self.folder.path(), flags);
    }
}

/// A folder on the disk that the build is on: the system's folder for temporary files may lie in
/// memory.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn disk_folder() -> TempDir {
    TempDir::new_in(library_folder()).expect("the build's folder can be written")
}

/// A folder on tmpfs, or the reason why there is none.
///
/// # Errors
/// The reason, to be printed by a test that is skipped for it.
pub fn tmpfs_folder() -> Result<TempDir, String> {
    let mounted = Path::new("/dev/shm");
    let kind =
        nix::sys::statfs::statfs(mounted).map_err(|error| format!("no /dev/shm: {error}"))?;
    if kind.filesystem_type() != nix::sys::statfs::TMPFS_MAGIC {
        return Err("/dev/shm is no tmpfs".to_owned());
    }
    TempDir::new_in(mounted).map_err(|error| format!("cannot use /dev/shm: {error}"))
}
