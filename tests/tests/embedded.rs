//! A runtime inside the application: the same runtime, without a daemon.

use std::path::Path;
use std::process::Command;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Runtime, Status};
use chimaera_client::ModuleInfo;
use chimaera_tests::{
    BackgroundDaemon, ClientProcess, Daemon, MIB, Pattern, Watchdog, assert_empty, chimaera,
    disk_folder, file_bytes, library_folder, program, until,
};
use tempfile::TempDir;

const QUERY: PoolQuery = PoolQuery::Local;
/// Bytes that can be allocated in the pools, in whole megabytes.
const ROOM_BYTES: u64 = 4 * MIB;

/// A runtime in this process, with the bdev module linked in.
fn embedded() -> Runtime {
    Runtime::embed()
        .with_module(chimaera_bdev_runtime::module())
        .workers(1)
        .start()
        .expect("the runtime starts")
}

fn pool(runtime: &Runtime, name: &str, options: &CreateOptions) -> Client {
    let pool = Client::new(runtime, PoolId::new(8000, 0));
    let info = pool.create(PoolQuery::Dynamic, name, options);
    assert!(info.expect("the pool is made").created);
    pool
}

/// Fills a pool and checks it.
fn use_all_of(pool: &Client, writer: u32) {
    let pattern = Pattern::new(writer, 1);
    let blocks = pool
        .allocate_blocks(QUERY, ROOM_BYTES)
        .expect("all of the pool");
    let mut buffer = pool.runtime().allocate_buffer(1 << 20).expect("a buffer");
    for block in &blocks {
        pattern.fill(block.offset, &mut buffer);
        pool.write(QUERY, block, &buffer).expect("a write");
    }
    for block in &blocks {
        pool.read(QUERY, block, &mut buffer).expect("a read");
        pattern.check(block.offset, &buffer);
    }
    pool.free_blocks(QUERY, &blocks).expect("a free");
    assert_empty(pool);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn an_application_without_a_daemon_embeds_a_runtime_and_finds_its_module() {
    let folder = TempDir::new().expect("a folder");
    let nowhere = folder.path().join("nobody.sock");
    let mut client = ClientProcess::start(&nowhere, &["find-a-runtime"]);
    client.expect("embedded");
    client.succeed();
    assert!(!nowhere.exists(), "it serves nobody else");
}

#[test]
fn an_application_with_a_wrong_variable_does_not_embed_in_silence() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "somebody's").expect("a file");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).expect("a link");
    for (socket, words) in [
        (folder.path().join("missing/daemon.sock"), "is not there"),
        (file.join("daemon.sock"), "is not a folder"),
        (file.clone(), "is not a socket"),
        (folder.path().to_owned(), "is not a socket"),
        (link, "is not a socket"),
    ] {
        let mut client = ClientProcess::start(&socket, &["find-a-runtime"]);
        let said = client.expect("failed");
        for words in [words, text(&socket), "unset CHIMAERA_SOCKET"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        client.succeed();
    }
}

/// The advice of a connection that fails makes it succeed.
#[test]
fn the_advice_of_who_finds_no_daemon_can_be_followed() {
    let folder = TempDir::new().expect("a folder");
    let missing = folder.path().join("missing");
    let socket = missing.join("daemon.sock");
    let said = Runtime::connect_to(&socket).expect_err("nobody is there");
    assert_eq!(said.status(), Status::NoRuntime);
    let first = format!("{} is not there: make it", text(&missing));
    assert!(said.to_string().contains(&first), "{said}");
    std::fs::create_dir(&missing).expect("a folder");
    let said = Runtime::connect_to(&socket).expect_err("nobody is there");
    let second = format!("chimaera runtime start --socket {}", text(&socket));
    assert!(said.to_string().contains(&second), "{said}");
    let start = ["runtime", "start", "--detach", "--socket", text(&socket)];
    let _ = chimaera(&start).success();
    let daemon = BackgroundDaemon::at(&socket);
    let runtime = Runtime::connect_to(&socket).expect("it listens");
    assert_eq!(
        i64::from(runtime.daemon().process_id),
        i64::from(daemon.process_id)
    );
}

