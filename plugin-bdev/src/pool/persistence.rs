//! Opening the pool that a file or device holds, or making one on it.
//!
//! Laws:
//! - What is not blank and not ours is left as it is, unless the creator says otherwise.
//! - A pool is opened by its own name and id, or not at all: an error says what differs. How its device is
//!   used is for each opening to say; what is declared of it, for its owner and operators to change.
//! - Whatever is refused, nothing was written.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use chimaera_bdev_allocator::Allocator;
use chimaera_bdev_allocator::ledger::Ledger;
use chimaera_bdev_format::block_map::MegabyteMap;
use chimaera_bdev_format::contents::DeviceContents;
use chimaera_bdev_format::image::{self, random_bits};
use chimaera_bdev_format::{
    Geometry, Identity, Metadata, OpenError, OpenMode, PoolOwner, Superblock,
};
use chimaera_bdev_proto::{PerfMetrics, ScrubPolicy, UNIT_BYTES};
use chimaera_chimod::{CreateContext, Host, Incarnation, Level, ModuleError};
use chimaera_proto::{Permissions, PoolId, Status, shell};

use super::allocator::{PendingFree, is_too_large, too_large};
use super::open_uuids::OpenUuid;
use super::opening_context::OpeningContext;
use super::{ownership, size};
use crate::backend::file::{FileDevice, MetadataDisk, Undo, nothing_to_read};
use crate::declared;
use crate::params::{DeviceUsage, Parameters};
use crate::scrub::{self, FormerContents};

/// How long opening takes before the log says how far it is, and how often the log says so from then on.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Pieces of damage that the log is told of one by one.
const MAX_TOLD: usize = 3;

/// A pool whose blocks are read from its device, ready for use.
pub(crate) struct PersistentPool {
    pub(crate) allocator: Allocator<PendingFree>,
    pub(crate) ledger: Ledger<MetadataDisk>,
    /// Blocks that are allocated already.
    pub(crate) block_count: u64,
    /// Whether the device held the pool already.
    pub(crate) was_opened: bool,
    /// Whose it is.
    pub(crate) permissions: Permissions,
    /// Which opening of the pool this is; `None` for one that is only read, and in version 1.
    pub(crate) incarnation: Option<Incarnation>,
    /// Whether metadata is lost that may have had blocks.
    pub(crate) has_unknown_blocks: bool,
    /// Keeps copies of the pool from being opened.
    pub(crate) open_uuid: OpenUuid,
}

/// Opens the pool on the device, or makes one, of which `undo` is told.
///
/// # Errors
/// [`Status::ParameterMismatch`] for a pool that is another one, or of which a copy is open;
/// [`Status::CorruptedMetadata`]; [`Status::NotBlank`] for something else; [`Status::NotFound`] if nothing is there
/// and a pool was to be opened for reading only; [`Status::Unsupported`] for one of a newer program; and the device's.
pub(crate) fn open_or_format(
    context: &CreateContext<'_>,
    parameters: &Parameters,
    device: &FileDevice,
    undo: &mut Undo,
) -> Result<PersistentPool, ModuleError> {
    let opening = &OpeningContext::new(context, parameters, device);
    if parameters.overwrite {
        return format(opening, true, undo);
    }
    let identified = match parameters.read_only {
        true => chimaera_bdev_format::identify(&opening.disk),
        false => chimaera_bdev_format::identify_to_write(&opening.disk),
    };
    match identified {
        Ok(superblock) => open(opening, &superblock),
        Err(OpenError::NoPool) => {
            if parameters.read_only {
                return Err(nothing_to_read(&context.name, device.probable_contents()));
            }
            check_blank(opening)?;
            format(opening, false, undo)
        }
        Err(error) => Err(opening.explain(error, false)),
    }
}

