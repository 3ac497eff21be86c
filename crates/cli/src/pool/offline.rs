//! `chimaera pool inspect`, `check` and `rename`: pools on files and devices, without a daemon.

use std::ops::Range;
use std::path::Path;

use chimaera_bdev_format::image::{self, CheckMode, ImageRefusal, Remedy};
use chimaera_client::proto::shell;
use serde::Serialize;

use super::advice::{repair, repair_one_of, show_uuid};
use super::inspection::show;
use crate::args::{CheckArguments, GlobalArguments, InspectArguments, RenameArguments};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::program;

pub(crate) fn inspect(
    arguments: &InspectArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let inspection =
        image::inspect(&arguments.path).map_err(|refusal| explain(&arguments.path, refusal))?;
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
    let inspection =
        image::check(&arguments.path, mode).map_err(|refusal| explain(&arguments.path, refusal))?;
    show(&arguments.path, &inspection, global)
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
    let explained = |refusal| explain(&arguments.path, refusal);
    let own = match arguments.copy {
        true => Some(image::rename_copy(&arguments.path, &name, arguments.id).map_err(explained)?),
        false => {
            image::rename(&arguments.path, &name).map_err(explained)?;
            None
        }
    };
    if global.json {
        return output::json(&RenameReport {
            name: &name,
            id: own.map(|own| own.pool.to_string()),
            uuid: own.map(|own| show_uuid(own.uuid)),
        });
    }
    output::line(format_args!("the pool's name is {}", printable(&name)));
    if let Some(own) = own {
        output::line(format_args!(
            "it is a pool of its own now, with id {} and UUID {}",
            own.pool,
            show_uuid(own.uuid)
        ));
    }
    Ok(())
}

/// What `rename --json` prints.
#[derive(Serialize)]
struct RenameReport<'a> {
    name: &'a str,
    /// Of a copy, which has a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
}

/// The failure to look at a pool, to check, to rename or to upgrade it, with advice.
pub(super) fn explain(path: &Path, refusal: ImageRefusal) -> CommandFailure {
    let advice = match refusal.remedy {
        Remedy::None => None,
        Remedy::Repair => Some(format!("run {}, which puts that right", repair(path, &[]))),
        Remedy::RepairOneOf(uuids) => Some(repair_one_of(path, &uuids)),
        Remedy::ClearBeginning(bytes) => Some(format!(
            "nothing is written as long as that is there. If it is not wanted, and the pool is: copy all of it to \
             another place first, then run `{}`, which zeroes the beginning and leaves what the pool needs, and {}",
            zeroing(path, bytes),
            repair(path, &[])
        )),
        Remedy::ClearFarPlaces(places) => {
            let zeroing = |bytes: Range<u64>| {
                let place = bytes.start >> 20;
                format!("`{}` zeroes what is at {place} MiB", zeroing(path, bytes))
            };
            let one_of: Vec<_> = places.into_iter().map(zeroing).collect();
            Some(format!(
                "nothing was written, since the bytes alone do not tell which of them are the pool's: it is the one at \
                 the far place that `{}` showed before. Copy all of it to another place first, then zero the others, \
                 and leave that one: {}; and run {}",
                program::command_alone(&["pool", "inspect", &*program::path(path)]),
                one_of.join(", "),
                repair(path, &[])
            ))
        }
        Remedy::PutBack => Some(
            "nothing repairs that: put back a copy of it, or create the pool with --overwrite, which loses what it \
             holds"
                .to_owned(),
        ),
        Remedy::Upgrade => {
            let words = ["pool", "upgrade", &*program::path(path)];
            Some(format!("run `{}` first", program::command_alone(&words)))
        }
    };
    let failure = CommandFailure::from(refusal.error);
    match advice {
        Some(advice) => failure.explain(advice),
        None => failure,
    }
}

/// A command that zeroes these bytes, which are whole blocks of 4 KiB, and nothing else.
fn zeroing(path: &Path, bytes: Range<u64>) -> String {
    const BLOCK: u64 = 4096;
    format!(
        "dd if=/dev/zero of={} bs={BLOCK} seek={} count={} conv=notrunc,fsync",
        shell::word(&program::path(path)),
        bytes.start / BLOCK,
        (bytes.end - bytes.start) / BLOCK
    )
}
