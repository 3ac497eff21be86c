//! Arguments of `chimaera pool`.

use std::path::PathBuf;

use chimaera_bdev_client::{IoEngine, MODULE_NAME, PoolId, ScrubPolicy};
use chimaera_bdev_proto::CreateParams;
use clap::{Args, Subcommand, ValueEnum};

use super::{DaemonArguments, parse_module};
use crate::size::parse_size;
use crate::users::{group_id, mode, owner_and_group, user_id};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool, or find it if it is there with the same parameters
    Create(CreatePoolArguments),
    /// List the pools
    List(DaemonArguments),
    /// Show what a pool is and has done
    Stats(NamedPool),
    /// Make all that was done in a pool so far durable: data, allocations and frees
    Flush(NamedPool),
    /// List a pool's allocated blocks with their owner tags
    Blocks(NamedPool),
    /// Draw which megabytes of a pool are in use
    Map(MapArguments),
    /// Show what pool a file or device holds, and whether it is sound; needs no daemon
    Inspect(InspectArguments),
    /// Check a file or device that holds a pool, and repair it; no daemon may use it
    ///
    /// One that is in use is waited for up to 2 seconds: what a process that was killed had under way may keep it
    /// in use for a moment.
    Check(CheckArguments),
    /// Bring the pool that a file or device holds to the newest version of the format; no daemon may use it
    ///
    /// No block moves, and what the pool holds stays. An older program cannot use the pool afterwards. One that is in
    /// use is waited for as `check` does.
    Upgrade(UpgradeArguments),
    /// Give the pool that a file or device holds another name, after it was moved or copied; no daemon may use it
    ///
    /// One that is in use is waited for as `check` does.
    Rename(RenameArguments),
    /// Change who may use a pool: read and write bits for the owner, the group and all others, as a file has them
    ///
    /// With a daemon that has the pool open, at once for all who use it; on a file or device that no daemon uses with
    /// --offline.
    Chmod(ChmodArguments),
    /// Give a pool another owner, which is for operators, or another group
    ///
    /// As `chmod` otherwise.
    Chown(ChownArguments),
    /// Destroy a pool, after its operations in flight have completed; what a file pool holds stays
    ///
    /// Ends the pool in this daemon. What a memory pool held is lost; what a file pool holds stays on
    /// its file or device, and creating the pool again opens it.
    Destroy(NamedPool),
}

#[derive(Debug, Args)]
pub(crate) struct ChmodArguments {
    /// The new mode, octal: 600 for the owner alone, 640 for the group to read, and so on
    #[arg(value_parser = mode)]
    pub(crate) mode: u16,

    #[command(flatten)]
    pub(crate) pool: NamedPool,

    /// The name is the path of a file or device, which no daemon uses
    #[arg(long, conflicts_with_all = ["socket", "any_user"])]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChownArguments {
    /// The new owner, the new group behind a colon, or both
    #[arg(value_name = "USER[:GROUP]", value_parser = owner_and_group)]
    pub(crate) owner: (Option<u32>, Option<u32>),

    #[command(flatten)]
    pub(crate) pool: NamedPool,

    /// The name is the path of a file or device, which no daemon uses
    #[arg(long, conflicts_with_all = ["socket", "any_user"])]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NamedPool {
    /// The pool's name; OWNER:NAME for a pool that is neither one's own nor an operator's
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
}

/// Arguments that mean something for block device pools only.
const BLOCK_DEVICE_ARGUMENTS: [&str; 15] = [
    "kind",
    "size",
    "scrub",
    "io_depth",
    "alignment",
    "io_engine",
    "overwrite",
    "read_only",
    "trust_owner",
    "by_daemon",
    "read_bandwidth_mbps",
    "write_bandwidth_mbps",
    "read_latency_us",
    "write_latency_us",
    "iops",
];

/// Arguments that mean something for pools of other modules only.
const OTHER_MODULE_ARGUMENTS: [&str; 3] = ["module", "params", "params_file"];

#[derive(Debug, Args)]
pub(crate) struct CreatePoolArguments {
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
    #[arg(
        long,
        allow_hyphen_values = true,
        value_parser = parse_size,
        required_if_eq("kind", "ram")
    )]
    pub(crate) size: Option<u64>,

    /// Operations in flight on a file pool's device per worker, for as long as the pool is open [default: as
    /// the pool was made, 32 for a new one]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CreateParams::MAX_IO_DEPTH))
    )]
    pub(crate) io_depth: Option<u32>,

    /// Alignment of operations on a file pool's device in bytes, for as long as the pool is open; 0 for the
    /// default [default: as the pool was made, 4096 for a new one]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = parse_alignment)]
    pub(crate) alignment: Option<u32>,

    /// What carries out the I/O of a file pool [default: auto]
    #[arg(long, value_enum)]
    pub(crate) io_engine: Option<IoEngineArgument>,

    /// When the space of blocks is zeroed: never, or before a block is handed out. For good, once it is `allocate`
    /// [default: as the pool has it, none for a new one]
    #[arg(long, value_enum)]
    pub(crate) scrub: Option<ScrubArgument>,

    /// Make a new, empty pool whatever the file or device holds, which is lost
    #[arg(long, conflicts_with = "read_only")]
    pub(crate) overwrite: bool,

    /// Open the pool that the file or device holds for reading only, even if it is damaged
    #[arg(long)]
    pub(crate) read_only: bool,

    /// The pool's id, for example 8000.0 [default: chosen by the runtime]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_pool_id)]
    pub(crate) id: Option<PoolId>,

    /// Whose pool it is; only operators make pools for others [default: one's own, or an operator's of this name]
    #[arg(long, value_name = "USER", value_parser = user_id)]
    pub(crate) owner: Option<u32>,

    /// The group of a new pool, one of one's own [default: that of this process]
    #[arg(long, value_name = "GROUP", value_parser = group_id)]
    pub(crate) group: Option<u32>,

    /// The mode of a new pool, octal: who may read it and write to it [default: 600]
    #[arg(long, value_parser = mode)]
    pub(crate) mode: Option<u16>,

    /// Believe owner, group and mode that the file or device records, although others may have written them; for
    /// operators
    #[arg(long)]
    pub(crate) trust_owner: bool,

    /// Have the daemon open the path, in place of this program: for operators, beneath an --allow-path of the daemon's
    #[arg(long)]
    pub(crate) by_daemon: bool,

    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,

    #[command(
        flatten,
        next_help_heading = "What is declared of the device, which `pool stats` gives back"
    )]
    pub(crate) metrics: MetricsArguments,
}

