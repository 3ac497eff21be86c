//! What the program understands.

use std::path::PathBuf;

use chimaera_bdev_client::{IoEngine, MODULE_NAME, PoolId};
use chimaera_client::proto::{NotAModuleName, check_module_name};
use chimaera_runtime::Polling;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::size::parse_size;

/// Share block storage between the programs of a machine.
#[derive(Debug, Parser)]
#[command(name = "chimaera", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes, before its name or after.
#[derive(Debug, Default, Args)]
pub(crate) struct Global {
    /// The daemon's socket [default: $CHIMAERA_SOCKET, else /run/chimaera/chimaera.sock as root, else
    /// chimaera.sock in $XDG_RUNTIME_DIR, in /run/user/UID or in /tmp/chimaera-UID; clients that find no
    /// daemon there use root's]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Use a daemon whoever runs it, and not only root's or one's own
    #[arg(long, global = true)]
    pub(crate) any_user: bool,

    /// Print JSON: the answer to standard output, an error to standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no runtime at the socket, or one that is stopping, \
4 no such pool, file or module, 5 exists with other parameters, is in use or holds something else, \
6 not permitted or open for reading only, 7 not enough space, 8 damaged metadata";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start, stop and look at the daemon
    #[command(subcommand)]
    Runtime(RuntimeCommand),
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
    Demo,
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
pub(crate) enum RuntimeCommand {
    /// Run the daemon; it writes "ready" and serves until it is told to stop
    Start(StartArguments),
    /// Stop the daemon: pools are drained, flushed and closed first
    Stop,
    /// Show what the daemon is doing
    Status,
}

/// Name of the option by which a daemon in the background learns that it is one.
pub(crate) const DETACHED_LOG: &str = "detached-log";

#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    /// Number of workers [default: a quarter of the processors, at least 1 and at most 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,

    /// Processors to pin the workers to, for example 2,3
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pub(crate) pin: Vec<usize>,

    /// How long workers poll before they sleep
    #[arg(long, value_enum, default_value_t)]
    pub(crate) polling: PollingArgument,

    /// Folder with plugins, before those of $CHIMAERA_PLUGIN_PATH; may be given several times. A module
    /// there replaces one that is built in
    #[arg(long, value_name = "FOLDER")]
    pub(crate) plugin_dir: Vec<PathBuf>,

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
pub(crate) enum PoolCommand {
    /// Create a pool, or find it if it is there with the same parameters
    Create(CreateArguments),
    /// List the pools
    List,
    /// Show what a pool is and has done
    Stats {
        /// The pool's name
        name: String,
    },
    /// Make all that was done in a pool so far durable: data, allocations and frees
    Flush {
        /// The pool's name
        name: String,
    },
    /// List a pool's allocated blocks with their owner tags
    Blocks {
        /// The pool's name
        name: String,
    },
    /// Draw which megabytes of a pool are in use
    Map(MapArguments),
    /// Show what pool a file or device holds, and whether it is sound; needs no daemon
    Inspect(InspectArguments),
    /// Check a file or device that holds a pool, and repair it; no daemon may use it
    Check(CheckArguments),
    /// Give the pool that a file or device holds another name, after it was moved; no daemon may use it
    Rename(RenameArguments),
    /// Destroy a pool, after its operations in flight have completed; what a file pool holds stays
    ///
    /// Ends the pool in this daemon. What a memory pool held is lost; what a file pool holds stays on
    /// its file or device, and creating the pool again opens it.
    Destroy {
        /// The pool's name
        name: String,
    },
}

/// Arguments that mean something for block device pools only.
const BLOCK_DEVICE_ARGUMENTS: [&str; 7] = [
    "kind",
    "size",
    "io_depth",
    "alignment",
    "io_engine",
    "overwrite",
    "read_only",
];

/// Arguments that mean something for pools of other modules only.
const OTHER_MODULE_ARGUMENTS: [&str; 3] = ["module", "params", "params_file"];

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The pool's name; for a file pool the path of a file or block device
    pub(crate) name: String,

