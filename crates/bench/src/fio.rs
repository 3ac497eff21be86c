//! The peer `fio`, if it is installed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::error::Result;

/// Its program.
pub(crate) struct Fio;

/// What it is to do: transfers of 4 KiB at random places of a file, past the page cache.
pub(crate) struct Job<'a> {
    pub(crate) engine: &'static str,
    pub(crate) file: &'a Path,
    pub(crate) is_write: bool,
    pub(crate) depth: usize,
    pub(crate) processor: usize,
    pub(crate) window: Duration,
}

/// What it measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    /// The median latency in nanoseconds, from submission to completion.
    pub(crate) p50_ns: f64,
}

impl Fio {
    /// Looks whether it is there.
    pub(crate) fn find() -> Option<Self> {
        let mut command = Command::new("fio");
        command.arg("--version").stdout(Stdio::null());
        let is_there = command.status().is_ok_and(|status| status.success());
        is_there.then_some(Self)
    }

    pub(crate) fn run(&self, job: &Job<'_>) -> Result<Figures> {
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
            .arg(format!("--ioengine={}", job.engine))
            .arg(format!("--filename={}", job.file.display()))
            .arg(format!("--iodepth={}", job.depth))
            .arg(format!("--cpus_allowed={}", job.processor))
            .arg(format!("--runtime={}ms", job.window.as_millis()));
        if job.depth > 1 {
            // A rate is wanted: clocks that it does not look at make it faster.
            command.arg("--gtod_reduce=1");
        }
        let output = command.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("fio with {} failed: {}", job.engine, said.trim()).into());
        }
        parse(&output.stdout, direction)
    }
}

/// Reads what fio writes. Warnings may come before the JSON.
fn parse(output: &[u8], direction: &str) -> Result<Figures> {
    let begin = output.iter().position(|&byte| byte == b'{');
    let json: Value = serde_json::from_slice(&output[begin.unwrap_or(0)..])?;
    let figures = &json["jobs"][0][direction];
    let rate = figures["iops"].as_f64().filter(|&rate| rate > 0.0);
    let p50 = figures["lat_ns"]["percentile"]["50.000000"].as_f64();
    Ok(Figures {
        rate: rate.ok_or("fio did not say how many operations it made")?,
        p50_ns: p50.unwrap_or(f64::NAN),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
