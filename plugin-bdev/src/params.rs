//! Creation parameters: validated once, compared ever after.

#![forbid(unsafe_code)]

use chimaera_chimod::ModuleError;
use chimaera_proto::bdev::{BdevType, CreateParams, IoEngine, PerfMetrics, UNIT_BYTES};
use chimaera_proto::{Status, codec};

/// Smallest alignment of device operations.
const MIN_ALIGNMENT: u32 = 512;
/// Largest alignment of device operations: the smallest block consists of whole ones.
const MAX_ALIGNMENT: u32 = 4096;

const _: () = assert!(MAX_ALIGNMENT as u64 <= UNIT_BYTES);

/// Creation parameters that passed every check that needs no device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parameters {
    pub(crate) bdev_type: BdevType,
    /// Bytes asked for, a multiple of [`UNIT_BYTES`]. 0, of a file pool only: all there is.
    pub(crate) total_size: u64,
    pub(crate) io_depth: u32,
    pub(crate) alignment: u32,
    pub(crate) io_engine: IoEngine,
    pub(crate) metrics: PerfMetrics,
    /// Whether the metrics were given, and are not the defaults.
    pub(crate) has_metrics: bool,
    /// Whatever the file holds, to make a new pool.
    pub(crate) overwrite: bool,
    pub(crate) read_only: bool,
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
                        "a memory pool needs a total_size: give its size in bytes".to_owned(),
                    ));
                }
                _ if params.total_size != 0 => {
                    return Err(invalid(format!(
                        "total_size is {} bytes, less than the smallest block: give at least \
                         {UNIT_BYTES}",
                        params.total_size
                    )));
                }
                _ => {}
            }
        }
        if params.bdev_type == BdevType::File {
            check_file(params)?;
        }
        let metrics = params.perf_metrics.unwrap_or_default();
        check_metrics(&metrics)?;
        Ok(Self {
            bdev_type: params.bdev_type,
            total_size,
            io_depth: params.io_depth,
            alignment: params.alignment,
            io_engine: params.io_engine,
            metrics,
            has_metrics: params.perf_metrics.is_some(),
            overwrite: params.overwrite && params.bdev_type == BdevType::File,
            read_only: params.read_only && params.bdev_type == BdevType::File,
        })
    }

    /// Whether a request with the parameters `asked` means the pool that was made with `self`.
    /// `self.total_size` and `self.io_engine` must be the pool's real ones; `whole` is the size
    /// that a request for "all there is" stands for. Who leaves the engine open takes any, and who gives no
    /// characteristics takes those of the pool.
    ///
    /// Memory has neither depth nor alignment nor engine, so those of a memory pool are not
    /// compared.
    pub(crate) fn check_same(&self, asked: &Self, whole: u64) -> Result<(), ModuleError> {
        if asked.overwrite {
            return Err(ModuleError::new(
                Status::Busy,
                "the pool is open, and is not overwritten: destroy it first",
            ));
        }
        let differences = self.differences(asked, whole);
        if differences.is_empty() {
            return Ok(());
        }
        Err(ModuleError::new(
            Status::ParameterMismatch,
            format!(
                "the pool exists with other parameters: {}",
                differences.join("; ")
            ),
        ))
    }

    /// What differs between the pool's parameters and those asked for, in words. As
    /// [`Self::check_same`].
    pub(crate) fn differences(&self, asked: &Self, whole: u64) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |name: &str, is: String, wanted: String| {
            if is != wanted {
                differences.push(format!("{name} is {is}, asked for {wanted}"));
            }
        };
        compare(
            "bdev_type",
            self.bdev_type.to_string(),
            asked.bdev_type.to_string(),
        );
        let wanted_size = match asked.total_size {
            0 => whole,
            size => size,
        };
        compare(
            "total_size",
            self.total_size.to_string(),
            wanted_size.to_string(),
        );
        if self.bdev_type == BdevType::File && asked.bdev_type == BdevType::File {
            compare(
                "io_depth",
                self.io_depth.to_string(),
                asked.io_depth.to_string(),
            );
            compare(
                "alignment",
                self.alignment.to_string(),
                asked.alignment.to_string(),
            );
            compare(
                "read_only",
                self.read_only.to_string(),
                asked.read_only.to_string(),
            );
            if asked.io_engine != IoEngine::Auto {
                compare(
                    "io_engine",
                    self.io_engine.to_string(),
                    asked.io_engine.to_string(),
                );
            }
        }
        // Who gives none takes those that the pool has.
        let asked_metrics = if asked.has_metrics {
            named_metrics(&asked.metrics)
        } else {
            named_metrics(&self.metrics)
        };
        for ((name, is), (_, wanted)) in named_metrics(&self.metrics).into_iter().zip(asked_metrics)
        {
            compare(name, is.to_string(), wanted.to_string());
        }
        differences
    }
}

fn check_file(params: &CreateParams) -> Result<(), ModuleError> {
    if !(1..=CreateParams::MAX_IO_DEPTH).contains(&params.io_depth) {
        return Err(invalid(format!(
            "io_depth is {}: give 1 to {}",
            params.io_depth,
            CreateParams::MAX_IO_DEPTH
        )));
    }
    let alignment = params.alignment;
    if !alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(ModuleError::new(
            Status::Alignment,
            format!(
                "alignment is {alignment}: give a power of two from {MIN_ALIGNMENT} to \
                 {MAX_ALIGNMENT}"
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
