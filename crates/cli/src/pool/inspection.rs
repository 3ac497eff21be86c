//! What `chimaera pool inspect` and `check` print of a pool.

use std::path::Path;

use chimaera_bdev_client::{IoEngine, PerfMetrics, ScrubPolicy};
use chimaera_bdev_format::image::{COUNTED, Inspection};
use chimaera_client::proto::timestamp;
use serde::Serialize;

use super::advice::{repair, repair_one_of, show_uuid};
use crate::args::GlobalArguments;
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::program;
use crate::size::show_size;

/// Prints what was found.
///
/// # Errors
/// The metadata is damaged, or has the mark of a failure, and was not repaired.
pub(super) fn show(
    path: &Path,
    inspection: &Inspection,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    if global.json {
        output::json(&InspectReport::new(inspection))?;
    } else {
        for (name, value) in rows(inspection) {
            output::line(format_args!("{name:<16}{value}"));
        }
        for note in notes(inspection) {
            output::line(note);
        }
        if inspection.is_sound() && !inspection.has_newest_version() {
            output::line(format_args!(
                "older format: `{}` keeps second copies of the metadata far from the first ones",
                program::command_alone(&["pool", "upgrade", &program::path(path)])
            ));
        }
    }
    if inspection.is_sound() {
        return Ok(());
    }
    if let Some(pools) = &inspection.two_pools {
        let advice = advice_on_two_pools(path, inspection, &pools.uuids);
        let text = format!("two pools are on {}: {advice}", path.display());
        return Err(CommandFailure::damaged_metadata(text));
    }
    let (path, name) = (program::path(path), path.display());
    let repair = program::command_alone(&["pool", "check", "--repair", &path]);
    let is_marked = inspection.mark.is_some();
    let text = match (inspection.lost.is_empty(), inspection.repairable.is_empty()) {
        (true, true) if is_marked => format!(
            "the device of {name} failed when the pool was open last, and nobody has looked since: nothing is damaged; \
             `{repair}` clears the mark"
        ),
        (true, _) => format!("the metadata of {name} is damaged: run `{repair}`"),
        (false, _) if !inspection.can_be_read => {
            format!(
                "the metadata of {name} is damaged, and it cannot be opened: put back a copy of it"
            )
        }
        (false, _) => format!(
            "the metadata of {name} is damaged: create the pool with --read-only to read what can be read"
        ),
    };
    Err(CommandFailure::damaged_metadata(text))
}

/// What to do where two pools have these UUIDs: not the repair of that which was looked at, if something of it is lost.
fn advice_on_two_pools(path: &Path, inspection: &Inspection, uuids: &[[u8; 16]]) -> String {
    if inspection.lost.is_empty() {
        return repair_one_of(path, uuids);
    }
    let others = uuids.iter().filter(|uuid| **uuid != inspection.uuid);
    let others: Vec<_> = others
        .map(|uuid| repair(path, &["--uuid", &show_uuid(*uuid)]))
        .collect();
    let here = match inspection.can_be_read {
        true => "create it with --read-only to read what can be read of it",
        false => "it cannot be opened",
    };
    format!(
        "the one at the beginning is damaged and cannot be repaired: {here}; if the other should be here, run {}",
        others.join(" or ")
    )
}

/// What there is to say of the pool's state, a line each.
fn notes(inspection: &Inspection) -> Vec<String> {
    let mut notes = Vec::new();
    if !inspection.is_protected {
        let why = match inspection.format_version {
            1 => "version 1 of the format has all copies at one place",
            _ => "the pool was made with less than 4 MiB",
        };
        notes.push(format!("not protected against losing a MiB: {why}"));
    }
    if inspection.missing_bytes > 0 {
        notes.push(format!(
            "the file or device lacks {} bytes of the pool's unused end; opening it for writing shrinks the pool",
            inspection.missing_bytes
        ));
    }
    if let Some(offset) = inspection.restored_from {
        notes.push(format!(
            "the beginning was written again from the copy at {} MiB",
            offset >> 20
        ));
    }
    if let Some(pools) = inspection
        .two_pools
        .as_ref()
        .filter(|_| !inspection.repaired)
    {
        notes.push(format!("two pools: {}", pools.text));
    }
    let mended = match inspection.repaired {
        true => "repaired",
        false => "damage, can be repaired",
    };
    extend(&mut notes, mended, &inspection.repairable);
    if let Some(mark) = &inspection.mark {
        let what = match inspection.repaired {
            true => "cleared",
            false => "marked",
        };
        notes.push(format!(
            "{what}: the device failed when the pool was open last: {mark}"
        ));
    }
    extend(&mut notes, "damage", &inspection.lost);
    notes
}

