//! Empty tasks: what the way through lane, worker and plugin costs by itself.

use std::rc::Rc;

use chimaera_echo_client::Client as EchoClient;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::error::Result;
use crate::machine::pin_to;
use crate::timing::{BATCH, each_call, per_call, task_rate};
use crate::together::together;

/// Tasks in flight where a rate is measured.
pub(crate) const DEPTH: usize = 32;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case {
            name: "empty-task-depth-1".into(),
            title: "Empty task, depth 1".into(),
            unit: Unit::Nanoseconds,
            yardstick: "ping-pong of a cache line",
            target: Target::AtMost(1.6),
            effort: Effort::Quick,
            prepare: Box::new(round_trip),
        },
        Case {
            name: "empty-task-depth-32".into(),
            title: "Empty tasks, depth 32, one lane".into(),
            unit: Unit::PerSecond,
            yardstick: "bare ring of descriptors",
            target: Target::AtLeast(0.6),
            effort: Effort::Quick,
            prepare: Box::new(one_lane),
        },
    ];
    cases.extend([2, 4, 8].map(|threads| Case {
        name: format!("client-threads-{threads}"),
        title: format!("Empty tasks of {threads} threads, depth 32 each"),
        unit: Unit::PerSecond,
        yardstick: "one thread",
        target: Target::AtLeast(1.0),
        effort: Effort::Quick,
        prepare: Box::new(move |bench| many_threads(bench, threads)),
    }));
    cases
}

fn round_trip(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, echo) = (Rc::clone(bench), bench.echo()?);
    Ok(Box::new(move || {
        let call = || {
            echo.echo(7)?;
            Ok(())
        };
        let nanos = per_call(BATCH, bench.window(), call)?;
        let latencies = each_call(bench.window(), call)?;
        bench.settle();
        Ok(Round::new(nanos, bench.partner.ping_pong()?).with_latencies(latencies))
    }))
}

fn one_lane(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, echo) = (Rc::clone(bench), bench.echo()?);
    Ok(Box::new(move || {
        let rate = empty_rate(&bench, &echo, DEPTH)?;
        bench.settle();
        let bare = bench.partner.ring_rate(DEPTH as u64, bench.window())?;
        Ok(Round::new(rate, bare))
    }))
}

/// Empty tasks per second, `depth` in flight.
pub(crate) fn empty_rate(bench: &Bench, echo: &EchoClient, depth: usize) -> Result<f64> {
    task_rate(depth, bench.window(), |_| Ok(echo.async_echo(7)))
}

fn many_threads(bench: &Rc<Bench>, threads: usize) -> Result<Measure> {
    let (bench, echo) = (Rc::clone(bench), bench.echo()?);
    Ok(Box::new(move || {
        let rate = rate_of_threads(&bench, &echo, threads)?;
        Ok(Round::new(rate, rate_of_threads(&bench, &echo, 1)?))
    }))
}

/// The rate of all threads together, on the processors that are not the worker's.
fn rate_of_threads(bench: &Bench, echo: &EchoClient, threads: usize) -> Result<f64> {
    let (window, processors) = (bench.window(), &bench.processors.clients[..]);
    let prepare = |_| {
        pin_to(processors)?;
        // Every thread has its lane before the clock runs.
        Ok(echo.echo(7).map(drop)?)
    };
    let rates = together(threads, prepare, |()| {
        task_rate(DEPTH, window, |_| Ok(echo.async_echo(7)))
    });
    Ok(rates?.into_iter().sum())
}