fn open(
    opening: &OpeningContext<'_>,
    superblock: &Superblock,
) -> Result<PersistentPool, ModuleError> {
    let identity = &superblock.identity;
    refuse_impossible_id(opening, identity.pool)?;
    let open_uuid = OpenUuid::enter(opening, superblock.uuid, identity.pool)?;
    check_identity(opening, identity)?;
    let permissions = ownership::settle(opening, identity.owner)?;
    let geometry = size::settle_geometry(opening, superblock)?;
    let changes = ChangesAtOpening::settle(opening, superblock, (&geometry, permissions))?;
    let held_pages = size::held_before_growing(opening, superblock)?;
    let allocator = opening.allocator(&geometry)?;
    let mode = match opening.parameters.read_only {
        true => OpenMode::ReadOnly,
        false => OpenMode::ReadWrite {
            history: random_bits()?,
        },
    };
    let pages = geometry.total_pages();
    // A megabyte with blocks that cannot be there, and the pages that the pool would have.
    let mut misplaced = None;
    let mut block_count = 0;
    let mut restoring = allocator.restoring();
    let mut take_over = |megabyte: u32, map: MegabyteMap| {
        if held_pages.is_some_and(|pages| size::has_blocks_behind(pages, megabyte, map)) {
            misplaced = misplaced.or(held_pages.map(|pages| (megabyte, pages)));
        }
        if restoring.take_over(megabyte as usize, map) {
            block_count += map.count();
        } else {
            misplaced.get_or_insert((megabyte, pages));
        }
        misplaced.is_none()
    };
    let mut progress = OpeningProgress::new(opening.context.host, "the table read");
    let opened = chimaera_bdev_format::open_admitting(
        opening.device.metadata_disk(),
        mode,
        &mut take_over,
        &mut |done, of| {
            progress.tell(done, of);
        },
    );
    if let (Ok(_) | Err(OpenError::NotAdmitted(_)), Some((megabyte, pages))) = (&opened, misplaced)
    {
        let geometry = &superblock.geometry;
        return Err(size::refuse_blocks(opening, megabyte, geometry, pages));
    }
    let opened = opened.map_err(|error| opening.explain(error, !opening.parameters.read_only))?;
    refuse_another(opening, superblock, opened.metadata.superblock())?;
    tell_of_damage(opening, &opened.repaired, &opened.lost);
    let mut metadata = opened.metadata;
    // In a pool that is only read they are not recorded, and hold for as long as it is open. Before it grows into space
    // for which it scrubs.
    if !opening.parameters.read_only {
        changes.record(opening, &mut metadata)?;
    }
    if !opening.parameters.read_only && geometry != *metadata.geometry() {
        size::resize(opening, &mut metadata, pages)?;
    }
    size::tell_of_unused(opening, metadata.geometry());
    if metadata.has_tags() {
        allocator.expect_tags();
    }
    let incarnation = incarnation_of(&metadata, opening.parameters.read_only);
    Ok(PersistentPool {
        allocator,
        ledger: Ledger::new(metadata),
        block_count,
        was_opened: true,
        permissions,
        incarnation,
        has_unknown_blocks: !opened.lost.is_empty(),
        open_uuid,
    })
}

/// What a pool is to record when it is opened: what its opener asks for, and what follows from its growth.
struct ChangesAtOpening {
    metrics: Option<PerfMetrics>,
    /// Whether it begins to scrub.
    scrubs: bool,
}

impl ChangesAtOpening {
    /// # Errors
    /// The opener asks for what it may not change; or the device's.
    fn settle(
        opening: &OpeningContext<'_>,
        superblock: &Superblock,
        (geometry, permissions): (&Geometry, Permissions),
    ) -> Result<Self, ModuleError> {
        let OpeningContext {
            context,
            parameters,
            ..
        } = opening;
        let (identity, owner) = (&superblock.identity, permissions.owner);
        let opener = context.creator;
        let by = (opener.uid, opener.is_operator || opener.uid == owner);
        let grows = geometry.total_pages() > superblock.geometry.total_pages();
        let is_shared = PoolOwner::from(permissions).is_shared();
        // Nobody knows what the space of a device holds that comes to the pool, but for whoever says so.
        let says_not_to = parameters.scrub == Some(ScrubPolicy::None);
        let gets_unseen_space = grows && is_shared && !says_not_to && opening.is_on_device()?;
        let is_asked = scrub::begins(identity.scrubs, owner, parameters.scrub, by)?;
        Ok(Self {
            metrics: declared::change(identity.metrics, owner, parameters.metrics, by)?,
            scrubs: is_asked || (gets_unseen_space && !identity.scrubs),
        })
    }

    fn record(
        &self,
        opening: &OpeningContext<'_>,
        metadata: &mut Metadata<MetadataDisk>,
    ) -> Result<(), ModuleError> {
        if let Some(metrics) = self.metrics {
            let declared = metadata.declare(metrics);
            declared
                .map_err(|error| opening.device_failed("declare characteristics on", &error))?;
        }
        if self.scrubs {
            let recorded = metadata.set_scrubs();
            recorded.map_err(|error| opening.device_failed("record scrubbing on", &error))?;
        }
        Ok(())
    }
}

