//! Figures over something that is varied, for the report's charts.

use crate::bench::Bench;
use crate::cases::file::run_fio;
use crate::error::Result;
use crate::result::{Chart, Curve};
use crate::shared::ram_pool::copy_rate;
use crate::timing::task_rate;

const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const SIZES: [u64; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Transfers in flight where the size is varied.
const SIZE_DEPTH: usize = 4;

/// Measurements of a point, of which the best counts: a curve has no rounds that could be dropped.
const LOOKS: usize = 3;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Curve>> {
    let echo = bench.echo()?;
    let mut curves = vec![
        over_depth("bare ring", |depth| {
            bench.settle();
            best(|| bench.partner.ring_rate(depth as u64, bench.window()))
        })?,
        over_depth("empty task", |depth| {
            best(|| task_rate(depth, bench.window(), |_| Ok(echo.async_echo(7))))
        })?,
    ];
    let small = bench.ram_pool(SIZES[0])?;
    curves.push(over_depth("RAM pool, read", |depth| {
        best(|| small.rate(depth, bench.window(), false))
    })?);
    curves.push(over_depth("RAM pool, write", |depth| {
        best(|| small.rate(depth, bench.window(), true))
    })?);
    drop(small);
    curves.extend(over_size(bench)?);
    if let Ok(pool) = bench.file_pool(&bench.folder) {
        curves.push(over_depth("file pool, read", |depth| {
            pool.rate(depth, bench.device_window(), false)
        })?);
        if let Ok(fio) = &bench.peers.fio {
            bench.settle();
            curves.push(over_depth("fio libaio, read", |depth| {
                let figures = run_fio(&pool, bench, fio, "libaio", depth, false)?;
                Ok(figures.rate)
            })?);
        }
    }
    Ok(curves)
}

fn best(mut rate: impl FnMut() -> Result<f64>) -> Result<f64> {
    (0..LOOKS).try_fold(0.0, |best, _| Ok(rate()?.max(best)))
}

fn over_depth(name: &'static str, mut rate: impl FnMut(usize) -> Result<f64>) -> Result<Curve> {
    let points: Result<Vec<_>> = DEPTHS
        .iter()
        .map(|&depth| Ok((depth as f64, rate(depth)?)))
        .collect();
    Ok(Curve {
        chart: Chart::RateOverDepth,
        name,
        points: points?,
    })
}

fn over_size(bench: &Bench) -> Result<Vec<Curve>> {
    let mut curves = [
        "memcpy, read",
        "memcpy, write",
        "RAM pool, read",
        "RAM pool, write",
    ]
    .map(|name| Curve {
        chart: Chart::BandwidthOverSize,
        name,
        points: Vec::new(),
    });
    for size in SIZES {
        let pool = bench.ram_pool(size)?;
        let memory = bench.memory()?;
        let memory = &mut memory.borrow_mut();
        let rates = [
            best(|| copy_rate(&pool, memory, SIZE_DEPTH, bench.window(), false))?,
            best(|| copy_rate(&pool, memory, SIZE_DEPTH, bench.window(), true))?,
            best(|| pool.rate(SIZE_DEPTH, bench.window(), false))?,
            best(|| pool.rate(SIZE_DEPTH, bench.window(), true))?,
        ];
        for (curve, rate) in curves.iter_mut().zip(rates) {
            curve.points.push((size as f64, rate * size as f64));
        }
    }
    Ok(curves.into())
}
