//! The file that a loop device stands on: a pool that has the one must have the other too.
//!
//! The kernel says which file that is (device and inode), and by which path it was attached. The path may lead
//! elsewhere or nowhere, in another mount namespace for example; then nothing is locked.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chimaera_bdev_file::{FileKind, FoundFile, PathUse};
use chimaera_bdev_format::image::{FileLock, busy, lock, pool_file};
use chimaera_chimod::ModuleError;
use chimaera_proto::Status;
use nix::sys::stat::{major, minor};

use super::kernel_queries::file_of_loop_device;

/// Locks what an open block device stands on, if that is all of a regular file that can be reached and locked.
///
/// # Errors
/// [`Status::Busy`] if it is another pool's, or locked by another process.
pub(super) fn lock_beneath(path: &Path, device: &File) -> Result<FileLock, ModuleError> {
    let Some((beneath, file)) = file_beneath(device) else {
        return Ok(FileLock::of_device());
    };
    match lock(&beneath, &pool_file(file)?) {
        Err(error) if error.failure.status == Status::Busy => Err(busy(
            path,
            &format!(
                "it is a loop device on {}, which another pool, or another process, has locked",
                beneath.display()
            ),
        )),
        // Some file systems lock nothing that is only read, or nothing at all.
        Err(_) => Ok(FileLock::of_device()),
        locked => locked,
    }
}

fn file_beneath(device: &File) -> Option<(PathBuf, File)> {
    let number = device.metadata().ok()?.rdev();
    let attached = attached_path(&format!("{}:{}", major(number), minor(number)))?;
    // Nothing else is opened that may be there by now, such as a device.
    let there = FoundFile::find(&attached, PathUse::Look).ok()?;
    let file = (there.kind() == FileKind::Regular).then(|| there.open(false, false))?;
    let file = file.ok()?;
    let found = file.metadata().ok()?;
    let is_it = file_of_loop_device(device).ok()? == (found.dev(), found.ino());
    is_it.then_some((attached, file))
}

/// The path that a loop device of this number was attached by. One that has only a part of the file is left out, as a
/// partition is: others may have pools on other parts.
fn attached_path(number: &str) -> Option<PathBuf> {
    let folder = Path::new("/sys/dev/block").join(number).join("loop");
    let read = |name: &str| std::fs::read(folder.join(name)).ok();
    let is_whole = ["offset", "sizelimit"]
        .iter()
        .all(|&part| read(part).is_some_and(|said| said.trim_ascii() == b"0"));
    let mut said = read("backing_file").filter(|_| is_whole)?;
    if said.last() == Some(&b'\n') {
        said.pop();
    }
    Some(OsString::from_vec(said).into())
}