/// Which opening of the pool this is. One that is only read is no opening: nothing is allocated in it.
fn incarnation_of(metadata: &Metadata<MetadataDisk>, read_only: bool) -> Option<Incarnation> {
    let history = metadata.superblock().history?;
    match read_only {
        // Nothing is forgotten as long as nobody opens it for writing.
        true => Some(Incarnation {
            current: history.current,
            predecessor: None,
        }),
        false => Some(Incarnation {
            current: history.current,
            predecessor: history
                .predecessor_ended_well
                .then_some(history.predecessor)
                .filter(|&predecessor| predecessor != 0),
        }),
    }
    .filter(|incarnation| incarnation.current != 0)
}

/// Tells the log what was repaired, or would have been, and what is lost.
fn tell_of_damage(opening: &OpeningContext<'_>, repaired: &[String], lost: &[String]) {
    let what_is_done = match opening.parameters.read_only {
        false => format!(
            "repaired; `chimaera pool inspect {}` looks at what else may be damaged there",
            shell::word(opening.context.name)
        ),
        true => "not repaired, since the pool is open for reading only".to_owned(),
    };
    tell(opening, Level::Warning, repaired, &what_is_done);
    tell(opening, Level::Error, lost, "blocks there are not known");
}

/// Tells the log of the first of these pieces of damage, a line each, and how many more there are: a large table may be
/// damaged in thousands of places.
fn tell(opening: &OpeningContext<'_>, level: Level, damage: &[String], what: &str) {
    let (told, more) = damage.split_at(damage.len().min(MAX_TOLD));
    for text in told {
        opening.log(level, &format!("{text}: {what}"));
    }
    if !more.is_empty() {
        let (more, path) = (more.len(), shell::word(opening.context.name));
        let text =
            format!("{more} more like that: `chimaera pool inspect --json {path}` lists all");
        opening.log(level, &text);
    }
}

/// Refuses a pool whose superblock has an id that stands for none, or for a host's own pool.
fn refuse_impossible_id(opening: &OpeningContext<'_>, id: PoolId) -> Result<(), ModuleError> {
    if ![PoolId::NULL, PoolId::ADMIN].contains(&id) {
        return Ok(());
    }
    Err(opening.error(
        Status::CorruptedMetadata,
        format_args!(
            "it records the id {id}, which no pool on a file or device can have; nothing was written; `chimaera pool \
             rename --copy {}` gives it another",
            shell::word(opening.context.name)
        ),
    ))
}

/// Refuses a pool that is not the one that was looked at: whoever has the file open too may have written another one
/// meanwhile, whose id and owner nobody has checked.
fn refuse_another(
    opening: &OpeningContext<'_>,
    seen: &Superblock,
    opened: &Superblock,
) -> Result<(), ModuleError> {
    let checked = |superblock: &Superblock| {
        let identity = &superblock.identity;
        (superblock.uuid, identity.pool, identity.owner)
    };
    if checked(seen) == checked(opened) {
        return Ok(());
    }
    Err(opening.error(
        Status::Busy,
        format_args!("somebody has written another pool to it while it was being opened"),
    ))
}

