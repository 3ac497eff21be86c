//! What packages are built of, and what must not be among it.

use std::process::Command;

use chimaera_tests::{checkout, json};

/// Packages that are test support or tests, and nothing else.
const TEST_PACKAGES: [&str; 3] = [
    "chimaera-testing",
    "chimaera-tests",
    "chimaera-faulty-runtime",
];

/// What cargo prints for these arguments.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(checkout())
        .args(arguments)
        .arg("--offline")
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn nothing_but_tests_is_built_of_test_support() {
    let metadata = json(&cargo(&["metadata", "--no-deps", "--format-version", "1"]));
    let packages = metadata["packages"].as_array().expect("packages");
    let mut users = 0;
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        for dependency in package["dependencies"].as_array().expect("a list") {
            let needed = dependency["name"].as_str().expect("a name");
            if !TEST_PACKAGES.contains(&needed) {
                continue;
            }
            users += 1;
            let is_of_tests = TEST_PACKAGES.contains(&name) || dependency["kind"] == "dev";
            assert!(is_of_tests, "{name} is built of {needed}");
        }
    }
    assert!(
        users > 4,
        "{users} dependencies only: are they still found?"
    );
    for name in TEST_PACKAGES {
        let package = packages.iter().find(|package| package["name"] == name);
        let publish = &package.expect("it is there")["publish"];
        assert_eq!(publish.as_array().map(Vec::len), Some(0), "{name}");
    }
}

#[test]
fn a_release_has_nothing_of_the_simulation() {
    // The edges that a release is built along.
    let tree = cargo(&[
        "tree",
        "--package",
        "chimaera-bdev-runtime",
        "--package",
        "chimaera-cli",
        "--edges",
        "normal,features",
    ]);
    assert!(tree.contains("chimaera-bdev-format"), "{tree}");
    assert!(!tree.contains("simulation"), "{tree}");
}
