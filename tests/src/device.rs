//! Places to put a pool on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A loop device over a file, detached on drop.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches a new file of this size in `folder`, or says why this machine does not allow it.
    ///
    /// # Errors
    /// The reason, to be printed by a test that is skipped for it.
    pub fn attach(folder: &Path, size: u64) -> Result<Self, String> {
        let file = folder.join("loop.img");
        let made = std::fs::File::create(&file).and_then(|file| file.set_len(size));
        made.map_err(|error| format!("cannot make a file for a loop device: {error}"))?;
        let output = Command::new("losetup")
            .args(["--find", "--show"])
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
        })
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
