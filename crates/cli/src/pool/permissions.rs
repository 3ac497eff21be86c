//! `chimaera pool chmod` and `chown`: who may use a pool.

use std::path::Path;

use chimaera_bdev_client::{
    MODULE_NAME, Permissions, PoolInfo, Right, ScrubPolicy, SetPermissions,
};
use chimaera_bdev_format::PoolOwner;
use chimaera_bdev_format::image;
use serde::Serialize;

use super::find::{find, open_found};
use super::offline::explain;
use crate::args::{
    ChmodArguments, ChownArguments, CreatePoolArguments, GlobalArguments, NamedPool,
};
use crate::connection::{connect, order};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::program;

/// What is to change.
#[derive(Clone, Copy, Default)]
struct Change {
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<u16>,
}

impl Change {
    fn applied_to(self, before: PoolOwner) -> PoolOwner {
        PoolOwner {
            user: self.owner.unwrap_or(before.user),
            group: self.group.unwrap_or(before.group),
            mode: self.mode.map_or(before.mode, u32::from),
        }
    }
}

/// What `chmod --json` and `chown --json` print.
#[derive(Serialize)]
struct ChangeReport {
    #[serde(skip)]
    now: Permissions,
    #[serde(flatten)]
    permissions: PermissionsReport,
    /// Whether its blocks are zeroed. Left out, as what follows, for pools of other modules, and where statistics are
    /// not for whoever asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub: Option<ScrubPolicy>,
    /// Whether it is open for reading only, so that the change holds for as long as it is open. Left out also for one
    /// that is not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<bool>,
}

/// What commands print of a pool's permissions, as a part.
#[derive(Serialize)]
pub(super) struct PermissionsReport {
    owner: u32,
    group: u32,
    /// Octal, with four digits.
    mode: String,
}

impl From<Permissions> for PermissionsReport {
    fn from(permissions: Permissions) -> Self {
        let Permissions { owner, group, mode } = permissions;
        Self {
            owner,
            group,
            mode: format!("{mode:04o}"),
        }
    }
}

pub(super) fn chmod(
    arguments: &ChmodArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let change = Change {
        mode: Some(arguments.mode),
        ..Change::default()
    };
    set(&arguments.pool, arguments.offline, change, global)
}

pub(super) fn chown(
    arguments: &ChownArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let (owner, group) = arguments.owner;
    let change = Change {
        owner,
        group,
        mode: None,
    };
    set(&arguments.pool, arguments.offline, change, global)
}

fn set(
    pool: &NamedPool,
    offline: bool,
    change: Change,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let now = match offline {
        true => set_offline(Path::new(&pool.name), change)?,
        false => set_online(pool, change)?,
    };
    if global.json {
        return output::json(&now);
    }
    let passing = match now.read_only {
        Some(true) => "; for as long as it is open, since it is open for reading only",
        Some(false) | None => "",
    };
    let (name, now, zeroed) = (printable(&pool.name), now.now, zeroed(now.scrub));
    output::line(format_args!("pool {name}: {now}{passing}{zeroed}"));
    Ok(())
}

/// What the answer of a command adds for a pool that scrubs.
pub(super) const fn zeroed(scrub: Option<ScrubPolicy>) -> &'static str {
    match scrub {
        Some(ScrubPolicy::Allocate) => "; its blocks are zeroed before they are handed out",
        Some(ScrubPolicy::None) | None => "",
    }
}

/// Says which mode and group a pool has kept where others were asked for at its creation, and, to whoever may do it,
/// how to change them.
pub(super) fn kept(arguments: &CreatePoolArguments, info: &PoolInfo) -> String {
    let named = match arguments.owner {
        Some(owner) => format!("{owner}:{}", info.name),
        None => info.name.clone(),
    };
    let stays = |what: &str, now: String, act: &str, asked: String| {
        let command = program::command(&["pool", act, &asked, &named], &arguments.daemon);
        match info.rights.has(Right::Manage) {
            true => format!("; its {what} stays {now}: `{command}` changes it"),
            false => format!("; its {what} stays {now}"),
        }
    };
    let Permissions { group, mode, .. } = info.permissions;
    let other_mode = arguments.mode.filter(|&asked| asked != mode);
    let other_group = arguments.group.filter(|&asked| asked != group);
    let mode = other_mode.map(|asked| {
        stays(
            "mode",
            format!("{mode:04o}"),
            "chmod",
            format!("{asked:04o}"),
        )
    });
    let group =
        other_group.map(|asked| stays("group", group.to_string(), "chown", format!(":{asked}")));
    [mode, group].into_iter().flatten().collect()
}

fn set_online(pool: &NamedPool, change: Change) -> Result<ChangeReport, CommandFailure> {
    let runtime = connect(&pool.daemon)?;
    let found = find(&runtime, &pool.name, &pool.daemon)?;
    let request = SetPermissions {
        pool: found.choice(),
        new_owner: change.owner,
        new_group: change.group,
        new_mode: change.mode,
    };
    let info = order(&pool.daemon, || runtime.admin().set_permissions(&request))?;
    let stats = (info.module == MODULE_NAME)
        .then(|| open_found(&runtime, &info).ok()?.get_stats().ok())
        .flatten();
    Ok(ChangeReport {
        now: info.permissions,
        permissions: info.permissions.into(),
        scrub: stats.map(|stats| stats.scrub),
        read_only: stats.map(|stats| stats.read_only),
    })
}

fn set_offline(path: &Path, change: Change) -> Result<ChangeReport, CommandFailure> {
    let (now, scrubs) = image::set_owner(path, |before| change.applied_to(before))
        .map_err(|refusal| explain(path, refusal))?;
    let now = Permissions {
        owner: now.user,
        group: now.group,
        mode: now.mode as u16,
    };
    Ok(ChangeReport {
        now,
        permissions: now.into(),
        scrub: Some(ScrubPolicy::of(scrubs)),
        read_only: None,
    })
}
