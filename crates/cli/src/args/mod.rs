//! The arguments of the program. Their documentation is the text of `--help`.

mod pool;
mod runtime;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use chimaera_bdev_client::BlockType;
use chimaera_client::proto::{NotAModuleName, check_module_name};
use clap::{Args, Parser, Subcommand};

use crate::size::parse_size;

pub(crate) use pool::*;
pub(crate) use runtime::*;

/// Share block storage between the programs of a machine.
#[derive(Debug, Parser)]
#[command(name = "chimaera", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArguments,

    #[command(subcommand)]
    pub(crate) command: ChimaeraCommand,
}

/// What every command takes, before its name or after.
#[derive(Debug, Default, Args)]
pub(crate) struct GlobalArguments {
    /// Print JSON: the answer to standard output, an error and notes, a line each, to standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Where a daemon listens.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SocketArgument {
    /// The daemon's socket [default: $CHIMAERA_SOCKET, else /run/chimaera/chimaera.sock as root, else
    /// chimaera.sock in $XDG_RUNTIME_DIR, in /run/user/UID or in /tmp/chimaera-UID; clients that find no
    /// daemon there use root's]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// Which daemon a command means, of those that need one.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DaemonArguments {
    #[command(flatten)]
    pub(crate) place: SocketArgument,

    /// Use a daemon whoever runs it, and not only root's or one's own
    #[arg(long)]
    pub(crate) any_user: bool,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no runtime at the socket, or one that is stopping, \
4 no such pool, file, folder or module, 5 exists with other parameters, is in use or holds something else, \
6 not permitted or open for reading only, 7 not enough space, memory or quota, 8 damaged metadata, 9 something hangs";

#[derive(Debug, Subcommand)]
pub(crate) enum ChimaeraCommand {
    /// Start, stop and look at the daemon
    #[command(subcommand)]
    Runtime(RuntimeCommand),
    /// Look at who uses the daemon, and how much of it
    #[command(subcommand)]
    Session(SessionCommand),
    /// Create, list, look into and destroy block device pools
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Begin a module of one's own
    #[command(subcommand)]
    Chimod(ChimodCommand),
    /// Prove that a pool keeps across crashes what was flushed
    #[command(subcommand)]
    Verify(VerifyCommand),
    /// See it work: a runtime of its own, a RAM pool and a file pool, in under 10 seconds
    Demo {
        /// The option of all the others, which the demo's help does not offer
        #[arg(long, hide = true)]
        json: bool,
    },
    /// Measure it against the machine's limits and against its peers
    Bench(BenchArguments),
    /// The other process of a yardstick, which `bench` starts
    #[command(hide = true, name = chimaera_bench::PARTNER_COMMAND)]
    BenchPartner {
        /// The processor to run on
        processor: usize,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Run only the cases whose names begin so; may be given several times [default: all]
    #[arg(long = "case", value_name = "NAME", num_args = 1..)]
    pub(crate) cases: Vec<String>,

    /// Name the cases, and run none
    #[arg(long)]
    pub(crate) list: bool,

    /// Few and short rounds: some two minutes in all
    #[arg(long)]
    pub(crate) quick: bool,

    /// Write the figures to a file as JSON, case by case as they come
    #[arg(long, value_name = "FILE")]
    pub(crate) figures: Option<PathBuf>,

    /// Write a page with charts
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,

    /// Where file pools are made, on the file system to be measured; they need 512 MiB
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChimodCommand {
    /// Write a module that builds and passes its tests, as three packages in a folder of its name
    New(NewArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    /// The module's name: lowercase letters, digits and underscores
    #[arg(value_parser = parse_module)]
    pub(crate) name: String,

    /// Where Chimaera's packages come from: a checkout's path, or a repository's URL [default: the
    /// checkout that this program was built from]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) sdk: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VerifyCommand {
    /// Keep a workload of blocks that say what they are going against a pool, and note in a journal
    /// what was flushed
    Run(VerifyRunArguments),
    /// Compare a pool with a journal: all that was flushed is there, intact, and nothing that was freed
    Check(VerifyCheckArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyPoolArguments {
    /// The pool's name; it must be there
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: String,

    /// The journal's file: not on the pool, and on a disk that is to survive what the pool is to
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: PathBuf,

    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyRunArguments {
    #[command(flatten)]
    pub(crate) pool: VerifyPoolArguments,

    /// How long to run
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(..=MAX_SECONDS)
    )]
    pub(crate) seconds: u64,

    /// What the workload is made from: with one thread, the same again [default: chosen and shown]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,

    /// Threads, each with blocks of its own
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=64)
    )]
    pub(crate) threads: u8,

    /// Bytes that the workload may hold [default: half of what is free, at most 256 MiB]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_space)]
    pub(crate) space: Option<u64>,
}

/// The most seconds of a run: years.
const MAX_SECONDS: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(crate) struct VerifyCheckArguments {
    #[command(flatten)]
    pub(crate) pool: VerifyPoolArguments,
}

/// A workload that may hold no block would prove nothing.
fn parse_space(text: &str) -> Result<u64, String> {
    let least = BlockType::Kib4.size();
    let space = parse_size(text)?;
    match space < least {
        true => Err(format!(
            "a workload needs at least {least} bytes, those of a block"
        )),
        false => Ok(space),
    }
}

fn parse_module(name: &str) -> Result<String, NotAModuleName> {
    check_module_name(name).map(|()| name.to_owned())
}
