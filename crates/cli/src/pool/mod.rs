//! `chimaera pool`: block device pools.

mod create;
mod list;
mod offline;

use chimaera_bdev_client::{
    BdevType, Client, Error, FileState, MODULE_NAME, OperationCounts, OwnedBlock, PerfMetrics,
    PoolInfo, PoolQuery, Runtime, Stats,
};
use serde::Serialize;

use crate::args::{DaemonArguments, GlobalArguments, NamedPool, PoolCommand};
use crate::connection::{ask, connect, order};
use crate::failure::CommandFailure;
use crate::map;
use crate::output::{self, printable};
use crate::program;
use crate::size::show_size;

pub(crate) fn run(command: &PoolCommand, global: &GlobalArguments) -> Result<(), CommandFailure> {
    match command {
        PoolCommand::Create(arguments) => create::create(arguments, global),
        PoolCommand::List(daemon) => list::list(daemon, global),
        PoolCommand::Stats(pool) => stats(pool, global),
        PoolCommand::Flush(pool) => flush(pool, global),
        PoolCommand::Blocks(pool) => blocks(pool, global),
        PoolCommand::Map(arguments) => {
            let daemon = &arguments.daemon;
            let pool = open(&connect(daemon)?, &arguments.name, daemon)?;
            map::run(arguments, &pool, global)
        }
        PoolCommand::Inspect(arguments) => offline::inspect(arguments, global),
        PoolCommand::Check(arguments) => offline::check(arguments, global),
        PoolCommand::Rename(arguments) => offline::rename(arguments, global),
        PoolCommand::Destroy(pool) => destroy(pool, global),
    }
}

/// What `create` and `list` print of a pool as JSON.
#[derive(Serialize)]
struct PoolReport<'a> {
    id: String,
    name: &'a str,
    module: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<bool>,
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
            created: None,
            opened: None,
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

fn stats(pool: &NamedPool, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let client = open(&connect(&pool.daemon)?, &pool.name, &pool.daemon)?;
    let (id, stats) = (client.pool_id(), client.get_stats()?);
    if global.json {
        return output::json(&StatsReport {
            id: id.to_string(),
            name: &pool.name,
            stats: &stats,
        });
    }
    for (name, value) in state_rows(&stats) {
        output::line(format_args!("{name:<22}{value}"));
    }
    output::line("since the pool was opened:");
    for (name, value) in activity_rows(&stats.activity) {
        output::line(format_args!("  {name:<20}{value}"));
    }
    Ok(())
}

/// Bytes of the blocks that are allocated.
fn allocated_bytes(stats: &Stats) -> u64 {
    let others = stats.remaining_size.saturating_add(stats.metadata_size);
    stats.total_size.saturating_sub(others)
}

/// What `stats --json` prints.
#[derive(Serialize)]
struct StatsReport<'a> {
    id: String,
    name: &'a str,
    #[serde(flatten)]
    stats: &'a Stats,
}

/// The state of a pool.
fn state_rows(stats: &Stats) -> Vec<(&'static str, String)> {
    let metrics = &stats.metrics;
    vec![
        ("type", stats.bdev_type.to_string()),
        (
            "size",
            format!(
                "{} ({} bytes)",
                show_size(stats.total_size),
                stats.total_size
            ),
        ),
        (
            "remaining",
            format!(
                "{} ({} bytes)",
                show_size(stats.remaining_size),
                stats.remaining_size
            ),
        ),
        (
            "metadata",
            format!(
                "{} ({} bytes)",
                show_size(stats.metadata_size),
                stats.metadata_size
            ),
        ),
        (
            "blocks allocated",
            format!(
                "{} ({})",
                stats.allocated_blocks,
                show_size(allocated_bytes(stats))
            ),
        ),
        ("persistent", persistence(stats).to_owned()),
        ("file", file_state(stats)),
        ("read only", yes_or_no(stats.read_only).to_owned()),
        ("direct I/O", yes_or_no(stats.direct_io).to_owned()),
        (
            "I/O engine",
            stats
                .io_engine
                .map_or_else(|| "none".to_owned(), |engine| engine.to_string()),
        ),
        ("I/O depth", stats.io_depth.to_string()),
        ("alignment", stats.alignment.to_string()),
        (
            "declared read",
            format!(
                "{} MB/s, {} µs",
                metrics.read_bandwidth_mbps, metrics.read_latency_us
            ),
        ),
        (
            "declared write",
            format!(
                "{} MB/s, {} µs",
                metrics.write_bandwidth_mbps, metrics.write_latency_us
            ),
        ),
        ("declared IOPS", metrics.iops.to_string()),
    ]
}