#[test]
fn an_application_with_a_daemon_connects_to_it() {
    let daemon = Daemon::start();
    let mut client = ClientProcess::start(&daemon.socket(), &["find-a-runtime"]);
    assert_eq!(client.expect("connected"), daemon.process_id().to_string());
    client.succeed();
    let pools = daemon.connect().admin().list_pools().expect("a list");
    assert_eq!(pools[0].name, "found", "the pool is the daemon's");
}

/// Only where there is no daemon: one that cannot be used is an error, not a reason to work
/// beside it.
#[test]
fn an_application_does_not_embed_beside_a_daemon_that_it_cannot_use() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("other.sock");
    let _other = std::os::unix::net::UnixListener::bind(&socket).expect("another program");
    let mut client = ClientProcess::start(&socket, &["find-a-runtime"]);
    let said = client.expect("failed");
    assert!(said.contains(text(&socket)), "{said}");
    client.succeed();
}

#[test]
fn a_module_that_is_linked_in_needs_no_library() {
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    assert_eq!(runtime.daemon().process_id, std::process::id());
    use_all_of(
        &pool(&runtime, "linked", &CreateOptions::ram(ROOM_BYTES)),
        1,
    );
    let status = runtime.admin().status().expect("a status");
    let linked = ModuleInfo {
        name: "chimaera_bdev".to_owned(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        library: None,
        removed: false,
        replacement: None,
    };
    assert_eq!(status.modules, [linked]);
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let pool = Client::new(&runtime, PoolId::new(8001, 0));
    let options = CreateOptions::file().size(file_bytes(ROOM_BYTES >> 20));
    pool.create(PoolQuery::Dynamic, text(&file), &options)
        .expect("the pool is made");
    use_all_of(&pool, 2);
}

#[test]
fn an_embedded_runtime_loads_libraries_as_a_daemon_does() {
    let _watchdog = Watchdog::start();
    let runtime = Runtime::embed()
        .plugin_folder(library_folder())
        .workers(2)
        .start()
        .expect("the runtime starts");
    let status = runtime.admin().status().expect("a status");
    assert_eq!(status.modules, []);
    use_all_of(
        &pool(&runtime, "loaded", &CreateOptions::ram(ROOM_BYTES)),
        1,
    );
}

#[test]
fn an_embedded_runtime_that_listens_serves_other_processes() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("embedded.sock");
    let runtime = Runtime::embed()
        .with_module(chimaera_bdev_runtime::module())
        .listen(&socket)
        .start()
        .expect("the runtime starts");
    // A process of its own works on the pool of this one, together with this one.
    let shared = pool(&runtime, "shared", &CreateOptions::ram(16 * MIB));
    let mine = shared.allocate_blocks(QUERY, 2 * MIB).expect("blocks");
    let pattern = Pattern::new(99, 1);
    let mut buffer = runtime.allocate_buffer(1 << 20).expect("a buffer");
    for block in &mine {
        pattern.fill(block.offset, &mut buffer);
        shared.write(QUERY, block, &buffer).expect("a write");
    }
    let mut client = ClientProcess::start(&socket, &["share", "shared", "1", "60"]);
    client.expect("ready");
    let sessions = runtime.admin().status().expect("a status").session_count;
    assert_eq!(sessions, 2);
    client.go_on();
    client.expect("holding");
    client.go_on();
    client.expect("done");
    client.succeed();
    for block in &mine {
        shared.read(QUERY, block, &mut buffer).expect("a read");
        pattern.check(block.offset, &buffer);
    }
    shared.free_blocks(QUERY, &mine).expect("a free");
    assert_eq!(
        shared.get_stats().expect("statistics").remaining_size,
        16 << 20
    );
    // The operator's commands work as with a daemon, and so does the refusal of a second host.
    let mut status = Command::new(program("chimaera"));
    status.args(["pool", "list", "--socket", text(&socket)]);
    let listed = chimaera_tests::finish(status).success();
    assert!(listed.contains("shared"), "{listed}");
    let second = Runtime::embed().listen(&socket).start();
    let error = second.expect_err("the socket is taken").to_string();
    assert!(error.contains("another runtime with process id"), "{error}");

    let other = Runtime::connect_to(&socket).expect("it listens");
    drop((shared, buffer, runtime));
    assert!(!socket.exists(), "with the last handle goes the runtime");
    until("its clients learn of its end", || !other.is_connected());
    let error = other.admin().ping().expect_err("gone");
    assert_eq!(error.status(), Status::ConnectionLost);
}

