//! Arguments of `chimaera runtime`.

use std::path::PathBuf;

use chimaera_client::proto::{NotAModuleName, check_module_name};
use chimaera_runtime::{Polling, Resource, UsersSocket};
use clap::{Args, Subcommand, ValueEnum};

use super::{DaemonArguments, SocketArgument};
use crate::size::parse_size;
use crate::users::users_socket;

#[derive(Debug, Subcommand)]
pub(crate) enum RuntimeCommand {
    /// Run the daemon; it writes "ready" and serves until it is told to stop
    Start(Box<StartArguments>),
    /// Stop the daemon: pools are drained, flushed and closed first
    Stop(DaemonArguments),
    /// Show what the daemon is doing
    Status(DaemonArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List the sessions, and what each and each user has of what all share; who is no operator sees their own
    List(DaemonArguments),
}

/// Name of the option by which a daemon in the background learns that it is one.
pub(crate) const DETACHED_LOG: &str = "detached-log";

#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    #[command(flatten)]
    pub(crate) place: SocketArgument,

    /// Number of workers [default: a quarter of the processors, at least 1 and at most 16]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    pub(crate) workers: Option<u16>,

    /// Processors to pin the workers to, for example 2,3
    #[arg(
        long,
        value_name = "CPU,…",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub(crate) pin: Vec<usize>,

    /// Who may do everything, besides root and the daemon's user: users and, with @, groups, for example alice,@admins;
    /// they connect to --socket
    #[arg(long, value_name = "USER|@GROUP,…", value_delimiter = ',')]
    pub(crate) operators: Vec<String>,

    /// A socket for users, who may do what the permissions of pools say, and at most MAX; may be given several times
    /// [default: of root, where nobody names a socket and there is a group chimaera, /run/chimaera/users.sock for its
    /// members]
    #[arg(
        long,
        value_name = "PATH[,mode=MODE][,group=GROUP][,max=read|write]",
        value_parser = users_socket
    )]
    pub(crate) listen: Vec<UsersSocket>,

    /// A folder beneath which the daemon opens paths itself when an operator asks for that (`pool create --by-daemon`);
    /// may be given several times [default: none; for a daemon of a user other than root who alone uses it, all]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) allow_path: Vec<PathBuf>,

    /// How much each user may have of what all share, for example connections=64,memory-bytes=4GiB; what can be
    /// limited, and with what defaults, says docs/OPERATING.md
    #[arg(long, value_name = "RESOURCE=AMOUNT,…", value_delimiter = ',', value_parser = amount)]
    pub(crate) user_limits: Vec<(Resource, u64)>,

    /// How much each session may have of it
    #[arg(long, value_name = "RESOURCE=AMOUNT,…", value_delimiter = ',', value_parser = session_amount)]
    pub(crate) session_limits: Vec<(Resource, u64)>,

    /// Types of file systems, besides those of local disks, on which clients' files are taken, for example nfs4 or fuse
    /// (which stands for fuse.sshfs, too): whoever serves such a file can make the daemon hang
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    pub(crate) allow_fs: Vec<String>,

    /// How long workers poll before they sleep
    #[arg(long, value_enum, default_value_t)]
    pub(crate) polling: PollingArgument,

    /// Folder with plugins, before those of $CHIMAERA_PLUGIN_PATH; may be given several times. A module
    /// there replaces one that is built in
    #[arg(long, value_name = "FOLDER")]
    pub(crate) plugin_dir: Vec<PathBuf>,

    /// Modules of which other users may make pools; root and the daemon's own user may make pools of all
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        value_parser = module_name,
        default_value = chimaera_bdev_client::MODULE_NAME
    )]
    pub(crate) modules: Vec<String>,

    /// How long stopping may take: what is not flushed and closed by then is given up and named, and the exit code is
    /// not 0
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub(crate) stop_timeout: u32,

    /// How many of io_uring's rings the daemon makes, at its start: one for each worker of each pool on a file; any: as
    /// many as are needed, whenever they are [default: 32 for each worker; any, if a library replaces chimaera_bdev]
    #[arg(long, value_name = "N|any", value_parser = rings)]
    pub(crate) rings: Option<Rings>,

    /// Let the daemon open every path that its user may, and every connection
    #[arg(long)]
    pub(crate) no_landlock: bool,

    /// Let the daemon make every system call
    #[arg(long)]
    pub(crate) no_seccomp: bool,

    /// Let root's daemon keep all of root's rights
    #[arg(long)]
    pub(crate) keep_capabilities: bool,

    /// Return once the daemon serves, and leave it running in the background
    #[arg(long)]
    pub(crate) detach: bool,

    /// End with the process of this id, which starts the daemon
    #[arg(long, value_name = "PID", hide = true, conflicts_with = "detach")]
    pub(crate) with_parent: Option<i32>,

    /// Where a detached daemon writes its log [default: the socket's path with .log]
    #[arg(long, value_name = "FILE", requires = "detach")]
    pub(crate) log: Option<PathBuf>,

    /// The log of the daemon that `--detach` has started, which this is
    #[arg(long = DETACHED_LOG, value_name = "FILE", hide = true, conflicts_with = "detach")]
    pub(crate) detached_log: Option<PathBuf>,
}

/// Reads how much of a resource there may be.
fn amount(text: &str) -> Result<(Resource, u64), String> {
    let names = || {
        let names: Vec<_> = Resource::ALL
            .iter()
            .map(|resource| resource.name())
            .collect();
        names.join(", ")
    };
    let (name, amount) = text
        .split_once('=')
        .ok_or_else(|| format!("write RESOURCE=AMOUNT, with one of {}", names()))?;
    let resource = Resource::from_name(name)
        .ok_or_else(|| format!("there is no resource {name:?} to limit, but {}", names()))?;
    Ok((resource, parse_size(amount)?))
}

/// As [`amount`], of what is counted for sessions.
fn session_amount(text: &str) -> Result<(Resource, u64), String> {
    let (resource, amount) = amount(text)?;
    match resource.is_of_sessions() {
        true => Ok((resource, amount)),
        false => Err(format!(
            "{resource} are counted for users, and not for sessions: limit them with --user-limits"
        )),
    }
}

/// Which of io_uring's rings a daemon makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rings {
    /// So many at its start, and none later.
    Stock(u16),
    /// Those that are needed, whenever they are.
    Any,
}

fn rings(text: &str) -> Result<Rings, String> {
    match text {
        "any" => Ok(Rings::Any),
        number => number
            .parse()
            .map(Rings::Stock)
            .map_err(|_| "it is a number of at most 65535, or any".to_owned()),
    }
}

fn module_name(text: &str) -> Result<String, NotAModuleName> {
    check_module_name(text).map(|()| text.to_owned())
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum PollingArgument {
    /// Poll for 10 ms
    Performance,
    /// Poll for 100 µs
    #[default]
    Balanced,
    /// Poll for 5 µs
    Powersave,
}

impl From<PollingArgument> for Polling {
    fn from(argument: PollingArgument) -> Self {
        match argument {
            PollingArgument::Performance => Self::Performance,
            PollingArgument::Balanced => Self::Balanced,
            PollingArgument::Powersave => Self::Powersave,
        }
    }
}
