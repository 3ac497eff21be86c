//! Fewer processors than busy threads: the daemon on the client's own processor, another program beside
//! either, more clients than processors.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use chimaera_client::Runtime;
use chimaera_echo_client::Client as EchoClient;
use hdrhistogram::Histogram;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::connection::{connect, echo_over};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::machine::pin_to;
use crate::process::{ChildProcess, EchoProcess};
use crate::timing::{each_call, histogram, rate};
use crate::together::together;

/// Clients that are busy at the same time on two processors, besides the worker.
const CLIENTS: usize = 4;

/// A stranger takes turns of some milliseconds: a window has many of them.
const TURNS: u32 = 4;

pub(super) fn cases() -> Vec<Case> {
    let stranger = |name: &str, title: &str, on_worker| Case {
        name: name.into(),
        title: title.into(),
        unit: Unit::Nanoseconds,
        yardstick: "twice an empty task without it",
        target: Target::AtMost(1.5),
        effort: Effort::Quick,
        prepare: Box::new(move |bench: &Rc<Bench>| beside_stranger(bench, on_worker)),
    };
    vec![
        Case {
            name: "shared-core".into(),
            title: "Empty task, daemon and client on one processor".into(),
            unit: Unit::Nanoseconds,
            yardstick: "a byte through two pipes and back, on one processor",
            target: Target::AtMost(1.5),
            effort: Effort::Quick,
            prepare: Box::new(shared_core),
        },
        stranger(
            "stranger-client",
            "Empty task, a busy stranger on the client's processor",
            false,
        ),
        stranger(
            "stranger-worker",
            "Empty task, a busy stranger on the worker's processor",
            true,
        ),
        Case {
            name: "oversubscribed".into(),
            title: "Empty tasks of 4 clients, depth 1, and a worker on two processors".into(),
            unit: Unit::PerSecond,
            yardstick: "one client and the worker on them",
            target: Target::AtLeast(1.0),
            effort: Effort::Quick,
            prepare: Box::new(oversubscribed),
        },
    ]
}

fn shared_core(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, here) = (Rc::clone(bench), bench.processors.client);
    // Fields are dropped in this order: the connection before the daemon.
    let mut shared = (connected(here)?, EchoProcess::start(here)?);
    Ok(Box::new(move || {
        let ((echo, ..), pipe) = &mut shared;
        let value = mean_ns(bench.window(), || Ok(echo.echo(7).map(drop)?))?;
        let latencies = each_call(bench.window(), || Ok(echo.echo(7).map(drop)?))?;
        bench.settle();
        let yardstick = mean_ns(bench.window(), || pipe.round_trip())?;
        Ok(Round::new(value, yardstick).with_latencies(latencies))
    }))
}

/// A daemon with its worker on this processor, and a client of its echo pool.
fn connected(processor: usize) -> Result<(EchoClient, Runtime, Daemon)> {
    let daemon = Daemon::start(processor)?;
    let runtime = connect(&daemon)?;
    Ok((echo_over(&runtime)?, runtime, daemon))
}

fn beside_stranger(bench: &Rc<Bench>, on_worker: bool) -> Result<Measure> {
    let (bench, echo) = (Rc::clone(bench), bench.echo()?);
    let processor = match on_worker {
        true => bench.processors.worker,
        false => bench.processors.client,
    };
    Ok(Box::new(move || {
        let call = || Ok(echo.echo(7).map(drop)?);
        let alone = mean_ns(bench.window(), call)?;
        let mut busy = Command::new("sh");
        busy.args(["-c", "while :; do :; done"]);
        let stranger = ChildProcess::start(&mut busy, Some(processor))?;
        let window = bench.window() * TURNS;
        let value = mean_ns(window, call)?;
        let latencies = each_call(window, call)?;
        drop(stranger);
        Ok(Round::new(value, 2.0 * alone).with_latencies(latencies))
    }))
}

fn oversubscribed(bench: &Rc<Bench>) -> Result<Measure> {
    let bench = Rc::clone(bench);
    let clients = (0..CLIENTS).map(|_| {
        let runtime = bench.connect()?;
        echo_over(&runtime)
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    Ok(Box::new(move || {
        let (value, latencies) = rate_of(&bench, &clients)?;
        let (alone, _) = rate_of(&bench, &clients[..1])?;
        Ok(Round::new(value, alone).with_latencies(latencies))
    }))
}

/// Tasks per second of all clients together, each with a thread that may run on both processors, and
/// their latencies.
fn rate_of(bench: &Bench, clients: &[EchoClient]) -> Result<(f64, Histogram<u64>)> {
    let (window, places) = (bench.window() * TURNS, &bench.processors);
    let processors = [places.client, places.worker];
    let prepare = |index: usize| {
        pin_to(&processors)?;
        let echo = &clients[index];
        echo.echo(7)?;
        Ok(echo)
    };
    let each = together(clients.len(), prepare, |echo| {
        each_call(window, || Ok(echo.echo(7).map(drop)?))
    })?;
    let (mut rate, mut all) = (0.0, histogram());
    for latencies in each {
        rate += latencies.len() as f64 / window.as_secs_f64();
        all.add(latencies)?;
    }
    Ok((rate, all))
}

/// The mean, in which turns of others count, and not the median of batches, which leaves them out.
fn mean_ns(window: Duration, call: impl FnMut() -> Result<()>) -> Result<f64> {
    Ok(1e9 / rate(window, call)?)
}
