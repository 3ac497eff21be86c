//! How long an empty task takes, next to what the machine needs at the least. Prints only: run it
//! with `cargo test --release -p chimaera-client --test round_trip -- --ignored --nocapture`.

mod support;

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chimaera_client::{ConnectOptions, Runtime};
use chimaera_testing::{FakeHost, Watchdog};
use crossbeam::utils::CachePadded;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use support::{ECHO, call, module, submit};

const ROUNDS: u64 = 2_000;
const SERIES: usize = 401;

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a processor");
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// Nanoseconds per round, in many short series, so that some run undisturbed on a busy machine.
fn measure(what: &str, mut round: impl FnMut(u64)) {
    let mut series: Vec<f64> = (0..SERIES)
        .map(|_| {
            let begin = Instant::now();
            (0..ROUNDS).for_each(&mut round);
            begin.elapsed().as_nanos() as f64 / ROUNDS as f64
        })
        .collect();
    series.sort_by(f64::total_cmp);
    let (best, median) = (series[0], series[SERIES / 2]);
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{what:40} best {best:7.1} ns   median {median:7.1} ns");
}

#[test]
#[ignore = "measures"]
fn round_trip_of_an_empty_task() {
    let _watchdog = Watchdog::start();
    pin(1);
    ping_pong_of_a_cache_line();
    // Threads begin where the one that starts them is pinned.
    let options = ConnectOptions::new().spin(Duration::from_millis(1));
    let (_host, runtime) = FakeHost::connect_with(options, module);
    pin(0);
    let empty = call(ECHO, 0);
    measure("call, one at a time", |_| {
        black_box(runtime.call(&empty).expect("echo"));
    });
    measure("task, submitted and waited for", |round| {
        black_box(submit(&runtime, ECHO, round).wait().expect("echo"));
    });
    let mut tasks = std::collections::VecDeque::new();
    measure("task, 32 in flight", |round| {
        tasks.push_back(submit(&runtime, ECHO, round));
        if tasks.len() == 32 {
            black_box(tasks.pop_front().map(|task| task.wait().expect("echo")));
        }
    });
    tasks.clear();
    measure("task, 1000 handles held", |round| {
        tasks.push_back(submit(&runtime, ECHO, round));
        if tasks.len() == 1000 {
            tasks.drain(..).for_each(|task| {
                black_box(task.wait().expect("echo"));
            });
        }
    });
    measure("buffer of 4 KiB, made and dropped", |_| {
        black_box(runtime.allocate_buffer(4096).expect("buffer"));
    });
    without_waiting(&runtime);
}

/// What submitting costs by itself, with the completions collected in one go.
fn without_waiting(runtime: &Runtime) {
    let mut tasks = Vec::with_capacity(64);
    let mut submitting = Duration::ZERO;
    for _ in 0..2000 {
        let begin = Instant::now();
        for round in 0..60 {
            tasks.push(submit(runtime, ECHO, round));
        }
        submitting += begin.elapsed();
        tasks.drain(..).for_each(|task| {
            let _ = task.wait();
        });
    }
    let each = submitting.as_nanos() as f64 / 120_000.0;
    let _ = writeln!(
        std::io::stdout(),
        "{:40} mean {each:7.1} ns",
        "submitting alone"
    );
}

/// Two threads hand a word back and forth: nothing between two processors is faster.
fn ping_pong_of_a_cache_line() {
    let words = Arc::new([0, 1].map(|_| CachePadded::new(AtomicU64::new(0))));
    let theirs = Arc::clone(&words);
    let last = ROUNDS * SERIES as u64;
    let other = thread::spawn(move || {
        for round in 1..=last {
            while theirs[0].load(Ordering::Acquire) != round {}
            theirs[1].store(round, Ordering::Release);
        }
    });
    pin(0);
    let mut round = 0;
    measure("cache line there, another back", |_| {
        round += 1;
        words[0].store(round, Ordering::Release);
        while words[1].load(Ordering::Acquire) != round {}
    });
    other.join().expect("ping");
    pin(1);
}
