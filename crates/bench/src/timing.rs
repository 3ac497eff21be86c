//! Clocks and statistics.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chimaera_client::{Task, TaskSet};
use hdrhistogram::Histogram;

use crate::error::Result;

/// Calls that are timed together, so that the clock costs nothing.
pub(crate) const BATCH: u64 = 100;

/// Calls between two looks at the clock where a rate is measured.
const CALLS_PER_LOOK: u64 = 64;

/// The longest latency that a histogram holds.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// The middle value; `None` if there are no values.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// An empty histogram of nanoseconds, exact to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("these bounds are possible")
}

/// Nanoseconds per call: the median of batches of `batch` calls, made for as long as `window`.
pub(crate) fn per_call(
    batch: u64,
    window: Duration,
    mut call: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let mut batches = Vec::new();
    let first = Instant::now();
    let mut begin = first;
    while begin - first < window || batches.is_empty() {
        for _ in 0..batch {
            call()?;
        }
        let end = Instant::now();
        batches.push((end - begin).as_secs_f64() * 1e9 / batch as f64);
        begin = end;
    }
    Ok(median(&mut batches).unwrap_or(f64::NAN))
}

/// The latencies of single calls, made for as long as `window`. The clock's own time is subtracted.
pub(crate) fn each_call(
    window: Duration,
    mut call: impl FnMut() -> Result<()>,
) -> Result<Histogram<u64>> {
    let clock = clock_ns();
    let mut latencies = histogram();
    let first = Instant::now();
    let mut begin = first;
    while begin - first < window {
        begin = Instant::now();
        call()?;
        let nanos = begin.elapsed().as_nanos() as u64;
        latencies.saturating_record(nanos.saturating_sub(clock).max(1));
    }
    Ok(latencies)
}

/// What lies between two looks at the clock with nothing between them.
fn clock_ns() -> u64 {
    let mut looks: Vec<f64> = (0..1000)
        .map(|_| Instant::now().elapsed().as_nanos() as f64)
        .collect();
    median(&mut looks).unwrap_or(0.0) as u64
}

/// Calls per second over a window.
pub(crate) fn rate(window: Duration, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    let mut calls = 0;
    loop {
        for _ in 0..CALLS_PER_LOOK {
            call()?;
        }
        calls += CALLS_PER_LOOK;
        let elapsed = begin.elapsed();
        if elapsed >= window {
            return Ok(calls as f64 / elapsed.as_secs_f64());
        }
    }
}

/// Tasks per second with `depth` of them in flight over a window. `submit` gets the result of the task that
/// its own one follows, or `None` for the first `depth` tasks.
pub(crate) fn task_rate<T>(
    depth: usize,
    window: Duration,
    mut submit: impl FnMut(Option<T>) -> Result<Task<T>>,
) -> Result<f64> {
    let mut flying = VecDeque::with_capacity(depth);
    for _ in 0..depth {
        flying.push_back(submit(None)?);
    }
    let calls = rate(window, || {
        if let Some(task) = flying.pop_front() {
            flying.push_back(submit(Some(task.wait()?))?);
        }
        Ok(())
    });
    for task in flying {
        task.wait()?;
    }
    calls
}

/// As [`task_rate`], for tasks that do not end in the order in which they were submitted: whichever
/// ends first is followed by the next, as a device's benchmark does it.
pub(crate) fn unordered_rate<T>(
    depth: usize,
    window: Duration,
    mut submit: impl FnMut(Option<T>) -> Result<Task<T>>,
) -> Result<f64> {
    let mut flying = TaskSet::new();
    for _ in 0..depth {
        flying.push(submit(None)?);
    }
    let calls = rate(window, || {
        if let Some(result) = flying.wait_any() {
            flying.push(submit(Some(result?))?);
        }
        Ok(())
    });
    while let Some(result) = flying.wait_any() {
        result?;
    }
    calls
}

/// A sequence that looks random and is the same every time (xorshift).
pub(crate) struct RandomSequence(u64);

impl RandomSequence {
    pub(crate) fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// An order that no prefetcher foresees, the same every time.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (2..=items.len()).rev() {
            items.swap(end - 1, self.below(end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn calls_are_counted_and_timed() -> Result<()> {
        let window = Duration::from_millis(2);
        let mut calls = 0u64;
        let rate = rate(window, || {
            calls += 1;
            Ok(())
        })?;
        assert!(calls >= CALLS_PER_LOOK && rate > 0.0);
        assert!(per_call(10, window, || Ok(()))? >= 0.0);
        assert!(!each_call(window, || Ok(()))?.is_empty());
        Ok(())
    }

    #[test]
    fn a_failed_call_ends_the_measurement() {
        let window = Duration::from_secs(600);
        assert!(rate(window, || Err("it failed".into())).is_err());
        assert!(per_call(1, window, || Err("it failed".into())).is_err());
        assert!(each_call(window, || Err("it failed".into())).is_err());
    }
}
