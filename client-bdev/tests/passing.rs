//! Files that this process opens and passes: what it makes, and what it removes again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use chimaera_bdev_client::{
    Client, CreateOptions, Error, PoolId, PoolQuery, Runtime, Status, embed,
};
use chimaera_testing::{MIB, Watchdog, until};

const QUERY: PoolQuery = PoolQuery::Dynamic;

fn embedded() -> Runtime {
    embed().workers(1).start().expect("starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Options that the module refuses once it has the file.
fn refused() -> CreateOptions {
    CreateOptions::file().size(4 * MIB).alignment(100)
}

#[test]
fn a_file_that_was_made_is_removed_if_the_pool_is_not_and_one_that_was_there_stays() {
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool");
    let client = Client::new(&runtime, PoolId::NULL);
    let error = client.create(QUERY, text(&path), &refused());
    assert_eq!(error.expect_err("refused").status(), Status::Alignment);
    assert!(!path.exists());
    fs::write(&path, "").expect("written");
    let error = client.create(QUERY, text(&path), &refused());
    assert_eq!(error.expect_err("refused").status(), Status::Alignment);
    assert_eq!(fs::metadata(&path).expect("it stays").len(), 0);
    fs::remove_file(&path).expect("removed");

    let info = client.create(QUERY, text(&path), &CreateOptions::file().size(4 * MIB));
    assert!(info.expect("it is made").created);
    let made = fs::metadata(&path).expect("it is there");
    assert_eq!(made.permissions().mode() & 0o777, 0o600);
    // A pool that is there is found without its file.
    fs::rename(&path, folder.path().join("moved")).expect("moved");
    let other = Client::new(&runtime, PoolId::NULL);
    let error = other.create(QUERY, text(&path), &CreateOptions::file().size(4 * MIB));
    let error = error.expect_err("its file is not there");
    assert!(error.to_string().contains("is not at"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_folder_that_is_exchanged_while_a_creation_fails_loses_nothing() {
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    let place = tempfile::tempdir().expect("a folder");
    let (own, victim) = (place.path().join("own"), place.path().join("victim"));
    for folder in [&own, &victim] {
        fs::create_dir(folder).expect("made");
    }
    fs::write(victim.join("pool"), "precious").expect("written");
    let path = own.join("pool");
    let client = Client::new(&runtime, PoolId::NULL);
    let task = loop {
        let task = client.async_create(QUERY, text(&path), &refused());
        // The task goes on only when it is asked. If the refusal was not there yet when it was asked for, the file is
        // still there.
        until("the file is made, or removed again", || {
            task.is_complete() || path.exists()
        });
        if path.exists() {
            break task;
        }
    };
    let moved = place.path().join("moved");
    fs::rename(&own, &moved).expect("moved");
    symlink(&victim, &own).expect("a link");
    let error = task.wait().expect_err("refused");
    assert_eq!(error.status(), Status::Alignment);
    assert!(!moved.join("pool").exists());
    assert_eq!(fs::read(victim.join("pool")).expect("there"), b"precious");
}

#[test]
fn more_files_than_can_be_passed_at_a_time_are_refused_and_leave_nothing() {
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    let folder = tempfile::tempdir().expect("a folder");
    let file = tempfile::tempfile().expect("a file");
    let offered: Vec<_> = (0..8)
        .map(|_| {
            runtime
                .offer_file(std::os::fd::AsFd::as_fd(&file))
                .expect("taken")
        })
        .collect();
    let path = folder.path().join("pool");
    let options = CreateOptions::file().size(4 * MIB);
    let client = Client::new(&runtime, PoolId::NULL);
    let error = client.create(QUERY, text(&path), &options);
    let error = error.expect_err("too many");
    assert_eq!(error.status(), Status::Busy);
    assert!(error.to_string().contains("has offered 8 files"), "{error}");
    assert!(!path.exists());
    for offered in offered {
        offered.settle();
    }
    client
        .create(QUERY, text(&path), &options)
        .expect("it is made");
}

#[test]
fn no_pool_is_left_to_who_knows_another_one_and_what_was_there_stays() {
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool");
    let options = CreateOptions::file().size(4 * MIB);
    let create = |options: &CreateOptions| {
        let client = Client::new(&runtime, PoolId::NULL);
        let info = client.create(QUERY, text(&path), options)?;
        Ok::<_, Error>((client, info))
    };
    let changed = |known| {
        let error = create(&options.incarnation(known)).expect_err("it is another one");
        assert_eq!(error.status(), Status::PoolChanged, "{error}");
        let found = runtime.admin().find_pool(text(&path));
        let error = found.expect_err("it was not wanted");
        assert_eq!(error.status(), Status::PoolNotFound, "{error}");
    };
    // The file is lost. A new one is as much as nothing to who wants what the old one had.
    changed(7);
    assert!(!path.exists());
    let (client, info) = create(&options).expect("it is made");
    assert!(!info.opened);
    let block = client.allocate_blocks(QUERY, 4096).expect("room")[0];
    let destroy = || runtime.admin().destroy_pool(text(&path)).expect("it ends");
    destroy();
    changed(info.incarnation.wrapping_add(1).max(1));
    let (client, info) = create(&options).expect("it is there");
    assert!(info.opened);
    // It has ended in good order also when it was refused.
    assert!(info.predecessor.is_some());
    let owned: Vec<_> = client
        .all_blocks(QUERY)
        .map(|block| block.expect("a list"))
        .collect();
    assert_eq!(owned.len(), 1);
    assert_eq!(owned[0].block, block);
    destroy();
    create(&options.incarnation(info.incarnation)).expect("it is the one that is known");
}
