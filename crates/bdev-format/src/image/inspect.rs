//! Inspecting pools without a daemon: what a file or device holds, whether it is sound, and repairs.
//!
//! A daemon may be using the pool meanwhile, so what is read may be out of date. Whatever writes needs the file or
//! device exclusively.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use chimaera_bdev_proto::{BlockType, IoEngine, PerfMetrics, UNIT_BYTES};
use chimaera_proto::limits::MAX_POOL_NAME_BYTES;
use chimaera_proto::{ModuleError, PoolId, Status};
use chimaera_thread::standstill::patiently;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::disk::{FileDisk, PoolFile, pool_file, size_and_tail};
use super::random::seconds_now;
use super::refusal::{ImageRefusal, error, in_use_error};
use super::writable::{check_size_limit, is_read_only, read_only_error};
use super::{birth, random_bits};
use crate::block_map::MegabyteMap;
use crate::check::{self as whole, Checked, Repair};
use crate::open_error::OpenError;
use crate::rename::{self, OwnIdentity};
use crate::{FailureMark, FormatVersion, PAGE_BYTES, PoolOwner};
use chimaera_bdev_file::{FileKind, FoundFile, PathUse, check_stores, refused};

/// What a pool on a file or device is, and what is damaged in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// The pool's UUID, which no other pool has, copies of it aside.
    pub uuid: [u8; 16],
    /// Version of the format.
    pub format_version: u32,
    /// Feature bits. A program that does not know a bit of the first word must not open the pool, of the second may
    /// only read it, of the third may use it.
    pub features: [u64; 3],
    /// The pool's id.
    pub pool: PoolId,
    /// The pool's name.
    pub name: String,
    /// User and group that own it.
    pub owner: (u32, u32),
    /// Permission bits.
    pub mode: u32,
    /// Whether blocks are zeroed before they are handed out.
    pub scrubs: bool,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Bytes of the pool, those of its metadata included.
    pub total_size: u64,
    /// Bytes of its metadata.
    pub metadata_size: u64,
    /// Bytes that can be allocated.
    pub remaining_size: u64,
    /// Alignment of device operations in bytes.
    pub alignment: u32,
    /// Operations in flight on the device per worker.
    pub io_depth: u32,
    /// The I/O engine, as was asked for.
    pub io_engine: IoEngine,
    /// The declared characteristics.
    pub perf_metrics: PerfMetrics,
    /// Allocated blocks of 4 KiB, 64 KiB, 256 KiB and 1 MiB.
    pub blocks: [u64; 4],
    /// Megabytes whose blocks have owner tags, or had.
    pub tagged_megabytes: u64,
    /// Number of the superblock's last change.
    pub generation: u64,
    /// The epoch that the table is of.
    pub epoch: u64,
    /// Records of the journal that are not in the table yet: none after an orderly end.
    pub journal_records: u64,
    /// Extents of the pool: one, and another for each growth into space with metadata of its own.
    pub extents: usize,
    /// Whether a daemon has it open now.
    pub in_use: bool,
    /// Whether the loss of any megabyte leaves a copy of all metadata.
    pub is_protected: bool,
    /// How many openings for writing there were, where the format counts them.
    pub openings: Option<u64>,
    /// Whether its use ended in good order, where the format tells.
    pub ended_well: Option<bool>,
    /// What failed when it was open last, if nobody has looked since. A repair clears it.
    pub mark: Option<FailureMark>,
    /// Bytes at the end of the pool that the file or device lacks, and in which there is nothing.
    pub missing_bytes: u64,
    /// Offset of the far superblock from which the beginning, which was gone, was written again.
    pub restored_from: Option<u64>,
    /// Offset of the far place, if the pool has one.
    pub far_place: Option<u64>,
    /// The two pools of which superblocks are there, if so.
    pub two_pools: Option<FoundTwoPools>,
    /// Damage that [`check`] repairs.
    pub repairable: Vec<String>,
    /// Damage that nothing repairs.
    pub lost: Vec<String>,
    /// Whether the pool can be opened for reading only all the same: it cannot where blocks lie in metadata.
    pub can_be_read: bool,
    /// Whether what can be repaired was.
    pub repaired: bool,
}

