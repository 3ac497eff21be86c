//! The signatures of what a device may hold, and where each stands.
//!
//! Law of this module: offsets and bytes come from the formats' specifications. A format with fewer than two fixed
//! bytes is not in the list.

use super::KIB;
use crate::limits::PAGE_BYTES;

/// ZFS has two labels at the start and two at the end, the latter aligned to their own size.
pub(super) const ZFS_LABEL_BYTES: u64 = 256 * KIB;
/// Where a label's uberblocks begin. They fill the rest of it.
pub(super) const ZFS_UBERBLOCKS_OFFSET: u64 = 128 * KIB;

/// Bytes whose presence at a location tells what a file or device holds.
pub(super) struct Signature {
    pub(super) name: &'static str,
    pub(super) location: Location,
    pub(super) bytes: &'static [u8],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Location {
    /// This many bytes from the start.
    Start(u64),
    /// `back_bytes` before the end, where the end is the size rounded down to a multiple of `unit_bytes`.
    End { unit_bytes: u64, back_bytes: u64 },
    /// At a slot of the uberblocks of a ZFS label.
    ZfsUberblock,
}

impl Signature {
    pub(super) fn is_in(&self, page: &[u8; PAGE_BYTES], page_offset: u64, size_bytes: u64) -> bool {
        let offset = match self.location {
            Location::Start(offset) => Some(offset),
            Location::End {
                unit_bytes,
                back_bytes,
            } => (size_bytes - size_bytes % unit_bytes).checked_sub(back_bytes),
            Location::ZfsUberblock => {
                return in_zfs_uberblocks(page_offset, size_bytes)
                    && page
                        .chunks_exact(KIB as usize)
                        .any(|slot| slot.starts_with(self.bytes));
            }
        };
        offset
            .and_then(|offset| offset.checked_sub(page_offset))
            .and_then(|offset_in_page| page.get(usize::try_from(offset_in_page).ok()?..))
            .is_some_and(|rest| rest.starts_with(self.bytes))
    }
}

fn in_zfs_uberblocks(offset: u64, size_bytes: u64) -> bool {
    let end = size_bytes - size_bytes % ZFS_LABEL_BYTES;
    let in_label = offset < 2 * ZFS_LABEL_BYTES
        || (end.saturating_sub(2 * ZFS_LABEL_BYTES)..end).contains(&offset);
    in_label && offset % ZFS_LABEL_BYTES >= ZFS_UBERBLOCKS_OFFSET
}

/// Names a first sector that ends with the mark of a boot sector. A FAT file system may begin with one
/// that does not have FAT's name in it, and must not be taken for a partition table: where a partition
/// table has entries FAT has code, which may look like entries.
pub(super) fn boot_sector_kind(page: &[u8; PAGE_BYTES]) -> Option<&'static str> {
    let sector = &page[..512];
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    if is_fat_boot_sector(sector) {
        return Some(FAT);
    }
    let mut entries = sector[446..510].chunks_exact(16);
    let all_sound = entries.clone().all(|entry| matches!(entry[0], 0 | 0x80));
    let any_used = entries.any(|entry| {
        let kind = entry[4];
        kind != 0 && entry[8..12] != [0; 4] && entry[12..16] != [0; 4]
    });
    (all_sound && any_used).then_some("an MBR partition table")
}

/// Whether the sector has the parameter block of a FAT file system, with valid values.
fn is_fat_boot_sector(sector: &[u8]) -> bool {
    let word = |offset: usize| u16::from_le_bytes([sector[offset], sector[offset + 1]]);
    let jump = sector[0];
    let sector_bytes = word(11);
    let cluster_sectors = sector[13];
    let reserved_sectors = word(14);
    let tables = sector[16];
    let media = sector[21];
    let any_sectors = word(19) != 0 || sector[32..36] != [0; 4];
    matches!(jump, 0xeb | 0xe9)
        && matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
        && cluster_sectors.is_power_of_two()
        && reserved_sectors != 0
        && matches!(tables, 1 | 2)
        && (media == 0xf0 || media >= 0xf8)
        && any_sectors
}

const fn start(name: &'static str, offset: u64, bytes: &'static [u8]) -> Signature {
    let location = Location::Start(offset);
    Signature {
        name,
        location,
        bytes,
    }
}

const fn end(
    name: &'static str,
    unit_bytes: u64,
    back_bytes: u64,
    bytes: &'static [u8],
) -> Signature {
    let location = Location::End {
        unit_bytes,
        back_bytes,
    };
    Signature {
        name,
        location,
        bytes,
    }
}

const fn zfs(bytes: &'static [u8]) -> Signature {
    let (name, location) = ("a member of a ZFS pool", Location::ZfsUberblock);
    Signature {
        name,
        location,
        bytes,
    }
}

pub(super) const RAID: &str = "a member of a Linux RAID array";
const DRBD: &str = "a DRBD backing device";
const LVM: &str = "an LVM physical volume";
const LUKS: &str = "a LUKS encrypted volume";
const STRATIS: &str = "a member of a Stratis pool";
const STRATIS_MAGIC: &[u8] = b"!Stra0tis\x86\xff\x02^\x41rh";
const BCACHE_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const BCACHEFS_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
pub(super) const EXT: &str = "an ext2, ext3 or ext4 file system";
pub(super) const FAT: &str = "a FAT file system";
pub(super) const F2FS: &str = "an F2FS file system";
const SQUASHFS: &str = "a SquashFS file system";
pub(super) const SWAP: &str = "swap space";
pub(super) const VMDK: &str = "a VMDK disk image";
const ZIP: &str = "a ZIP archive";
pub(super) const GPT: &str = "a GPT partition table";
const GPT_BACKUP: &str = "the backup of a GPT partition table";

