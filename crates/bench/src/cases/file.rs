//! File pools, beside fio on a file made in the same way.

use std::path::Path;
use std::rc::Rc;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::error::Result;
use crate::peers::fio::{Fio, FioFigures, FioJob, FioTarget};
use crate::shared::file_pool::FilePool;

const DEPTH: usize = 32;

/// Where files lie in memory, so that only the software costs.
const TMPFS: &str = "/dev/shm";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for is_write in [false, true] {
        let verb = if is_write { "write" } else { "read" };
        cases.push(Case {
            name: format!("file-{verb}-depth-1"),
            title: format!("File pool, random {verb}s of 4 KiB, depth 1"),
            unit: Unit::Nanoseconds,
            yardstick: "fio libaio + 1 µs",
            target: Target::AtMost(1.0),
            effort: Effort::Slow,
            prepare: Box::new(move |bench| one(bench, is_write)),
        });
        cases.push(Case {
            name: format!("file-{verb}-depth-32"),
            title: format!("File pool, random {verb}s of 4 KiB, depth 32"),
            unit: Unit::PerSecond,
            yardstick: "the better of fio libaio and io_uring",
            target: Target::AtLeast(1.0),
            effort: Effort::Slow,
            prepare: Box::new(move |bench| {
                many(
                    bench,
                    &bench.folder.clone(),
                    &["libaio", "io_uring"],
                    is_write,
                )
            }),
        });
    }
    for is_write in [false, true] {
        let verb = if is_write { "write" } else { "read" };
        cases.push(Case {
            name: format!("tmpfs-{verb}-depth-32"),
            title: format!("File pool on tmpfs, random {verb}s of 4 KiB, depth 32"),
            unit: Unit::PerSecond,
            yardstick: "fio libaio",
            target: Target::AtLeast(1.0),
            effort: Effort::Slow,
            prepare: Box::new(move |bench| many(bench, Path::new(TMPFS), &["libaio"], is_write)),
        });
    }
    cases
}

/// The best figure of peers.
pub(crate) fn best(peers: &[(&'static str, f64)], better: fn(f64, f64) -> f64) -> Option<f64> {
    peers.iter().map(|peer| peer.1).reduce(better)
}

/// What fio does with the file that is like the pool's.
pub(crate) fn run_fio(
    pool: &FilePool,
    bench: &Bench,
    fio: &Fio,
    engine: &'static str,
    depth: usize,
    is_write: bool,
) -> Result<FioFigures> {
    fio.run(&FioJob {
        disk: FioTarget::File(engine, &pool.for_peers),
        is_write,
        depth,
        processor: bench.processors.worker,
        window: bench.device_window(),
    })
}

fn one(bench: &Rc<Bench>, is_write: bool) -> Result<Measure> {
    let (bench, pool) = (Rc::clone(bench), bench.file_pool(&bench.folder)?);
    Ok(Box::new(move || {
        let latencies = pool.latencies(bench.device_window(), is_write)?;
        bench.settle();
        let fio = match &bench.peers.fio {
            Ok(fio) => Some(run_fio(&pool, &bench, fio, "libaio", 1, is_write)?.p50_ns),
            Err(_) => None,
        };
        Ok(Round {
            value: latencies.value_at_quantile(0.5) as f64,
            yardstick: fio.map(|p50_ns| p50_ns + 1000.0),
            latencies: Some(latencies),
            peers: fio
                .map(|p50_ns| ("fio libaio", p50_ns))
                .into_iter()
                .collect(),
        })
    }))
}

fn many(
    bench: &Rc<Bench>,
    folder: &Path,
    engines: &'static [&'static str],
    is_write: bool,
) -> Result<Measure> {
    let (bench, pool) = (Rc::clone(bench), bench.file_pool(folder)?);
    Ok(Box::new(move || {
        let value = pool.rate(DEPTH, bench.device_window(), is_write)?;
        bench.settle();
        let mut peers = Vec::new();
        for engine in engines {
            // A sandbox may forbid io_uring: then there is one peer less.
            if let Ok(fio) = &bench.peers.fio
                && let Ok(figures) = run_fio(&pool, &bench, fio, engine, DEPTH, is_write)
            {
                let name = match *engine {
                    "io_uring" => "fio io_uring",
                    _ => "fio libaio",
                };
                peers.push((name, figures.rate));
            }
        }
        Ok(Round {
            value,
            yardstick: best(&peers, f64::max),
            latencies: None,
            peers,
        })
    }))
}
