//! Places to put a pool on: block devices, file systems, folders.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

/// A loop device over a file in a folder of its own, detached on drop.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file: PathBuf,
    folder: Arc<TempDir>,
}

impl LoopDevice {
    /// Attaches a new file of this size, or says why this machine does not allow it.
    ///
    /// # Errors
    /// The reason, to be printed by a test that is skipped for it.
    pub fn attach(len_bytes: u64) -> Result<Self, String> {
        Self::attach_with(len_bytes, &[])
    }

    /// As [`Self::attach`], with further options of `losetup`.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_with(len_bytes: u64, options: &[&str]) -> Result<Self, String> {
        let folder = disk_folder();
        let file = folder.path().join("device");
        let made = File::create(&file).and_then(|made| made.set_len(len_bytes));
        made.map_err(|error| format!("cannot make a file for a loop device: {error}"))?;
        Self::on(file, Arc::new(folder), options)
    }

    /// Another device over the same file.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_again(&self, options: &[&str]) -> Result<Self, String> {
        Self::on(self.file.clone(), Arc::clone(&self.folder), options)
    }

    fn on(file: PathBuf, folder: Arc<TempDir>, options: &[&str]) -> Result<Self, String> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).args(options).arg(&file);
        let output = losetup.output();
        let output = output.map_err(|error| format!("cannot run losetup: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("this machine allows no loop device: {text}"));
        }
        Ok(Self {
            path: String::from_utf8_lossy(&output.stdout).trim().into(),
            file,
            folder,
        })
    }

    /// The device, for example `/dev/loop0`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the device as a text, which is also the name of a pool on it.
    ///
    /// # Panics
    /// If it is not UTF-8.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    /// The file under the device.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Gives the device another size, as a volume gets when it is grown.
    ///
    /// # Panics
    /// If it cannot be given one.
    pub fn resize(&self, len_bytes: u64) {
        self.set_file_len(len_bytes).expect("the file is resized");
        tell("losetup", "--set-capacity", &self.path);
    }

    /// Lets nobody write to the device, or everybody again.
    ///
    /// # Panics
    /// If the device cannot be told.
    pub fn set_read_only(&self, is_read_only: bool) {
        let option = if is_read_only { "--setro" } else { "--setrw" };
        tell("blockdev", option, &self.path);
    }

    /// Takes the device's storage away, as happens when a disk fails.
    ///
    /// # Panics
    /// If its file cannot be truncated.
    pub fn fail(&self) {
        self.set_file_len(0).expect("the file is truncated");
    }

    /// Takes the device's storage away from this offset on: what was there cannot be read, as if its sectors were bad,
    /// and is zero when the storage is given back (by a larger offset).
    ///
    /// # Panics
    /// If its file cannot be given that length.
    pub fn lose_from(&self, offset: u64) {
        self.set_file_len(offset).expect("the file is resized");
    }

    fn set_file_len(&self, len_bytes: u64) -> io::Result<()> {
        let file = File::options().write(true).open(&self.file)?;
        file.set_len(len_bytes)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let mut losetup = Command::new("losetup");
        let _ = losetup.arg("--detach").arg(&self.path).status();
    }
}

fn tell(tool: &str, option: &str, device: &Path) {
    let status = Command::new(tool).arg(option).arg(device).status();
    assert!(status.expect("the tool runs").success(), "{tool} {option}");
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
        let (source, kind) = (Some("chimaera-tests"), Some("tmpfs"));
        mount(source, folder.path(), kind, MsFlags::empty(), Some(options))
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
        // Lazily: a process that still uses it is about to be killed.
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// A folder on the disk that the build is on, whose file system has direct I/O: the system's folder for temporary
/// files may lie in memory.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn disk_folder() -> TempDir {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().expect("it lies in a folder");
    TempDir::new_in(folder).expect("the build's folder can be written")
}

/// A folder in memory, whose file system has no real direct I/O, or the reason why there is none.
///
/// # Errors
/// The reason, to be printed by a test that is skipped for it.
pub fn tmpfs_folder() -> Result<TempDir, String> {
    let mounted = Path::new("/dev/shm");
    let system = statfs(mounted).map_err(|error| format!("no /dev/shm: {error}"))?;
    if system.filesystem_type() != TMPFS_MAGIC {
        return Err("/dev/shm is no tmpfs".to_owned());
    }
    TempDir::new_in(mounted).map_err(|error| format!("cannot use /dev/shm: {error}"))
}
