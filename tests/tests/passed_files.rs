//! Files that clients open and pass, with real users: whose rights count, and what no pool can have.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::{iter, thread};

use chimaera_bdev_client::{
    Client, ConnectOptions, CreateOptions, Error, GetOrCreatePool, MODULE_NAME, PoolId, PoolInfo,
    PoolQuery, Runtime, Status, Task,
};
use chimaera_faulty_runtime::Method;
use chimaera_proto::codec;
use chimaera_tests::exit::{IN_THE_WAY, NOT_PERMITTED, WRONG_USAGE};
use chimaera_tests::{
    Daemon, Faulty, LoopDevice, MIB, ROOT, Sandbox, SandboxDaemon, Watchdog, disk_folder, is_root,
    library_folder, skipped, text, until,
};

/// The user of the daemon.
const HOST: u32 = 1002;
/// Two users of pools.
const ALICE: u32 = 1003;
const BOB: u32 = 1004;

const OPERATORS: [&str; 2] = ["--socket", "/tmp/host/operators"];
const USERS: [&str; 3] = ["--socket", "/tmp/host/users", "--any-user"];

/// A sandbox with a daemon of [`HOST`]'s, which other users can reach.
fn sandbox_with_daemon(what: &str) -> Option<(Sandbox, SandboxDaemon)> {
    let sandbox = Sandbox::new(what)?;
    let _ = sandbox.shell(HOST, "mkdir /tmp/host").success();
    let listen = ["--listen", "/tmp/host/users,mode=666"];
    let daemon = SandboxDaemon::start(&sandbox, HOST, &[&OPERATORS[..], &listen].concat());
    Some((sandbox, daemon))
}

/// `pool create` on a file, with further arguments.
fn create<'a>(path: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let create = ["pool", "create", path, "--type", "file", "--size", "4MiB"];
    [&create[..], more].concat()
}

#[test]
fn a_user_has_a_pool_where_the_daemon_may_not_go_and_nobody_where_they_may_not_go() {
    let _watchdog = Watchdog::start();
    let Some((sandbox, _daemon)) = sandbox_with_daemon("a user's file and another's daemon") else {
        return;
    };
    let _ = sandbox
        .shell(ALICE, "umask 077; mkdir /tmp/alice")
        .success();
    let path = "/tmp/alice/pool";
    let _ = sandbox.chimaera(ALICE, &create(path, &USERS)).success();
    let found = fs::metadata(sandbox.path(path)).expect("it is there");
    assert_eq!((found.uid(), found.mode() & 0o777), (ALICE, 0o600));
    assert_eq!(found.len(), 4 * MIB);
    let flush = [&["pool", "flush", path][..], &USERS].concat();
    let _ = sandbox.chimaera(ALICE, &flush).success();
    let destroy = [&["pool", "destroy", path][..], &USERS].concat();
    let _ = sandbox.chimaera(ALICE, &destroy).success();
    let said = sandbox.chimaera(ALICE, &create(path, &USERS)).success();
    assert!(said.starts_with("opened what was there"), "{said}");

    // Neither another user nor the daemon's own gets there.
    for (user, socket) in [(BOB, &USERS[..]), (HOST, &OPERATORS)] {
        let other = sandbox.chimaera(user, &create("/tmp/alice/other", socket));
        let said = other.failure(NOT_PERMITTED);
        assert!(said.contains(&format!("user {user}, as whom")), "{said}");
    }
    assert!(!sandbox.path("/tmp/alice/other").exists());
}

