//! `chimaera pool inspect`, `check` and `rename`: pools on files and devices, without a daemon.

use std::path::Path;

use chimaera_bdev_client::{IoEngine, PerfMetrics, Status};
use chimaera_bdev_format::image::{self, COUNTED, CheckMode, Inspection, ModuleError};
use serde::Serialize;

use crate::args::{CheckArguments, GlobalArguments, InspectArguments, RenameArguments};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::program;
use crate::size::show_size;

pub(crate) fn inspect(
    arguments: &InspectArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let inspection = image::inspect(&arguments.path).map_err(explain)?;
    show(&arguments.path, &inspection, global)
}

pub(crate) fn check(
    arguments: &CheckArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let mode = match arguments.repair {
        false => CheckMode::Look,
        true => CheckMode::Repair {
            uuid: arguments.uuid,
        },
    };
    let inspection = image::check(&arguments.path, mode).map_err(explain)?;
    show(&arguments.path, &inspection, global)
}

/// The failure to show anything of a pool, with advice: without a superblock nothing can be repaired.
fn explain(error: ModuleError) -> CommandFailure {
    let is_damaged = error.failure.status == Status::CorruptedMetadata;
    let failure = CommandFailure::from(error);
    match is_damaged {
        true => failure.explain(
            "nothing repairs that: put back a copy of it, or create the pool with --overwrite, which loses what \
             it holds",
        ),
        false => failure,
    }
}

pub(crate) fn rename(
    arguments: &RenameArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => std::path::absolute(&arguments.path)
            .map_err(CommandFailure::system(format_args!(
                "{} is not a path",
                arguments.path.display()
            )))?
            .into_os_string()
            .into_string()
            .map_err(|path| CommandFailure::usage(format!("{} is not UTF-8", path.display())))?,
    };
    image::rename(&arguments.path, &name)?;
    if global.json {
        return output::json(&RenameReport { name: &name });
    }
    output::line(format_args!("the pool's name is {}", printable(&name)));
    Ok(())
}

/// What `rename --json` prints.
#[derive(Serialize)]
struct RenameReport<'a> {
    name: &'a str,
}

/// Prints what was found.
///
/// # Errors
/// The metadata is damaged, and was not repaired.
fn show(
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
        let (mended, mendable) = if inspection.repaired {
            ("repaired", &inspection.repairable)
        } else {
            ("damage, can be repaired", &inspection.repairable)
        };
        for text in mendable {
            output::line(format_args!("{mended}: {text}"));
        }
        for text in &inspection.lost {
            output::line(format_args!("damage: {text}"));
        }
    }
    if inspection.is_sound() {
        return Ok(());
    }
    let advice = match inspection.lost.is_empty() {
        true => format!(
            "run `{}`",
            program::command_alone(&["pool", "check", "--repair", &program::path(path)])
        ),
        false => "create the pool with --read-only to read what can be read".to_owned(),
    };
    Err(CommandFailure::damaged_metadata(format!(
        "the metadata of {} is damaged: {advice}",
        path.display()
    )))
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
    let health = match (inspection.is_sound(), inspection.repaired) {
        (true, false) => "sound",
        (true, true) => "sound, after a repair",
        (false, _) => "damaged",
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
        ("size", size(inspection.total_size)),
        ("metadata", size(inspection.metadata_size)),
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
        ("state", state),
        ("health", health.to_owned()),
    ]
}

fn show_uuid(uuid: [u8; 16]) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let groups = [
        &uuid[..4],
        &uuid[4..6],
        &uuid[6..8],
        &uuid[8..10],
        &uuid[10..],
    ];
    groups.map(hex).join("-")
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
    created_unix_seconds: u64,
    total_size: u64,
    metadata_size: u64,
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
            created_unix_seconds: inspection.created,
            total_size: inspection.total_size,
            metadata_size: inspection.metadata_size,
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
            sound: inspection.is_sound(),
            repaired: inspection.repaired,
            repairable: &inspection.repairable,
            lost: &inspection.lost,
        }
    }
}
