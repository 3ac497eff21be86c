//! The peer `fio`, if it is installed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::error::Result;

/// Its program.
#[derive(Clone, Debug)]
pub(crate) struct Fio {
    /// Whether it can be an NBD client.
    pub(crate) has_nbd: bool,
}

/// What fio reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FioTarget<'a> {
    /// A file, by one of its engines.
    File(&'static str, &'a Path),
    /// What an NBD server has, by its URI.
    Nbd(&'a str),
}

/// A run of fio: transfers of 4 KiB at random places, past the page cache.
pub(crate) struct FioJob<'a> {
    pub(crate) disk: FioTarget<'a>,
    pub(crate) is_write: bool,
    pub(crate) depth: usize,
    pub(crate) processor: usize,
    pub(crate) window: Duration,
}

/// What fio measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FioFigures {
    pub(crate) rate: f64,
    /// The median latency in nanoseconds, from submission to completion.
    pub(crate) p50_ns: f64,
}

impl Fio {
    /// Looks for fio.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(crate) fn find() -> std::result::Result<Self, String> {
        let mut command = Command::new("fio");
        let output = command.arg("--enghelp").stdin(Stdio::null()).output();
        let output = output.map_err(|error| super::absent::cannot_run("fio", &error))?;
        Ok(Self {
            has_nbd: has_engine(&output.stdout, "nbd"),
        })
    }

    /// Blocks for the job's window and a moment more.
    ///
    /// # Errors
    /// fio failed: what it said.
    pub(crate) fn run(&self, job: &FioJob<'_>) -> Result<FioFigures> {
        let direction = if job.is_write { "write" } else { "read" };
        let mut command = Command::new("fio");
        command
            .args([
                "--name=peer",
                "--output-format=json",
                "--thread",
                "--direct=1",
            ])
            .args([
                "--bs=4k",
                "--time_based",
                "--norandommap",
                "--lat_percentiles=1",
            ])
            .arg(format!("--rw=rand{direction}"))
            .arg(format!("--iodepth={}", job.depth))
            .arg(format!("--cpus_allowed={}", job.processor))
            .arg(format!("--runtime={}ms", job.window.as_millis()));
        let (engine, disk) = match job.disk {
            FioTarget::File(engine, file) => (engine, format!("--filename={}", file.display())),
            FioTarget::Nbd(uri) => ("nbd", format!("--uri={uri}")),
        };
        // An engine's own options are understood only after it is named.
        command.arg(format!("--ioengine={engine}")).arg(disk);
        if job.depth > 1 {
            // Only the rate is wanted: fio is faster when it does not read the clock.
            command.arg("--gtod_reduce=1");
        }
        let output = command.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("fio with {engine} failed: {}", said.trim()).into());
        }
        parse(&output.stdout, direction)
    }
}

/// Whether an engine is in the list that fio writes, one on a line.
fn has_engine(list: &[u8], engine: &str) -> bool {
    let list = String::from_utf8_lossy(list);
    list.lines().any(|line| line.trim() == engine)
}

/// Reads what fio writes. Warnings may come before the JSON.
fn parse(output: &[u8], direction: &str) -> Result<FioFigures> {
    let begin = output.iter().position(|&byte| byte == b'{');
    let json: Value = serde_json::from_slice(&output[begin.unwrap_or(0)..])?;
    let figures = &json["jobs"][0][direction];
    let rate = figures["iops"].as_f64().filter(|&rate| rate > 0.0);
    let p50 = figures["lat_ns"]["percentile"]["50.000000"].as_f64();
    Ok(FioFigures {
        rate: rate.ok_or("fio did not say how many operations it made")?,
        p50_ns: p50.unwrap_or(f64::NAN),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_engines_are_known() {
        let list = b"Available IO engines:\n\tlibaio\n\tnbd\n";
        assert!(has_engine(list, "nbd") && !has_engine(list, "aio"));
        assert!(!has_engine(b"", "nbd"));
    }

    #[test]
    fn its_output_is_understood() -> Result<()> {
        let text = br#"note: something
            {"jobs": [{"read": {"iops": 15000.5, "lat_ns": {"percentile": {"50.000000": 60123}}},
                       "write": {"iops": 0}}]}"#;
        let figures = parse(text, "read")?;
        assert_eq!(figures.rate, 15000.5);
        assert_eq!(figures.p50_ns, 60123.0);
        assert!(parse(text, "write").is_err());
        assert!(parse(b"nothing", "read").is_err());
        Ok(())
    }
}
