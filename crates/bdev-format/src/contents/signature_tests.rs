//! Every signature is found wherever it may lie, and nowhere else.

// Real programs write to files.
#![allow(clippy::disallowed_types)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use zerocopy::IntoBytes;

use super::signatures::*;
use super::tests::{Image, SIZES};
use super::*;

/// The offsets at which a signature may lie on a disk of this size.
fn offsets(location: Location, size_bytes: u64) -> Vec<u64> {
    match location {
        Location::Start(offset) => vec![offset],
        Location::End {
            unit_bytes,
            back_bytes,
        } => vec![size_bytes / unit_bytes * unit_bytes - back_bytes],
        Location::ZfsUberblock => {
            let last = size_bytes / ZFS_LABEL_BYTES * ZFS_LABEL_BYTES - ZFS_LABEL_BYTES;
            let slots = [0, 4 * KIB, 4 * 4 * KIB, 4 * 8 * KIB];
            let labels = [0, ZFS_LABEL_BYTES, last];
            let start = |label| label + ZFS_UBERBLOCKS_OFFSET;
            labels
                .into_iter()
                .flat_map(|label| slots.map(|slot| start(label) + slot))
                .chain([start(0) + 127 * KIB, start(ZFS_LABEL_BYTES) + 127 * KIB])
                .collect()
        }
    }
}

#[test]
fn every_signature_is_recognised_wherever_it_may_lie() {
    for size_bytes in SIZES {
        for signature in SIGNATURES {
            for offset in offsets(signature.location, size_bytes) {
                assert_eq!(
                    Image::blank(size_bytes)
                        .with(offset, signature.bytes)
                        .probe(),
                    DeviceContents::Known(signature.name),
                    "{:?} at {offset:#x} of {size_bytes:#x}",
                    signature.bytes.escape_ascii().to_string(),
                );
            }
        }
    }
}

#[test]
fn no_signature_stands_in_the_list_twice_or_is_too_short_to_mean_anything() {
    for (index, signature) in SIGNATURES.iter().enumerate() {
        assert!(signature.bytes.len() >= 2, "{}", signature.name);
        assert!(signature.bytes.iter().any(|&byte| byte != 0));
        let same = SIGNATURES[..index].iter().any(|earlier| {
            earlier.bytes == signature.bytes
                && format!("{:?}", earlier.location) == format!("{:?}", signature.location)
        });
        assert!(!same, "{} {:?}", signature.name, signature.location);
    }
}

#[test]
fn a_signature_at_another_place_has_no_name() {
    for signature in SIGNATURES {
        let offset = 700 * KIB + 8;
        let first = signature.bytes.iter().position(|&byte| byte != 0);
        assert_eq!(
            Image::blank(4 * MIB).with(offset, signature.bytes).probe(),
            DeviceContents::Unknown {
                first_nonzero_offset: offset + first.expect("not all is zero") as u64
            },
            "{}",
            signature.name
        );
    }
}

#[test]
fn a_zfs_label_is_known_by_its_uberblocks_alone() {
    let magic = b"\x0c\xb1\xba\0\0\0\0\0";
    for offset in [64 * KIB, 129 * KIB + 8, 600 * KIB, 900 * KIB] {
        let image = Image::blank(4 * MIB).with(offset, magic);
        assert!(matches!(image.probe(), DeviceContents::Unknown { .. }));
    }
}

#[test]
fn an_array_is_named_before_the_file_system_in_it() {
    let image = Image::blank(16 * MIB)
        .with(0x438, b"\x53\xef")
        .with(16 * MIB - 8192, b"\xfc\x4e\x2b\xa9\x01\0\0\0");
    assert_eq!(image.probe(), DeviceContents::Known(RAID));
}

#[test]
fn a_file_system_is_named_before_the_partition_table_that_was_there_before() {
    let image = Image::blank(16 * MIB)
        .with(0x438, b"\x53\xef")
        .with(16 * MIB - 512, b"EFI PART");
    assert_eq!(image.probe(), DeviceContents::Known(EXT));
}

/// A Linux partition from sector 2048 on.
const ENTRY: [u8; 16] = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];

fn fat_boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    sector[11..13].copy_from_slice(&512u16.to_le_bytes());
    sector[13] = 4;
    sector[14] = 1;
    sector[16] = 2;
    sector[19..21].copy_from_slice(&8000u16.to_le_bytes());
    sector[21] = 0xf8;
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn a_partition_table_needs_a_plausible_entry() {
    let mbr = DeviceContents::Known("an MBR partition table");
    let boots = Image::blank(4 * MIB).with(510, b"\x55\xaa");
    assert_eq!(
        boots.probe(),
        DeviceContents::Unknown {
            first_nonzero_offset: 510
        }
    );
    for index in 0..4 {
        let image = Image::blank(4 * MIB)
            .with(446 + 16 * index, &ENTRY)
            .with(510, b"\x55\xaa");
        assert_eq!(image.probe(), mbr);
        for (place, bytes) in [(0, &[1u8][..]), (4, &[0]), (8, &[0; 4]), (12, &[0; 4])] {
            let broken = Image::blank(4 * MIB)
                .with(446 + 16 * index, &ENTRY)
                .with(510, b"\x55\xaa")
                .with(446 + 16 * index + place, bytes);
            assert!(matches!(broken.probe(), DeviceContents::Unknown { .. }));
        }
    }
}

