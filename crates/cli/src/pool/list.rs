//! `chimaera pool list`.

use std::borrow::Cow;

use chimaera_bdev_client::{Client, MODULE_NAME, PerfMetrics, PoolInfo, Runtime, Status};

use super::PoolReport;
use crate::args::{DaemonArguments, GlobalArguments};
use crate::connection::{ask, connect};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::program;
use crate::users::user_name;

pub(super) fn list(
    daemon: &DaemonArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let runtime = connect(daemon)?;
    let pools = ask(runtime.admin().async_list_pools(), daemon)?;
    if global.json {
        let reports = pools.iter().map(|pool| {
            let perf_metrics = declared(&runtime, pool, daemon)?;
            Ok(PoolReport {
                perf_metrics,
                ..PoolReport::new(pool)
            })
        });
        return output::json(&reports.collect::<Result<Vec<_>, CommandFailure>>()?);
    }
    if pools.is_empty() {
        output::line(format_args!(
            "no pools are open in this daemon; one that a file or device holds is opened by `{}`",
            program::command(&["pool", "create", "PATH", "--type", "file"], daemon)
        ));
        return Ok(());
    }
    let rows: Vec<_> = pools
        .iter()
        .map(|pool| {
            [
                Cow::from(pool.id.to_string()),
                printable(&pool.name),
                printable(&pool.module),
                Cow::from(user_name(pool.permissions.owner)),
                Cow::from(format!("{:04o}", pool.permissions.mode)),
            ]
        })
        .collect();
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let others: usize = [0, 2, 3, 4]
        .iter()
        .filter_map(|&column| widest(column))
        .sum();
    let others = others + 4 * COLUMN_GAP;
    let width = name_width(output::terminal_columns(), others);
    let mut table = output::table(&["ID", "NAME", "MODULE", "OWNER", "MODE"], 5);
    for [id, name, module, owner, mode] in rows {
        table.add_row([id, shortened(&name, width).into(), module, owner, mode]);
    }
    output::lines(table.trim_fmt());
    Ok(())
}

/// The declared characteristics of a block device pool; nothing for another module's pool, or one that has gone
/// meanwhile.
fn declared(
    runtime: &Runtime,
    pool: &PoolInfo,
    daemon: &DaemonArguments,
) -> Result<Option<PerfMetrics>, CommandFailure> {
    if pool.module != MODULE_NAME {
        return Ok(None);
    }
    let stats = |runtime: &Runtime| {
        Client::open_of(runtime, pool.permissions.owner, &pool.name)?.get_stats()
    };
    let found = match stats(runtime) {
        // A connection uses one pool by an id, and several users may have one with this id.
        Err(error) if error.status() == Status::Busy => stats(&connect(daemon)?),
        found => found,
    };
    match found {
        Ok(stats) => Ok(Some(stats.metrics)),
        // Its owner has no right to read it.
        Err(error) if error.status() == Status::PermissionDenied => Ok(None),
        Err(error) if error.status() == Status::PoolNotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Characters between columns.
const COLUMN_GAP: usize = 2;

/// Characters of a name that are shown however narrow the terminal.
const MIN_NAME_CHARACTERS: usize = 24;

/// Characters of a name that are shown at most. Names have up to 4,096 bytes.
const MAX_NAME_CHARACTERS: usize = 120;

/// Characters for names in a line of `columns`, of which other columns and gaps take `others`.
fn name_width(columns: Option<usize>, others: usize) -> usize {
    columns.map_or(MAX_NAME_CHARACTERS, |columns| {
        let room = columns.saturating_sub(others);
        room.clamp(MIN_NAME_CHARACTERS, MAX_NAME_CHARACTERS)
    })
}

/// Cuts a text to `width` characters, with an ellipsis in its middle: paths differ at both ends.
fn shortened(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    let head = width / 3;
    let tail = width - head - 1;
    let first = text.chars().take(head);
    let last = text.chars().skip(count - tail);
    first.chain(['…']).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_shown_by_both_ends_and_a_short_one_as_it_is() {
        assert_eq!(shortened("/dev/nvme0n1", 12), "/dev/nvme0n1");
        assert_eq!(shortened("/dev/nvme0n1", 10), "/de…vme0n1");
        assert_eq!(shortened(&"größe".repeat(900), 120).chars().count(), 120);
    }

    #[test]
    fn names_have_the_room_that_others_leave_within_bounds() {
        assert_eq!(name_width(Some(100), 40), 60);
        assert_eq!(name_width(Some(10), 40), 24);
        assert_eq!(name_width(Some(500), 40), 120);
        assert_eq!(name_width(None, 40), 120);
    }
}