/// Adds a note for each of these pieces of damage; a megabyte may have thousands.
fn extend(notes: &mut Vec<String>, what: &str, damage: &[String]) {
    const MAX_SHOWN: usize = 8;

    let (shown, more) = damage.split_at(damage.len().min(MAX_SHOWN));
    notes.extend(shown.iter().map(|text| format!("{what}: {text}")));
    if !more.is_empty() {
        notes.push(format!(
            "{what}: {} more like that (`--json` lists all)",
            more.len()
        ));
    }
}

fn rows(inspection: &Inspection) -> Vec<(&'static str, String)> {
    let size = |bytes| format!("{} ({bytes} bytes)", show_size(bytes));
    let (user, group) = inspection.owner;
    let blocks = COUNTED.iter().zip(inspection.blocks);
    let blocks: Vec<_> = blocks
        .map(|(block_type, count)| format!("{count} of {block_type}"))
        .collect();
    let state = match (inspection.in_use, inspection.journal_records) {
        (true, _) => "in use by a daemon".to_owned(),
        (false, 0) => "at rest: all is in the table".to_owned(),
        (false, 1) => "1 record of the journal to take over".to_owned(),
        (false, records) => format!("{records} records of the journal to take over"),
    };
    let openings = match (inspection.openings, inspection.ended_well) {
        (Some(openings), Some(true)) => {
            format!("{openings} for writing, the last ended in good order")
        }
        (Some(openings), _) => {
            format!("{openings} for writing, the last has not ended in good order")
        }
        (None, _) => "not counted in this version of the format".to_owned(),
    };
    vec![
        ("name", printable(&inspection.name).into_owned()),
        ("id", inspection.pool.to_string()),
        ("UUID", show_uuid(inspection.uuid)),
        ("format", format!("version {}", inspection.format_version)),
        (
            "owner",
            format!("user {user}, group {group}, mode {:03o}", inspection.mode),
        ),
        ("scrub", ScrubPolicy::of(inspection.scrubs).to_string()),
        ("size", size(inspection.total_size)),
        (
            "metadata",
            format!(
                "{}, {:.2} %",
                size(inspection.metadata_size),
                metadata_percent(inspection)
            ),
        ),
        (
            "far place",
            match inspection.far_place {
                Some(offset) => format!("at {} MiB", offset >> 20),
                None => "none".to_owned(),
            },
        ),
        ("remaining", size(inspection.remaining_size)),
        ("blocks", blocks.join(", ")),
        (
            "tagged",
            match inspection.tagged_megabytes {
                1 => "1 megabyte".to_owned(),
                megabytes => format!("{megabytes} megabytes"),
            },
        ),
        ("alignment", inspection.alignment.to_string()),
        ("I/O depth", inspection.io_depth.to_string()),
        ("I/O engine", inspection.io_engine.to_string()),
        ("generation", inspection.generation.to_string()),
        ("openings", openings),
        ("state", state),
        ("health", health(inspection).to_owned()),
    ]
}

fn health(inspection: &Inspection) -> &'static str {
    let is_only_marked = inspection.lost.is_empty() && inspection.repairable.is_empty();
    match (inspection.is_sound(), inspection.repaired) {
        (true, false) => "sound",
        (true, true) => "sound, after a repair",
        (false, _) if inspection.two_pools.is_some() => "two pools, one written over the other",
        (false, _) if is_only_marked => "marked: its device failed",
        (false, _) => "damaged",
    }
}

fn metadata_percent(inspection: &Inspection) -> f64 {
    100.0 * inspection.metadata_size as f64 / inspection.total_size as f64
}