#[test]
fn a_daemon_that_others_use_opens_paths_only_for_operators_and_where_it_is_allowed() {
    let _watchdog = Watchdog::start();
    let Some((sandbox, daemon)) = sandbox_with_daemon("paths that a daemon opens") else {
        return;
    };
    let by_daemon = |user: u32, path: &str, socket: &[&str]| {
        let more = [&["--by-daemon"][..], socket].concat();
        sandbox.chimaera(user, &create(path, &more))
    };
    let said = by_daemon(ALICE, "/tmp/host/pool", &USERS).failure(NOT_PERMITTED);
    assert!(said.contains("for operators only"), "{said}");
    let said = by_daemon(HOST, "/tmp/host/pool", &OPERATORS).failure(NOT_PERMITTED);
    assert!(said.contains("--allow-path"), "{said}");
    drop(daemon);

    let make = "mkdir /tmp/allowed /tmp/other; ln -s /tmp/other /tmp/allowed/link; ln -s /tmp/allowed /tmp/way";
    let _ = sandbox.shell(HOST, make).success();
    let start = [
        &[
            "--socket",
            "/tmp/host/second",
            "--allow-path",
            "/tmp/allowed",
        ][..],
        &["--listen", "/tmp/host/third,mode=666"],
    ];
    let _daemon = SandboxDaemon::start(&sandbox, HOST, &start.concat());
    let socket = ["--socket", "/tmp/host/second"];
    let _ = by_daemon(HOST, "/tmp/allowed/pool", &socket).success();
    assert!(sandbox.path("/tmp/allowed/pool").exists());
    for path in [
        "/tmp/other/pool",
        "/tmp/allowed/link/pool",
        "/tmp/allowed/../other/pool",
        "/tmp/way/pool",
        "/proc/self/cwd/tmp/allowed/pool",
    ] {
        let _ = by_daemon(HOST, path, &socket).failure(NOT_PERMITTED);
    }
    assert!(!sandbox.path("/tmp/other/pool").exists());
    let users = ["--socket", "/tmp/host/third", "--any-user"];
    let _ = by_daemon(ALICE, "/tmp/allowed/alice", &users).failure(NOT_PERMITTED);
}

#[test]
fn a_daemon_of_ones_own_opens_any_path_but_none_of_what_a_process_has_open() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("paths that a user's own daemon opens") else {
        return;
    };
    let _ = sandbox.shell(ALICE, "mkdir /tmp/alice").success();
    let socket = ["--socket", "/tmp/alice/socket"];
    let daemon = SandboxDaemon::start(&sandbox, ALICE, &socket);
    let by_daemon = [&["--by-daemon"][..], &socket].concat();
    let _ = sandbox
        .chimaera(ALICE, &create("/tmp/alice/pool", &by_daemon))
        .success();
    // Clients' memory is among what the daemon has open, and so is the file of its pool.
    let folder = format!("/proc/{}/fd", daemon.process_id());
    let mut refused = 0;
    for entry in fs::read_dir(&folder).expect("descriptors") {
        let path = entry.expect("a descriptor").path();
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        let is_memory = target.to_string_lossy().starts_with("/memfd:");
        if is_memory || target.ends_with("pool") {
            let said = sandbox.chimaera(ALICE, &create(text(&path), &by_daemon));
            let said = said.failure(NOT_PERMITTED);
            assert!(said.contains("a link of /proc is on its way"), "{said}");
            refused += 1;
        }
    }
    assert!(refused > 0, "{folder}");
}

#[test]
fn a_file_of_one_users_pool_is_no_other_users() {
    let _watchdog = Watchdog::start();
    let Some((sandbox, _daemon)) = sandbox_with_daemon("one file, passed by two users") else {
        return;
    };
    let make = "mkdir /tmp/alice; : > /tmp/alice/pool; chmod 666 /tmp/alice/pool";
    let _ = sandbox.shell(ALICE, make).success();
    let path = "/tmp/alice/pool";
    let _ = sandbox.chimaera(ALICE, &create(path, &USERS)).success();
    let said = sandbox
        .chimaera(BOB, &create(path, &USERS))
        .failure(IN_THE_WAY);
    assert!(said.contains("is in use"), "{said}");
    let destroy = [&["pool", "destroy", path][..], &USERS].concat();
    let _ = sandbox.chimaera(ALICE, &destroy).success();
    let said = sandbox.chimaera(BOB, &create(path, &USERS)).success();
    assert!(said.starts_with("opened what was there"), "{said}");
}

/// Asks for a pool on a file that is passed as it is.
fn pass(runtime: &Runtime, file: &impl AsFd, name: &str) -> Result<(), Error> {
    let offered = runtime.offer_file(file.as_fd())?;
    let options = CreateOptions::file().size(4 * MIB);
    let params = codec::encode(options.params()).expect("encodes");
    let request = GetOrCreatePool {
        file: Some(offered.number()),
        ..GetOrCreatePool::new(MODULE_NAME, name, PoolId::NULL, params)
    };
    let admin = runtime.admin();
    let made = admin.get_or_create_pool(PoolQuery::Dynamic, &request);
    offered.settle();
    made.map(drop)
}