/// Of several signatures that are found, the first one in this list gives the name. So members of arrays come
/// before file systems, since one may be seen inside a member; long signatures come before short ones; and
/// what a disk may have kept from earlier use comes last.
pub(super) const SIGNATURES: &[Signature] = &[
    // The number 0x00bab10c in 64 bits, of either byte order.
    zfs(b"\x0c\xb1\xba\0\0\0\0\0"),
    zfs(b"\0\0\0\0\0\xba\xb1\x0c"),
    // The number 0xa92b4efc, then the major version. That of 1.x is little-endian; 0.90 has the
    // machine's byte order.
    start(RAID, 0, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    start(RAID, 4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    end(RAID, 4096, 8192, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    end(RAID, 65536, 65536, b"\xfc\x4e\x2b\xa9\0\0\0\0"),
    end(RAID, 65536, 65536, b"\xa9\x2b\x4e\xfc\0\0\0\0"),
    // 8.x, 8.4 that was not shut down, and 9.
    end(DRBD, 4096, 4096 - 60, b"\x83\x74\x02\x6b"),
    end(DRBD, 4096, 4096 - 60, b"\x83\x74\x02\x6c"),
    end(DRBD, 4096, 4096 - 60, b"\x83\x74\x02\x6d"),
    start(LVM, 0, b"LABELONE"),
    start(LVM, 512, b"LABELONE"),
    start(LVM, 1024, b"LABELONE"),
    start(LVM, 1536, b"LABELONE"),
    start(LUKS, 0, b"LUKS\xba\xbe"),
    // The second header of LUKS2, at its usual place.
    start(LUKS, 0x4000, b"SKUL\xba\xbe"),
    start("a BitLocker encrypted volume", 3, b"-FVE-FS-"),
    start("a dm-integrity device", 0, b"integrt\0"),
    start("a VDO volume", 0, b"dmvdo001"),
    start(STRATIS, 512 + 4, STRATIS_MAGIC),
    start(STRATIS, 9 * 512 + 4, STRATIS_MAGIC),
    start("a bcache device", 4096 + 24, BCACHE_MAGIC),
    start("a Ceph BlueStore device", 0, b"bluestore block device"),
    start("an SPDK blobstore", 0, b"SPDKBLOB"),
    start("a bcachefs file system", 4096 + 24, BCACHEFS_MAGIC),
    start("a Btrfs file system", 0x1_0040, b"_BHRfS_M"),
    start("an XFS file system", 0, b"XFSB"),
    start(
        "a GFS2 file system",
        0x1_0000,
        b"\x01\x16\x19\x70\0\0\0\x01",
    ),
    start("an exFAT file system", 3, b"EXFAT   "),
    start("an NTFS file system", 3, b"NTFS    "),
    start(FAT, 0x36, b"FAT12   "),
    start(FAT, 0x36, b"FAT16   "),
    start(FAT, 0x36, b"FAT     "),
    start(FAT, 0x52, b"FAT32   "),
    start(F2FS, 1024, b"\x10\x20\xf5\xf2"),
    start(F2FS, 4096 + 1024, b"\x10\x20\xf5\xf2"),
    start("an EROFS file system", 1024, b"\xe2\xe1\xf5\xe0"),
    start(SQUASHFS, 0, b"hsqs"),
    start(SQUASHFS, 0, b"sqsh"),
    start("an ISO 9660 file system", 0x8001, b"CD001"),
    start("a UDF file system", 0x8001, b"BEA01"),
    // In the last ten bytes of the first memory page, whose size is 4, 16 or 64 KiB.
    start(SWAP, 0x0ff6, b"SWAPSPACE2"),
    start(SWAP, 0x3ff6, b"SWAPSPACE2"),
    start(SWAP, 0xfff6, b"SWAPSPACE2"),
    start(SWAP, 0x0ff6, b"SWAP-SPACE"),
    start(SWAP, 0x3ff6, b"SWAP-SPACE"),
    start(SWAP, 0xfff6, b"SWAP-SPACE"),
    start("a qcow2 disk image", 0, b"QFI\xfb"),
    start("a VDI disk image", 0x40, b"\x7f\x10\xda\xbe"),
    start(VMDK, 0, b"KDMV"),
    start(VMDK, 0, b"# Disk DescriptorFile"),
    start("a VHDX disk image", 0, b"vhdxfile"),
    // A VHD of fixed size has this in its last sector only, behind the last whole page.
    start("a VHD disk image", 0, b"conectix"),
    start("an SQLite 3 database", 0, b"SQLite format 3\0"),
    start("a tar archive", 257, b"ustar"),
    start(ZIP, 0, b"PK\x03\x04"),
    start(ZIP, 0, b"PK\x05\x06"),
    start("an xz file", 0, b"\xfd7zXZ\0"),
    start("a Zstandard file", 0, b"\x28\xb5\x2f\xfd"),
    start("a gzip file", 0, b"\x1f\x8b\x08"),
    start("an ELF file", 0, b"\x7fELF"),
    start("a PDF document", 0, b"%PDF-"),
    start(GPT, 512, b"EFI PART"),
    start(GPT, 4096, b"EFI PART"),
    start(EXT, 0x438, b"\x53\xef"),
    end(GPT_BACKUP, 512, 512, b"EFI PART"),
    end(GPT_BACKUP, 4096, 4096, b"EFI PART"),
];
