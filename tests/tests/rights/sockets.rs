//! Who may connect to which socket, and the most that a socket gives.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Runtime, Status};
use chimaera_tests::{Daemon, MIB, User, UsersDaemon, assert_refused, has_users, program, text};
use nix::unistd::Group;
use tempfile::TempDir;

use super::{GROUP, ID, MEMBER, OTHER, OWNER, QUERY, assert_denied, mode, ram, set};

/// Mode and group of a file.
fn access(path: &Path) -> (u32, u32) {
    let found = path.metadata().expect("it is there");
    (found.mode() & 0o7777, found.gid())
}

fn open_folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    open(folder.path(), 0o755);
    folder
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root may");
}

/// The group of a users' socket of root's daemon, if none is asked for.
fn default_group() -> u32 {
    let group = Group::from_name("chimaera").expect("groups can be looked up");
    group.map_or(0, |group| group.gid.as_raw())
}

#[test]
fn sockets_have_the_mode_and_group_that_was_asked_for_whatever_the_umask() {
    if !has_users("modes and groups of sockets") {
        return;
    }
    for umask in ["0", "022", "077", "0777"] {
        let folder = open_folder();
        let (groups, all) = (
            folder.path().join("group.sock"),
            folder.path().join("all.sock"),
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(program("chimaera"))
            .args(["runtime", "start", "--listen"])
            .arg(format!("{},mode=0660,group={GROUP}", text(&groups)))
            .arg("--listen")
            .arg(format!("{},mode=0666,max=read", text(&all)));
        let daemon = Daemon::start_by(command, folder);
        assert_eq!(access(&daemon.socket()), (0o600, 0), "umask {umask}");
        assert_eq!(access(&groups), (0o660, GROUP), "umask {umask}");
        assert_eq!(access(&all), (0o666, default_group()), "umask {umask}");

        let in_it = User {
            group: GROUP,
            ..OTHER
        };
        for user in [MEMBER, in_it] {
            user.connect(&groups).admin().ping().expect("it serves");
        }
        assert_denied(OTHER.try_connect(&groups), &[text(&groups)]);
        for user in [OTHER, MEMBER, OWNER] {
            user.connect(&all).admin().ping().expect("it serves");
            assert_denied(user.try_connect(&daemon.socket()), &[]);
        }
        daemon.connect().admin().ping().expect("root may");
    }
}

#[test]
fn who_is_no_operator_is_refused_at_the_operators_socket_by_name() {
    if !has_users("the operators' socket") {
        return;
    }
    let user = OWNER.id.to_string();
    let daemon = UsersDaemon::start_with(&["--operators", &format!("{user},@{GROUP}")]);
    let socket = daemon.0.socket();
    let is_operator = |user: User| {
        let status = user.connect(&socket).admin().status();
        status.expect("a status").is_operator
    };
    assert!(is_operator(OWNER), "named by its id");
    assert!(is_operator(MEMBER), "by a supplementary group");
    assert!(is_operator(User {
        group: GROUP,
        ..OTHER
    }));
    let words = [
        "this is the operators' socket",
        "user 1003",
        text(&daemon.socket()),
    ]
    .map(str::to_owned);
    let words = words.each_ref().map(String::as_str);
    assert_denied(OTHER.try_connect(&socket), &words);
    // Without the group the same user is none.
    assert_denied(User::new(MEMBER.id).try_connect(&socket), &["user 1002"]);

    // On the users' socket an operator is a user.
    let status = daemon.user(OWNER).admin().status().expect("a status");
    assert!(!status.is_operator && status.log.recent.is_empty());
    assert_denied(daemon.user(OWNER).admin().stop_runtime(), &["user 1001"]);
    let stopper = OWNER.connect(&socket);
    stopper.admin().stop_runtime().expect("an operator may");
}

#[test]
fn a_mode_that_opens_the_operators_socket_makes_nobody_an_operator() {
    if !has_users("an operators' socket that was opened") {
        return;
    }
    let daemon = UsersDaemon::start();
    let socket = daemon.0.socket();
    open(&socket, 0o666);
    for user in [OWNER, MEMBER, OTHER] {
        let id = format!("user {}", user.id);
        assert_denied(user.try_connect(&socket), &[&id, "is not one of them"]);
    }
    let operator = daemon.operator();
    assert!(operator.admin().status().expect("a status").is_operator);
    assert!(daemon.0.log().contains("came to the operators' socket"));
}

/// A daemon, and two connections of the same user: through the usual socket, and through one for reading.
fn with_a_socket_for_reading() -> (UsersDaemon, Runtime, Runtime) {
    let folder = open_folder();
    let path = folder.path().join("read.sock");
    let listen = format!("{},mode=0666,max=read", text(&path));
    let daemon = UsersDaemon::start_in(folder, &["--listen", &listen]);
    let (writing, reading) = (daemon.user(OWNER), OWNER.connect(&path));
    (daemon, writing, reading)
}

#[test]
fn a_socket_for_reading_lets_its_clients_read_and_no_more() {
    if !has_users("a socket for reading") {
        return;
    }
    let (_daemon, writing, reading) = with_a_socket_for_reading();
    let pool = ram(&writing, "pool", ID, 0o600);
    let block = pool.allocate_blocks(QUERY, 4096).expect("its own")[0];
    let mut buffer = writing.allocate_buffer(4096).expect("a buffer");
    buffer.fill(7);
    pool.write(QUERY, &block, &buffer).expect("its own");

    let same = Client::open(&reading, "pool").expect("to read");
    let mut found = reading.allocate_buffer(4096).expect("a buffer");
    same.read(QUERY, &block, &mut found).expect("to read");
    assert_eq!(found[..], buffer[..]);
    same.get_stats().expect("to read");
    assert_eq!(same.all_blocks(QUERY).count(), 1);
    assert_denied(same.write(QUERY, &block, &found), &[]);
    assert_denied(same.allocate_blocks(QUERY, 4096), &[]);
    assert_denied(same.free_blocks(QUERY, &[block]), &[]);
    assert_denied(same.flush(QUERY), &[]);
    let words = "lets nobody make or change pools";
    let create = |name: &str, options: &CreateOptions| {
        let pool = Client::new(&reading, PoolId::NULL);
        pool.create(PoolQuery::Dynamic, name, options)
    };
    assert_denied(create("another", &CreateOptions::ram(MIB)), &[words]);
    // It is not the pool's permissions that are in the way.
    let denied = ["manage", "the socket of this connection"];
    assert_denied(set(&reading, OWNER, "pool", mode(0o666)), &denied);
    assert_denied(reading.admin().destroy_pool("pool"), &["manage"]);
    assert_denied(reading.admin().flush(Some("pool".into())), &["write"]);

    pool.write(QUERY, &block, &buffer)
        .expect("over the other socket");
    set(&writing, OWNER, "pool", mode(0o660)).expect("over the other socket");
    pool.free_blocks(QUERY, &[block])
        .expect("over the other socket");
    writing.admin().destroy_pool("pool").expect("likewise");
    let gone = same.get_stats();
    assert_refused(gone, Status::PoolNotFound, &[]);
}

#[test]
fn nothing_is_declared_of_a_pool_over_a_socket_for_reading() {
    if !has_users("declaring over a socket for reading") {
        return;
    }
    let (_daemon, writing, reading) = with_a_socket_for_reading();
    let pool = ram(&writing, "pool", ID, 0o600);
    let before = pool.get_stats().expect("statistics").metrics;
    let mut metrics = before;
    metrics.iops += 1.0;
    let declare = |runtime| {
        let options = CreateOptions::ram(4 * MIB).perf_metrics(metrics);
        Client::new(runtime, ID).create(PoolQuery::Dynamic, "pool", &options)
    };
    assert_denied(declare(&reading), &["perf_metrics"]);
    assert_eq!(pool.get_stats().expect("statistics").metrics, before);
    declare(&writing).expect("the owner may");
    assert_eq!(pool.get_stats().expect("statistics").metrics, metrics);
}
