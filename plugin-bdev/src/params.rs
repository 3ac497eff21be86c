//! Creation parameters: validated once, compared ever after.

#![forbid(unsafe_code)]

use std::fmt;

use chimaera_bdev_format::{Geometry, Identity};
use chimaera_bdev_proto::{BdevType, CreateParams, IoEngine, PerfMetrics, ScrubPolicy, UNIT_BYTES};
use chimaera_chimod::ModuleError;
use chimaera_proto::{Status, codec};

/// Largest alignment of device operations: the smallest block consists of whole ones.
pub(crate) const MAX_ALIGNMENT: u32 = CreateParams::MAX_ALIGNMENT;

const _: () = assert!(MAX_ALIGNMENT as u64 <= UNIT_BYTES);

/// Creation parameters that passed every check that needs no device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parameters {
    pub(crate) bdev_type: BdevType,
    /// Bytes asked for, a multiple of [`UNIT_BYTES`]. 0 stands for all there is, for file pools only.
    pub(crate) total_size: u64,
    pub(crate) usage: RequestedUsage,
    /// What is declared of the device, if anything is.
    pub(crate) metrics: Option<PerfMetrics>,
    /// Whether a new pool is made, whatever the file holds.
    pub(crate) overwrite: bool,
    pub(crate) read_only: bool,
    /// Believes whose pool it is that the file records.
    pub(crate) trust_owner: bool,
    /// Opens the path that is the pool's name, where no file was passed.
    pub(crate) opened_by_daemon: bool,
    /// When space is zeroed, if that was said.
    pub(crate) scrub: Option<ScrubPolicy>,
}

/// How a file pool's device is used. Each opening says so anew. The device records what the pool was made
/// with, for openings that leave it open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DeviceUsage {
    pub(crate) io_depth: u32,
    pub(crate) alignment: u32,
    pub(crate) io_engine: IoEngine,
}

/// How a file pool's device is to be used, as far as a request says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RequestedUsage {
    pub(crate) io_depth: Option<u32>,
    pub(crate) alignment: Option<u32>,
    pub(crate) io_engine: IoEngine,
}

impl DeviceUsage {
    /// How the creator of the pool that is on a device wanted the device used.
    pub(crate) fn recorded(identity: &Identity) -> Self {
        Self {
            io_depth: identity.io_depth,
            alignment: identity.alignment,
            io_engine: identity.io_engine,
        }
    }
}

impl Default for DeviceUsage {
    fn default() -> Self {
        Self {
            io_depth: CreateParams::DEFAULT_IO_DEPTH,
            alignment: CreateParams::DEFAULT_ALIGNMENT,
            io_engine: IoEngine::Auto,
        }
    }
}

impl RequestedUsage {
    /// What is requested, and where nothing is, the `other`.
    pub(crate) fn or(&self, other: DeviceUsage) -> DeviceUsage {
        DeviceUsage {
            io_depth: self.io_depth.unwrap_or(other.io_depth),
            alignment: self.alignment.unwrap_or(other.alignment),
            io_engine: match self.io_engine {
                IoEngine::Auto => other.io_engine,
                named => named,
            },
        }
    }
}

