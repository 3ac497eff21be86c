//! Every signature is found where it may lie, and only zeroes are blank.

// Real programs write to files.
#![allow(clippy::disallowed_types)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use zerocopy::IntoBytes;

use super::*;

/// Sizes that the formats round to different ends.
const SIZES: [u64; 5] = [
    4 * MIB,
    4 * MIB + 252 * KIB,
    64 * MIB + 68 * KIB,
    MIB + 128 * KIB,
    (1 << 50) + 124 * KIB,
];

/// A disk of zeroes, except where it was written.
struct Image {
    size_bytes: u64,
    written: Vec<(u64, Vec<u8>)>,
}

impl Image {
    fn blank(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            written: Vec::new(),
        }
    }

    fn with(mut self, offset: u64, bytes: &[u8]) -> Self {
        assert!(offset + bytes.len() as u64 <= self.size_bytes);
        self.written.push((offset, bytes.to_vec()));
        self
    }

    fn probe(&self) -> DeviceContents {
        let mut numbers = Vec::new();
        let contents = probe_pages(self.size_bytes, &mut |first, pages| {
            for (number, page) in (first..).zip(pages) {
                numbers.push(number);
                page.0.fill(0);
                for (offset, bytes) in &self.written {
                    for (offset, byte) in (*offset..).zip(bytes) {
                        if offset / PAGE == number {
                            page.0[(offset % PAGE) as usize] = *byte;
                        }
                    }
                }
            }
            Ok(())
        });
        assert!(numbers.len() as u64 <= MAX_READ_PAGES, "{}", numbers.len());
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        let last = numbers.last().copied();
        assert!(last.is_none_or(|last| (last + 1) * PAGE <= self.size_bytes));
        contents.expect("no read fails")
    }
}

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

#[test]
fn zeroes_are_blank() {
    for size_bytes in SIZES {
        assert_eq!(Image::blank(size_bytes).probe(), DeviceContents::Blank);
    }
}

#[test]
fn one_byte_is_enough_not_to_be_blank() {
    for size_bytes in SIZES {
        let tail = size_bytes - 128 * KIB;
        for offset in [
            0,
            1,
            511,
            4095,
            4096,
            0x7fff,
            300 * KIB + 5,
            MIB - 1,
            tail,
            tail + 1,
            tail + 77 * KIB,
            size_bytes - 4096,
            size_bytes - 1,
        ] {
            for byte in [1, 0x80, 0xff] {
                assert_eq!(
                    Image::blank(size_bytes).with(offset, &[byte]).probe(),
                    DeviceContents::Unknown {
                        first_nonzero_offset: offset
                    },
                    "{byte:#x} in {size_bytes:#x}"
                );
            }
        }
    }
}

#[test]
fn the_first_of_several_nonzero_bytes_is_named() {
    let image = Image::blank(4 * MIB)
        .with(4 * MIB - 1, &[1])
        .with(0x1000, &[7, 7])
        .with(0x5000, &[1]);
    let contents = image.probe();
    assert_eq!(
        contents.to_string(),
        "data of an unknown kind (first non-zero byte at offset 0x1000)"
    );
}

#[test]
fn data_behind_zeroes_is_not_blank() {
    let size_bytes = 1 << 40;
    let sample = size_bytes / SAMPLE_PAGES;
    let geometry = Geometry::new(size_bytes / PAGE).expect("room");
    let metadata_end = geometry.reserved().next().expect("metadata").end * PAGE;
    for offset in [
        MIB,
        5 * MIB + 77,
        WHOLE_BYTES - 1,
        128 * MIB,
        1 << 39,
        7 * sample + 9,
        metadata_end,
        metadata_end.next_multiple_of(MIB) + 5,
    ] {
        assert_eq!(
            Image::blank(size_bytes).with(offset, &[1]).probe(),
            DeviceContents::Unknown {
                first_nonzero_offset: offset
            },
        );
    }
    // Data between the samples of a large device is not found.
    let between = Image::blank(size_bytes).with(129 * MIB, &[1]);
    assert_eq!(between.probe(), DeviceContents::Blank);
}

#[test]
fn the_table_of_a_pool_is_found_whatever_size_the_pool_was_made_with() {
    for made_with in [
        4 * MIB,
        1 << 30,
        48 << 30,
        64 << 30,
        100 << 30,
        1 << 40,
        1 << 47,
    ] {
        let geometry = Geometry::new(made_with / PAGE).expect("room");
        for device in [made_with, made_with * 3, 1 << 48] {
            let image = Image::blank(device).with(geometry.tables()[0] * PAGE, b"CTBL");
            assert_eq!(image.probe(), DeviceContents::Known(POOL_REMAINS));
        }
    }
}

#[test]
fn metadata_of_a_pool_is_known_without_its_superblocks() {
    for magic in [b"CTBL", b"CJRN"] {
        for offset in [2 * PAGE, 2 * MIB, 15 * MIB] {
            let image = Image::blank(64 * MIB).with(offset, magic);
            assert_eq!(image.probe(), DeviceContents::Known(POOL_REMAINS));
            let image = image.with(0, b"XFSB");
            assert_eq!(image.probe(), DeviceContents::Known("an XFS file system"));
        }
    }
}

#[test]
fn a_disk_may_have_any_size() {
    let odd = [0, 1, 511, 512, 4095, 4097, 8191, 65537, 262_143];
    let pages = (0..600).map(|page| page * PAGE);
    for size_bytes in pages.chain(odd).chain([u64::MAX, u64::MAX - 4095]) {
        assert_eq!(Image::blank(size_bytes).probe(), DeviceContents::Blank);
        if size_bytes < PAGE {
            continue;
        }
        assert_eq!(
            Image::blank(size_bytes).with(0, b"XFSB").probe(),
            DeviceContents::Known("an XFS file system")
        );
    }
    let beyond_pages = Image::blank(2 * PAGE + 5).with(2 * PAGE, b"12345");
    assert_eq!(beyond_pages.probe(), DeviceContents::Blank);
}

#[test]
fn a_read_error_is_passed_on_at_once() {
    let size_bytes = 64 * MIB;
    for bad in [0, 3, 255, (size_bytes - 1) / PAGE] {
        let mut last = None;
        let result = probe_pages(size_bytes, &mut |first, pages| {
            let read = first..first + pages.len() as u64;
            last = Some(read.contains(&bad));
            if read.contains(&bad) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(())
        });
        let error = result.expect_err("a page cannot be read");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(last, Some(true), "nothing is read after it");
    }
}

/// A disk that checks that memory is aligned for direct I/O.
struct Direct;

impl Disk for Direct {
    fn read(&self, _: u64, pages: &mut [Page]) -> io::Result<()> {
        assert!(pages.as_ptr().addr().is_multiple_of(PAGE_BYTES));
        Ok(())
    }

    fn write(&self, _: u64, _: &[Page]) -> io::Result<()> {
        unreachable!("looking writes nothing")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("looking writes nothing")
    }
}

#[test]
fn the_memory_of_a_page_suits_direct_reads() {
    assert_eq!(
        probe(&Direct, MIB, &[]).expect("no read fails"),
        DeviceContents::Blank
    );
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
