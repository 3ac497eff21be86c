//! Opening the pool that a file or device holds, or making one on it.
//!
//! Laws:
//! - What is not blank and not ours is left as it is, unless the creator says otherwise.
//! - A pool is opened by its own name and id, or not at all: an error says what differs. How its device is
//!   used is for each opening to say; what is declared of it, for its creator and root to change.
//! - Whatever is refused, nothing was written.

#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant, SystemTime};

use chimaera_bdev_proto::{MEGABYTE, UNIT_BYTES};
use chimaera_chimod::{CreateContext, Host, Level, ModuleError};
use chimaera_proto::{PoolId, Status, shell};

use crate::backend::file::{FileDevice, not_blank};
use crate::declared;
use crate::params::{Parameters, Usage};
use crate::pool::allocator::{PendingFree, allocator_of};
use chimaera_bdev_allocator::Allocator;
use chimaera_bdev_allocator::ledger::Ledger;
use chimaera_bdev_format::block_map::MegabyteMap;
use chimaera_bdev_format::image::FileDisk;
use chimaera_bdev_format::signature::DeviceContents;
use chimaera_bdev_format::{
    Geometry, Identity, Metadata, OpenError, OpenMode, PoolOwner, Superblock,
};

/// How long opening takes before the log says how far it is, and how often it does then.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Permission bits of a new pool.
const DEFAULT_MODE: u32 = 0o600;

/// A persistent pool, ready for use.
pub(crate) struct Persistent {
    pub(crate) allocator: Allocator<PendingFree>,
    pub(crate) ledger: Ledger<FileDisk>,
    /// Blocks that are allocated already.
    pub(crate) block_count: u64,
    /// Whether the device held the pool already.
    pub(crate) was_opened: bool,
}

/// Opens the pool on the device, or makes one.
///
/// # Errors
/// [`Status::ParameterMismatch`] for a pool that is another one; [`Status::CorruptedMetadata`];
/// [`Status::NotBlank`] for something else; [`Status::NotFound`] if nothing is there and a pool was to be
/// opened for reading only; [`Status::Unsupported`] for one of a newer program; and the device's.
pub(crate) fn open_or_format(
    context: &CreateContext<'_>,
    parameters: &Parameters,
    device: &FileDevice,
) -> Result<Persistent, ModuleError> {
    let place = Place {
        context,
        parameters,
        device,
        disk: device.disk(),
    };
    if parameters.overwrite {
        return place.format(true);
    }
    match chimaera_bdev_format::identify(&place.disk) {
        Ok(superblock) => place.open(&superblock),
        Err(OpenError::NoPool) => {
            place.check_blank()?;
            place.format(false)
        }
        Err(error) => Err(place.explain(error, false)),
    }
}

struct Place<'a> {
    context: &'a CreateContext<'a>,
    parameters: &'a Parameters,
    device: &'a FileDevice,
    disk: FileDisk,
}

