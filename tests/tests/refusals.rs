//! Files and devices that a daemon does not take for a pool: the answer says why and what to do, the log says so too,
//! and nothing is changed.

use std::fs;
use std::path::Path;

use chimaera_tests::exit::IN_THE_WAY;
use chimaera_tests::{Daemon, chimaera, disk_folder, json, text};

/// Opens the pool on a file.
fn open(daemon: &Daemon, path: &Path) -> chimaera_tests::ProgramOutput {
    daemon.run(&["pool", "create", text(path), "--type", "file"])
}

#[test]
fn a_copy_of_an_open_pool_is_refused_with_both_names_and_ids() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let [original, copy] = ["original", "copy"].map(|name| folder.path().join(name));
    let _ = daemon.create_file_pool(&original, "4MiB").success();
    let id = json(&daemon.run(&["pool", "list", "--json"]).success())[0]["id"].clone();
    let id = id.as_str().expect("an id");
    let destroy = |path: &Path| daemon.run(&["pool", "destroy", text(path)]).success();
    destroy(&original);
    fs::copy(&original, &copy).expect("copied");
    let _ = chimaera(&["pool", "rename", text(&copy)]).success();
    let _ = open(&daemon, &original).success();
    let before = fs::read(&copy).expect("read");
    let said = open(&daemon, &copy).failure(IN_THE_WAY);
    let both = [&original, &copy].map(|path| text(path));
    for word in [both[0], both[1], id, "duplicate UUID", "pool rename --copy"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(
        fs::read(&copy).expect("read") == before,
        "nothing is changed"
    );
    destroy(&original);
    let _ = open(&daemon, &copy).success();
    let said = open(&daemon, &original).failure(IN_THE_WAY);
    assert!(said.contains("duplicate UUID"), "{said}");
}
