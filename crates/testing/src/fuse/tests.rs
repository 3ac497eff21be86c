use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;

use super::*;
use crate::time_limit::within;
use crate::{KIB, is_in_state, is_root, skipped};

const WHAT: &str = "a file system that does not answer";

fn server(len_bytes: u64) -> Option<FuseServer> {
    if !is_root(WHAT) {
        return None;
    }
    let mounted = FuseServer::mount(len_bytes);
    mounted.map_err(|reason| skipped(WHAT, &reason)).ok()
}

fn reader(server: &FuseServer) -> Child {
    let mut cat = Command::new("cat");
    let cat = cat.arg(server.file()).stdout(Stdio::null());
    cat.stderr(Stdio::null()).spawn().expect("cat runs")
}

#[test]
fn a_file_is_read_and_written() {
    let Some(server) = server(64 * KIB) else {
        return;
    };
    let mut options = File::options();
    let file = options.read(true).write(true).open(server.file());
    let file = file.expect("opens");
    assert_eq!(file.metadata().expect("attributes").len(), 64 * KIB);
    let data = vec![7; 300_000];
    file.write_all_at(&data, 1000).expect("writes");
    let mut read = vec![0; data.len()];
    file.read_exact_at(&mut read, 1000).expect("reads");
    assert_eq!(read, data);
    let mut seen = [0; 2];
    server
        .content()
        .read_exact_at(&mut seen, 999)
        .expect("reads");
    assert_eq!(seen, [0, 7]);
    file.set_len(4096).expect("is truncated");
    file.sync_all().expect("is flushed");
    assert_eq!(fs::metadata(server.file()).expect("attributes").len(), 4096);
    assert!(File::open(server.folder().join("another")).is_err());
    server.fail(FuseCall::Read, libc::EIO);
    let failed = file.read_exact_at(&mut seen, 0).expect_err("fails");
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    assert!(server.count(FuseCall::Write) > 2);
}

#[test]
fn who_waits_for_a_request_that_was_taken_cannot_be_killed() {
    let Some(server) = server(4 * KIB) else {
        return;
    };
    server.withhold(&[FuseCall::Read]);
    let mut cat = reader(&server);
    server.wait_for_unanswered(1);
    cat.kill().expect("is sent");
    let folder = format!("/proc/{}", cat.id());
    until("the process cannot be interrupted", || {
        is_in_state(&folder, 'D')
    });
    assert!(cat.try_wait().expect("is looked at").is_none());
    server.answer_all();
    within("the process's end", move || cat.wait()).expect("ends");
}

#[test]
fn who_waits_for_a_request_that_was_not_taken_can_be_killed() {
    let Some(server) = server(4 * KIB) else {
        return;
    };
    server.stop_taking();
    let mut cat = reader(&server);
    let folder = format!("/proc/{}/syscall", cat.id());
    // A call that is being carried out, of a program that has been started: the kernel names it.
    until("the process waits", || {
        let call = fs::read_to_string(&folder).unwrap_or_default();
        call.starts_with(&format!("{} ", libc::SYS_openat))
    });
    cat.kill().expect("is sent");
    within("the process's end", move || cat.wait()).expect("ends");
    assert_eq!(server.count(FuseCall::Open), 0);
}

#[test]
fn the_end_of_the_server_frees_who_waits() {
    let Some(server) = server(4 * KIB) else {
        return;
    };
    server.withhold(&[FuseCall::Read, FuseCall::Flush]);
    let (opened, is_opened) = channel();
    let path = server.file();
    let reader = thread::spawn(move || {
        let file = File::open(path).expect("opens");
        opened.send(()).expect("the test waits");
        file.read_at(&mut [0; 16], 0)
    });
    is_opened.recv().expect("it is opened");
    server.wait_for_unanswered(1);
    let folder = server.folder().to_owned();
    drop(server);
    let read = within("the reader's end", || reader.join());
    read.expect("does not panic").expect_err("fails");
    assert!(!folder.exists());
}

/// What [`a_process_that_ends_with_a_stuck_thread_is_collected`] starts in a process of its own.
#[test]
#[ignore = "ends its process"]
fn end_with_a_stuck_thread() {
    let server = FuseServer::mount(4 * KIB).expect("mounts");
    server.withhold(&[FuseCall::Read]);
    let path = server.file();
    thread::spawn(move || fs::read(path));
    server.wait_for_unanswered(1);
    std::process::exit(7);
}

#[test]
fn a_process_that_ends_with_a_stuck_thread_is_collected() {
    if server(4 * KIB).is_none() {
        return;
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let mut test = Command::new(test);
    test.args([
        "--ignored",
        "--exact",
        "fuse::tests::end_with_a_stuck_thread",
    ]);
    let status = within("the process's end", move || test.status());
    assert_eq!(status.expect("runs").code(), Some(7));
}
