//! The superblock: what a pool is, and where its parts lie. There are two copies of it;
//! `docs/ON_DISK_FORMAT.md` has its bytes.

use chimaera_bdev_proto::{IoEngine, PerfMetrics};
use chimaera_proto::PoolId;
use chimaera_proto::limits::MAX_POOL_NAME_BYTES;

use crate::geometry::{Extent, Geometry};
use crate::limits::{
    EXTENT_BYTES, EXTENTS_AT, FORMAT_VERSION, MAX_COUNTED, MAX_EXTENTS, NAME_AT, PAGE_BYTES,
    SUPERBLOCK_PAGES,
};
use crate::page::{Checksum, Page, bytes_of, put_u32, put_u64, u32_at, u64_at};
use crate::weakness::{CrashWeakness, weakened};

const MAGIC: u32 = u32::from_le_bytes(*b"CHIM");
const SECOND_MAGIC: u64 = u64::from_le_bytes(*b"AERAPOOL");
const SECOND_MAGIC_AT: usize = 8;

const BYTES: usize = SUPERBLOCK_PAGES as usize * PAGE_BYTES;

/// The features of the format that a pool uses, a bit each. None has been defined yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatFeatures {
    /// A program that does not know one of these must not open the pool.
    pub incompatible: u64,
    /// A program that does not know one of these may only read the pool.
    pub read_only_compatible: u64,
    /// A program that does not know one of these may use the pool, and keeps the bit.
    pub compatible: u64,
}

impl FormatFeatures {
    /// The features that this program knows.
    const KNOWN: Self = Self {
        incompatible: 0,
        read_only_compatible: 0,
        compatible: 0,
    };

    /// Whether the pool may only be read.
    pub(crate) const fn forbid_writing(self) -> bool {
        self.read_only_compatible & !Self::KNOWN.read_only_compatible != 0
    }
}

/// The owner of a pool, in the terms of a file's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolOwner {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A pool's id, name and owner, and how its device is to be used, as its creator chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The pool's id, which it has wherever it is opened.
    pub pool: PoolId,
    /// The pool's name: the path at which it was made, or to which it was renamed since.
    pub name: String,
    /// The user who made the pool.
    pub owner: PoolOwner,
    /// Alignment of device operations in bytes, as was asked for.
    pub alignment: u32,
    /// Operations in flight on the device per worker, as was asked for.
    pub io_depth: u32,
    /// The I/O engine, as was asked for.
    pub io_engine: IoEngine,
    /// The declared characteristics of the device.
    pub metrics: PerfMetrics,
}

/// A superblock whose checksum and contents were checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Superblock {
    /// The features of the format that the pool uses.
    pub features: FormatFeatures,
    /// Unique to the pool, copies of it aside.
    pub uuid: [u8; 16],
    /// Grows with each change of the superblock.
    pub generation: u64,
    /// What the pool's creator chose.
    pub identity: Identity,
    /// When the pool was made, in seconds since 1970.
    pub created: u64,
    /// The table has the updates of this epoch of the journal, and of earlier ones.
    pub epoch: u64,
    /// Sequence of the last record of the journal whose updates are in the table.
    pub sequence: u64,
    /// Where everything lies.
    pub geometry: Geometry,
}

/// Why there is no superblock to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoSuperblock {
    /// There is something else, or nothing.
    Absent,
    /// The superblock is damaged.
    Damaged,
    /// This program cannot use the superblock, for this reason.
    Unsupported(String),
}

impl Superblock {
    /// The checksums of the pool's other structures.
    pub(crate) fn checksum(&self) -> Checksum {
        Checksum::of_pool(&self.uuid)
    }

