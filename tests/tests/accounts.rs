//! What one user may take of what all share: a hostile user takes as much as there is, and others go on.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use chimaera_bdev_client::{
    Client, CreateOptions, Error, GetOrCreatePool, PoolId, PoolQuery, Runtime, SetPermissions,
    Status,
};
use chimaera_faulty_runtime::params;
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_proto::limits::{MAX_SEGMENT_BYTES, MAX_SEGMENTS};
use chimaera_shm::{Segment, packet};
use chimaera_tests::{GIB, KIB, MIB, User, UsersDaemon, assert_refused, has_users, until};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Takes what there is.
const GREEDY: User = User::new(1001);
/// Wants to work meanwhile.
const MODEST: User = User::new(1002);

/// Checks that others than the greedy one are served by the daemon, with one worker.
#[track_caller]
fn assert_serves_others(daemon: &UsersDaemon) {
    let runtime = daemon.user(MODEST);
    let pool = memory_pool(&runtime, "modest", 4 * MIB).expect("there is room for others");
    let blocks = pool.allocate_blocks(QUERY, 4 * KIB).expect("there is room");
    pool.free_blocks(QUERY, &blocks).expect("they are its own");
    let destroyed = runtime.admin().destroy_pool("modest");
    destroyed.expect("it is its own");
    let status = daemon.0.run(&["runtime", "status"]).success();
    assert!(status.contains("workers"), "{status}");
}

const QUERY: PoolQuery = PoolQuery::Local;

fn memory_pool(runtime: &Runtime, name: &str, bytes: u64) -> Result<Client, Error> {
    let pool = Client::new(runtime, PoolId::NULL);
    pool.create(PoolQuery::Dynamic, name, &CreateOptions::ram(bytes))?;
    Ok(pool)
}

/// A connection on which nothing was said.
fn silent(socket_path: &Path) -> OwnedFd {
    let client = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let client = client.expect("a socket");
    let address = UnixAddr::new(socket_path).expect("it is short");
    connect(client.as_raw_fd(), &address).expect("somebody listens");
    client
}

/// The next reply on a connection; `None` at its end.
fn reply(connection: &OwnedFd) -> Option<ControlReply> {
    let packet = packet::receive(connection).expect("receives")?;
    Some(control::decode(&packet.bytes).expect("decodes").1)
}

#[test]
fn a_user_cannot_take_all_addresses_by_pools_in_memory() {
    if !has_users("limits of users") {
        return;
    }
    let daemon = UsersDaemon::start_with_one_worker(&[]);
    let greedy = daemon.user(GREEDY);
    let (mut size, mut pools) = (1 << 46, Vec::new());
    while size > GIB / 4 {
        match memory_pool(&greedy, &format!("pool {}", pools.len()), size) {
            Ok(pool) => pools.push(pool),
            Err(error) => {
                assert_eq!(error.status(), Status::LimitReached, "{error}");
                size /= 2;
            }
        }
    }
    assert!(!pools.is_empty(), "a user may have some");
    assert_serves_others(&daemon);
    let error = memory_pool(&greedy, "one more", 1 << 46);
    let words = [
        "user 1001 has",
        "bytes of pools in memory",
        "--user-limits memory-bytes",
    ];
    assert_refused(error.map(drop), Status::LimitReached, &words);
}

#[test]
fn a_user_cannot_take_all_addresses_by_segments() {
    if !has_users("limits of users") {
        return;
    }
    let daemon = UsersDaemon::start_with_one_worker(&[]);
    let socket = daemon.socket();
    let connections = GREEDY.acting(move || {
        let memory = Segment::create("large", MAX_SEGMENT_BYTES / 16).expect("it costs nothing");
        let (mut connections, mut segments) = (Vec::new(), 0);
        for _ in 0..32 {
            let connection = silent(&socket);
            for segment in 0..MAX_SEGMENTS as u32 {
                let request = match segment {
                    0 => ControlRequest::Hello {
                        client_name: "greedy".to_owned(),
                    },
                    _ => ControlRequest::AddSegment { segment },
                };
                let bytes = control::encode(1, &request).expect("encodes");
                packet::send(&connection, &bytes, Some(memory.as_fd())).expect("sends");
                match reply(&connection).expect("an answer") {
                    ControlReply::Refused { status, .. } => {
                        assert_eq!(status, Status::LimitReached);
                        break;
                    }
                    _ => segments += 1,
                }
            }
            connections.push(connection);
        }
        assert!(segments > 0, "a user may have some");
        connections
    });
    assert_serves_others(&daemon);
    drop(connections);
}

#[test]
fn silent_connections_keep_nobody_out_and_do_not_last() {
    if !has_users("limits of users") {
        return;
    }
    let daemon = UsersDaemon::start_with_one_worker(&[]);
    let socket = daemon.socket();
    let connections = GREEDY.acting(move || -> Vec<_> {
        // More than the daemon takes of one user. Those that it does not take are told, and closed.
        (0..1000).map(|_| silent(&socket)).collect()
    });
    assert_serves_others(&daemon);
    let mut refused = 0;
    for connection in &connections {
        let Some(ControlReply::Refused { status, reason }) = reply(connection) else {
            panic!("the daemon says why it ends a connection");
        };
        assert!(reply(connection).is_none(), "it has ended");
        refused += u32::from(status == Status::LimitReached);
        if status != Status::LimitReached {
            assert!(reason.contains("nothing was said"), "{reason}");
        }
    }
    assert!((1..1000).contains(&refused), "{refused}");
    assert_serves_others(&daemon);
}

