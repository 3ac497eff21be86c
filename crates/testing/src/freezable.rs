//! A file system that lets nobody write for a while.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::device::LoopDevice;

mod calls {
    // `FIFREEZE` and `FITHAW` of `linux/fs.h`.
    nix::ioctl_readwrite!(freeze, b'X', 119, libc::c_int);
    nix::ioctl_readwrite!(thaw, b'X', 120, libc::c_int);
}

/// An ext4 on a loop device, which can be frozen: then whoever writes there waits in the kernel, and no signal ends
/// that. Unmounted on drop.
#[derive(Debug)]
pub struct FreezableFileSystem {
    folder: TempDir,
    // Detached after the file system is unmounted.
    _device: LoopDevice,
}

impl FreezableFileSystem {
    /// Mounts one of this size, or says why this machine does not allow it.
    ///
    /// # Errors
    /// The reason, to be printed by a test that is skipped for it.
    pub fn mount(len_bytes: u64) -> Result<Self, String> {
        let device = LoopDevice::attach(len_bytes)?;
        let mut make = Command::new("mkfs.ext4");
        let output = make.arg("-q").arg(device.path()).output();
        let output = output.map_err(|error| format!("cannot run mkfs.ext4: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("cannot make an ext4: {text}"));
        }
        let folder = TempDir::new().map_err(|error| format!("cannot make a folder: {error}"))?;
        let (source, kind) = (Some(device.path()), Some("ext4"));
        mount(source, folder.path(), kind, MsFlags::empty(), None::<&str>)
            .map_err(|errno| format!("cannot mount an ext4: {errno}"))?;
        Ok(Self {
            folder,
            _device: device,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Freezes it until the value is dropped.
    ///
    /// # Panics
    /// If it cannot be frozen.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let root = File::open(self.folder()).expect("it is mounted");
        // SAFETY: the call takes no argument, and leaves the place alone.
        unsafe { calls::freeze(root.as_raw_fd(), std::ptr::null_mut()) }.expect("it can be frozen");
        Frozen { root }
    }
}

impl Drop for FreezableFileSystem {
    fn drop(&mut self) {
        // Lazily: a process that still uses it is about to be killed.
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Keeps a file system frozen until it is dropped.
#[derive(Debug)]
pub struct Frozen {
    root: File,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: as for freezing. It fails only if it is not frozen.
        let _ = unsafe { calls::thaw(self.root.as_raw_fd(), std::ptr::null_mut()) };
    }
}
