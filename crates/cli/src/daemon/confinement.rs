//! What the daemon gives up: whatever nothing of it needs, as its options say.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use chimaera_bdev_client::MODULE_NAME;
use chimaera_client::proto::environment::trusted_variable;
use chimaera_runtime::{Config, Host, LibraryFolders, Restriction, log};
use chimaera_sandbox::capabilities::Capability;
use chimaera_sandbox::{Confinement, Files, Means, Needs};
use nix::sys::resource::{Resource, getrlimit};

use super::absolute;
use crate::args::{Rings, StartArguments};
use crate::failure::CommandFailure;

/// Rings that the daemon makes at its start for each worker, if nothing else is said: pools on files, that is.
const RINGS_PER_WORKER: usize = 32;

/// Of the descriptors that the daemon may have, those for rings are this part at most, so that clients find some.
const RINGS_PART: u64 = 4;

/// What is read whatever the options say: what the system says of this process, its memory and its devices; and what
/// the C library and its loader need for a module's library.
const READ: &[&str] = &[
    // Other processes keep to themselves what they have open and in memory: Landlock lets nobody trace them.
    "/proc",
    "/sys/block",
    "/sys/class/block",
    "/sys/dev/block",
    "/sys/devices",
    "/sys/fs/cgroup",
    "/dev/urandom",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
];

/// Where the loader's configuration names further folders.
const LOADER_FOLDERS: [&str; 2] = ["/etc/ld.so.conf", "/etc/ld.so.conf.d"];

/// Makes what has to be made before, and gives up what is not needed. There is no other thread yet.
pub(super) fn enter(
    arguments: &StartArguments,
    config: &Config,
) -> Result<Confinement, CommandFailure> {
    let folders = LibraryFolders::new(config);
    let means = Means {
        capabilities: !arguments.keep_capabilities,
        landlock: !arguments.no_landlock,
        seccomp: !arguments.no_seccomp,
    };
    let makes_rings = match rings(arguments, config, &folders) {
        Some(count) if means.seccomp => {
            // Pools say what they lack when they are made.
            let _ = chimaera_bdev_runtime::stock_rings(count);
            false
        }
        _ => true,
    };
    let needs = Needs {
        files: files(arguments, config, &folders),
        capabilities: capabilities(config),
        capabilities_beneath: match config.allow_paths.is_empty() {
            true => Vec::new(),
            // An operator opens anybody's files there.
            false => vec![Capability::DacOverride],
        },
        makes_rings,
    };
    Confinement::enter(&needs, means).map_err(CommandFailure::system(
        "cannot give up what the daemon does not need",
    ))
}

/// How many rings there are; `None` if they are made as they are needed.
pub(super) fn stock(arguments: &StartArguments, config: &Config) -> Option<usize> {
    rings(arguments, config, &LibraryFolders::new(config)).filter(|_| !arguments.no_seccomp)
}

/// How many rings are made at the start; `None` if they are made as they are needed.
fn rings(arguments: &StartArguments, config: &Config, folders: &LibraryFolders) -> Option<usize> {
    let wanted = match arguments.rings {
        Some(Rings::Any) => return None,
        Some(Rings::Stock(count)) => return Some(count.into()),
        // A library does not have the rings that were made by what is built in.
        None if folders.replace(MODULE_NAME) => return None,
        None => RINGS_PER_WORKER * config.effective_worker_count(),
    };
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    Some(wanted.min(usize::try_from(descriptors / RINGS_PART).unwrap_or(usize::MAX)))
}

fn capabilities(config: &Config) -> Vec<Capability> {
    let gives_away = config.listen.iter().any(|users| users.group.is_some());
    gives_away
        .then_some(Capability::Chown)
        .into_iter()
        .collect()
}

fn files(arguments: &StartArguments, config: &Config, folders: &LibraryFolders) -> Files {
    let mut read: Vec<PathBuf> = READ.iter().map(PathBuf::from).collect();
    read.extend(folders.named.iter().cloned());
    read.extend(folders.beside.iter().cloned());
    let named = folders.named.iter().chain(&folders.beside);
    read.extend(named.flat_map(|folder| linked_from(folder)));
    read.extend(loader_folders());
    let sockets = config.socket.iter();
    let sockets = sockets.chain(config.listen.iter().map(|users| &users.path));
    let mut change: Vec<PathBuf> = sockets
        .chain(arguments.detached_log.as_ref())
        .filter_map(|file| absolute(file).ok()?.parent().map(Path::to_path_buf))
        .collect();
    change.extend(
        config
            .allow_paths
            .iter()
            .filter_map(|path| absolute(path).ok()),
    );
    change.push("/dev/null".into());
    Files {
        any: config.opens_any_path().then(|| {
            "it opens any path for its own user, who alone uses it; name --allow-path".to_owned()
        }),
        read: without_repetition(read),
        change: without_repetition(change),
    }
}

/// The paths that are there, each once, and none that lies beneath another.
fn without_repetition(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let there: BTreeSet<_> = paths.into_iter().filter(|path| path.exists()).collect();
    let is_beneath = |path: &PathBuf| path.ancestors().skip(1).any(|above| there.contains(above));
    there
        .iter()
        .filter(|path| !is_beneath(path))
        .cloned()
        .collect()
}

/// The files to which links to libraries in a plugin folder lead.
fn linked_from(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "so") && path.is_symlink()
        })
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect()
}

/// The folders in which the loader finds libraries that others need, besides the usual ones.
fn loader_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let [list, lists] = LOADER_FOLDERS;
    let further = fs::read_dir(lists).into_iter().flatten().flatten();
    for file in further.map(|entry| entry.path()).chain([list.into()]) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().map(str::trim);
        folders.extend(
            lines
                .filter(|line| line.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    if let Some(value) = trusted_variable("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&value).filter(|path| path.is_absolute()));
    }
    // Where this program's own libraries come from, whatever system this is.
    let maps = fs::read("/proc/self/maps").unwrap_or_default();
    let mapped = maps
        .split(|&byte| byte == b'\n')
        .filter_map(|line| Some(&line[line.iter().position(|&byte| byte == b'/')?..]));
    let mapped = mapped.map(|path| Path::new(std::ffi::OsStr::from_bytes(path)));
    // Memory of other kinds is named as if it lay in the root folder.
    let files = mapped.filter(|path| path.is_file());
    folders.extend(files.filter_map(|path| path.parent().map(Path::to_path_buf)));
    folders
}

/// Tells the host's operators what was given up, and the log what was not.
pub(super) fn tell(confinement: &Confinement, host: &Host) {
    let measures = confinement.measures().iter();
    for measure in measures.clone().filter(|measure| !measure.in_force) {
        log::info(format_args!("{}: {}", measure.name, measure.text));
    }
    let told = measures.map(|measure| Restriction {
        name: measure.name.to_owned(),
        in_force: measure.in_force,
        text: measure.text.clone(),
    });
    host.tell_restrictions(told.collect());
}
