//! Hostile inputs by the thousand: bytes from which a target makes whatever it tries.
//!
//! An input is only bytes, so that one that once failed stays what it was when the target's code changes little. What
//! is tried first is what a folder keeps. Then come bytes that are drawn, and changes of inputs that had something new
//! happen: a target says what happened (its *outcomes*, numbers of its own choice), and an input with an outcome that
//! no other had is changed further. The same seed tries the same inputs, as far as the target's outcomes are the same.
//!
//! | variable | what it does |
//! |---|---|
//! | `CHIMAERA_FUZZ_CASES=n` | tries `n` inputs besides those that are kept |
//! | `CHIMAERA_FUZZ_SEED=n` | draws others |
//! | `CHIMAERA_FUZZ_KEEP=1` | writes inputs with new outcomes into the folder of those that are kept |

use std::any::Any;
use std::collections::HashSet;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use crate::random::Xorshift;
use mutation::mutated;

pub use input::FuzzInput;

mod input;
mod mutation;

/// The longest input that is drawn, in bytes.
const MAX_DRAWN_BYTES: usize = 512;

/// The longest input, in bytes: changes make inputs longer.
const MAX_INPUT_BYTES: usize = 2048;

/// The most bytes of inputs that are kept in a folder.
const MAX_KEPT_BYTES: usize = 24 * 1024;

/// Which inputs a target gets.
#[derive(Clone, Debug)]
pub struct Fuzz {
    name: String,
    corpus: PathBuf,
    cases: usize,
    seed: u64,
    keeps: bool,
}

/// What was tried.
#[derive(Clone, Copy, Debug)]
pub struct FuzzCount {
    /// Inputs of the folder.
    pub kept: usize,
    /// Inputs that were drawn or changed.
    pub drawn: usize,
    /// Outcomes that differ.
    pub outcomes: usize,
}

impl Fuzz {
    /// The inputs in this folder, and `cases` more, unless the environment says how many.
    #[must_use]
    pub fn new(name: &str, corpus: impl Into<PathBuf>, cases: usize) -> Self {
        let number = |variable: &str| {
            let value = env::var(variable).ok()?;
            Some(
                value
                    .parse()
                    .unwrap_or_else(|_| panic!("{variable}: no number")),
            )
        };
        Self {
            name: name.to_owned(),
            corpus: corpus.into(),
            cases: number("CHIMAERA_FUZZ_CASES").map_or(cases, |cases| cases as usize),
            seed: number("CHIMAERA_FUZZ_SEED").unwrap_or(1),
            keeps: number("CHIMAERA_FUZZ_KEEP").is_some(),
        }
    }

    /// Gives the target one input after another, and says how many there were.
    ///
    /// # Panics
    /// If the target does: then the input is in a file that the message names. Or if the folder has no input.
    pub fn run(&self, mut target: impl FnMut(&[u8]) -> Vec<u32>) -> FuzzCount {
        let mut pool = self.kept();
        let kept = pool.len();
        let mut seen = HashSet::new();
        for input in &pool {
            seen.extend(self.try_one(input, &mut target));
        }
        let mut kept_bytes: usize = pool.iter().map(Vec::len).sum();
        for case in 0..self.cases {
            let mut numbers = Xorshift::new(self.seed << 32 | case as u64);
            let input = match pool.is_empty() || numbers.below(4) == 0 {
                true => drawn(&mut numbers),
                false => mutated(&pool, MAX_INPUT_BYTES, &mut numbers),
            };
            let outcomes = self.try_one(&input, &mut target);
            let count = seen.len();
            seen.extend(outcomes);
            if seen.len() == count {
                continue;
            }
            if self.keeps && kept_bytes + input.len() <= MAX_KEPT_BYTES {
                kept_bytes += input.len();
                save(&self.corpus, &input);
            }
            pool.push(input);
        }
        let count = FuzzCount {
            kept,
            drawn: self.cases,
            outcomes: seen.len(),
        };
        let is_asked = env::var_os("CHIMAERA_FUZZ_CASES").is_some();
        assert!(kept > 0 || is_asked, "{}: no input", self.corpus.display());
        count
    }

    /// The inputs of the folder, in an order that does not change.
    fn kept(&self) -> Vec<Vec<u8>> {
        let Ok(entries) = fs::read_dir(&self.corpus) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        let read = |path: &PathBuf| fs::read(path).expect("an input");
        paths.iter().map(read).collect()
    }

    fn try_one(&self, input: &[u8], target: &mut impl FnMut(&[u8]) -> Vec<u32>) -> Vec<u32> {
        match catch_unwind(AssertUnwindSafe(|| target(input))) {
            Ok(outcomes) => outcomes,
            Err(panic) => self.complain(input, panic),
        }
    }

    fn complain(&self, input: &[u8], panic: Box<dyn Any + Send>) -> ! {
        let test = env::current_exe().expect("a test knows its own path");
        let folder = test.parent().expect("it lies in a folder");
        let file = save(&folder.join("failed_inputs").join(&self.name), input);
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        match what {
            Some(what) => panic!(
                "{}: this input fails: {} (keep it in {}): {what}",
                self.name,
                file.display(),
                self.corpus.display()
            ),
            None => resume_unwind(panic),
        }
    }
}

fn drawn(numbers: &mut Xorshift) -> Vec<u8> {
    // Short ones often: what is changed in them hits something.
    let max = 2 << numbers.below(MAX_DRAWN_BYTES.ilog2() as usize);
    let len = 1 + numbers.below(max);
    (0..len).map(|_| numbers.below(256) as u8).collect()
}

/// Writes an input to a file that is named for what it holds.
fn save(folder: &Path, input: &[u8]) -> PathBuf {
    // FNV-1a.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let file = folder.join(format!("{hash:016x}.bin"));
    fs::create_dir_all(folder).expect("the folder is made");
    fs::write(&file, input).expect("the input is written");
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with a fault three steps deep, which draws alone do not find.
    fn outcomes(input: &[u8]) -> Vec<u32> {
        let found = [b'C', b'H', b'I'];
        let deep = found.iter().zip(input).take_while(|(a, b)| a == b).count();
        assert!(deep < 3, "the fault");
        vec![deep as u32]
    }

    #[test]
    fn a_fault_behind_several_steps_is_found_and_its_input_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("first"), b"nothing").expect("is written");
        let fuzz = Fuzz::new("planted", folder.path(), 200_000);
        let failed = catch_unwind(|| fuzz.run(outcomes)).expect_err("finds it");
        let said = failed.downcast_ref::<String>().expect("a text");
        assert!(said.ends_with("the fault"), "{said}");
        let (_, after) = said.split_once("fails: ").expect("names a file");
        let (file, _) = after.split_once(" (").expect("names a file");
        let kept = fs::read(file).expect("the input");
        assert!(kept.starts_with(b"CHI"));
        fs::remove_file(file).expect("is removed");
    }

    #[test]
    fn the_same_seed_tries_the_same_inputs() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("first"), b"nothing").expect("is written");
        let tried = || {
            let mut inputs = Vec::new();
            let fuzz = Fuzz::new("same", folder.path(), 100);
            fuzz.run(|input| {
                inputs.push(input.to_vec());
                vec![u32::from(input.first().copied().unwrap_or(0))]
            });
            inputs
        };
        assert_eq!(tried(), tried());
    }
}