#[test]
fn a_fat_boot_sector_is_not_called_a_partition_table() {
    // The code of this sector looks like an entry, and nothing in the sector says FAT.
    let image = Image::blank(4 * MIB)
        .with(0, &fat_boot_sector())
        .with(446, &ENTRY);
    assert_eq!(image.probe(), DeviceContents::Known(FAT));
    for (offset, bytes) in [
        (0x36, b"FAT12   "),
        (0x36, b"FAT16   "),
        (0x52, b"FAT32   "),
    ] {
        let named = Image::blank(4 * MIB)
            .with(offset, bytes)
            .with(446, &ENTRY)
            .with(510, b"\x55\xaa");
        assert_eq!(named.probe(), DeviceContents::Known(FAT));
    }
    // With one value that no FAT file system has, it is a partition table.
    for (offset, byte) in [(0, 0x33), (12, 3), (13, 3), (14, 0), (16, 0), (21, 1)] {
        let other = Image::blank(4 * MIB)
            .with(0, &fat_boot_sector())
            .with(446, &ENTRY)
            .with(offset, &[byte]);
        assert_eq!(
            other.probe(),
            DeviceContents::Known("an MBR partition table"),
            "{offset}"
        );
    }
}

#[test]
fn a_partition_table_is_named_by_its_newer_kind() {
    let image = Image::blank(4 * MIB)
        .with(446, &ENTRY)
        .with(510, b"\x55\xaa")
        .with(512, b"EFI PART");
    assert_eq!(image.probe(), DeviceContents::Known(GPT));
}

/// Programs that write something in the list onto an empty file, their arguments, in which `FILE` stands for the
/// file's path, and the name of what they write.
const MAKERS: &[(&str, &str, &str)] = &[
    ("mkfs.ext2", "-q -F FILE", EXT),
    ("mkfs.ext4", "-q -F FILE", EXT),
    ("mkfs.xfs", "-q -f FILE", "an XFS file system"),
    ("mkfs.btrfs", "-q -f FILE", "a Btrfs file system"),
    ("mkfs.f2fs", "-q -f FILE", F2FS),
    ("mkfs.exfat", "FILE", "an exFAT file system"),
    ("mkfs.ntfs", "-q -F -f FILE", "an NTFS file system"),
    ("mkfs.fat", "-F 16 FILE", FAT),
    ("mkfs.fat", "-F 32 FILE", FAT),
    ("mkswap", "FILE", SWAP),
    ("mkswap", "-p 65536 FILE", SWAP),
    (
        "qemu-img",
        "create -q -f qcow2 FILE 64G",
        "a qcow2 disk image",
    ),
    ("qemu-img", "create -q -f vdi FILE 64G", "a VDI disk image"),
    ("qemu-img", "create -q -f vmdk FILE 64G", VMDK),
    (
        "qemu-img",
        "create -q -f vhdx FILE 64G",
        "a VHDX disk image",
    ),
    ("qemu-img", "create -q -f vpc FILE 64G", "a VHD disk image"),
];

#[test]
fn what_real_programs_write_is_recognised() {
    let folder = tempfile::tempdir().expect("a folder");
    for (program, arguments, name) in MAKERS {
        let Some(program_path) = find_program(program) else {
            skip(program);
            continue;
        };
        let image = folder.path().join("image");
        let made = File::create(&image).and_then(|made| made.set_len(512 * MIB));
        made.expect("the build's folder can be written");
        let output = Command::new(program_path)
            .args(arguments.split(' ').map(|argument| match argument {
                "FILE" => image.as_os_str(),
                other => OsStr::new(other),
            }))
            .output()
            .expect("what was found can be started");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {errors}");
        let contents = probe_file(&image).expect("the image can be read");
        assert_eq!(
            contents,
            DeviceContents::Known(name),
            "{program} {arguments}"
        );
    }
}

fn probe_file(path: &Path) -> io::Result<DeviceContents> {
    let file = File::open(path)?;
    probe_pages(file.metadata()?.len(), &mut |first, pages| {
        file.read_exact_at(pages.as_mut_bytes(), first * PAGE)
    })
}

/// Searches `PATH`, and the folders of the system's own programs, which not every user has on it.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|program| File::open(program).is_ok())
}

#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests should see what they did not prove"
)]
fn skip(program: &str) {
    eprintln!("skipped, no {program} here");
}
