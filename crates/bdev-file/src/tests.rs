//! What is opened, and by which paths.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use chimaera_proto::{ModuleError, Status};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::open::open_found;
use crate::{FileKind, HowToOpen, OpenedPath, Reach, open};

const NEW: HowToOpen = HowToOpen {
    read_only: false,
    makes: true,
};

const OLD: HowToOpen = HowToOpen {
    makes: false,
    ..NEW
};

#[track_caller]
fn assert_refused(opened: Result<OpenedPath, ModuleError>, status: Status, text: &str) {
    let error = opened.expect_err("it was opened");
    assert_eq!(error.failure.status, status, "{error}");
    assert!(error.message.contains(text), "no {text:?} in {error}");
}

#[test]
fn a_file_is_made_for_its_user_alone_and_opened_the_next_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool");
    assert_refused(
        open(&path, &Reach::All, OLD),
        Status::NotFound,
        "give a size",
    );
    let opened = open(&path, &Reach::All, NEW).expect("made");
    assert!(opened.made.is_some());
    assert_eq!(opened.kind, FileKind::Regular);
    let mode = opened.file.metadata().expect("open").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let opened = open(&path, &Reach::All, NEW).expect("opened");
    assert!(opened.made.is_none());
}

#[test]
fn no_file_is_made_through_a_link() {
    let folder = tempfile::tempdir().expect("a folder");
    let (link, target) = (folder.path().join("link"), folder.path().join("target"));
    symlink(&target, &link).expect("a link");
    let opened = open(&link, &Reach::All, NEW);
    assert_refused(opened, Status::NotFound, "no file is made through a link");
    assert!(!target.exists());
    // To open one is no more than to name the file.
    fs::write(&target, "").expect("written");
    open(&link, &Reach::All, NEW).expect("opened");
}

#[test]
fn links_to_what_a_process_has_open_are_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool");
    let file = File::create(&path).expect("made");
    let (id, number) = (std::process::id(), file.as_raw_fd());
    let own_root = format!("/proc/self/root{}", path.display());
    for link in [
        format!("/proc/{id}/fd/{number}"),
        format!("/proc/self/fd/{number}"),
        format!("/proc/thread-self/fd/{number}"),
        format!("/dev/fd/{number}"),
        own_root,
    ] {
        let opened = open(Path::new(&link), &Reach::NoMagicLinks, OLD);
        assert_refused(
            opened,
            Status::PermissionDenied,
            "a link of /proc is on its way",
        );
        open(Path::new(&link), &Reach::All, OLD).expect("a process may open what it has");
    }
    let usual = folder.path().join("link");
    symlink(&path, &usual).expect("a link");
    open(&usual, &Reach::NoMagicLinks, OLD).expect("other links are followed");
}

#[test]
fn nothing_but_what_lies_beneath_a_folder_is_opened_or_made() {
    let place = tempfile::tempdir().expect("a folder");
    let allowed = place.path().join("allowed");
    let outside = place.path().join("outside");
    for folder in [&allowed, &outside, &allowed.join("in")] {
        fs::create_dir(folder).expect("made");
    }
    symlink(&outside, allowed.join("link")).expect("a link");
    symlink("in", allowed.join("near")).expect("a link");
    let folder = File::open(&allowed).expect("a folder");
    let reach = Reach::Beneath {
        folder: folder.as_fd(),
        path: &allowed,
    };
    for name in ["pool", "in/pool", "in/../other"] {
        open(&allowed.join(name), &reach, NEW).expect("made");
        open(&allowed.join(name), &reach, OLD).expect("opened");
    }
    for (name, text) in [
        ("link/pool", "a symbolic link is on its way"),
        ("near/pool", "a symbolic link is on its way"),
        ("../outside/pool", "it leads out of"),
        ("in/../../outside/pool", "it leads out of"),
    ] {
        let opened = open(&allowed.join(name), &reach, NEW);
        assert_refused(opened, Status::PermissionDenied, text);
    }
    let elsewhere = open(&outside.join("pool"), &reach, NEW);
    assert_refused(elsewhere, Status::PermissionDenied, "it leads out of");
    assert!(fs::read_dir(&outside).expect("a folder").next().is_none());
    let itself = open(&allowed, &reach, NEW);
    assert_refused(itself, Status::InvalidArgument, "a directory");
    // The folder is what it was, whatever comes into its place.
    fs::rename(&allowed, place.path().join("moved")).expect("moved");
    symlink(&outside, &allowed).expect("a link");
    open(&allowed.join("third"), &reach, NEW).expect("made");
    assert!(place.path().join("moved/third").exists());
}

#[test]
fn a_program_with_rights_to_lend_is_opened_for_reading_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool");
    fs::write(&path, "").expect("written");
    let read = HowToOpen {
        read_only: true,
        ..OLD
    };
    for (mode, lends) in [
        (0o4600, true),
        (0o2610, true),
        (0o6755, true),
        (0o2600, false),
        (0o1755, false),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its own");
        let opened = open(&path, &Reach::All, OLD);
        match lends {
            true => assert_refused(opened, Status::InvalidArgument, "set-user-ID"),
            false => assert!(opened.is_ok(), "{mode:o}: {opened:?}"),
        }
        open(&path, &Reach::All, read).expect("nothing is written");
    }
}

#[test]
fn what_was_looked_at_is_opened_whatever_comes_into_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool");
    fs::write(&path, "own").expect("written");
    let found = Reach::All.open(&path, OFlag::O_PATH).expect("looked at");
    let found = File::from(found);
    fs::rename(&path, folder.path().join("moved")).expect("moved");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a FIFO");
    let file = open_found(&found, (&path, &Reach::All), OLD, FileKind::Regular);
    let mut file = file.expect("opened");
    let mut held = String::new();
    file.read_to_string(&mut held)
        .expect("it is open for reading");
    assert_eq!(held, "own");
    file.write_all(b" and more").expect("and for writing");
}