/// Superblocks of two pools, one of which was written over the other. [`check`] with the UUID of one repairs that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTwoPools {
    /// Which pools, and where.
    pub text: String,
    /// Their UUIDs.
    pub uuids: Vec<[u8; 16]>,
}

impl Inspection {
    /// Whether nothing is damaged, or no longer.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let has_damage =
            !self.repairable.is_empty() || self.mark.is_some() || self.two_pools.is_some();
        self.lost.is_empty() && (!has_damage || self.repaired)
    }

    /// Whether its format has the version that new pools have.
    #[must_use]
    pub fn has_newest_version(&self) -> bool {
        self.format_version == FormatVersion::NEWEST.number()
    }
}

/// Reads all of a pool's metadata on a file or device, and checks it. Writes nothing. Blocks.
///
/// While a daemon uses the pool, its metadata changes between reads, and they may contradict each other. So it is
/// checked several times then, and only damage that each check finds in the same bytes counts. A missing copy of a
/// record of the last commit is not told then: the daemon may be about to write it.
///
/// # Errors
/// [`Status::NotFound`] if there is no such file, or no pool in it; [`Status::CorruptedMetadata`] if no
/// superblock is left; [`Status::Unsupported`] for a pool of a newer program; and the device's.
pub fn inspect(path: &Path) -> Result<Inspection, ImageRefusal> {
    let (file, in_use) = open(path, false)?;
    let file = pool_file(file)?;
    if !in_use {
        return examine(path, &file, None);
    }
    let (checked, blocks) = whole::agreed(|| {
        // A hint. What the other process writes goes past the page cache, in which something older may stay.
        let _ = posix_fadvise(&*file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        look(path, &file, None)
    })?;
    Ok(report(checked, &blocks, true))
}

/// Whether [`check`] repairs, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckMode {
    /// It writes nothing.
    Look,
    /// It repairs what can be repaired, unless something cannot.
    Repair {
        /// The pool to repair, where the superblocks at the beginning are gone, or others lie in their far place, and
        /// there are copies of several pools;
        /// `None` for the only one.
        uuid: Option<[u8; 16]>,
    },
}

/// As [`inspect`], on a file or device that nobody uses, with repairs if the mode has them.
///
/// # Errors
/// As [`inspect`]; [`Status::Busy`] if it is in use.
pub fn check(path: &Path, mode: CheckMode) -> Result<Inspection, ImageRefusal> {
    let repair = match mode {
        CheckMode::Look => None,
        CheckMode::Repair { uuid } => Some(Repair {
            history: random_bits()?,
            seconds: seconds_now(),
            uuid,
        }),
    };
    let file = open_unused(path, repair.is_some())?;
    examine(path, &pool_file(file)?, repair)
}

/// Renames the pool on a file or device that nobody uses: its name is its path, which changes when it is moved. Blocks.
///
/// # Errors
/// As [`check`], also if the metadata is damaged; [`Status::InvalidArgument`] for an impossible name.
pub fn rename(path: &Path, name: &str) -> Result<(), ImageRefusal> {
    change_identity(path, name, None)
}

/// What a copy of a pool is called that has become a pool of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewIdentity {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its id.
    pub pool: PoolId,
}

/// As [`rename`], of a copy of a pool, to which it also gives a UUID of its own, and this id or one that is drawn.
///
/// # Errors
/// As [`rename`]; [`Status::Unsupported`] for a pool of version 1, whose checksums depend on its UUID.
pub fn rename_copy(
    path: &Path,
    name: &str,
    pool: Option<PoolId>,
) -> Result<NewIdentity, ImageRefusal> {
    let own = OwnIdentity {
        uuid: birth()?.uuid,
        pool: match pool {
            Some(pool) => pool,
            None => PoolId::drawn(random_bits()?),
        },
    };
    change_identity(path, name, Some(own))?;
    Ok(NewIdentity {
        uuid: own.uuid,
        pool: own.pool,
    })
}