impl Place<'_> {
    fn open(&self, superblock: &Superblock) -> Result<Persistent, ModuleError> {
        let identity = &superblock.identity;
        self.check_identity(identity)?;
        let asked = (self.parameters.metrics, self.context.creator);
        let changed = declared::change(identity.metrics, identity.owner.user, asked.0, asked.1)?;
        let geometry = self.settle_geometry(superblock)?;
        let allocator = self.allocator(&geometry)?;
        let mode = match self.parameters.read_only {
            true => OpenMode::ReadOnly,
            false => OpenMode::ReadWrite,
        };
        let mut impossible = Vec::new();
        let mut block_count = 0;
        let mut restoring = allocator.restoring();
        let mut take_over = |megabyte: u32, map: MegabyteMap| {
            if restoring.take_over(megabyte as usize, map) {
                block_count += map.count();
            } else {
                impossible.push(megabyte);
            }
        };
        let mut progress = Progress::new(self.context.host);
        let opened =
            chimaera_bdev_format::open(self.disk.clone(), mode, &mut take_over, &mut |done, of| {
                progress.tell(done, of);
            })
            .map_err(|error| self.explain(error, !self.parameters.read_only))?;
        let what_is_done = match mode {
            OpenMode::ReadWrite => "repaired",
            OpenMode::ReadOnly => "not repaired, since the pool is open for reading only",
        };
        for text in &opened.repaired {
            self.log(Level::Warning, &format!("{text}: {what_is_done}"));
        }
        for text in &opened.lost {
            self.log(Level::Error, &format!("{text}: blocks there are not known"));
        }
        let mut metadata = opened.metadata;
        let pages = geometry.total_pages();
        if let Some(megabyte) = impossible.first() {
            return Err(self.refuse_blocks(*megabyte, metadata.geometry(), pages));
        }
        if !self.parameters.read_only && geometry != *metadata.geometry() {
            self.resize(&mut metadata, pages)?;
        }
        self.tell_of_unused(metadata.geometry());
        // Of a pool that is only read, they hold for as long as it is open.
        if let Some(metrics) = changed.filter(|_| !self.parameters.read_only) {
            let declared = metadata.declare(metrics);
            declared.map_err(|error| self.device_failed("declare characteristics on", &error))?;
        }
        if metadata.has_tags() {
            allocator.expect_tags();
        }
        Ok(Persistent {
            allocator,
            ledger: Ledger::new(metadata),
            block_count,
            was_opened: true,
        })
    }

    /// The pool must be the one that was asked for.
    fn check_identity(&self, identity: &Identity) -> Result<(), ModuleError> {
        let mut differences = Vec::new();
        if !self.context.id_is_chosen && identity.pool != self.context.pool {
            let (is, asked) = (identity.pool, self.context.pool);
            differences.push(format!("its id is {is}, asked for {asked}"));
        }
        if identity.name != self.context.name {
            let (is, asked) = (&identity.name, self.context.name);
            let advice = match self.device.place().is_reached_by(is) {
                // By a link, for example.
                true => "both lead to it: ask for it by the name that it has".to_owned(),
                false => format!("`chimaera pool rename {}` changes it", shell::word(asked)),
            };
            differences.push(format!("its name is {is}, asked for {asked} ({advice})"));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(self.error(
            Status::ParameterMismatch,
            format_args!(
                "it holds a pool, and another than the one asked for: {}",
                differences.join("; ")
            ),
        ))
    }

    /// How large the pool will be: as it is, or as its device has grown or shrunk.
    fn settle_geometry(&self, superblock: &Superblock) -> Result<Geometry, ModuleError> {
        let geometry = &superblock.geometry;
        let (is, device) = (
            geometry.total_pages(),
            self.device.total_size() / UNIT_BYTES,
        );
        let asked = self.parameters.total_size / UNIT_BYTES;
        let other_size = || {
            let text = format!(
                "it holds a pool of {} bytes, asked for {}: ask for that size, or for 0 to have all of it",
                is * UNIT_BYTES,
                asked * UNIT_BYTES
            );
            Err(self.error(Status::ParameterMismatch, format_args!("{text}")))
        };
        if self.parameters.read_only {
            // Such a pool is as large as it is, whatever its device has: any size will do that leaves it so.
            let leaves_it = asked == is || (asked > is && geometry.grown(asked) == *geometry);
            return match asked == 0 || leaves_it {
                true => Ok(geometry.clone()),
                false => other_size(),
            };
        }
        if device == is {
            return Ok(geometry.clone());
        }
        if device > is {
            return Ok(geometry.grown(device));
        }
        if asked != 0 && self.device.whole_size()? / UNIT_BYTES >= is {
            return other_size();
        }
        let shrunk = geometry.shrunk(device);
        shrunk.ok_or_else(|| self.refuse_to_shrink(geometry, device, "its metadata lies there"))
    }

    fn resize(&self, metadata: &mut Metadata<FileDisk>, pages: u64) -> Result<(), ModuleError> {
        let before = metadata.geometry().total_pages() * UNIT_BYTES;
        let resized = if pages * UNIT_BYTES > before {
            self.set_aside(&metadata.geometry().grown(pages))?;
            metadata.grow(pages)
        } else {
            metadata.shrink(pages).map(|_| ())
        };
        resized.map_err(|error| self.device_failed("change the size of the pool on", &error))?;
        let now = metadata.geometry().total_pages() * UNIT_BYTES;
        self.log(
            Level::Info,
            &format!("the pool has {now} bytes now, it had {before}"),
        );
        Ok(())
    }

    /// A pool that has grown as often as it can must not be thought to have grown again.
    fn tell_of_unused(&self, geometry: &Geometry) {
        let pages = self.device.total_size() / UNIT_BYTES;
        let unused = pages.saturating_sub(geometry.total_pages()) * UNIT_BYTES;
        if unused < MEGABYTE || self.parameters.read_only {
            return;
        }
        let text = format!(
            "{unused} bytes stay unused: the pool has grown as often as it can; only a new one, made \
             with overwrite, has them"
        );
        self.log(Level::Warning, &text);
    }

    fn refuse_blocks(&self, megabyte: u32, geometry: &Geometry, pages: u64) -> ModuleError {
        if pages < geometry.total_pages() {
            let text = format!("megabyte {megabyte} of it has blocks");
            return self.refuse_to_shrink(geometry, pages, &text);
        }
        let text = format!("megabyte {megabyte} has blocks where there can be none");
        self.explain(OpenError::Damaged(text), false)
    }

    fn refuse_to_shrink(&self, geometry: &Geometry, pages: u64, why: &str) -> ModuleError {
        self.error(
            Status::CorruptedMetadata,
            format_args!(
                "it has {} bytes, and the pool has {}: it was cut off, and what is missing is in use: {why}; \
                 give it its size back",
                pages * UNIT_BYTES,
                geometry.total_pages() * UNIT_BYTES
            ),
        )
    }

    fn format(&self, wipe: bool) -> Result<Persistent, ModuleError> {
        if self.parameters.read_only {
            return Err(self.error(
                Status::NotFound,
                format_args!("it holds no pool that could be opened for reading"),
            ));
        }
        let total_size = self.device.total_size();
        let geometry = Geometry::new(total_size / UNIT_BYTES).ok_or_else(|| {
            self.error(
                Status::InvalidArgument,
                format_args!(
                    "{total_size} bytes are too few for a pool that keeps its metadata on the device: \
                     give at least {}",
                    Geometry::minimum_bytes()
                ),
            )
        })?;
        let allocator = self.allocator(&geometry)?;
        self.set_aside(&geometry)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let birth = (
            uuid::Uuid::new_v4().into_bytes(),
            now.map_or(0, |since| since.as_secs()),
        );
        let metadata = Metadata::format(self.disk.clone(), self.identity(), geometry, birth, wipe);
        let metadata = metadata.map_err(|error| self.device_failed("make a pool on", &error))?;
        if wipe {
            self.log(
                Level::Info,
                "overwritten: what it held is lost, and a new pool was made",
            );
        }
        Ok(Persistent {
            allocator,
            ledger: Ledger::new(metadata),
            block_count: 0,
            was_opened: false,
        })
    }

    /// Sees to it that there is space for metadata before anything is written.
    fn set_aside(&self, geometry: &Geometry) -> Result<(), ModuleError> {
        for pages in geometry.set_aside() {
            let set_aside = self.disk.set_aside(pages);
            set_aside.map_err(|error| self.device_failed("set space aside in", &error))?;
        }
        Ok(())
    }

    fn identity(&self) -> Identity {
        let usage = self.parameters.usage.or(Usage::default());
        Identity {
            pool: self.context.pool,
            name: self.context.name.to_owned(),
            owner: PoolOwner {
                user: self.context.creator.uid,
                group: self.context.creator.gid,
                mode: DEFAULT_MODE,
            },
            alignment: usage.alignment,
            io_depth: usage.io_depth,
            io_engine: usage.io_engine,
            metrics: self.parameters.metrics.unwrap_or_default(),
        }
    }

    fn check_blank(&self) -> Result<(), ModuleError> {
        let contents = self.device.contents_before();
        let contents = contents.map_err(|error| self.device_failed("look at", &error))?;
        match contents {
            DeviceContents::Blank => Ok(()),
            contents => Err(self.not_blank(contents)),
        }
    }

    fn not_blank(&self, contents: DeviceContents) -> ModuleError {
        not_blank(&self.context.name, contents)
    }

    /// The allocator of a pool of this shape, with nothing allocated yet.
    fn allocator(&self, geometry: &Geometry) -> Result<Allocator<PendingFree>, ModuleError> {
        let total_size = geometry.total_pages() * UNIT_BYTES;
        let allocator = allocator_of(total_size, self.context.worker_count, true)?;
        for units in geometry.reserved() {
            allocator.take_away(units);
        }
        Ok(allocator)
    }

    /// What is wrong. `may_be_readable` says that it might do to open the pool for reading only.
    fn explain(&self, error: OpenError, may_be_readable: bool) -> ModuleError {
        match error {
            OpenError::Device(error) => self.device_failed("read", &error),
            OpenError::NoPool => self.error(Status::NotFound, format_args!("it holds no pool")),
            OpenError::Overwritten(contents) => self.not_blank(contents),
            OpenError::Damaged(text) => {
                let advice = match may_be_readable {
                    true => format!(
                        "; set read_only to read what can be read, or see what `chimaera pool check {}` \
                         says",
                        shell::word(self.context.name)
                    ),
                    false => {
                        "; put back a copy of it, or set overwrite to lose what it holds".to_owned()
                    }
                };
                self.error(
                    Status::CorruptedMetadata,
                    format_args!("corrupted block metadata: {text}; nothing was written{advice}"),
                )
            }
            OpenError::Unsupported(text) => self.error(
                Status::Unsupported,
                format_args!("it holds a pool that cannot be used: {text}; use a newer release"),
            ),
            OpenError::OnlyReadable(text) => {
                self.error(Status::Unsupported, format_args!("{text}"))
            }
        }
    }

    fn device_failed(&self, action: &str, error: &io::Error) -> ModuleError {
        ModuleError::system(format_args!("cannot {action} {}", self.context.name), error)
    }

    fn error(&self, status: Status, text: std::fmt::Arguments<'_>) -> ModuleError {
        ModuleError::new(status, format!("{}: {text}", self.context.name))
    }

    fn log(&self, level: Level, text: &str) {
        self.context.host.log(level, text);
    }
}

/// The id of the pool that these metadata are of.
pub(crate) fn pool_id(ledger: &Ledger<FileDisk>) -> PoolId {
    ledger.metadata().superblock().identity.pool
}

/// Tells the log how far opening is, if it takes long.
struct Progress {
    host: Host,
    told: Instant,
}

impl Progress {
    fn new(host: Host) -> Self {
        Self {
            host,
            told: Instant::now(),
        }
    }

    fn tell(&mut self, done: u64, of: u64) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            let percent = done * 100 / of.max(1);
            let text = format_args!("opening: {percent} % of the table read");
            self.host.log(Level::Info, text);
        }
    }
}
