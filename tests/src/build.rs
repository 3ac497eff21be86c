//! The programs and libraries under test, built as the tests are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Packages whose programs or libraries tests run. Tests of one package do not make cargo build
/// another's.
const PACKAGES: [&str; 7] = [
    "chimaera-tests",
    "chimaera-cli",
    "chimaera-bdev-runtime",
    "chimaera-bdev-client",
    "chimaera-echo-runtime",
    "chimaera-escaping-runtime",
    "chimaera-faulty-runtime",
];

/// The folder with the built programs and libraries. Builds them first; does nothing if they
/// are up to date.
///
/// # Panics
/// If they cannot be built.
pub fn library_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // …/target/debug/deps/test-0123 → …/target/debug
        let test = std::env::current_exe().expect("a test knows its own path");
        let folder = test
            .ancestors()
            .nth(2)
            .expect("tests lie below a profile's folder");
        build(folder);
        folder.to_path_buf()
    })
}

/// A built program, by name; an example by `examples/NAME`.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    library_folder().join(name)
}

fn build(folder: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--bins", "--lib"]);
    command.arg("--examples");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    if folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "{command:?} failed: {status}");
}