/// Every client sees the same of a daemon that was stopped.
#[test]
fn an_embedded_runtime_that_was_stopped_is_not_connected() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("embedded.sock");
    let start = || {
        let embed = Runtime::embed().with_module(chimaera_bdev_runtime::module());
        embed.listen(&socket).start().expect("the runtime starts")
    };
    let runtime = start();
    let pool = pool(&runtime, "stopped", &CreateOptions::ram(ROOM_BYTES));
    let other = Runtime::connect_to(&socket).expect("it listens");
    runtime.admin().stop_runtime().expect("it stops");
    for client in [&runtime, &other] {
        until("the connection ends", || !client.is_connected());
        let error = client.admin().ping().expect_err("stopped");
        assert_eq!(error.status(), Status::ConnectionLost);
    }
    let error = pool.allocate_blocks(QUERY, 4096).expect_err("stopped");
    assert_eq!(error.status(), Status::ConnectionLost);
    assert!(!socket.exists(), "it listens no more");
    let error = Runtime::connect_to(&socket).expect_err("stopped");
    assert_eq!(error.status(), Status::NoRuntime);

    // The socket is free for another before the handles of the first are gone.
    let second = start();
    let other = Runtime::connect_to(&socket).expect("it listens");
    other.admin().stop_runtime().expect("it stops");
    until("the connection ends", || !second.is_connected());
}

#[test]
fn an_embedded_runtime_is_stopped_by_a_command_that_does_not_wait_for_the_application() {
    let _watchdog = Watchdog::start();
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("embedded.sock");
    let embed = Runtime::embed().with_module(chimaera_bdev_runtime::module());
    let runtime = embed.listen(&socket).start().expect("the runtime starts");
    let path = socket.to_str().expect("text");
    let stopped = chimaera(&["runtime", "stop", "--socket", path]);
    let note = "it is an application with a runtime inside";
    assert!(stopped.stderr.contains(note), "{stopped:?}");
    let _ = stopped.success();
    until("the connection ends", || !runtime.is_connected());
}

#[test]
fn two_runtimes_in_one_process_know_nothing_of_each_other() {
    let _watchdog = Watchdog::start();
    let (first, second) = (embedded(), embedded());
    let pools =
        [&first, &second].map(|runtime| pool(runtime, "same", &CreateOptions::ram(ROOM_BYTES)));
    std::thread::scope(|scope| {
        for (writer, pool) in (1..).zip(&pools) {
            scope.spawn(move || (0..5).for_each(|_| use_all_of(pool, writer)));
        }
    });
    let block = pools[0].allocate_blocks(QUERY, 4096).expect("a block")[0];
    let error = pools[1]
        .free_blocks(QUERY, &[block])
        .expect_err("a block of the other's");
    assert_eq!(error.status(), Status::DoubleFree);
    let foreign = second.allocate_buffer(4096).expect("a buffer");
    let error = pools[0]
        .write(QUERY, &block, &foreign)
        .expect_err("a buffer of the other's");
    assert_eq!(error.status(), Status::InvalidBuffer);

    // A file is one pool's, whichever runtime that is in.
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let options = CreateOptions::file().size(file_bytes(ROOM_BYTES >> 20));
    let on_file = |runtime: &Runtime| {
        let pool = Client::new(runtime, PoolId::new(8001, 0));
        pool.create(PoolQuery::Dynamic, text(&file), &options)
    };
    on_file(&first).expect("the pool is made");
    let error = on_file(&second).expect_err("the file is in use");
    assert_eq!(error.status(), Status::Busy, "{error}");

    drop(pools);
    drop(first);
    let info = on_file(&second).expect("its end gives the file free");
    assert!(info.created);
    second.admin().ping().expect("the other goes on");
}
