//! A block device to put a pool on.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::{disk_folder, name_in};

/// A loop device, detached when dropped.
pub(crate) struct Loop {
    pub(crate) name: String,
    file: PathBuf,
    folder: Arc<tempfile::TempDir>,
}

impl Loop {
    /// A device of this size, or `None`, with a word why, where there can be none.
    pub(crate) fn attach(size: u64, options: &[&str]) -> Option<Self> {
        let folder = disk_folder();
        let file = PathBuf::from(name_in(&folder, "device"));
        let made = std::fs::File::create(&file).and_then(|made| made.set_len(size));
        made.expect("the build's folder can be written");
        Self::on(file, Arc::new(folder), options)
    }

    /// Another device on the same file.
    pub(crate) fn attach_again(&self, options: &[&str]) -> Option<Self> {
        Self::on(self.file.clone(), Arc::clone(&self.folder), options)
    }

    fn on(file: PathBuf, folder: Arc<tempfile::TempDir>, options: &[&str]) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(&file)
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self {
                name: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
                file,
                folder,
            }),
            Ok(output) => skip(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(&error.to_string()),
        }
    }

    /// The file that it stands on.
    pub(crate) fn file(&self) -> &str {
        self.file.to_str().expect("UTF-8")
    }

    /// Gives the device another size, as one does that grows a volume.
    pub(crate) fn resize(&self, size: u64) {
        let file = File::options().write(true).open(&self.file);
        file.and_then(|file| file.set_len(size)).expect("resized");
        let told = Command::new("losetup").args(["-c", &self.name]).status();
        assert!(told.expect("losetup is there").success(), "told");
    }

    /// Lets nobody write to the device, or all again.
    pub(crate) fn set_read_only(&self, is_read_only: bool) {
        let option = if is_read_only { "--setro" } else { "--setrw" };
        let told = Command::new("blockdev").args([option, &self.name]).status();
        assert!(told.expect("blockdev is there").success(), "told");
    }
}

#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests wants to know what they did not prove"
)]
fn skip(reason: &str) -> Option<Loop> {
    eprintln!("skipped, no loop device here: {}", reason.trim());
    None
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.name]).status();
    }
}
