//! `chimaera pool`: block device pools.

mod advice;
mod create;
mod find;
mod inspection;
mod list;
mod map;
mod offline;
mod permissions;
mod stats;
mod upgrade;

use chimaera_bdev_client::{
    Client, Error, FileState, ListedTag, MODULE_NAME, OwnedBlock, OwnerTag, PerfMetrics, PoolInfo,
    PoolQuery, Right, Runtime, Stats,
};
use serde::Serialize;

use crate::args::{GlobalArguments, NamedPool, PoolCommand};
use crate::connection::{connect, order};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::program;
use find::{find, open};
pub(crate) use find::{find_block_device, open_found};
use permissions::PermissionsReport;
use stats::note_unknown_blocks;

pub(crate) fn run(command: &PoolCommand, global: &GlobalArguments) -> Result<(), CommandFailure> {
    match command {
        PoolCommand::Create(arguments) => create::create(arguments, global),
        PoolCommand::List(daemon) => list::list(daemon, global),
        PoolCommand::Stats(pool) => stats::stats(pool, global),
        PoolCommand::Flush(pool) => flush(pool, global),
        PoolCommand::Blocks(pool) => blocks(pool, global),
        PoolCommand::Map(arguments) => {
            let daemon = &arguments.daemon;
            let pool = open(&connect(daemon)?, &arguments.name, daemon)?;
            map::run(arguments, &pool, global)
        }
        PoolCommand::Inspect(arguments) => offline::inspect(arguments, global),
        PoolCommand::Check(arguments) => offline::check(arguments, global),
        PoolCommand::Upgrade(arguments) => upgrade::upgrade(arguments, global),
        PoolCommand::Rename(arguments) => offline::rename(arguments, global),
        PoolCommand::Chmod(arguments) => permissions::chmod(arguments, global),
        PoolCommand::Chown(arguments) => permissions::chown(arguments, global),
        PoolCommand::Destroy(pool) => destroy(pool, global),
    }
}

/// What `create` and `list` print of a pool as JSON.
#[derive(Serialize)]
struct PoolReport<'a> {
    id: String,
    name: &'a str,
    module: &'a str,
    #[serde(flatten)]
    permissions: PermissionsReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<bool>,
    /// Bytes of a block device pool that was created, under the name that `stats --json` has for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_size: Option<u64>,
    /// Of a block device pool in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    perf_metrics: Option<PerfMetrics>,
}

impl<'a> PoolReport<'a> {
    fn new(info: &'a PoolInfo) -> Self {
        Self {
            id: info.id.to_string(),
            name: &info.name,
            module: &info.module,
            permissions: info.permissions.into(),
            created: None,
            opened: None,
            total_size: None,
            perf_metrics: None,
        }
    }

    fn of_creation(info: &'a PoolInfo) -> Self {
        Self {
            created: Some(info.created),
            opened: Some(info.opened),
            ..Self::new(info)
        }
    }
}

/// What `flush --json` prints. Only block device pools say whether they are persistent, and what happened to their
/// files.
#[derive(Serialize)]
struct FlushReport<'a> {
    id: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileState>,
}

/// The statistics of a block device pool; nothing for another module's pool, or one that this user may not read.
fn stats_of(runtime: &Runtime, pool: &PoolInfo) -> Result<Option<Stats>, Error> {
    match pool.module == MODULE_NAME && pool.rights.has(Right::Read) {
        true => Client::open_of(runtime, pool.permissions.owner, &pool.name)?
            .get_stats()
            .map(Some),
        false => Ok(None),
    }
}

/// Flushes a pool of any module.
fn flush(named: &NamedPool, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let runtime = connect(&named.daemon)?;
    let pool = find(&runtime, &named.name, &named.daemon)?;
    order(&named.daemon, || runtime.admin().flush(Some(pool.choice())))?;
    let stats = stats_of(&runtime, &pool)?;
    let persistent = stats.map(|stats| stats.persistent);
    let file = stats.and_then(|stats| stats.file);
    if global.json {
        return output::json(&FlushReport {
            id: pool.id.to_string(),
            name: &pool.name,
            persistent,
            file,
        });
    }
    let note = match file.and_then(FileState::account) {
        Some(account) => format!(", and its file is not what it was: {account}"),
        None if persistent == Some(false) => {
            ", which is not persistent: nothing of it outlives the daemon".to_owned()
        }
        None => String::new(),
    };
    output::line(format_args!("flushed pool {}{note}", printable(&pool.name)));
    Ok(())
}