    /// Reads the pages of a superblock.
    pub(crate) fn read(pages: &[Page]) -> Result<Self, NoSuperblock> {
        let bytes = bytes_of(pages);
        let has_magic = u32_at(bytes, 0) == MAGIC || u64_at(bytes, SECOND_MAGIC_AT) == SECOND_MAGIC;
        if bytes.len() != BYTES || !has_magic {
            return Err(NoSuperblock::Absent);
        }
        let holds = Checksum::UNSEEDED.holds(MAGIC, bytes)
            || (weakened(CrashWeakness::SuperblockUnchecked) && u32_at(bytes, 0) == MAGIC);
        if !holds {
            return Err(NoSuperblock::Damaged);
        }
        let features = FormatFeatures {
            incompatible: u64_at(bytes, 24),
            read_only_compatible: u64_at(bytes, 32),
            compatible: u64_at(bytes, 40),
        };
        let version = u32_at(bytes, 16);
        if version != FORMAT_VERSION {
            return Err(NoSuperblock::Unsupported(format!(
                "its format has version {version}, this program knows version {FORMAT_VERSION}"
            )));
        }
        let unknown = features.incompatible & !FormatFeatures::KNOWN.incompatible;
        if unknown != 0 {
            return Err(NoSuperblock::Unsupported(format!(
                "it uses features that this program does not know ({unknown:#x})"
            )));
        }
        // Values that no program of this version writes are damage, even with a right checksum.
        Self::read_checked(bytes, features).ok_or(NoSuperblock::Damaged)
    }

    fn read_checked(bytes: &[u8], features: FormatFeatures) -> Option<Self> {
        let number = |at| u64_at(bytes, at);
        let metric = |place: usize| f64::from_bits(number(104 + 8 * place));
        let (generation, epoch, sequence) = (number(64), number(152), number(160));
        if [generation, epoch, sequence]
            .iter()
            .any(|&number| number > MAX_COUNTED)
        {
            return None;
        }
        let extents = u32_at(bytes, 200) as usize;
        let name_bytes = u32_at(bytes, 204) as usize;
        if extents > MAX_EXTENTS || name_bytes > MAX_POOL_NAME_BYTES {
            return None;
        }
        let (places, _) = bytes[EXTENTS_AT..].as_chunks::<EXTENT_BYTES>();
        let geometry = Geometry {
            total_pages: number(168),
            journal: [number(176), number(184)],
            journal_pages: number(192),
            extents: places[..extents]
                .iter()
                .map(|place| read_extent(place))
                .collect(),
        };
        geometry.check().ok()?;
        let name = bytes[NAME_AT..NAME_AT + name_bytes].to_vec();
        Some(Self {
            features,
            uuid: std::array::from_fn(|byte| bytes[48 + byte]),
            generation,
            identity: Identity {
                pool: PoolId::new(u32_at(bytes, 72), u32_at(bytes, 76)),
                name: String::from_utf8(name).ok()?,
                owner: PoolOwner {
                    user: u32_at(bytes, 80),
                    group: u32_at(bytes, 84),
                    mode: u32_at(bytes, 88),
                },
                alignment: u32_at(bytes, 92),
                io_depth: u32_at(bytes, 96),
                io_engine: match u32_at(bytes, 100) {
                    0 => IoEngine::Auto,
                    1 => IoEngine::Libaio,
                    2 => IoEngine::IoUring,
                    _ => return None,
                },
                metrics: PerfMetrics {
                    read_bandwidth_mbps: metric(0),
                    write_bandwidth_mbps: metric(1),
                    read_latency_us: metric(2),
                    write_latency_us: metric(3),
                    iops: metric(4),
                },
            },
            created: number(144),
            epoch,
            sequence,
            geometry,
        })
    }

    /// The pages of the superblock.
    pub(crate) fn to_pages(&self) -> Vec<Page> {
        let mut bytes = vec![0; BYTES];
        let Self {
            identity, geometry, ..
        } = self;
        put_u64(&mut bytes, SECOND_MAGIC_AT, SECOND_MAGIC);
        let metrics = &identity.metrics;
        let small = [
            (16, FORMAT_VERSION),
            (72, identity.pool.major),
            (76, identity.pool.minor),
            (80, identity.owner.user),
            (84, identity.owner.group),
            (88, identity.owner.mode),
            (92, identity.alignment),
            (96, identity.io_depth),
            (100, identity.io_engine as u32),
            (200, geometry.extents.len() as u32),
            (204, identity.name.len() as u32),
        ];
        for (at, value) in small {
            put_u32(&mut bytes, at, value);
        }
        let large = [
            (24, self.features.incompatible),
            (32, self.features.read_only_compatible),
            (40, self.features.compatible),
            (64, self.generation),
            (104, metrics.read_bandwidth_mbps.to_bits()),
            (112, metrics.write_bandwidth_mbps.to_bits()),
            (120, metrics.read_latency_us.to_bits()),
            (128, metrics.write_latency_us.to_bits()),
            (136, metrics.iops.to_bits()),
            (144, self.created),
            (152, self.epoch),
            (160, self.sequence),
            (168, geometry.total_pages),
            (176, geometry.journal[0]),
            (184, geometry.journal[1]),
            (192, geometry.journal_pages),
        ];
        for (at, value) in large {
            put_u64(&mut bytes, at, value);
        }
        bytes[48..64].copy_from_slice(&self.uuid);
        let (places, _) = bytes[EXTENTS_AT..NAME_AT].as_chunks_mut::<EXTENT_BYTES>();
        for (extent, place) in geometry.extents.iter().zip(places) {
            write_extent(extent, place);
        }
        let name = identity.name.as_bytes();
        bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        Checksum::UNSEEDED.seal(MAGIC, &mut bytes);
        let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
        pages.iter().map(|&page| Page(page)).collect()
    }
}