fn change_identity(path: &Path, name: &str, own: Option<OwnIdentity>) -> Result<(), ImageRefusal> {
    if name.is_empty() || name.len() > MAX_POOL_NAME_BYTES || name.contains('\0') {
        return Err(error(
            path,
            Status::InvalidArgument,
            format_args!(
                "a pool's name has from 1 to {MAX_POOL_NAME_BYTES} bytes, none of them zero"
            ),
        )
        .into());
    }
    change(path, own.is_some(), |disk, history| {
        rename::rename(disk, name.to_owned(), own, history)
    })
}

/// Changes owner, group or mode of the pool on a file or device that nobody uses. If that may let others in, the pool
/// scrubs from then on. Gives what it has then, and whether it scrubs. Blocks.
///
/// # Errors
/// As [`check`], also if the metadata is damaged.
pub fn set_owner(
    path: &Path,
    settle: impl FnOnce(PoolOwner) -> PoolOwner,
) -> Result<(PoolOwner, bool), ImageRefusal> {
    let mut now = (PoolOwner::default(), false);
    change(path, false, |disk, history| {
        rename::change_superblock(disk, history, |superblock| {
            let before = superblock.identity.owner;
            let owner = settle(before);
            superblock.identity.owner = owner;
            superblock.identity.scrubs |= owner.lets_others_in(before);
            now = (owner, superblock.identity.scrubs);
        })
    })?;
    Ok(now)
}

/// Changes the pool on a file or device that nobody uses, if it is sound and can be changed.
fn change(
    path: &Path,
    needs_version_2: bool,
    act: impl FnOnce(FileDisk, u64) -> Result<(), OpenError>,
) -> Result<(), ImageRefusal> {
    let file = pool_file(open_unused(path, true)?)?;
    let (size, tail) = size_and_tail(path, &file)?;
    let disk = FileDisk::new(file);
    let refused = |problem| ImageRefusal::of(path, problem, (&disk, size, &tail));
    let superblock = crate::identify_to_write(&disk).map_err(refused)?;
    if needs_version_2 && superblock.version() == FormatVersion::One {
        return Err(ImageRefusal::of_version_1(path));
    }
    if superblock.geometry.total_pages() > size / UNIT_BYTES {
        // What lies behind the end would be written there.
        let found = whole::check(&disk, size / UNIT_BYTES, None, &mut |_, _| {});
        if let [cause, ..] = &found.map_err(refused)?.lost[..] {
            return Err(refused(OpenError::Damaged(cause.clone())));
        }
    }
    act(disk.clone(), random_bits()?).map_err(refused)
}

/// Opens a file or device that nobody uses. Waits a moment where a process that was killed still has it.
pub(super) fn open_unused(path: &Path, writes: bool) -> Result<File, ModuleError> {
    let opened = patiently(
        || match open(path, writes) {
            Ok((_, true)) => Err(None),
            Ok((file, false)) => Ok(file),
            Err(error) => Err(Some(error)),
        },
        |error| match error {
            None => true,
            Some(error) => error.failure.status == Status::Busy,
        },
    );
    opened.map_err(|error| error.unwrap_or_else(|| in_use_error(path)))
}

