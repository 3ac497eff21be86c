//! `chimaera pool`: block device pools.

use std::path::Path;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolInfo, PoolQuery, Stats};
use serde::Serialize;

use crate::args::{CreateArguments, KindArgument, NamedPool, OutputArguments, PoolCommand};
use crate::failure::Failure;
use crate::output;
use crate::runtime::connect;
use crate::size::show_size;

pub(crate) fn run(command: &PoolCommand, socket: Option<&Path>) -> Result<(), Failure> {
    match command {
        PoolCommand::Create(arguments) => create(arguments, socket),
        PoolCommand::List(output) => list(*output, socket),
        PoolCommand::Stats(pool) => stats(pool, socket),
        PoolCommand::Destroy { name } => destroy(name, socket),
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

fn create(arguments: &CreateArguments, socket: Option<&Path>) -> Result<(), Failure> {
    let name = pool_name(arguments)?;
    let runtime = connect(socket)?;
    let mut options = match arguments.kind {
        KindArgument::Ram => CreateOptions::ram(arguments.size.unwrap_or(0)),
        KindArgument::File => CreateOptions::file().total_size(arguments.size.unwrap_or(0)),
    };
    if let Some(io_depth) = arguments.io_depth {
        options = options.io_depth(io_depth);
    }
    if let Some(alignment) = arguments.alignment {
        options = options.alignment(alignment);
    }
    options = options.io_engine(arguments.io_engine.into());
    let client = Client::new(&runtime, arguments.id.unwrap_or(PoolId::NULL));
    let info = client.create(PoolQuery::Dynamic, &name, &options)?;
    if arguments.output.json {
        return output::json(&PoolReport::new(&info, Some(info.created)));
    }
    let verb = if info.created {
        "created"
    } else {
        "exists with these parameters:"
    };
    output::line(format_args!(
        "{verb} pool {} with id {}",
        info.name, info.id
    ));
    Ok(())
}

/// A file pool's name is a path that the daemon opens: what is relative here is not there.
fn pool_name(arguments: &CreateArguments) -> Result<String, Failure> {
    if arguments.kind == KindArgument::Ram {
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

fn list(output: OutputArguments, socket: Option<&Path>) -> Result<(), Failure> {
    let pools = connect(socket)?.admin().list_pools()?;
    if output.json {
        let reports: Vec<_> = pools
            .iter()
            .map(|pool| PoolReport::new(pool, None))
            .collect();
        return output::json(&reports);
    }
    if pools.is_empty() {
        output::line("no pools");
        return Ok(());
    }
    let mut table = output::table(&["ID", "NAME", "MODULE"], 3);
    for pool in &pools {
        table.add_row([&pool.id.to_string(), &pool.name, &pool.module]);
    }
    output::line(table.trim_fmt());
    Ok(())
}

fn stats(pool: &NamedPool, socket: Option<&Path>) -> Result<(), Failure> {
    let runtime = connect(socket)?;
    let id = find(&runtime, &pool.name)?;
    let stats = Client::new(&runtime, id).get_stats()?;
    if pool.output.json {
        return output::json(&StatsReport {
            id: id.to_string(),
            name: &pool.name,
            stats: &stats,
        });
    }
    for (name, value) in stats_rows(&stats) {
        output::line(format_args!("{name:<22}{value}"));
    }
    Ok(())
}

/// What `stats --json` prints.
#[derive(Serialize)]
struct StatsReport<'a> {
    id: String,
    name: &'a str,
    #[serde(flatten)]
    stats: &'a Stats,
}

fn stats_rows(stats: &Stats) -> Vec<(&'static str, String)> {
    let (metrics, activity) = (&stats.metrics, &stats.activity);
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
            "direct I/O",
            if stats.direct_io { "yes" } else { "no" }.to_owned(),
        ),
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
        (
            "unaligned operations",
            activity.unaligned_operations.to_string(),
        ),
        ("blocks allocated", activity.allocated_blocks.to_string()),
        ("blocks freed", activity.freed_blocks.to_string()),
        ("errors", activity.errors.to_string()),
    ]
}

fn destroy(name: &str, socket: Option<&Path>) -> Result<(), Failure> {
    let runtime = connect(socket)?;
    let id = find(&runtime, name)?;
    runtime.admin().destroy_pool(id)?;
    output::line(format_args!("destroyed pool {name} with id {id}"));
    Ok(())
}

/// A pool's id by its name. A file pool may also be named by a relative path.
fn find(runtime: &chimaera_client::Runtime, name: &str) -> Result<PoolId, Failure> {
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
    Ok(found?.id)
}