/// What `blocks --json` prints of a block. The tag is text, as many readers of JSON round numbers of 64 bits.
#[derive(Serialize)]
struct BlockReport {
    offset: u64,
    size: u64,
    r#type: String,
    /// `None` for no tag, [`UNKNOWN`] for one that is not known.
    owner: Option<String>,
}

/// What stands in the place of a tag, which has 16 digits, that is not known.
const UNKNOWN: &str = "unknown";

impl From<OwnedBlock> for BlockReport {
    fn from(owned: OwnedBlock) -> Self {
        Self {
            offset: owned.block.offset,
            size: owned.block.size,
            r#type: owned.block.block_type.to_string(),
            owner: match owned.owner {
                ListedTag::Known(OwnerTag::NONE) => None,
                ListedTag::Known(OwnerTag(tag)) => Some(format!("{tag:016x}")),
                ListedTag::Unknown => Some(UNKNOWN.to_owned()),
            },
        }
    }
}

fn blocks(pool: &NamedPool, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let pool = open(&connect(&pool.daemon)?, &pool.name, &pool.daemon)?;
    note_unknown_blocks(&pool.get_stats()?);
    let blocks = pool
        .all_blocks(PoolQuery::Local)
        .map(|owned| owned.map(BlockReport::from));
    if global.json {
        return output::json(&blocks.collect::<Result<Vec<_>, _>>()?);
    }
    // Each line is printed as its page of the listing comes: a large pool has too many blocks for a table in memory.
    let mut blocks = blocks.peekable();
    if blocks.peek().is_none() {
        output::line("no blocks");
        return Ok(());
    }
    output::line(format_args!("{:>20}  {:<8}OWNER", "OFFSET", "TYPE"));
    for block in blocks {
        if output::is_lost() {
            break;
        }
        let block = block?;
        let owner = block.owner.as_deref().unwrap_or("-");
        let BlockReport { offset, r#type, .. } = &block;
        output::line(format_args!("{offset:>20}  {:<8}{owner}", r#type));
    }
    Ok(())
}

/// What `destroy --json` prints.
#[derive(Serialize)]
struct DestroyReport<'a> {
    id: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileState>,
}

/// What happened to the contents of a destroyed pool, where its file is not in its place and whole.
const fn held(file: FileState) -> Option<&'static str> {
    Some(match file {
        FileState::InPlace => return None,
        FileState::Removed => "its file had been removed, and what it held is lost",
        FileState::Moved => {
            "its file had been moved: what it held is there, and `chimaera pool rename` gives it that name"
        }
        FileState::Replaced => {
            "something else is at its file's path: what it held is where the file was moved to, or lost if it was \
             removed"
        }
        FileState::Cut => "its file had been cut off, and what lay behind its end is lost",
    })
}

fn destroy(named: &NamedPool, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let runtime = connect(&named.daemon)?;
    let pool = find(&runtime, &named.name, &named.daemon)?;
    // Destroying flushes too, and reports a failure of that. This flush and the question come before, as a pool that
    // has ended says no more of its file.
    let file = order(&named.daemon, || {
        let _ = runtime.admin().flush(Some(pool.choice()));
        let stats = stats_of(&runtime, &pool).ok().flatten();
        runtime.admin().destroy_pool(pool.choice())?;
        Ok(stats.and_then(|stats| stats.file))
    })?;
    let id = pool.id.to_string();
    if global.json {
        return output::json(&DestroyReport {
            id,
            name: &pool.name,
            file,
        });
    }
    let note = file.and_then(held);
    let note = note.map_or_else(String::new, |held| program::as_called(&format!("; {held}")));
    output::line(format_args!(
        "destroyed pool {} with id {id}{note}",
        printable(&pool.name)
    ));
    Ok(())
}
