//! `chimaera pool`: block device pools.

use chimaera_bdev_client::{
    Activity, BdevType, BlockType, Client, CreateOptions, MODULE_NAME, OwnedBlock, PoolId,
    PoolInfo, PoolQuery, Runtime, Stats,
};
use chimaera_client::proto::admin::GetOrCreatePool;
use chimaera_client::proto::limits::MAX_CREATE_PARAMS_BYTES;
use serde::Serialize;

use crate::args::{CreateArguments, Global, KindArgument, PoolCommand};
use crate::failure::Failure;
use crate::input::read_regular;
use crate::output::{self, printable};
use crate::program;
use crate::runtime::connect;
use crate::size::show_size;
use crate::{map, offline};

pub(crate) fn run(command: &PoolCommand, global: &Global) -> Result<(), Failure> {
    match command {
        PoolCommand::Create(arguments) => create(arguments, global),
        PoolCommand::List => list(global),
        PoolCommand::Stats { name } => stats(name, global),
        PoolCommand::Flush { name } => flush(name, global),
        PoolCommand::Blocks { name } => blocks(name, global),
        PoolCommand::Map(arguments) => {
            let pool = open(&connect(global)?, &arguments.name)?;
            map::run(arguments, &pool, global)
        }
        PoolCommand::Inspect(arguments) => offline::inspect(arguments, global),
        PoolCommand::Check(arguments) => offline::check(arguments, global),
        PoolCommand::Rename(arguments) => offline::rename(arguments, global),
        PoolCommand::Destroy { name } => destroy(name, global),
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
}

impl<'a> PoolReport<'a> {
    fn new(info: &'a PoolInfo, created: Option<bool>) -> Self {
        Self {
            id: info.id.to_string(),
            name: &info.name,
            module: &info.module,
            created,
        }
    }
}

fn create(arguments: &CreateArguments, global: &Global) -> Result<(), Failure> {
    match (&arguments.module, arguments.kind) {
        (Some(module), _) => create_of_module(module, arguments, global),
        (None, Some(kind)) => create_block_device(kind, arguments, global),
        (None, None) => unreachable!("one of them is required"),
    }
}

/// A pool of a module of which this program knows nothing but the name.
fn create_of_module(
    module: &str,
    arguments: &CreateArguments,
    global: &Global,
) -> Result<(), Failure> {
    let params = match (&arguments.params, &arguments.params_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => read_regular(path, "the parameters' file", MAX_CREATE_PARAMS_BYTES)?,
        (None, None) => Vec::new(),
    };
    let request = GetOrCreatePool {
        module: module.to_owned(),
        name: arguments.name.clone(),
        id: arguments.id.unwrap_or(PoolId::NULL),
        params,
    };
    let runtime = connect(global)?;
    let info = runtime
        .admin()
        .get_or_create_pool(PoolQuery::Dynamic, &request)?;
    if global.json {
        return output::json(&PoolReport::new(&info, Some(info.created)));
    }
    output::line(format_args!(
        "{} pool {} of module {} with id {}",
        verb(&info),
        printable(&info.name),
        printable(&info.module),
        info.id
    ));
    Ok(())
}

/// What became of the request for a pool.
const fn verb(info: &PoolInfo) -> &'static str {
    if info.created {
        "created"
    } else {
        "exists with these parameters:"
    }
}

fn create_block_device(
    kind: KindArgument,
    arguments: &CreateArguments,
    global: &Global,
) -> Result<(), Failure> {
    let name = pool_name(kind, arguments)?;
    let runtime = connect(global)?;
    let mut options = match kind {
        KindArgument::Ram => CreateOptions::ram(arguments.size.unwrap_or(0)),
        KindArgument::File => CreateOptions::file().size(arguments.size.unwrap_or(0)),
    };
    if let Some(io_depth) = arguments.io_depth {
        options = options.io_depth(io_depth);
    }
    if let Some(alignment) = arguments.alignment {
        options = options.alignment(alignment);
    }
    options = options
        .io_engine(arguments.io_engine.into())
        .overwrite(arguments.overwrite)
        .read_only(arguments.read_only);
    let client = Client::new(&runtime, arguments.id.unwrap_or(PoolId::NULL));
    let info = client.create(PoolQuery::Dynamic, &name, &options)?;
    if global.json {
        return output::json(&PoolReport::new(&info, Some(info.created)));
    }
    let stats = client.get_stats()?;
    output::line(format_args!(
        "{} pool {} with id {}{}; {}",
        verb(&info),
        printable(&info.name),
        info.id,
        rounding(arguments.size, &stats),
        contents(&stats)
    ));
    Ok(())
}

/// That a pool has not the size that was asked for, where it has not.
fn rounding(asked: Option<u64>, stats: &Stats) -> String {
    match asked.filter(|&asked| asked != 0 && asked != stats.total_size) {
        Some(asked) => format!(
            ", of {} bytes: as many whole blocks of {} as {asked} bytes hold",
            stats.total_size,
            BlockType::Kib4.size()
        ),
        None => String::new(),
    }
}

