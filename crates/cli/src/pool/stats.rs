//! `chimaera pool stats`.

use chimaera_bdev_client::{BdevType, OperationCounts, Permissions, Stats};
use serde::Serialize;

use super::find::{find_block_device, open_found};
use super::permissions::PermissionsReport;
use crate::args::{GlobalArguments, NamedPool};
use crate::connection::connect;
use crate::failure::CommandFailure;
use crate::output;
use crate::size::show_size;
use crate::users::{group_name, user_name};

pub(super) fn stats(pool: &NamedPool, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let runtime = connect(&pool.daemon)?;
    let info = find_block_device(&runtime, &pool.name, &pool.daemon)?;
    let stats = open_found(&runtime, &info)?.get_stats()?;
    if global.json {
        return output::json(&StatsReport {
            id: info.id.to_string(),
            name: &pool.name,
            permissions: info.permissions.into(),
            stats: &stats,
        });
    }
    let Permissions { owner, group, mode } = info.permissions;
    for (name, value) in [
        ("owner", user_name(owner)),
        ("group", group_name(group)),
        ("mode", format!("{mode:04o}")),
    ] {
        output::line(format_args!("{name:<22}{value}"));
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

/// What is said of a pool with damaged metadata wherever its blocks are counted or listed.
const UNKNOWN_BLOCKS: &str = "there may be more that nobody knows of, since metadata is damaged";

/// Notes, beside a command's answer about a pool's blocks, that some may be missing in it.
pub(super) fn note_unknown_blocks(stats: &Stats) {
    if stats.has_unknown_blocks {
        output::note(format_args!(
            "these are the blocks that are known: {UNKNOWN_BLOCKS}"
        ));
    }
}

/// Bytes of the blocks that are allocated.
pub(super) fn allocated_bytes(stats: &Stats) -> u64 {
    let others = stats.remaining_size.saturating_add(stats.metadata_size);
    stats.total_size.saturating_sub(others)
}

/// What `stats --json` prints.
#[derive(Serialize)]
struct StatsReport<'a> {
    id: String,
    name: &'a str,
    #[serde(flatten)]
    permissions: PermissionsReport,
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
                "{} ({}){}",
                stats.allocated_blocks,
                show_size(allocated_bytes(stats)),
                match stats.has_unknown_blocks {
                    true => format!("; {UNKNOWN_BLOCKS}"),
                    false => String::new(),
                }
            ),
        ),
        ("scrub", stats.scrub.to_string()),
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
