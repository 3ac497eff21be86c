//! The README's example, as a stranger takes it: a package of its own outside of the workspace.

use std::fs;
use std::process::Command;

use chimaera_tests::{
    Daemon, cargo_outside, checkout, disk_folder, exit, fenced, finish, json, program_outside, text,
};
use tempfile::TempDir;

/// The example's package, with its pool at another path.
fn package(pool: &str) -> TempDir {
    let readme = fs::read_to_string(checkout().join("README.md")).expect("a README");
    let one = |language| match &fenced(&readme, language)[..] {
        [block] => block.clone(),
        blocks => panic!("{} blocks of {language}", blocks.len()),
    };
    let dependencies = one("toml");
    let program = one("rust");
    assert!(dependencies.contains("path/to/chimaera/") && program.contains("/var/tmp/pool"));
    let folder = TempDir::new().expect("a folder");
    let manifest = format!(
        "[package]\nname = \"readme\"\nedition = \"2024\"\n\n{}",
        dependencies.replace("path/to/chimaera", text(&checkout()))
    );
    fs::write(folder.path().join("Cargo.toml"), manifest).expect("writes");
    fs::create_dir(folder.path().join("src")).expect("a folder");
    let main = program.replace("/var/tmp/pool", pool);
    fs::write(folder.path().join("src/main.rs"), main).expect("writes");
    folder
}

#[test]
fn the_example_works_outside_of_the_workspace_however_often_it_is_run() {
    let disk = disk_folder();
    let pool = disk.path().join("pool");
    let package = package(text(&pool));
    cargo_outside(package.path(), &["build", "--quiet"]);
    let example = |socket: &std::path::Path| {
        let mut command = Command::new(program_outside("readme"));
        command
            .env("CHIMAERA_SOCKET", socket)
            .env_remove("CHIMAERA_PLUGIN_PATH");
        finish(command)
    };
    // By itself, and again on what it has left.
    let nowhere = disk.path().join("nobody.sock");
    for _ in 0..2 {
        assert_eq!(example(&nowhere).success(), "");
    }
    // With a daemon, where the pool stays open.
    let daemon = Daemon::start();
    for _ in 0..2 {
        assert_eq!(example(&daemon.socket()).success(), "");
        let stats = json(
            &daemon
                .run(&["pool", "stats", text(&pool), "--json"])
                .success(),
        );
        let free = stats["remaining_size"].as_u64().expect("a number");
        let metadata = stats["metadata_size"].as_u64().expect("a number");
        assert_eq!(free + metadata, 1 << 30, "no block is left behind");
    }
    let _ = daemon.run(&["pool", "destroy", text(&pool)]).success();
    // What goes wrong is a sentence.
    fs::write(&pool, "somebody's").expect("writes");
    let said = example(&nowhere).failure(exit::FAILED);
    assert!(said.starts_with("Error: creating the pool"), "{said}");
    assert!(!said.contains('{'), "{said}");
}
