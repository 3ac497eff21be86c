//! Devices that no pool can be on, since the host has to write their zones in order: host-managed zoned ones, as
//! shingled disks and zoned flash are.
//!
//! A pool writes its metadata again and again in the same places. On such a device the second of these writes fails, or
//! the first one that is not at a zone's end. So it is refused before anything is read or written. Where `/sys` is not
//! there, nobody says what a device is, and its own errors are all there is.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chimaera_chimod::ModuleError;
use chimaera_proto::Status;
use nix::sys::stat::{major, minor};

/// Has a folder for each block device, by its number.
const DEVICES: &str = "/sys/dev/block";

/// Refuses an open block device whose zones the host must write in order.
///
/// # Errors
/// [`Status::Unsupported`].
pub(super) fn check_zones(path: &Path, device: &File) -> Result<(), ModuleError> {
    let Ok(metadata) = device.metadata() else {
        return Ok(());
    };
    check_zones_below(Path::new(DEVICES), path, metadata.rdev())
}

/// As [`check_zones`], of the device with this number, as the files below a folder say.
fn check_zones_below(devices: &Path, path: &Path, number: u64) -> Result<(), ModuleError> {
    let folder = devices.join(format!("{}:{}", major(number), minor(number)));
    // A partition has no queue of its own, and lies in the folder of its disk. The number leads there by a link.
    let of_disk = match folder.join("partition").exists() {
        true => folder.join(".."),
        false => folder,
    };
    match std::fs::read(of_disk.join("queue/zoned")) {
        Ok(model) if model.trim_ascii() == b"host-managed" => Err(ModuleError::new(
            Status::Unsupported,
            format!(
                "{} is a host-managed zoned device, each zone of which has to be written from its beginning on, and a \
                 pool is written in any order: use another device, a file on a file system that knows zones, or a \
                 device made of it by dm-zoned",
                path.display()
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use chimaera_testing::disk_folder;
    use nix::sys::stat::makedev;

    use super::*;

    /// A folder as `/sys/dev/block` is one, with a disk 250:0 of this model and its partition 250:1.
    fn devices(model: &str) -> tempfile::TempDir {
        let folder = disk_folder();
        let disk = folder.path().join("devices/disk");
        fs::create_dir_all(disk.join("queue")).expect("made");
        fs::write(disk.join("queue/zoned"), format!("{model}\n")).expect("written");
        fs::create_dir(disk.join("part1")).expect("made");
        fs::write(disk.join("part1/partition"), "1\n").expect("written");
        for (number, target) in [("250:0", "devices/disk"), ("250:1", "devices/disk/part1")] {
            symlink(target, folder.path().join(number)).expect("linked");
        }
        folder
    }

    #[test]
    fn a_host_managed_device_and_a_partition_of_it_are_refused_and_no_others() {
        let name = Path::new("/dev/disk");
        for minor in [0, 1] {
            let number = makedev(250, minor);
            let managed = devices("host-managed");
            let error = check_zones_below(managed.path(), name, number).expect_err("zones");
            assert_eq!(error.failure.status, Status::Unsupported);
            for word in [
                "/dev/disk is a host-managed zoned device",
                "use another device",
            ] {
                assert!(error.message.contains(word), "{error}");
            }
            for model in ["none", "host-aware"] {
                let others = devices(model);
                check_zones_below(others.path(), name, number).expect("any order will do");
            }
        }
        let managed = devices("host-managed");
        check_zones_below(managed.path(), name, makedev(251, 0)).expect("another device");
    }

    #[test]
    fn the_kernel_says_of_a_device_what_is_looked_for() {
        let Some(device) = crate::testing::loop_device(1 << 20, &[]) else {
            return;
        };
        let number = fs::metadata(device.name()).expect("there").rdev();
        let queue = format!("{DEVICES}/{}:{}/queue/zoned", major(number), minor(number));
        assert_eq!(fs::read_to_string(queue).expect("a model"), "none\n");
        let opened = File::open(device.name()).expect("opened");
        check_zones(Path::new(device.name()), &opened).expect("any order will do");
    }
}
