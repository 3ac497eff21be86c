//! The daemon's process that receives files of clients: what it has, what ends it, and a daemon that has lost it.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use chimaera_bdev_client::{PoolQuery, Runtime, Status};
use chimaera_testing::LingeringSocket;
use chimaera_tests::{
    Daemon, MIB, User, UsersDaemon, client, descriptors, disk_folder, finish, has_users,
    limit_descriptors, limit_for, memory, skipped, text, until,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use nix::unistd::{Pid, getpgid};

/// A connection on which nothing was said.
fn connected(daemon: &Daemon) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
    let socket = socket.expect("a socket");
    let path = UnixAddr::new(&daemon.socket()).expect("short");
    connect(socket.as_raw_fd(), &path).expect("connects");
    socket
}

/// The children of a process's first thread.
fn children(process: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect()
}

fn receiver_of(daemon: &Daemon) -> u32 {
    let [receiver] = children(daemon.process_id())[..] else {
        panic!("the daemon has another number of children than one");
    };
    let name = std::fs::read_to_string(format!("/proc/{receiver}/comm")).expect("it runs");
    assert_eq!(name.trim_end(), "chimaera-recv");
    receiver
}

/// Whether the process is gone, or waits to be asked how it ended.
fn has_ended(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_err() || status.is_ok_and(|status| status.contains(") Z "))
}

/// The process's descriptors, once it has closed what it had for others.
fn at_rest(process: u32) -> Vec<u64> {
    let mut last = descriptors(process);
    until("the daemon is at rest", || {
        std::thread::sleep(Duration::from_millis(20));
        let before = std::mem::replace(&mut last, descriptors(process));
        before == last
    });
    last
}

fn works(runtime: &Runtime) {
    let pool = client(runtime, 0);
    let blocks = pool.allocate_blocks(PoolQuery::Local, 4096);
    let freed = blocks.and_then(|blocks| pool.free_blocks(PoolQuery::Local, &blocks));
    freed.expect("the daemon serves");
}

#[test]
fn files_that_linger_do_not_hold_up_a_daemon_without_descriptors() {
    let mut daemon = Daemon::start_with(&["--workers", "1"]);
    let runtime = daemon.connect();
    let _pool = memory(&runtime, MIB);
    works(&runtime);
    let rude = connected(&daemon);
    until("it is accepted", || daemon.status().is_object());
    let LingeringSocket { socket, peer } = LingeringSocket::new(Duration::from_secs(600));
    let process = daemon.process_id();
    let enough = limit_descriptors(process, limit_for(&at_rest(process), 0));
    let files = [socket.as_raw_fd(); 2];
    let (bytes, rights) = (
        [IoSlice::new(b"no hello")],
        [ControlMessage::ScmRights(&files)],
    );
    let sent = sendmsg::<UnixAddr>(rude.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None);
    sent.expect("sends");
    // If the daemon's side has closed it already, this is the last to close it, and then it waits.
    std::thread::spawn(move || drop(socket));
    // The end of that connection may have left descriptors to somebody else.
    if let Err(refused) = Runtime::connect_to(daemon.socket()) {
        assert_eq!(refused.status(), Status::OutOfResources, "{refused}");
    }
    works(&runtime);
    limit_descriptors(process, enough);
    until("others are served again", || {
        Runtime::connect_to(daemon.socket()).is_ok()
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
    drop(peer);
}

#[test]
fn the_receiver_has_nothing_of_the_daemons_and_ends_with_it() {
    let mut daemon = Daemon::start_with(&["--workers", "1"]);
    drop(daemon.connect());
    let receiver = receiver_of(&daemon);
    // Its two ways to the daemon, two ends of a pipe, and one file that tells of its children.
    assert!(
        descriptors(receiver).len() <= 5,
        "{:?}",
        descriptors(receiver)
    );
    let pid = Pid::from_raw(receiver as i32);
    assert_eq!(
        getpgid(Some(pid)).expect("it runs"),
        pid,
        "it has a terminal"
    );
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        kill(pid, signal).expect("it is there");
    }
    drop(daemon.connect());
    assert_eq!(receiver_of(&daemon), receiver);
    let waiting = children(receiver);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    until("the end of the receiver", || has_ended(receiver));
    until("the end of its children", || {
        waiting.iter().all(|&child| has_ended(child))
    });
}

#[test]
fn a_daemon_whose_receiver_was_killed_says_so_and_goes_on_without_new_sessions() {
    let mut daemon = Daemon::start_with(&["--workers", "1"]);
    let runtime = daemon.connect();
    let _pool = memory(&runtime, MIB);
    works(&runtime);
    let receiver = receiver_of(&daemon);
    kill(Pid::from_raw(receiver as i32), Signal::SIGKILL).expect("it is there");
    until("the daemon has noticed", || {
        daemon.log().contains("the receiver's process has ended")
    });
    let refused = Runtime::connect_to(daemon.socket()).expect_err("nobody receives its memory");
    assert_eq!(refused.status(), Status::OutOfResources, "{refused}");
    assert!(
        refused.to_string().contains("restart the daemon"),
        "{refused}"
    );
    works(&runtime);
    drop(runtime);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
}

#[test]
fn a_file_of_a_disk_is_taken_from_a_client_that_has_mounts_of_its_own() {
    const USER: User = User::new(1001);
    if !has_users("files of a client with mounts of its own") {
        return;
    }
    let unshared = std::process::Command::new("unshare")
        .args(["--mount", "true"])
        .status();
    if !unshared.is_ok_and(|status| status.success()) {
        skipped(
            "files of a client with mounts of its own",
            "unshare --mount does not work here",
        );
        return;
    }
    let daemon = UsersDaemon::start_with_one_worker(&[]);
    let disk = disk_folder();
    std::os::unix::fs::chown(disk.path(), Some(USER.id), Some(USER.group)).expect("root may");
    let create = |path: &str| {
        let socket = daemon.socket();
        let arguments = ["pool", "create", path, "--type", "file", "--size", "4MiB"];
        let arguments = [&arguments[..], &["--socket", text(&socket)]].concat();
        let inner = USER.command(&daemon.program(), &arguments);
        let mut outer = std::process::Command::new("unshare");
        outer.args(["--mount", "--"]).arg(inner.get_program());
        outer.args(inner.get_args());
        finish(outer)
    };
    let file = disk.path().join("pool");
    let _ = create(text(&file)).success();
    let listed = daemon.run_as(USER, &["pool", "list"]).success();
    assert!(listed.contains("pool"), "{listed}");
}
