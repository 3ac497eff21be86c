//! `chimaera pool upgrade`: the newest version of the format for a pool on a file or device, without a daemon.

use std::path::Path;

use chimaera_bdev_client::Status;
use chimaera_bdev_format::MissingRoom;
use chimaera_bdev_format::image::{self, Inspection, ModuleError, Upgrade};
use serde::Serialize;

use super::offline::explain;
use crate::args::{GlobalArguments, UpgradeArguments};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::size::show_size;

/// Blocks that a refusal names; `--json` has all of them.
const MAX_NAMED_BLOCKS: usize = 8;

pub(crate) fn upgrade(
    arguments: &UpgradeArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let path = &arguments.path;
    let (inspection, upgraded) =
        match image::upgrade(path).map_err(|refusal| explain(path, refusal))? {
            Upgrade::Done(inspection) => (inspection, true),
            Upgrade::NotNeeded(inspection) => (inspection, false),
            Upgrade::NoRoom(missing) => {
                if global.json {
                    output::json(&UpgradeReport::of_refusal(&missing))?;
                }
                return Err(no_room(path, &missing));
            }
        };
    if global.json {
        return output::json(&UpgradeReport::new(&inspection, upgraded));
    }
    let name = printable(&inspection.name);
    let version = inspection.format_version;
    if !upgraded {
        output::line(format_args!(
            "pool {name} has version {version} of the format, the newest: nothing was written"
        ));
        return Ok(());
    }
    let protection = match inspection.is_protected {
        true => "the loss of any megabyte leaves a copy of its metadata",
        false => {
            "it has less than 4 MiB, and all its superblocks lie in the first one, whose loss nothing repairs"
        }
    };
    output::line(format_args!(
        "pool {name} has version {version} of the format now: {protection}"
    ));
    Ok(())
}

fn no_room(path: &Path, missing: &MissingRoom) -> CommandFailure {
    let text = format!("{}: the pool was left as it is: {missing}", path.display());
    let failure = CommandFailure::from(ModuleError::new(Status::NoSpace, text));
    match advice(missing) {
        advice if advice.is_empty() => {
            failure.explain("copy what the pool holds into a new one, which has the newest version")
        }
        advice => failure.explain(advice.join(", or ")),
    }
}

/// What gives the pool room.
fn advice(missing: &MissingRoom) -> Vec<String> {
    let mut advice = Vec::new();
    if !missing.blocks.is_empty() {
        let blocks = &missing.blocks;
        let named = blocks.iter().take(MAX_NAMED_BLOCKS);
        let named: Vec<_> = named
            .map(|(offset, size)| format!("{offset} ({})", show_size(*size)))
            .collect();
        let more = match blocks.len().saturating_sub(MAX_NAMED_BLOCKS) {
            0 => String::new(),
            more => format!(" and {more} more, which --json lists"),
        };
        advice.push(format!(
            "free the blocks at offset {}{more}",
            named.join(", ")
        ));
    }
    advice.extend(missing.growth.map(|bytes| {
        format!(
            "let the pool grow by {}: extend its file or device, and open it once in a daemon",
            show_size(bytes)
        )
    }));
    advice
}

/// What `upgrade --json` prints.
#[derive(Serialize)]
struct UpgradeReport<'a> {
    upgraded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<PoolReport<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_room: Option<MissingReport<'a>>,
}

#[derive(Serialize)]
struct PoolReport<'a> {
    id: String,
    name: &'a str,
    format_version: u32,
    protected: bool,
    metadata_size: u64,
    remaining_size: u64,
}

/// What there is no room for, and what would give it room.
#[derive(Serialize)]
struct MissingReport<'a> {
    what: &'a str,
    size: u64,
    place: &'a str,
    blocks_to_free: Vec<BlockReport>,
    /// `None` if growing gives no room.
    grow_by: Option<u64>,
}

#[derive(Serialize)]
struct BlockReport {
    offset: u64,
    size: u64,
}

impl<'a> UpgradeReport<'a> {
    fn new(inspection: &'a Inspection, upgraded: bool) -> Self {
        Self {
            upgraded,
            pool: Some(PoolReport {
                id: inspection.pool.to_string(),
                name: &inspection.name,
                format_version: inspection.format_version,
                protected: inspection.is_protected,
                metadata_size: inspection.metadata_size,
                remaining_size: inspection.remaining_size,
            }),
            missing_room: None,
        }
    }

    fn of_refusal(missing: &'a MissingRoom) -> Self {
        let blocks = missing.blocks.iter();
        Self {
            upgraded: false,
            pool: None,
            missing_room: Some(MissingReport {
                what: &missing.what,
                size: missing.bytes,
                place: &missing.place,
                blocks_to_free: blocks
                    .map(|&(offset, size)| BlockReport { offset, size })
                    .collect(),
                grow_by: missing.growth,
            }),
        }
    }
}