#[test]
fn pools_sessions_and_depths_of_a_user_have_limits_that_operators_raise() {
    if !has_users("limits of users") {
        return;
    }
    let limits = "pools=3,connections=4,io-depth=100,jobs=64";
    let daemon = UsersDaemon::start_with_one_worker(&["--user-limits", limits]);
    let greedy = daemon.user(GREEDY);
    for index in 0..3 {
        memory_pool(&greedy, &format!("pool {index}"), MIB).expect("there is room");
    }
    let refused = memory_pool(&greedy, "one more", MIB).map(drop);
    assert_refused(
        refused,
        Status::LimitReached,
        &["3 pools", "--user-limits pools"],
    );
    // One that exists is there for whoever asks for it again.
    memory_pool(&greedy, "pool 0", MIB).expect("it is its own");
    greedy
        .admin()
        .destroy_pool("pool 1")
        .expect("it is its own");
    memory_pool(&greedy, "one more", MIB).expect("there is room again");

    let sessions: Vec<_> = (0..3).map(|_| daemon.user(GREEDY)).collect();
    let refused = GREEDY.try_connect(&daemon.socket()).map(drop);
    assert_refused(
        refused,
        Status::LimitReached,
        &["4 connections", "--user-limits"],
    );
    let listed = daemon.run_as(MODEST, &["session", "list"]).success();
    assert!(
        !listed.contains("1001"),
        "of others nobody is told: {listed}"
    );
    let listed = daemon.0.run(&["session", "list"]).success();
    assert!(
        listed.contains("1001") && listed.contains("connections"),
        "{listed}"
    );
    drop(sessions);
    until("there is room again", || {
        GREEDY.try_connect(&daemon.socket()).is_ok()
    });
    assert_serves_others(&daemon);
}

#[test]
fn what_a_user_does_in_a_loop_does_not_fill_the_log() {
    if !has_users("limits of users") {
        return;
    }
    let daemon = UsersDaemon::start_with_one_worker(&[]);
    for round in 0..10 {
        // A share of the log is a user's, and not a connection's.
        let greedy = daemon.user(GREEDY);
        for index in 0..30 {
            let name = format!("{round} {index} {}", "long ".repeat(800));
            memory_pool(&greedy, &name, MIB).expect("there is room");
            greedy
                .admin()
                .destroy_pool(name.as_str())
                .expect("it is its own");
        }
    }
    let log = daemon.0.log();
    let lines = log.lines().filter(|line| line.contains("long")).count();
    assert!((1..200).contains(&lines), "{lines} lines");
    assert!(log.len() < 200 * 1200, "{} bytes", log.len());
    // What was left out is told.
    let daemon_log = || daemon.0.log();
    until("the share is there again", || {
        let greedy = daemon.user(GREEDY);
        memory_pool(&greedy, "later", MIB).expect("there is room");
        greedy.admin().destroy_pool("later").expect("it is its own");
        daemon_log().contains("more like this before, of the same user")
    });
}

/// A pool of the module that does everything wrong, for a user to make.
fn endless(name: &str) -> GetOrCreatePool {
    let params = format!("{}/nowhere/at all", params::CREATE_WAITS);
    GetOrCreatePool::new(
        chimaera_faulty_runtime::MODULE_NAME,
        name,
        PoolId::NULL,
        params.into_bytes(),
    )
}

#[test]
fn what_a_user_asks_for_and_never_ends_delays_no_other_and_no_operator() {
    if !has_users("turns of users") {
        return;
    }
    let modules = format!("chimaera_bdev,{}", chimaera_faulty_runtime::MODULE_NAME);
    let arguments = ["--modules", &modules, "--stop-timeout", "1"];
    let mut daemon = UsersDaemon::start_with_one_worker(&arguments);
    let greedy = daemon.user(GREEDY);
    memory_pool(&greedy, "kept", MIB).expect("there is room");
    // More than it has threads, and fewer than its lane takes.
    for index in 0..32 {
        let request = endless(&format!("endless {index}"));
        let asked = greedy.admin();
        std::mem::forget(asked.async_get_or_create_pool(PoolQuery::Dynamic, &request));
    }
    let operator = daemon.operator();
    until("its share of the threads is taken", || {
        let status = operator.admin().status().expect("a status");
        status.changing_count >= 8
    });
    // Others make pools, operators too, and what is known or changed at once is no matter of making pools.
    assert_serves_others(&daemon);
    memory_pool(&operator, "an operator's", MIB).expect("there is room");
    assert!(greedy.admin().list_pools().expect("a list").len() == 1);
    let change = SetPermissions {
        new_mode: Some(0o666),
        pool: "kept".into(),
        new_owner: None,
        new_group: None,
    };
    let changed = greedy.admin().set_permissions(&change);
    changed.expect("a revocation waits for no creation");
    let refused = daemon.0.run(&["runtime", "stop"]);
    refused.failure(chimaera_tests::exit::FAILED);
    let (code, _) = daemon.0.wait();
    assert_eq!(code, Some(chimaera_tests::exit::FAILED));
}
