//! Finds the pool that a command names.

use chimaera_bdev_client::{Client, MODULE_NAME, PoolChoice, PoolInfo, Runtime};

use crate::args::DaemonArguments;
use crate::connection::ask;
use crate::failure::CommandFailure;
use crate::program;
use crate::users::split_owner;

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
    open_found(runtime, &find_block_device(runtime, name, daemon)?)
}

/// A client of a block device pool that was found.
///
/// # Errors
/// It is gone by now, or another one.
pub(crate) fn open_found(runtime: &Runtime, pool: &PoolInfo) -> Result<Client, CommandFailure> {
    Ok(Client::open_of(
        runtime,
        pool.permissions.owner,
        &pool.name,
    )?)
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
pub(super) fn find(
    runtime: &Runtime,
    name: &str,
    daemon: &DaemonArguments,
) -> Result<PoolInfo, CommandFailure> {
    let (owner, name) = split_owner(name);
    let find = |name: &str| {
        let choice = PoolChoice {
            owner,
            ..name.into()
        };
        ask(runtime.admin().async_find_pool(choice), daemon)
    };
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