impl Parameters {
    /// Reads and validates what the module's client encoded.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ModuleError> {
        let params: CreateParams = codec::decode(bytes).map_err(|error| {
            invalid(format!(
                "the creation parameters are not those of a bdev pool: {error}; use a client of \
                 this release"
            ))
        })?;
        Self::validate(&params)
    }

    fn validate(params: &CreateParams) -> Result<Self, ModuleError> {
        let total_size = params.total_size - params.total_size % UNIT_BYTES;
        if total_size == 0 {
            match params.bdev_type {
                BdevType::Ram if params.total_size == 0 => {
                    return Err(invalid(
                        "a memory pool needs a size: give it in bytes".to_owned(),
                    ));
                }
                _ if params.total_size != 0 => {
                    let least = match params.bdev_type {
                        BdevType::Ram => UNIT_BYTES,
                        BdevType::File => Geometry::min_pool_bytes(),
                    };
                    return Err(invalid(format!(
                        "size is {} bytes, less than the smallest block: give at least {least}",
                        params.total_size
                    )));
                }
                _ => {}
            }
        }
        if params.bdev_type == BdevType::File {
            check_file(params)?;
        }
        if let Some(metrics) = &params.perf_metrics {
            check_metrics(metrics)?;
        }
        Ok(Self {
            bdev_type: params.bdev_type,
            total_size,
            usage: RequestedUsage {
                io_depth: params.io_depth,
                alignment: params.alignment.filter(|&alignment| alignment != 0),
                io_engine: params.io_engine,
            },
            metrics: params.perf_metrics,
            overwrite: params.overwrite && params.bdev_type == BdevType::File,
            read_only: params.read_only && params.bdev_type == BdevType::File,
            trust_owner: params.trust_owner && params.bdev_type == BdevType::File,
            opened_by_daemon: params.opened_by_daemon && params.bdev_type == BdevType::File,
            scrub: params.scrub,
        })
    }

    /// Checks that a request with the parameters `asked` means the pool that was made with `self` and is open
    /// now, its device used as `usage` says. `self.total_size` and `usage` must be the pool's real ones;
    /// `whole` is the size that a request for "all there is" stands for.
    ///
    /// A request that leaves the device's use open takes the pool's; memory has none, so there it is not
    /// compared. Declared characteristics are not compared: they can be declared anew.
    pub(crate) fn check_same(
        &self,
        usage: &DeviceUsage,
        asked: &Self,
        whole: u64,
    ) -> Result<(), ModuleError> {
        if asked.overwrite {
            return Err(ModuleError::new(
                Status::Busy,
                "the pool is open, and is not overwritten: destroy it first",
            ));
        }
        let mut differences = Differences::default();
        differences.compare("bdev_type", self.bdev_type, asked.bdev_type);
        let is = self.total_size;
        match asked.total_size {
            0 if is != whole => differences.0.push(format!(
                "size is {is}, asked for all of its file or device, which has {whole}"
            )),
            0 => {}
            size => differences.compare("size", is, size),
        }
        let is_to_grow = asked.total_size.max(whole) > is && differences.0.len() == 1;
        let is_file = self.bdev_type == BdevType::File && asked.bdev_type == BdevType::File;
        if is_file {
            differences.compare("read_only", self.read_only, asked.read_only);
        }
        let before = differences.0.len();
        if is_file {
            let wanted = asked.usage.or(*usage);
            differences.compare("io_depth", usage.io_depth, wanted.io_depth);
            differences.compare("alignment", usage.alignment, wanted.alignment);
            differences.compare("io_engine", usage.io_engine, wanted.io_engine);
        }
        if differences.0.is_empty() {
            return Ok(());
        }
        // A device's use, and whether it is only read, hold for as long as a pool is open.
        let advice = match before {
            0 => {
                "; leave them open to use the pool as it is, or destroy it and create it again to open it so"
            }
            _ if self.read_only != asked.read_only && is_file => {
                "; whether a pool is open for reading only holds as long as it is open: ask for it as it is, or \
                 destroy it, which leaves what it holds, and create it again"
            }
            1 if is_to_grow && is_file => {
                "; a pool grows when it is opened: destroy it, which leaves what it holds, and create it again, or ask \
                 for it as it is"
            }
            _ => "; ask for it as it is, or take another name",
        };
        Err(ModuleError::new(
            Status::ParameterMismatch,
            format!(
                "the pool exists with other parameters: {}{advice}",
                differences.0.join("; ")
            ),
        ))
    }
}

/// What differs between two sets of parameters, in words.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn compare<T: PartialEq + fmt::Display>(&mut self, name: &str, is: T, wanted: T) {
        if is != wanted {
            self.0.push(format!("{name} is {is}, asked for {wanted}"));
        }
    }
}

fn check_file(params: &CreateParams) -> Result<(), ModuleError> {
    if let Some(io_depth) = params.io_depth
        && !(1..=CreateParams::MAX_IO_DEPTH).contains(&io_depth)
    {
        return Err(invalid(format!(
            "io_depth is {io_depth}: give 1 to {}",
            CreateParams::MAX_IO_DEPTH
        )));
    }
    if let Some(alignment) = params.alignment
        && alignment != 0
        && !CreateParams::is_alignment(alignment)
    {
        return Err(ModuleError::new(
            Status::Alignment,
            format!(
                "alignment is {alignment}: give a power of two from {} to {MAX_ALIGNMENT}, or 0 for the \
                 default",
                CreateParams::MIN_ALIGNMENT
            ),
        ));
    }
    if params.overwrite && params.read_only {
        return Err(invalid(
            "overwrite makes a new pool, and read_only opens one that is there: give one of them"
                .to_owned(),
        ));
    }
    Ok(())
}

fn check_metrics(metrics: &PerfMetrics) -> Result<(), ModuleError> {
    for (name, value) in named_metrics(metrics) {
        if !value.is_finite() || value < 0.0 {
            return Err(invalid(format!(
                "perf_metrics: {name} is {value}: give a finite number that is not negative"
            )));
        }
    }
    Ok(())
}

fn named_metrics(metrics: &PerfMetrics) -> [(&'static str, f64); 5] {
    [
        ("read_bandwidth_mbps", metrics.read_bandwidth_mbps),
        ("write_bandwidth_mbps", metrics.write_bandwidth_mbps),
        ("read_latency_us", metrics.read_latency_us),
        ("write_latency_us", metrics.write_latency_us),
        ("iops", metrics.iops),
    ]
}

fn invalid(message: String) -> ModuleError {
    ModuleError::new(Status::InvalidArgument, message)
}
