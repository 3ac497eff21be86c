//! `chimaera chimod new`: what it writes is a module that builds, passes its tests and is as its author would leave it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_tests::exit::{IN_THE_WAY, NOT_FOUND, WRONG_USAGE};
use chimaera_tests::{
    ProgramOutput, cargo_outside, checkout, finish, json, program, skipped, text,
};
use serde_json::Value;
use tempfile::TempDir;

/// Runs `chimod new` in a folder.
fn new(folder: &Path, arguments: &[&str]) -> ProgramOutput {
    let mut command = Command::new(program("chimaera"));
    command
        .current_dir(folder)
        .args(["chimod", "new"])
        .args(arguments);
    finish(command)
}

fn cargo(folder: &Path, arguments: &[&str]) -> ProgramOutput {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder).args(arguments);
    finish(command)
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().canonicalize().expect("it is there");
    (folder, path)
}

#[test]
fn a_new_module_builds_passes_its_tests_and_says_where_it_is() {
    let (_folder, path) = folder();
    let said = new(&path, &["my_module2"]).success();
    let module = path.join("my_module2");
    let where_to = format!("wrote the module my_module2 into {}, ", module.display());
    assert!(said.starts_with(&where_to), "{said}");
    assert!(!said.contains("inside of the workspace"), "{said}");
    let of_checkout = fs::read(checkout().join("Cargo.lock")).expect("the checkout's versions");
    assert_eq!(
        fs::read(module.join("Cargo.lock")).expect("versions"),
        of_checkout
    );
    cargo_outside(&module, &["test", "--quiet"]);
}

#[test]
fn a_new_module_is_formatted_whatever_its_name() {
    let (_folder, path) = folder();
    let has_rustfmt = Command::new("rustfmt").arg("--version").output().is_ok();
    let long = "m".repeat(64);
    for name in ["a", "chimaera_zzz", &long] {
        let report = json(&new(&path, &[name, "--json"]).success());
        assert_eq!(report["formatted"], has_rustfmt, "{report}");
        if has_rustfmt {
            let _ = cargo(&path.join(name), &["fmt", "--all", "--check"]).success();
        }
    }
    if !has_rustfmt {
        skipped("the format of new modules", "there is no rustfmt");
    }
}

/// What cargo knows of the packages in a folder.
fn metadata_of(folder: &Path) -> Value {
    let arguments = [
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ];
    json(&cargo(folder, &arguments).success())
}

#[test]
fn a_module_inside_of_another_workspace_is_its_own_and_says_so() {
    let (_folder, path) = folder();
    fs::write(path.join("Cargo.toml"), "[workspace]\nmembers = [\"a\"]\n").expect("a workspace");
    let said = new(&path, &["greeter"]).success();
    let inside = format!("it lies inside of the workspace {}, ", path.display());
    assert!(said.contains(&inside), "{said}");
    let report = json(&new(&path, &["other", "--json"]).success());
    assert_eq!(report["inside"], text(&path));
    let metadata = metadata_of(&path.join("greeter/plugin"));
    assert_eq!(metadata["workspace_root"], text(&path.join("greeter")));
}

#[test]
fn an_sdk_with_odd_characters_in_its_path_is_found_by_cargo() {
    let (_folder, path) = folder();
    let sdk = path.join("my \"odd\"\\ \tcheckout's #1 {größe}");
    for (package, place) in [
        ("chimaera-chimod", "crates/chimod"),
        ("chimaera-client", "crates/client"),
        ("chimaera-fork", "crates/fork"),
        ("chimaera-proto", "proto"),
    ] {
        let place = sdk.join(place);
        fs::create_dir_all(place.join("src")).expect("a folder");
        let manifest = format!("[package]\nname = \"{package}\"\nedition = \"2024\"\n");
        fs::write(place.join("Cargo.toml"), manifest).expect("a manifest");
        fs::write(place.join("src/lib.rs"), "").expect("a library");
    }
    let _ = new(&path, &["greeter", "--sdk", text(&sdk)]).success();
    let metadata = metadata_of(&path.join("greeter"));
    let packages = metadata["packages"].as_array().expect("packages");
    let paths: Vec<_> = packages
        .iter()
        .flat_map(|package| package["dependencies"].as_array().expect("a list"))
        .filter(|dependency| dependency["name"] == "chimaera-chimod")
        .map(|dependency| dependency["path"].as_str().expect("a path"))
        .collect();
    assert_eq!(paths, [text(&sdk.join("crates/chimod"))]);
}

#[test]
fn what_cannot_be_written_is_said_with_what_to_do() {
    let (_folder, path) = folder();
    let _ = new(&path, &["good"]).success();
    let said = new(&path, &["good"]).failure(IN_THE_WAY);
    let good = path.join("good");
    let there = format!(
        "{} is there already, so nothing was written",
        good.display()
    );
    assert!(said.contains(&there), "{said}");
    let said = new(&path, &["Bad"]).failure(WRONG_USAGE);
    assert!(said.contains("\"Bad\" is not a module name"), "{said}");
    let said = new(&path, &["chimaera_bdev"]).failure(WRONG_USAGE);
    assert!(said.contains("a name of Chimaera's own"), "{said}");
    let said = new(&path, &["other", "--sdk", text(&good)]).failure(NOT_FOUND);
    assert!(said.contains("is no checkout of Chimaera"), "{said}");
    let said = new(&path, &["other", "--sdk", "https:/example.org/x"]).failure(NOT_FOUND);
    assert!(said.contains("the URL of a repository"), "{said}");
    let said = new(&path, &["other", "--sdk", "ftp://example.org/x"]).failure(WRONG_USAGE);
    assert!(said.contains("is no URL of a repository"), "{said}");
    assert!(!path.join("other").exists(), "nothing was written");
}