/// The activity in a pool.
fn activity_rows(activity: &OperationCounts) -> Vec<(&'static str, String)> {
    vec![
        (
            "reads",
            format!(
                "{} ({})",
                activity.read_operations,
                show_size(activity.read_bytes)
            ),
        ),
        (
            "writes",
            format!(
                "{} ({})",
                activity.write_operations,
                show_size(activity.write_bytes)
            ),
        ),
        ("unaligned", activity.unaligned_operations.to_string()),
        ("block allocations", activity.allocations.to_string()),
        ("block frees", activity.frees.to_string()),
        ("errors", activity.errors.to_string()),
    ]
}

const fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

const fn persistence(stats: &Stats) -> &'static str {
    match (stats.persistent, stats.bdev_type) {
        (true, _) => "yes",
        (false, BdevType::Ram) => "no (lost when the pool or the daemon ends)",
        (false, BdevType::File) => "no",
    }
}

/// What has happened to the pool's file, in a few words.
fn file_state(stats: &Stats) -> String {
    match stats.file {
        None => "none".to_owned(),
        Some(state) => state
            .account()
            .map_or_else(|| "in its place".to_owned(), ToOwned::to_owned),
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

/// The statistics of a block device pool; nothing for another module's pool.
fn stats_of(runtime: &Runtime, pool: &PoolInfo) -> Result<Option<Stats>, Error> {
    match pool.module == MODULE_NAME {
        true => Client::new(runtime, pool.id).get_stats().map(Some),
        false => Ok(None),
    }
}

/// Flushes a pool of any module.
fn flush(named: &NamedPool, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let runtime = connect(&named.daemon)?;
    let pool = find(&runtime, &named.name, &named.daemon)?;
    order(&named.daemon, || runtime.admin().flush(Some(pool.id)))?;
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
    owner: Option<String>,
}

impl From<OwnedBlock> for BlockReport {
    fn from(owned: OwnedBlock) -> Self {
        Self {
            offset: owned.block.offset,
            size: owned.block.size,
            r#type: owned.block.block_type.to_string(),
            owner: (!owned.owner.is_none()).then(|| format!("{:016x}", owned.owner.0)),
        }
    }
}

fn blocks(pool: &NamedPool, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let pool = open(&connect(&pool.daemon)?, &pool.name, &pool.daemon)?;
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
        let _ = runtime.admin().flush(Some(pool.id));
        let stats = stats_of(&runtime, &pool).ok().flatten();
        runtime.admin().destroy_pool(pool.id)?;
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

/// A client of the block device pool with this name.
///
/// # Errors
/// There is no such pool, or it is another module's. Methods of another module may have the same numbers and do
/// something else: what lists blocks here may empty a pool there.
pub(crate) fn open(
    runtime: &Runtime,
    name: &str,
    daemon: &DaemonArguments,
) -> Result<Client, CommandFailure> {
    let pool = find_block_device(runtime, name, daemon)?;
    Ok(Client::new(runtime, pool.id))
}

/// The block device pool with this name.
///
/// # Errors
/// As [`open`].
pub(crate) fn find_block_device(
    runtime: &Runtime,
    name: &str,
    daemon: &DaemonArguments,
) -> Result<PoolInfo, CommandFailure> {
    let pool = find(runtime, name, daemon)?;
    if pool.module != MODULE_NAME {
        return Err(CommandFailure::in_the_way(format!(
            "pool {} is of the module {}, and this command is for block device pools, those of \
             {MODULE_NAME}: use the module's own client",
            pool.name, pool.module
        )));
    }
    Ok(pool)
}

/// Finds a pool by its name. A file pool's may also be given as a relative path.
fn find(
    runtime: &Runtime,
    name: &str,
    daemon: &DaemonArguments,
) -> Result<PoolInfo, CommandFailure> {
    let find = |name: &str| ask(runtime.admin().async_find_pool(name), daemon);
    let absolute = std::path::absolute(name)
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .filter(|path| path != name);
    let found = find(name).or_else(|failure| match &absolute {
        Some(path) if failure.is_not_found() => find(path).map_err(|_| failure),
        _ => Err(failure),
    });
    found.map_err(|failure| match failure.is_not_found() {
        true => {
            let list = program::command(&["pool", "list"], daemon);
            let path = absolute.as_deref().unwrap_or(name);
            let open = program::command(&["pool", "create", path, "--type", "file"], daemon);
            failure.explain(format_args!(
                "`{list}` lists those that are open; one that a file or device holds is opened by `{open}`"
            ))
        }
        false => failure,
    })
}