#[track_caller]
fn assert_refused(passed: Result<(), Error>, status: Status, words: &str) {
    let error = passed.expect_err("a pool was made");
    assert_eq!(error.status(), status, "{error}");
    assert!(error.to_string().contains(words), "no {words:?} in {error}");
}

/// Runs `act` on a thread that is this user's, over a connection to the socket.
fn as_user(user: u32, socket: &Path, act: impl FnOnce(&Runtime) + Send) {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            // The C library would change all threads of the process.
            // SAFETY: these calls change the calling thread's ids, from numbers alone.
            let changed = unsafe {
                libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>())
                    | libc::syscall(libc::SYS_setresgid, user, user, user)
                    | libc::syscall(libc::SYS_setresuid, user, user, user)
            };
            assert_eq!(changed, 0, "root may");
            let options = ConnectOptions::new().trust_any_user();
            act(&options.connect_to(socket).expect("connects"));
        });
        acting.join().expect("the thread's assertions hold");
    });
}

/// A daemon of root's with a socket for users, and a folder that they can reach.
fn daemon_for_users() -> (Daemon, tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a folder");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.path(), open).expect("its own");
    let socket = place.path().join("users");
    let listen = format!("{},mode=666", socket.display());
    let daemon = Daemon::start_with(&["--listen", &listen]);
    (daemon, place, socket)
}

#[test]
fn what_a_user_passes_is_taken_for_what_it_is() {
    if !is_root("files that users pass") {
        return;
    }
    let _watchdog = Watchdog::start();
    let (daemon, place, socket) = daemon_for_users();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let path = text(&path);
    let opened = |options: &mut OpenOptions| options.read(true).open(path).expect("opened");
    fs::write(path, "").expect("made");
    let appends = opened(OpenOptions::new().append(true));
    let names = opened(OpenOptions::new().custom_flags(libc::O_PATH));
    let reads = opened(&mut OpenOptions::new());
    let whole = opened(OpenOptions::new().write(true));
    let memory = nix::sys::memfd::memfd_create("memory", nix::sys::memfd::MFdFlags::empty());
    let memory = memory.expect("memory");
    let itself = File::open(folder.path()).expect("a folder");
    let fifo = place.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .open(fifo)
        .expect("opened");
    let refuse_all = |runtime: &Runtime| {
        let invalid = Status::InvalidArgument;
        assert_refused(pass(runtime, &appends, path), invalid, "O_APPEND");
        assert_refused(pass(runtime, &reads, path), invalid, "for reading only");
        assert_refused(pass(runtime, &memory, path), invalid, "memfd");
    };
    as_user(ALICE, &socket, refuse_all);
    let operator = daemon.connect();
    refuse_all(&operator);
    // What is no file of a disk at all does not come to the daemon, and ends its session.
    let foreign: [(&(dyn AsFd + Sync), &str); 3] = [
        (&names, "O_PATH"),
        (&itself, "a directory"),
        (&fifo, "a FIFO"),
    ];
    for (file, words) in foreign {
        let refuse = |runtime: &Runtime| {
            let refused = pass(runtime, &file, path);
            assert_refused(refused, Status::InvalidArgument, words);
            until("the end of the session", || !runtime.is_connected());
        };
        as_user(ALICE, &socket, refuse);
        refuse(&daemon.connect());
    }

    let link = folder.path().join("link");
    fs::hard_link(path, &link).expect("a link");
    as_user(ALICE, &socket, |runtime| {
        assert_refused(
            pass(runtime, &whole, path),
            Status::InvalidArgument,
            "2 names",
        );
    });
    pass(&operator, &whole, path).expect("an operator may");
    operator.admin().destroy_pool(path).expect("it goes");
    fs::remove_file(&link).expect("removed");
    // Else the pool would be root's, as the file records.
    whole.set_len(0).expect("blank");
    as_user(ALICE, &socket, |runtime| {
        pass(runtime, &whole, path).expect("it is a file with one name");
        runtime.admin().destroy_pool(path).expect("it goes");
    });
}