fn read_extent(bytes: &[u8]) -> Extent {
    Extent {
        first_megabyte: u32_at(bytes, 0),
        megabytes: u32_at(bytes, 4),
        tables: [u64_at(bytes, 8), u64_at(bytes, 16)],
        table_pages: u32_at(bytes, 24),
        table_written: u32_at(bytes, 28),
        tags: u64_at(bytes, 32),
        tag_pages: u64_at(bytes, 40),
    }
}

fn write_extent(extent: &Extent, bytes: &mut [u8]) {
    put_u32(bytes, 0, extent.first_megabyte);
    put_u32(bytes, 4, extent.megabytes);
    put_u64(bytes, 8, extent.tables[0]);
    put_u64(bytes, 16, extent.tables[1]);
    put_u32(bytes, 24, extent.table_pages);
    put_u32(bytes, 28, extent.table_written);
    put_u64(bytes, 32, extent.tags);
    put_u64(bytes, 40, extent.tag_pages);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            features: FormatFeatures::default(),
            uuid: [9; 16],
            generation: 3,
            identity: Identity {
                pool: PoolId::new(8000, 1),
                name: "/var/tmp/pööl".to_owned(),
                owner: PoolOwner {
                    user: 1,
                    group: 2,
                    mode: 0o640,
                },
                alignment: 512,
                io_depth: 64,
                io_engine: IoEngine::IoUring,
                metrics: PerfMetrics::default(),
            },
            created: 1_700_000_000,
            epoch: 4,
            sequence: 77,
            geometry: Geometry::new(40 * 256).expect("room").grown(100 * 256),
        }
    }

    #[test]
    fn it_reads_as_it_is_written_and_no_bit_of_it_can_change() {
        let superblock = superblock();
        let pages = superblock.to_pages();
        assert_eq!(Superblock::read(&pages), Ok(superblock));
        for bit in 0..BYTES * 8 {
            let mut damaged = pages.clone();
            damaged[bit / 8 / PAGE_BYTES].0[bit / 8 % PAGE_BYTES] ^= 1 << (bit % 8);
            assert_eq!(
                Superblock::read(&damaged),
                Err(NoSuperblock::Damaged),
                "{bit}"
            );
        }
        assert_eq!(
            Superblock::read(&Page::zeroes(2)),
            Err(NoSuperblock::Absent)
        );
    }

    #[test]
    fn what_is_newer_than_the_program_is_refused_or_only_read() {
        let changed = |at: usize| {
            let mut bytes = bytes_of(&superblock().to_pages()).to_vec();
            bytes[at] ^= 2;
            Checksum::UNSEEDED.seal(MAGIC, &mut bytes);
            let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
            let pages: Vec<_> = pages.iter().map(|&page| Page(page)).collect();
            Superblock::read(&pages)
        };
        let unsupported = |result| matches!(result, Err(NoSuperblock::Unsupported(_)));
        assert!(unsupported(changed(16)));
        assert!(unsupported(changed(24)));
        assert!(changed(32).expect("may be read").features.forbid_writing());
        let kept = changed(40).expect("may be used");
        assert!(!kept.features.forbid_writing());
        assert_eq!(Superblock::read(&kept.to_pages()), Ok(kept));
    }
}