/// Opens a file or device, and says whether another process uses it. Closing the file ends its lock. What the path
/// leads to is found once: whoever may write to its folder may put something else there meanwhile.
fn open(path: &Path, writes: bool) -> Result<(File, bool), ModuleError> {
    let access = match writes {
        false => PathUse::Read,
        true => PathUse::Write,
    };
    let failed = |error: &io::Error| match error.raw_os_error() {
        Some(libc::EROFS) => read_only_error(path),
        _ => refused(access, path, error),
    };
    let found = FoundFile::find(path, access)?;
    if found.kind() == FileKind::BlockDevice {
        return match found.open(writes, true) {
            Ok(file) if writes && is_read_only(&file) => Err(read_only_error(path)),
            Ok(file) => Ok((file, false)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && writes => {
                Err(in_use_error(path))
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let file = found.open(false, false).map_err(|error| failed(&error))?;
                Ok((file, true))
            }
            Err(error) => Err(failed(&error)),
        };
    }
    let file = found.open(writes, false).map_err(|error| failed(&error))?;
    check_stores(path, &file)?;
    if writes {
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        check_size_limit(path, &file, metadata.len())?;
    }
    match file.try_lock() {
        Ok(()) => Ok((file, false)),
        Err(TryLockError::WouldBlock) => Ok((file, true)),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

/// Checks the pool on a file or device that nobody uses.
pub(super) fn examine(
    path: &Path,
    file: &PoolFile,
    repair: Option<Repair>,
) -> Result<Inspection, ImageRefusal> {
    let (checked, blocks) = look(path, file, repair)?;
    Ok(report(checked, &blocks, false))
}

fn look(
    path: &Path,
    file: &PoolFile,
    repair: Option<Repair>,
) -> Result<(Checked, FoundBlocks), ImageRefusal> {
    let (size, tail) = size_and_tail(path, file)?;
    let disk = FileDisk::new(PoolFile::clone(file));
    let mut found = FoundBlocks::default();
    let checked = whole::check(&disk, size / UNIT_BYTES, repair, &mut |_, map| {
        found.add(map);
    });
    match checked {
        Ok(checked) => Ok((checked, found)),
        Err(problem) => Err(ImageRefusal::of(path, problem, (&disk, size, &tail))),
    }
}

/// The blocks of a pool.
#[derive(Default)]
struct FoundBlocks {
    /// By type, as in [`COUNTED`].
    counts: [u64; 4],
    bytes: u64,
}

impl FoundBlocks {
    fn add(&mut self, map: MegabyteMap) {
        for slot in map.blocks() {
            let size = slot.block_type.size();
            self.counts[slot.block_type as usize] += 1;
            self.bytes += size;
        }
    }
}

fn report(checked: Checked, blocks: &FoundBlocks, in_use: bool) -> Inspection {
    let superblock = checked.superblock;
    let geometry = &superblock.geometry;
    let total_size = geometry.total_pages() * UNIT_BYTES;
    let metadata_size = geometry.reserved_pages() * PAGE_BYTES as u64;
    let features = superblock.features();
    let identity = superblock.identity.clone();
    Inspection {
        uuid: superblock.uuid,
        format_version: superblock.version().number(),
        features: [
            features.incompatible,
            features.read_only_compatible,
            features.compatible,
        ],
        pool: identity.pool,
        name: identity.name,
        owner: (identity.owner.user, identity.owner.group),
        mode: identity.owner.mode,
        scrubs: identity.scrubs,
        created: superblock.created,
        total_size,
        metadata_size,
        remaining_size: total_size.saturating_sub(metadata_size + blocks.bytes),
        alignment: identity.alignment,
        io_depth: identity.io_depth,
        io_engine: identity.io_engine,
        perf_metrics: identity.metrics,
        blocks: blocks.counts,
        tagged_megabytes: checked.tagged_megabytes,
        generation: superblock.generation,
        epoch: superblock.epoch,
        journal_records: checked.journal_records,
        extents: geometry.extent_count(),
        in_use,
        is_protected: geometry.is_protected(),
        openings: superblock.history.map(|history| history.openings),
        ended_well: superblock.history.map(|history| history.ended_well),
        mark: checked.mark,
        missing_bytes: checked.missing_pages * UNIT_BYTES,
        restored_from: checked.restored_from.map(|page| page * UNIT_BYTES),
        far_place: geometry.far.map(|page| page * UNIT_BYTES),
        two_pools: checked.two_pools.map(|pools| FoundTwoPools {
            text: pools.to_string(),
            uuids: pools.uuids(),
        }),
        repairable: checked.repairable,
        lost: checked.lost,
        can_be_read: !checked.has_misplaced,
        repaired: checked.repaired,
    }
}

/// Types of the blocks that [`Inspection::blocks`] counts, in its order.
pub const COUNTED: [BlockType; 4] = BlockType::ALL;
