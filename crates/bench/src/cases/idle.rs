//! What costs when there is nothing to do: waking up, waiting clients, starting.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::connection::echo_over;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::machine::resident_bytes;
use crate::shared::crowd::Crowd;
use crate::timing::{BATCH, histogram, median, per_call};

/// Idle clients that an active one should not notice.
const CROWD: usize = 1000;

/// Idle clients that should cost no processor time.
const QUIET: usize = 100;

pub(super) fn cases() -> Vec<Case> {
    let case = |name: &str, title: &str, unit, yardstick, limit, effort| Case {
        name: name.into(),
        title: title.into(),
        unit,
        yardstick,
        target: Target::AtMost(limit),
        effort,
        prepare: Box::new(match name {
            "wake-up" => wake_up,
            "idle-daemon" => idle_daemon,
            "crowd-latency" => crowd_latency,
            "crowd-memory" => crowd_memory,
            "start-time" => start_time,
            _ => start_memory,
        } as fn(&Rc<Bench>) -> Result<Measure>),
    };
    use Effort::{Counted, Quick, Slow};
    use Unit::{Bytes, Nanoseconds};
    vec![
        case(
            "wake-up",
            "First task after silence, daemon asleep",
            Nanoseconds,
            "eventfd + futex between two processes",
            1.3,
            Slow,
        ),
        case(
            "idle-daemon",
            "Processor time of an idle daemon with 100 clients, in 10 s",
            Nanoseconds,
            "1 ms",
            1.0,
            Counted,
        ),
        case(
            "crowd-latency",
            "Empty task beside 1,000 idle clients",
            Nanoseconds,
            "the same without them",
            1.1,
            Quick,
        ),
        case(
            "crowd-memory",
            "Memory of the daemon for an idle client",
            Bytes,
            "64 KiB",
            1.0,
            Counted,
        ),
        case(
            "start-time",
            "Start of the daemon until it serves",
            Nanoseconds,
            "20 ms",
            1.0,
            Quick,
        ),
        case(
            "start-memory",
            "Memory of the daemon after its start",
            Bytes,
            "12 MiB",
            1.0,
            Counted,
        ),
    ]
}

fn wake_up(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, echo) = (Rc::clone(bench), bench.echo()?);
    let silence = Duration::from_millis(if bench.is_quick { 50 } else { 1000 });
    let count = if bench.is_quick { 15 } else { 11 };
    Ok(Box::new(move || {
        let mut latencies = histogram();
        let mut nanos = Vec::new();
        for _ in 0..count {
            std::thread::sleep(silence);
            let begin = Instant::now();
            echo.echo(7)?;
            let elapsed = begin.elapsed();
            latencies.saturating_record(elapsed.as_nanos() as u64);
            nanos.push(elapsed.as_secs_f64() * 1e9);
        }
        bench.settle();
        let mut bare = bench.partner.wake_ups(count, silence)?;
        let figures = (median(&mut nanos), median(&mut bare));
        let (Some(value), Some(yardstick)) = figures else {
            return Err("nothing was measured".into());
        };
        Ok(Round::new(value, yardstick).with_latencies(latencies))
    }))
}

fn idle_daemon(bench: &Rc<Bench>) -> Result<Measure> {
    let crowd = Crowd::make(bench.processors.worker, QUIET)?;
    let window = Duration::from_secs(if bench.is_quick { 2 } else { 10 });
    Ok(Box::new(move || {
        // By then the last of the clients has finished.
        std::thread::sleep(Duration::from_millis(50));
        let used = crowd.time_used_ns(window)? as f64;
        let in_ten_seconds = used * 10.0 / window.as_secs_f64();
        Ok(Round::new(in_ten_seconds, 1e6))
    }))
}

fn crowd_latency(bench: &Rc<Bench>) -> Result<Measure> {
    let (bench, crowd) = (Rc::clone(bench), bench.crowd(CROWD)?);
    let among = echo_over(&crowd.clients[0])?;
    let alone = bench.echo()?;
    Ok(Box::new(move || {
        let window = bench.window();
        let latency = |echo: &chimaera_echo_client::Client| {
            per_call(BATCH, window, || {
                echo.echo(7)?;
                Ok(())
            })
        };
        let value = latency(&among)?;
        bench.settle();
        Ok(Round::new(value, latency(&alone)?))
    }))
}

fn crowd_memory(bench: &Rc<Bench>) -> Result<Measure> {
    let crowd = bench.crowd(CROWD)?;
    Ok(Box::new(move || {
        let each = crowd.grown_bytes as f64 / CROWD as f64;
        Ok(Round::new(each, f64::from(64 << 10)))
    }))
}

fn start_time(bench: &Rc<Bench>) -> Result<Measure> {
    let processor = bench.processors.worker;
    Ok(Box::new(move || {
        let daemon = Daemon::start(processor)?;
        Ok(Round::new(daemon.start_time().as_secs_f64() * 1e9, 20e6))
    }))
}

fn start_memory(bench: &Rc<Bench>) -> Result<Measure> {
    let processor = bench.processors.worker;
    Ok(Box::new(move || {
        let daemon = Daemon::start(processor)?;
        let used = resident_bytes(daemon.process())?;
        Ok(Round::new(used as f64, f64::from(12 << 20)))
    }))
}