    /// What a block device pool stores its blocks on
    #[arg(long = "type", value_enum, required_unless_present_any = OTHER_MODULE_ARGUMENTS)]
    pub(crate) kind: Option<KindArgument>,

    /// Create a pool of another module, in whose plugin folder the daemon finds it by this name
    #[arg(
        long,
        value_name = "NAME",
        value_parser = parse_other_module,
        conflicts_with_all = BLOCK_DEVICE_ARGUMENTS
    )]
    pub(crate) module: Option<String>,

    /// The other module's creation parameters, as this text [default: none]
    #[arg(
        long,
        value_name = "TEXT",
        requires = "module",
        conflicts_with_all = BLOCK_DEVICE_ARGUMENTS
    )]
    pub(crate) params: Option<String>,

    /// The other module's creation parameters, as the bytes of this file
    #[arg(
        long,
        value_name = "FILE",
        requires = "module",
        conflicts_with = "params",
        conflicts_with_all = BLOCK_DEVICE_ARGUMENTS
    )]
    pub(crate) params_file: Option<PathBuf>,

    /// Bytes to manage, for example 4096, 64KiB or 1GiB [default: all of the file or device]
    #[arg(long, value_parser = parse_size, required_if_eq("kind", "ram"))]
    pub(crate) size: Option<u64>,

    /// Operations in flight on the device per worker, for as long as the pool is open [default: as the
    /// pool was made, 32 for a new one]
    #[arg(long, value_name = "N")]
    pub(crate) io_depth: Option<u32>,

    /// Alignment of device operations in bytes, for as long as the pool is open; 0 for the default
    /// [default: as the pool was made, 4096 for a new one]
    #[arg(long, value_name = "N", value_parser = parse_alignment)]
    pub(crate) alignment: Option<u32>,

    /// What carries out the I/O of a file pool
    #[arg(long, value_enum, default_value_t)]
    pub(crate) io_engine: IoEngineArgument,

    /// Make a new, empty pool whatever the file or device holds, which is lost
    #[arg(long, conflicts_with = "read_only")]
    pub(crate) overwrite: bool,

    /// Open the pool that the file or device holds for reading only, even if it is damaged
    #[arg(long)]
    pub(crate) read_only: bool,

    /// The pool's id, for example 8000.0 [default: chosen by the runtime]
    #[arg(long)]
    pub(crate) id: Option<PoolId>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// The file or device
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The file or device
    pub(crate) path: PathBuf,

    /// Repair what can be repaired from a copy, and forget owner tags that are damaged
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    /// The file or device
    pub(crate) path: PathBuf,

    /// The new name [default: the path]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MapArguments {
    /// The pool's name
    pub(crate) name: String,

    /// Write an image instead
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArgument {
    /// Memory, lost when the pool or the daemon ends
    Ram,
    /// A regular file or a block device
    File,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum IoEngineArgument {
    /// Whichever serves the file better, of those that the system permits
    #[default]
    Auto,
    /// Linux AIO
    Libaio,
    /// io_uring
    #[value(name = "io_uring")]
    IoUring,
}

impl From<IoEngineArgument> for IoEngine {
    fn from(argument: IoEngineArgument) -> Self {
        match argument {
            IoEngineArgument::Auto => Self::Auto,
            IoEngineArgument::Libaio => Self::Libaio,
            IoEngineArgument::IoUring => Self::IoUring,
        }
    }
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
pub(crate) struct VerifiedPool {
    /// The pool's name; it must be there
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: String,

    /// The journal's file: not on the pool, and on a disk that is to survive what the pool is to
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyRunArguments {
    #[command(flatten)]
    pub(crate) pool: VerifiedPool,

    /// How long to run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=MAX_SECONDS))]
    pub(crate) seconds: u64,

    /// What the workload is made from: with one thread, the same again [default: chosen and shown]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Threads, each with blocks of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,

    /// Bytes that the workload may hold [default: half of what is free, at most 256 MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) space: Option<u64>,
}

/// The most seconds of a run: years.
const MAX_SECONDS: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(crate) struct VerifyCheckArguments {
    #[command(flatten)]
    pub(crate) pool: VerifiedPool,
}

fn parse_module(name: &str) -> Result<String, NotAModuleName> {
    check_module_name(name).map(|()| name.to_owned())
}

fn parse_other_module(name: &str) -> Result<String, String> {
    if name == MODULE_NAME {
        return Err("it makes block devices: use `--type ram` or `--type file` instead".to_owned());
    }
    parse_module(name).map_err(|error| error.to_string())
}

fn parse_alignment(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    u32::try_from(size).map_err(|_| format!("\"{text}\" is too large for an alignment"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_ram_pool_needs_a_size() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("chimaera pool create p --type ram").is_err());
        assert!(parse("chimaera pool create p --type ram --size 1GiB").is_ok());
        assert!(parse("chimaera pool create /dev/x --type file").is_ok());
        assert!(parse("chimaera pool create p --type ram --size much").is_err());
        assert!(parse("chimaera pool create p --type ram --size 1GiB --id 8000").is_err());
    }

    #[test]
    fn what_makes_a_block_device_makes_no_pool_of_another_module() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("chimaera pool create p").is_err());
        assert!(parse("chimaera pool create p --module greeter").is_ok());
        assert!(parse("chimaera pool create p --module greeter --params hello --id 8.0").is_ok());
        assert!(parse("chimaera pool create p --module greeter --params-file f").is_ok());
        assert!(
            parse("chimaera pool create p --module greeter --params a --params-file f").is_err()
        );
        assert!(parse("chimaera pool create p --type ram --size 4096 --params hello").is_err());
        for more in [
            "--type ram",
            "--size 1GiB",
            "--io-depth 1",
            "--alignment 512",
            "--io-engine auto",
            "--overwrite",
            "--read-only",
        ] {
            let line = format!("chimaera pool create p --module greeter {more}");
            assert!(parse(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_a_module_is_asked_for_says_what_is_missing_or_wrong() {
        let refused = |line: &str| {
            let error = Arguments::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            error.to_string()
        };
        for params in ["--params hello", "--params-file f"] {
            let text = refused(&format!("chimaera pool create p {params}"));
            assert!(text.contains("--module <NAME>"), "{text}");
            assert!(!text.contains("--type"), "{text}");
        }
        let text = refused("chimaera pool create p --module chimaera_bdev");
        assert!(text.contains("use `--type ram` or `--type file`"), "{text}");
        for line in [
            "chimaera pool create p --module A-B",
            "chimaera chimod new A-B",
        ] {
            let text = refused(line);
            assert!(text.contains("\"A-B\" is not a module name"), "{text}");
        }
    }

    #[test]
    fn a_pool_is_not_overwritten_and_only_read_at_once() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("chimaera pool create /dev/x --type file --overwrite").is_ok());
        assert!(parse("chimaera pool create /dev/x --type file --read-only").is_ok());
        assert!(parse("chimaera pool create /dev/x --type file --overwrite --read-only").is_err());
    }

    #[test]
    fn an_engine_has_one_name_here_and_in_statistics() {
        for engine in [IoEngine::Auto, IoEngine::Libaio, IoEngine::IoUring] {
            let line = format!("chimaera pool create /dev/x --type file --io-engine {engine}");
            let arguments = Arguments::try_parse_from(line.split(' ')).expect("understood");
            let Command::Pool(PoolCommand::Create(create)) = arguments.command else {
                panic!("{line} creates a pool");
            };
            assert_eq!(IoEngine::from(create.io_engine), engine);
            let json = serde_json::to_string(&engine).expect("encodes");
            assert_eq!(json, format!("\"{engine}\""));
        }
    }
}