#[test]
fn no_pool_has_a_file_that_the_daemon_needs() {
    if !is_root("files of the daemon's") {
        return;
    }
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("files of the daemon's own") else {
        return;
    };
    let library = "/run/plugins/libchimaera_echo_runtime.so";
    let copy = format!(
        "mkdir /run/plugins; cp {} {library}",
        text(&library_folder().join("libchimaera_echo_runtime.so"))
    );
    let _ = sandbox.shell(ROOT, &copy).success();
    let start = ["--allow-path", "/run", "--plugin-dir", "/run/plugins"];
    let _daemon = SandboxDaemon::start(&sandbox, ROOT, &start);
    let echo = ["pool", "create", "echo", "--module", "chimaera_echo"];
    let _ = sandbox.chimaera(ROOT, &echo).success();
    let log = "/run/chimaera/chimaera.sock.log";
    let before = fs::read_to_string(sandbox.path(log)).expect("a log");
    let code = fs::read(sandbox.path(library)).expect("a library");
    for own in [log, "/run/chimaera/chimaera.sock.lock", library] {
        for more in [&["--overwrite"][..], &["--overwrite", "--by-daemon"]] {
            let said = sandbox.chimaera(ROOT, &create(own, more));
            let said = said.failure(NOT_PERMITTED);
            assert!(said.contains("that the daemon itself needs"), "{said}");
        }
    }
    let now = fs::read(sandbox.path(library)).expect("a library");
    assert!(now == code, "the library is another one");
    let after = fs::read_to_string(sandbox.path(log)).expect("a log");
    assert!(after.starts_with(&before), "{after}");
    let _ = sandbox
        .chimaera(ROOT, &create("/run/pool", &["--by-daemon"]))
        .success();
    let _ = sandbox
        .chimaera(ROOT, &create("/run/second", &[]))
        .success();
    let said = sandbox
        .chimaera(ROOT, &create("/dev/null", &[]))
        .failure(WRONG_USAGE);
    assert!(said.contains("a character device"), "{said}");
}

#[test]
fn a_device_whose_pool_is_open_is_found_and_not_opened_again() {
    let device = match LoopDevice::attach(4 * MIB) {
        Ok(device) => device,
        Err(reason) => return skipped("a device of an open pool", &reason),
    };
    let _watchdog = Watchdog::start();
    let (daemon, other) = (Daemon::start(), Daemon::start());
    let runtime = daemon.connect();
    let options = CreateOptions::file();
    let client = || Client::new(&runtime, PoolId::NULL);
    let made = client().create(PoolQuery::Dynamic, device.name(), &options);
    assert!(made.expect("it is made").created);
    let found = client().create(PoolQuery::Dynamic, device.name(), &options);
    assert!(!found.expect("it is found").created);
    // Another daemon finds it in use.
    let second = other.connect();
    let second = Client::new(&second, PoolId::NULL);
    let refused = second.create(PoolQuery::Dynamic, device.name(), &options);
    assert_eq!(refused.expect_err("in use").status(), Status::Busy);
}

#[test]
fn creations_that_are_given_up_before_they_are_sent_keep_no_file() {
    let _watchdog = Watchdog::start();
    let (daemon, folder) = (Daemon::start(), disk_folder());
    let runtime = daemon.connect();
    let (holder, other) = (Faulty::created(&runtime, 0), Faulty::created(&runtime, 1));
    let options = CreateOptions::file().size(4 * MIB);
    let create = |path: &Path| {
        let client = Client::new(&runtime, PoolId::NULL);
        client.async_create(PoolQuery::Dynamic, text(path), &options)
    };
    thread::scope(|scope| {
        let (give, taken) = channel::<(Task<PoolInfo>, PathBuf)>();
        scope.spawn(|| {
            let held = iter::repeat_with(|| holder.start(Method::Hold, None));
            let held: Vec<_> = held.take_while(Task::is_submitted).collect();
            // The lane of this thread has no room: a task that goes on here opens its file, and no further.
            for (task, path) in taken {
                until("the file is made", || task.is_complete() || path.exists());
                assert!(!task.is_complete(), "{:?}", task.wait());
            }
            drop(held);
        });
        for round in 0..9 {
            let path = folder.path().join(format!("given up {round}"));
            give.send((create(&path), path)).expect("it is there");
        }
        drop(give);
    });
    let _ = other.about_held(Method::Release, holder.pool_id());
    let path = folder.path().join("pool");
    create(&path).wait().expect("it is made");
}
