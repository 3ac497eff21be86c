//! Programs of strangers: packages of their own, outside of this workspace, built from what it offers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build::library_folder;

/// The checkout that is under test.
#[must_use]
pub fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("it lies in a checkout").to_path_buf()
}

/// Runs cargo in a folder outside of the workspace, with this workspace's versions of what others publish, so that
/// nothing is fetched. What it builds lies in the workspace's target folder, and is built once for all tests.
///
/// # Panics
/// If cargo does not run, or fails.
pub fn cargo_outside(folder: &Path, arguments: &[&str]) {
    let lock = folder.join("Cargo.lock");
    if !lock.exists() {
        std::fs::copy(checkout().join("Cargo.lock"), &lock).expect("the workspace's versions");
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(folder)
        .args(arguments)
        .arg("--offline")
        .env("CARGO_TARGET_DIR", target_outside());
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "{command:?} failed: {status}");
}

/// A program that [`cargo_outside`] has built with the default profile.
#[must_use]
pub fn program_outside(name: &str) -> PathBuf {
    target_outside().join("debug").join(name)
}

fn target_outside() -> PathBuf {
    let target = library_folder().parent().expect("below a target folder");
    target.join("outside")
}

/// The fenced blocks of a page in this language, without their fences. `rust` finds `rust,no_run` too.
#[must_use]
pub fn fenced(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        if info.split(',').next() == Some(language) {
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}