/// Characteristics of the device. Those that are left out stay as they are declared.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct MetricsArguments {
    /// Read bandwidth in MB/s [default: as declared before, 100 for a new pool]
    #[arg(long, value_name = "MB/S", allow_negative_numbers = true, value_parser = parse_metric)]
    pub(crate) read_bandwidth_mbps: Option<f64>,

    /// Write bandwidth in MB/s [default: as declared before, 100 for a new pool]
    #[arg(long, value_name = "MB/S", allow_negative_numbers = true, value_parser = parse_metric)]
    pub(crate) write_bandwidth_mbps: Option<f64>,

    /// Average read latency in microseconds [default: as declared before, 1000 for a new pool]
    #[arg(long, value_name = "µS", allow_negative_numbers = true, value_parser = parse_metric)]
    pub(crate) read_latency_us: Option<f64>,

    /// Average write latency in microseconds [default: as declared before, 1000 for a new pool]
    #[arg(long, value_name = "µS", allow_negative_numbers = true, value_parser = parse_metric)]
    pub(crate) write_latency_us: Option<f64>,

    /// I/O operations per second [default: as declared before, 1000 for a new pool]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_metric)]
    pub(crate) iops: Option<f64>,
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

    /// Repair what can be repaired from a copy, and clear the mark of a failure
    #[arg(long)]
    pub(crate) repair: bool,

    /// The pool to repair, where its beginning is gone and there are copies of the superblocks of several pools
    #[arg(long, requires = "repair", value_parser = uuid_of)]
    pub(crate) uuid: Option<[u8; 16]>,
}

/// Reads a UUID: 32 hexadecimal digits, with or without hyphens.
fn uuid_of(text: &str) -> Result<[u8; 16], String> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| *character != '-')
        .map(|character| character.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len() == 32);
    let digits = digits.ok_or("a UUID has 32 hexadecimal digits, with or without hyphens")?;
    Ok(std::array::from_fn(|byte| {
        digits[2 * byte] << 4 | digits[2 * byte + 1]
    }))
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeArguments {
    /// The file or device
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    /// The file or device
    pub(crate) path: PathBuf,

    /// The new name [default: the path]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Make a copy of a pool a pool of its own, with another UUID and id, so that it can be open beside the original
    #[arg(long)]
    pub(crate) copy: bool,

    /// The copy's new id, for example 8000.0 [default: drawn]
    #[arg(long, requires = "copy", allow_negative_numbers = true, value_parser = parse_pool_id)]
    pub(crate) id: Option<PoolId>,
}

#[derive(Debug, Args)]
pub(crate) struct MapArguments {
    /// The pool's name
    pub(crate) name: String,

    /// Write an image instead
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArgument {
    /// Memory, lost when the pool or the daemon ends
    Ram,
    /// A regular file or a block device
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScrubArgument {
    /// Never: a new block holds what was last written where it lies, by whichever user of the pool
    None,
    /// Before a block is handed out: a new block holds zeroes
    Allocate,
}

impl From<ScrubArgument> for ScrubPolicy {
    fn from(argument: ScrubArgument) -> Self {
        match argument {
            ScrubArgument::None => Self::None,
            ScrubArgument::Allocate => Self::Allocate,
        }
    }
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

fn parse_other_module(name: &str) -> Result<String, String> {
    if name == MODULE_NAME {
        return Err("it makes block devices: use `--type ram` or `--type file` instead".to_owned());
    }
    parse_module(name).map_err(|error| error.to_string())
}

fn parse_alignment(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    let alignment = u32::try_from(size).ok();
    let is_possible = |&alignment: &u32| alignment == 0 || CreateParams::is_alignment(alignment);
    alignment.filter(is_possible).ok_or_else(|| {
        format!(
            "it is a power of two from {} to {}, or 0 for the default",
            CreateParams::MIN_ALIGNMENT,
            CreateParams::MAX_ALIGNMENT
        )
    })
}

fn parse_pool_id(text: &str) -> Result<PoolId, String> {
    match text.parse() {
        Ok(PoolId::NULL) => Err("it stands for no id: leave it out to have one chosen".to_owned()),
        Ok(PoolId::ADMIN) => Err("it is the admin pool's: choose another".to_owned()),
        Ok(id) => Ok(id),
        Err(_) => Err("an id is MAJOR.MINOR, for example 8000.0".to_owned()),
    }
}

fn parse_metric(text: &str) -> Result<f64, String> {
    let value = text.parse().ok();
    value
        .filter(|value: &f64| value.is_finite() && *value >= 0.0)
        .ok_or_else(|| "it is a finite number that is not negative".to_owned())
}
