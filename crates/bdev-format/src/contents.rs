//! Names what a file or device holds that is not a pool, so that its owner learns what a new pool would
//! overwrite.
//!
//! Laws:
//! - Nothing is written. A name is a hint for people and decides nothing: what is not all zeroes is not
//!   blank, whatever its name.
//! - Whole aligned pages are read, front to back, each once and at most `MAX_READ_PAGES`, because
//!   the file may be open for direct I/O and the device may be slow.
//! - Zeroes at the start do not make a device blank: whatever zeroed its first megabyte by mistake left the data
//!   behind it. So its beginning is read as far as a pool of any size has the first pages of its table, and the rest
//!   in samples. That is no proof: data that lies between the samples only is not found.
//! - Offsets and bytes come from the formats' specifications. A format with fewer than two fixed bytes is
//!   not in the list.

use std::fmt;
use std::io;
use std::ops::Range;

use crate::geometry::{Geometry, MAX_FIRST_TABLE_PAGE};
use crate::limits::PAGE_BYTES;
use crate::page::{Disk, Page};
use crate::{journal, table};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PAGE: u64 = PAGE_BYTES as u64;

/// Bytes at the start that are read in whole: the journal of a pool of any size, and the beginning of its table.
const WHOLE_BYTES: u64 = 65 * MIB;
/// Pages that are read at equal distances over all of the device.
const SAMPLE_PAGES: u64 = 256;
/// A page is read at 1, 2, 4 … MiB, so often that no device is larger.
const DOUBLINGS: u64 = 44;
/// Where a new pool of the device's size has its first small block, and its first of 1 MiB.
const FIRST_BLOCKS: u64 = 2;
/// Pages of one read.
const CHUNK_PAGES: u64 = 64;
/// Bytes at the end that are looked at: the earliest signature there, that of RAID 0.90, lies
/// less than this before the end.
const TAIL_BYTES: u64 = 128 * KIB;
/// ZFS has two labels at the start and two at the end, the latter aligned to their own size.
const ZFS_LABEL_BYTES: u64 = 256 * KIB;
/// Where a label's uberblocks begin. They fill the rest of it.
const ZFS_UBERBLOCKS_OFFSET: u64 = 128 * KIB;
/// Bytes of a label's uberblocks that are looked at near the end. A new pool writes slot 4 first,
/// and a slot has 1 to 8 KiB.
const ZFS_SAMPLE_BYTES: u64 = 48 * KIB;

/// Pages that are read, at most.
pub(crate) const MAX_READ_PAGES: u64 =
    (WHOLE_BYTES + ZFS_SAMPLE_BYTES + TAIL_BYTES) / PAGE + SAMPLE_PAGES + DOUBLINGS + FIRST_BLOCKS;

const _: () = {
    assert!(MAX_READ_PAGES <= 17_000);
    assert!(WHOLE_BYTES / PAGE > MAX_FIRST_TABLE_PAGE);
    assert!(2 * ZFS_LABEL_BYTES <= WHOLE_BYTES);
    assert!(5 * 8 * KIB <= ZFS_SAMPLE_BYTES);
    assert!(WHOLE_BYTES.is_multiple_of(PAGE) && TAIL_BYTES.is_multiple_of(PAGE));
};

/// What a file or device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceContents {
    /// Everything that was read is zero: the first 65 MiB, the last 128 KiB, and samples of the rest.
    Blank,
    /// Something that has a name, which comes with its article: "an XFS file system".
    Known(&'static str),
    /// Data without a signature that is in the list.
    Unknown {
        /// Offset of the first byte that is not zero, of those that were looked at.
        first_nonzero_offset: u64,
    },
}

impl fmt::Display for DeviceContents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => formatter.write_str("nothing but zeroes"),
            Self::Known(name) => formatter.write_str(name),
            Self::Unknown {
                first_nonzero_offset,
            } => write!(
                formatter,
                "data of an unknown kind (first non-zero byte at offset {first_nonzero_offset:#x})"
            ),
        }
    }
}

/// Finds out what a disk of `size_bytes` holds. `tail` has the bytes behind its last whole page, since direct
/// I/O reads whole pages only. Blocks.
///
/// # Errors
/// The first of the disk's; nothing is read after it.
pub fn probe(disk: &impl Disk, size_bytes: u64, tail: &[u8]) -> io::Result<DeviceContents> {
    let contents = probe_pages(size_bytes, &mut |first, pages| disk.read(first, pages))?;
    let first_nonzero = tail.iter().position(|byte| *byte != 0);
    Ok(match (contents, first_nonzero) {
        (DeviceContents::Blank, Some(at)) => DeviceContents::Unknown {
            first_nonzero_offset: size_bytes - tail.len() as u64 + at as u64,
        },
        (contents, _) => contents,
    })
}

/// As [`probe`], of the whole pages of a disk: one that is shorter than a page is blank, whatever it holds.
///
/// `read_pages` fills the pages that it is given with those from this number on.
fn probe_pages(
    size_bytes: u64,
    read_pages: &mut dyn FnMut(u64, &mut [Page]) -> io::Result<()>,
) -> io::Result<DeviceContents> {
    let mut chunk = Page::zeroes(CHUNK_PAGES as usize);
    let mut findings = Findings::default();
    let mut next = 0;
    for range in ranges(size_bytes) {
        // Ranges overlap.
        let mut first = range.start.max(next);
        while first < range.end {
            let pages = &mut chunk[..(range.end - first).min(CHUNK_PAGES) as usize];
            read_pages(first, pages)?;
            for (number, page) in (first..).zip(&*pages) {
                findings.add(number, page, size_bytes);
            }
            first += pages.len() as u64;
            next = first;
        }
    }
    Ok(findings.contents())
}

