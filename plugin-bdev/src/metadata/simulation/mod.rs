//! The proof of crash safety: a simulated device, and all that may go wrong on it.
#![allow(dead_code)]

mod crashes;
mod damage;
mod disk;
mod history;
mod model;
mod stack;
mod weaknesses;
mod workload;

/// Numbers that look random, the same ones for the same seed.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Self {
        // Neighbouring seeds begin far from each other.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 11) % limit as u64) as usize
    }
}

/// A number that the environment may set.
fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Runs histories until so many crashes were tried, or the one that the environment names.
fn run_all(points: u64, run: impl Fn(u64) -> Result<u64, String>) {
    if let Some(seed) = from_environment("CHIMAERA_CRASH_SEED") {
        run(seed).unwrap_or_else(|text| panic!("{text}"));
        return;
    }
    let points = from_environment("CHIMAERA_CRASH_POINTS").unwrap_or(points);
    let mut tried = 0;
    for seed in 0.. {
        tried += run(seed).unwrap_or_else(|text| panic!("after {tried} crashes: {text}"));
        if tried >= points {
            return;
        }
    }
}
