//! The floor: what the machine takes for the bare minimum of the same thing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::pin_to;

/// Round trips that are timed together, so that the clock costs nothing.
pub(crate) const BATCH: u32 = 100;

/// Batches of a measurement.
pub(crate) const BATCHES: usize = 2000;

#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds that a cache line takes to another processor and back: the median of many
/// batches.
pub(crate) fn ping_pong(other: usize) -> nix::Result<f64> {
    let line = Line(AtomicU64::new(0));
    let trips = BATCHES as u64 * u64::from(BATCH);
    thread::scope(|scope| {
        let pong = scope.spawn(|| -> nix::Result<()> {
            let pinned = pin_to(other);
            for trip in 0..trips {
                while line.0.load(Ordering::Acquire) != 2 * trip + 1 {}
                line.0.store(2 * trip + 2, Ordering::Release);
            }
            pinned
        });
        let mut next = 0;
        let nanos = median_of_batches(|| {
            line.0.store(next + 1, Ordering::Release);
            while line.0.load(Ordering::Acquire) != next + 2 {}
            next += 2;
        });
        pong.join().expect("does not panic")?;
        Ok(nanos)
    })
}

/// Nanoseconds per call: the median of [`BATCHES`] batches of [`BATCH`] calls.
pub(crate) fn median_of_batches(mut call: impl FnMut()) -> f64 {
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                call();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    batches[BATCHES / 2]
}