/// Refuses a pool that is not the one that was asked for.
fn check_identity(opening: &OpeningContext<'_>, identity: &Identity) -> Result<(), ModuleError> {
    let mut differences = Vec::new();
    if !opening.context.id_is_chosen && identity.pool != opening.context.pool {
        let (is, asked) = (identity.pool, opening.context.pool);
        differences.push(format!(
            "its id is {is}, asked for {asked} (ask for that id, or for none)"
        ));
    }
    if identity.name != opening.context.name {
        let (is, asked) = (&identity.name, opening.context.name);
        let advice = match opening.device.named_file().is_reached_by(is) {
            // By a link, for example.
            true => "both lead to it: ask for it by the name that it has".to_owned(),
            false if opening.device.cannot_be_written() => format!(
                "what is there can only be read, so that nothing gives it another name: open it by a symbolic link \
                 that has its name (`ln -s {} {}`), or copy it to another place, and let `chimaera pool rename` give \
                 the copy its name",
                shell::word(asked),
                shell::word(is)
            ),
            false => {
                let path = shell::word(asked);
                format!(
                    "`chimaera pool rename {path}` changes it; if this is a copy, `chimaera pool rename --copy {path}` \
                     gives it a UUID and an id of its own as well"
                )
            }
        };
        differences.push(format!("its name is {is}, asked for {asked} ({advice})"));
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(opening.error(
        Status::ParameterMismatch,
        format_args!(
            "it holds a pool, and another than the one asked for: {}",
            differences.join("; ")
        ),
    ))
}

/// The error for a file or device that is too small for a new pool.
fn too_small(opening: &OpeningContext<'_>, total_size: u64) -> ModuleError {
    opening.error(
        Status::InvalidArgument,
        format_args!(
            "{total_size} bytes are too few for a pool that keeps its metadata on the device: give at least {}",
            Geometry::min_pool_bytes()
        ),
    )
}

fn format(
    opening: &OpeningContext<'_>,
    wipe: bool,
    undo: &mut Undo,
) -> Result<PersistentPool, ModuleError> {
    let total_size = opening.device.total_size();
    if is_too_large(total_size) {
        return Err(too_large(total_size));
    }
    let geometry = Geometry::new(total_size / UNIT_BYTES);
    let geometry = geometry.ok_or_else(|| too_small(opening, total_size))?;
    let former = match wipe {
        true => FormerContents::Overwritten,
        false if opening.is_on_device()? => FormerContents::Unseen,
        false => FormerContents::Blank,
    };
    let scrubs = scrub::of_new_pool(opening.context, opening.parameters, former)?;
    let allocator = opening.allocator(&geometry)?;
    let birth = image::birth()?;
    let open_uuid = OpenUuid::enter(opening, birth.uuid, opening.context.pool)?;
    if !wipe {
        undo.will_write(geometry.superblock_pages());
    }
    opening.set_aside(&geometry)?;
    let metadata = Metadata::format(
        opening.device.metadata_disk(),
        identity(opening, scrubs),
        geometry,
        birth,
        wipe,
    );
    let metadata = metadata.map_err(|error| opening.device_failed("make a pool on", &error))?;
    if wipe {
        opening.log(
            Level::Info,
            "overwritten: what it held is lost, and a new pool was made",
        );
    }
    let incarnation = incarnation_of(&metadata, false);
    Ok(PersistentPool {
        allocator,
        ledger: Ledger::new(metadata),
        block_count: 0,
        was_opened: false,
        permissions: opening.context.permissions,
        incarnation,
        has_unknown_blocks: false,
        open_uuid,
    })
}

fn identity(opening: &OpeningContext<'_>, scrubs: bool) -> Identity {
    let usage = opening.parameters.usage.or(DeviceUsage::default());
    Identity {
        pool: opening.context.pool,
        name: opening.context.name.to_owned(),
        owner: opening.context.permissions.into(),
        alignment: usage.alignment,
        io_depth: usage.io_depth,
        io_engine: usage.io_engine,
        metrics: opening.parameters.metrics.unwrap_or_default(),
        scrubs,
    }
}

fn check_blank(opening: &OpeningContext<'_>) -> Result<(), ModuleError> {
    let mut progress = OpeningProgress::new(opening.context.host, "the file searched for data");
    let contents = opening
        .device
        .contents_before(&mut |done, of| progress.tell(done, of));
    let contents = contents.map_err(|error| {
        let mut error = opening.disk_failed(&error);
        error.message += "; so it is not known whether there is data that must not be overwritten: set overwrite to \
                          make a new pool without looking";
        error
    })?;
    match contents {
        DeviceContents::Blank => Ok(()),
        contents => Err(opening.not_blank(contents)),
    }
}

/// Tells the log how far opening is, if it takes long.
struct OpeningProgress {
    host: Host,
    /// Of what a part is done, and what was done to it.
    of_what: &'static str,
    told: Instant,
}

impl OpeningProgress {
    fn new(host: Host, of_what: &'static str) -> Self {
        Self {
            host,
            of_what,
            told: Instant::now(),
        }
    }

    fn tell(&mut self, done: u64, of: u64) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            let percent = done * 100 / of.max(1);
            let text = format_args!("opening: {percent} % of {}", self.of_what);
            self.host.log(Level::Info, text);
        }
    }
}