/// What is in a pool. Whoever opens what was there before wants to see that it is there, and whoever does
/// not that it is not.
fn contents(stats: &Stats) -> String {
    match allocated_bytes(stats) {
        0 => "no blocks are allocated in it".to_owned(),
        bytes => format!("blocks of {} are allocated in it", show_size(bytes)),
    }
}

/// A file pool's name is a path that the daemon opens: what is relative here is not there.
fn pool_name(kind: KindArgument, arguments: &CreateArguments) -> Result<String, Failure> {
    if kind == KindArgument::Ram {
        return Ok(arguments.name.clone());
    }
    let path = std::path::absolute(&arguments.name).map_err(Failure::system(format_args!(
        "{} is not a path",
        arguments.name
    )))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::new(format!("{} is not UTF-8", path.display())))
}

fn list(global: &Global) -> Result<(), Failure> {
    let pools = connect(global)?.admin().list_pools()?;
    if global.json {
        let reports: Vec<_> = pools
            .iter()
            .map(|pool| PoolReport::new(pool, None))
            .collect();
        return output::json(&reports);
    }
    if pools.is_empty() {
        output::line(format_args!(
            "no pools are open in this daemon; one that a file or device holds is opened by `{}`",
            program::command(&["pool", "create", "PATH", "--type", "file"], global)
        ));
        return Ok(());
    }
    let mut table = output::table(&["ID", "NAME", "MODULE"], 3);
    for pool in &pools {
        table.add_row([
            pool.id.to_string().into(),
            printable(&pool.name),
            printable(&pool.module),
        ]);
    }
    output::line(table.trim_fmt());
    Ok(())
}

fn stats(name: &str, global: &Global) -> Result<(), Failure> {
    let client = open(&connect(global)?, name)?;
    let (id, stats) = (client.pool_id(), client.get_stats()?);
    if global.json {
        return output::json(&StatsReport {
            id: id.to_string(),
            name,
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

/// What a pool is now.
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

/// What was done in a pool.
fn activity_rows(activity: &Activity) -> Vec<(&'static str, String)> {
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

/// What `flush --json` prints. Only bdev's pools say whether they are persistent.
#[derive(Serialize)]
struct FlushReport<'a> {
    id: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent: Option<bool>,
}

/// Flushes a pool of any module, by the container's own flush.
fn flush(name: &str, global: &Global) -> Result<(), Failure> {
    let runtime = connect(global)?;
    let pool = find(&runtime, name)?;
    runtime.admin().flush(Some(pool.id))?;
    let persistent = if pool.module == MODULE_NAME {
        Some(Client::new(&runtime, pool.id).get_stats()?.persistent)
    } else {
        None
    };
    if global.json {
        return output::json(&FlushReport {
            id: pool.id.to_string(),
            name: &pool.name,
            persistent,
        });
    }
    let note = if persistent == Some(false) {
        ", which is not persistent: nothing of it outlives the daemon"
    } else {
        ""
    };
    output::line(format_args!("flushed pool {}{note}", printable(&pool.name)));
    Ok(())
}

/// What `blocks --json` prints of a block. The tag is text because a JSON number has not its range.
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

fn blocks(name: &str, global: &Global) -> Result<(), Failure> {
    let pool = open(&connect(global)?, name)?;
    let blocks = pool
        .all_blocks(PoolQuery::Local)
        .map(|owned| owned.map(BlockReport::from));
    if global.json {
        return output::json(&blocks.collect::<Result<Vec<_>, _>>()?);
    }
    // Line by line as the pages come: a large pool has more blocks than a table should hold.
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
}

fn destroy(name: &str, global: &Global) -> Result<(), Failure> {
    let runtime = connect(global)?;
    let pool = find(&runtime, name)?;
    runtime.admin().destroy_pool(pool.id)?;
    let id = pool.id.to_string();
    if global.json {
        return output::json(&DestroyReport {
            id,
            name: &pool.name,
        });
    }
    output::line(format_args!(
        "destroyed pool {} with id {id}",
        printable(&pool.name)
    ));
    Ok(())
}

/// A client of the block device pool with this name. Another module's methods have the same numbers and
/// do something else: what lists blocks here may empty a pool there.
///
/// # Errors
/// There is no such pool, or it is another module's.
pub(crate) fn open(runtime: &Runtime, name: &str) -> Result<Client, Failure> {
    let pool = find(runtime, name)?;
    if pool.module != MODULE_NAME {
        return Err(Failure::in_the_way(format!(
            "pool {} is of the module {}, and this command is for block device pools, those of \
             {MODULE_NAME}: use the module's own client",
            pool.name, pool.module
        )));
    }
    Ok(Client::new(runtime, pool.id))
}

/// A pool by its name. A file pool may also be named by a relative path.
fn find(runtime: &Runtime, name: &str) -> Result<PoolInfo, Failure> {
    let admin = runtime.admin();
    let found = admin.find_pool(name).or_else(|error| {
        match std::path::absolute(name)
            .ok()
            .and_then(|path| path.into_os_string().into_string().ok())
        {
            Some(path) if path != name => admin.find_pool(&path).map_err(|_| error),
            _ => Err(error),
        }
    });
    Ok(found?)
}