/// What the pages told that were read so far.
#[derive(Default)]
struct Findings {
    /// Index of the signature that gives the name.
    signature: Option<usize>,
    boot_sector: Option<&'static str>,
    has_pool_metadata: bool,
    first_nonzero_offset: Option<u64>,
}

impl Findings {
    fn add(&mut self, number: u64, page: &Page, size_bytes: u64) {
        let page_offset = number * PAGE;
        let Some(nonzero) = page.0.iter().position(|&byte| byte != 0) else {
            return;
        };
        self.first_nonzero_offset
            .get_or_insert(page_offset + nonzero as u64);
        self.has_pool_metadata |= journal::has_magic(page) || table::has_magic(page);
        let found = SIGNATURES
            .iter()
            .position(|signature| signature.is_in(&page.0, page_offset, size_bytes));
        // Of several signatures the one that stands first in the list counts.
        self.signature = match (self.signature, found) {
            (Some(best), Some(found)) => Some(std::cmp::min::<usize>(best, found)),
            (best, found) => best.or(found),
        };
        if number == 0 {
            self.boot_sector = boot_sector_kind(&page.0);
        }
    }

    fn contents(&self) -> DeviceContents {
        let remains = self.has_pool_metadata.then_some(POOL_REMAINS);
        let name = self.signature.map(|index| SIGNATURES[index].name);
        match (
            name.or(self.boot_sector).or(remains),
            self.first_nonzero_offset,
        ) {
            (Some(name), _) => DeviceContents::Known(name),
            (None, Some(first_nonzero_offset)) => DeviceContents::Unknown {
                first_nonzero_offset,
            },
            (None, None) => DeviceContents::Blank,
        }
    }
}

/// The numbers of the pages to read, in ascending order of their first ones.
fn ranges(size_bytes: u64) -> Vec<Range<u64>> {
    let pages = size_bytes / PAGE;
    let last_label =
        (size_bytes - size_bytes % ZFS_LABEL_BYTES).saturating_sub(ZFS_LABEL_BYTES) / PAGE;
    let label_sample = last_label + ZFS_UBERBLOCKS_OFFSET / PAGE;
    let single = |page: u64| page..pages.min(page + 1);
    let mut ranges = vec![
        0..pages.min(WHOLE_BYTES / PAGE),
        label_sample..pages.min(label_sample + ZFS_SAMPLE_BYTES / PAGE),
        pages.saturating_sub(TAIL_BYTES / PAGE)..pages,
    ];
    ranges.extend((0..DOUBLINGS).map(|doubling| single((MIB / PAGE) << doubling)));
    ranges.extend((0..SAMPLE_PAGES).map(|sample| single(pages / SAMPLE_PAGES * sample)));
    if let Some(metadata) = Geometry::new(pages).and_then(|geometry| geometry.reserved().next()) {
        let first_whole = metadata.end.next_multiple_of(MIB / PAGE);
        ranges.extend([metadata.end, first_whole].map(single));
    }
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// Bytes whose presence at a location tells what a file or device holds.
struct Signature {
    name: &'static str,
    location: Location,
    bytes: &'static [u8],
}

#[derive(Clone, Copy, Debug)]
enum Location {
    /// This many bytes from the start.
    Start(u64),
    /// `back_bytes` before the end, where the end is the size rounded down to a multiple of `unit_bytes`.
    End { unit_bytes: u64, back_bytes: u64 },
    /// At a slot of the uberblocks of a ZFS label.
    ZfsUberblock,
}

impl Signature {
    fn is_in(&self, page: &[u8; PAGE_BYTES], page_offset: u64, size_bytes: u64) -> bool {
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
fn boot_sector_kind(page: &[u8; PAGE_BYTES]) -> Option<&'static str> {
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

/// Metadata of a pool whose superblocks are gone.
const POOL_REMAINS: &str = "what is left of a pool whose beginning was overwritten";
const RAID: &str = "a member of a Linux RAID array";
const DRBD: &str = "a DRBD backing device";
const LVM: &str = "an LVM physical volume";
const LUKS: &str = "a LUKS encrypted volume";
const STRATIS: &str = "a member of a Stratis pool";
const STRATIS_MAGIC: &[u8] = b"!Stra0tis\x86\xff\x02^\x41rh";
const BCACHE_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const BCACHEFS_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
const EXT: &str = "an ext2, ext3 or ext4 file system";
const FAT: &str = "a FAT file system";
const F2FS: &str = "an F2FS file system";
const SQUASHFS: &str = "a SquashFS file system";
const SWAP: &str = "swap space";
const VMDK: &str = "a VMDK disk image";
const ZIP: &str = "a ZIP archive";
const GPT: &str = "a GPT partition table";
const GPT_BACKUP: &str = "the backup of a GPT partition table";

/// Of several signatures that are found, the first one in this list gives the name. So members of arrays come
/// before file systems, since one may be seen inside a member; long signatures come before short ones; and
/// what a disk may have kept from earlier use comes last.
const SIGNATURES: &[Signature] = &[
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

#[cfg(test)]
mod tests;