/// What `inspect --json` and `check --json` print.
#[derive(Serialize)]
struct InspectReport<'a> {
    uuid: String,
    id: String,
    name: &'a str,
    format_version: u32,
    features: FeaturesReport,
    owner_user: u32,
    owner_group: u32,
    /// Octal, as `chmod` takes it.
    mode: String,
    scrub: ScrubPolicy,
    created_unix_seconds: u64,
    total_size: u64,
    metadata_size: u64,
    metadata_percent: f64,
    remaining_size: u64,
    alignment: u32,
    io_depth: u32,
    io_engine: IoEngine,
    perf_metrics: PerfMetrics,
    blocks_4k: u64,
    blocks_64k: u64,
    blocks_256k: u64,
    blocks_1m: u64,
    tagged_megabytes: u64,
    generation: u64,
    epoch: u64,
    journal_records: u64,
    segments: usize,
    in_use: bool,
    /// Whether the loss of any MiB leaves a copy of all metadata.
    protected: bool,
    /// Openings for writing, and whether the last one ended in good order; `null` in version 1.
    openings: Option<u64>,
    ended_well: Option<bool>,
    /// What failed when the pool was open last.
    mark: Option<MarkReport<'a>>,
    /// Bytes that the file or device lacks of the pool's unused end.
    missing_bytes: u64,
    /// Offset of the place that has the second copies of the superblocks.
    far_place: Option<u64>,
    /// Superblocks of two pools, one of which was written over the other.
    two_pools: Option<TwoPoolsReport<'a>>,
    /// Offset of the copy from which the beginning was written again.
    restored_from: Option<u64>,
    sound: bool,
    repaired: bool,
    repairable: &'a [String],
    lost: &'a [String],
}

/// The feature bits, by what a program may do that does not know one.
#[derive(Serialize)]
struct FeaturesReport {
    incompatible: u64,
    read_only_compatible: u64,
    compatible: u64,
}

/// The mark of a failure.
#[derive(Serialize)]
struct MarkReport<'a> {
    text: &'a str,
    time: String,
    unix_seconds: u64,
}

/// Superblocks of two pools.
#[derive(Serialize)]
struct TwoPoolsReport<'a> {
    text: &'a str,
    /// First that of the pool at the beginning.
    uuids: Vec<String>,
}

impl<'a> InspectReport<'a> {
    fn new(inspection: &'a Inspection) -> Self {
        let [blocks_4k, blocks_64k, blocks_256k, blocks_1m] = inspection.blocks;
        let (owner_user, owner_group) = inspection.owner;
        let [incompatible, read_only_compatible, compatible] = inspection.features;
        Self {
            uuid: show_uuid(inspection.uuid),
            id: inspection.pool.to_string(),
            name: &inspection.name,
            format_version: inspection.format_version,
            features: FeaturesReport {
                incompatible,
                read_only_compatible,
                compatible,
            },
            owner_user,
            owner_group,
            mode: format!("{:03o}", inspection.mode),
            scrub: ScrubPolicy::of(inspection.scrubs),
            created_unix_seconds: inspection.created,
            total_size: inspection.total_size,
            metadata_size: inspection.metadata_size,
            metadata_percent: metadata_percent(inspection),
            remaining_size: inspection.remaining_size,
            alignment: inspection.alignment,
            io_depth: inspection.io_depth,
            io_engine: inspection.io_engine,
            perf_metrics: inspection.perf_metrics,
            blocks_4k,
            blocks_64k,
            blocks_256k,
            blocks_1m,
            tagged_megabytes: inspection.tagged_megabytes,
            generation: inspection.generation,
            epoch: inspection.epoch,
            journal_records: inspection.journal_records,
            segments: inspection.extents,
            in_use: inspection.in_use,
            protected: inspection.is_protected,
            openings: inspection.openings,
            ended_well: inspection.ended_well,
            mark: inspection.mark.as_ref().map(|mark| MarkReport {
                text: &mark.text,
                time: timestamp::show_unix_seconds(mark.seconds),
                unix_seconds: mark.seconds,
            }),
            missing_bytes: inspection.missing_bytes,
            far_place: inspection.far_place,
            two_pools: inspection.two_pools.as_ref().map(|pools| TwoPoolsReport {
                text: &pools.text,
                uuids: pools.uuids.iter().copied().map(show_uuid).collect(),
            }),
            restored_from: inspection.restored_from,
            sound: inspection.is_sound(),
            repaired: inspection.repaired,
            repairable: &inspection.repairable,
            lost: &inspection.lost,
        }
    }
}
