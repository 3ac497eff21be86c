//! What the daemon's process can still do: a module of its own tries.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_bdev_client::{PoolId, PoolQuery};
use chimaera_client::{GetOrCreatePool, PoolHandle};
use chimaera_escaping_runtime::{EscapeAttempt, MODULE_NAME, TRY};
use chimaera_testing::{disk_folder, skipped};
use chimaera_tests::{Daemon, program, text};
use nix::libc::{EACCES, EAFNOSUPPORT, EINVAL, ENOSYS, EPERM};
use serde_json::Value;
use tempfile::TempDir;

/// A daemon that uses what is built in, and finds further modules beside its program.
fn start(arguments: &[&str]) -> Daemon {
    let mut command = Command::new(program("chimaera"));
    command.args(["runtime", "start"]).args(arguments);
    Daemon::start_by(command, TempDir::new().expect("a folder"))
}

/// What the daemon's status says of one of its restrictions.
fn restriction(status: &Value, name: &str) -> (bool, String) {
    let all = status["restrictions"].as_array().expect("a list");
    let one = all.iter().find(|one| one["name"] == name);
    let one = one.unwrap_or_else(|| panic!("nothing about {name}: {status}"));
    let said = one["text"].as_str().expect("a text").to_owned();
    (one["in_force"].as_bool().expect("it says"), said)
}

/// What a module in the daemon comes to, by what it tries.
struct Tried {
    errors: BTreeMap<String, i32>,
    file: PathBuf,
    _outside: TempDir,
}

impl Tried {
    /// Has a module in the daemon try these, on a worker or on a thread that it starts. Where nothing is restricted
    /// they succeed: then they must be such that do no harm.
    fn new(daemon: &Daemon, attempts: &[EscapeAttempt], on_thread: bool) -> Self {
        let outside = TempDir::new().expect("a folder");
        let file = outside.path().join("secret");
        fs::write(&file, "a secret").expect("written");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (stream, datagrams) = (outside.path().join("s"), outside.path().join("d"));
        let _stream = UnixListener::bind(&stream).expect("a socket");
        let _datagrams = UnixDatagram::bind(&datagrams).expect("a socket");
        let aims = |socket: &Path| {
            let port = port.local_addr().expect("an address").port();
            let process = std::process::id();
            format!(
                "{}\n{port}\n{}\n{process}",
                file.display(),
                socket.display()
            )
        };
        let runtime = daemon.connect();
        let pool_of = |number: u32, aims: String| {
            let id = PoolId::new(7777, number);
            let pool = PoolHandle::new(&runtime, MODULE_NAME, id);
            let request =
                GetOrCreatePool::new(MODULE_NAME, &format!("{id}"), id, aims.into_bytes());
            let made = pool.async_create(PoolQuery::Dynamic, &request).wait();
            made.expect("the pool is made");
            pool
        };
        let number = u32::from(on_thread) * 2;
        let (pool, sending) = (
            pool_of(number, aims(&stream)),
            pool_of(number + 1, aims(&datagrams)),
        );
        let errors = attempts.iter().map(|&attempt| {
            let pool = match attempt {
                EscapeAttempt::Datagram => &sending,
                _ => &pool,
            };
            let arguments = [attempt as u64, u64::from(on_thread), 0];
            let values = pool.carry_out(&pool.call(PoolQuery::Local, TRY, arguments));
            let errno = values.expect("the module answers")[0] as i32;
            (format!("{attempt:?}"), errno)
        });
        Self {
            errors: errors.collect(),
            file,
            _outside: outside,
        }
    }

    #[track_caller]
    fn assert_refused(&self, attempts: &[EscapeAttempt]) {
        for attempt in attempts {
            let errno = self.errors[&format!("{attempt:?}")];
            assert!(
                [EACCES, EPERM, EAFNOSUPPORT, ENOSYS].contains(&errno),
                "{attempt:?} came to {errno}: {:?}",
                self.errors
            );
        }
        assert_eq!(
            fs::read_to_string(&self.file).expect("it is there"),
            "a secret"
        );
    }

    fn came_to(&self, attempt: EscapeAttempt) -> i32 {
        self.errors[&format!("{attempt:?}")]
    }
}

/// Whether this kernel restricts all that the tests try; says so if it does not.
fn is_restricted(daemon: &Daemon) -> bool {
    let status = daemon.status();
    let names = ["paths", "network", "processes", "system calls", "io_uring"];
    let missing = names.map(|name| restriction(&status, name));
    match missing.iter().find(|(in_force, _)| !in_force) {
        Some((_, why)) => {
            skipped("what the daemon can do", why);
            false
        }
        None => true,
    }
}

#[test]
fn a_module_gets_at_nothing_that_the_daemon_has_no_business_with() {
    let folder = disk_folder();
    let daemon = start(&["--allow-path", text(folder.path())]);
    if !is_restricted(&daemon) {
        return;
    }
    for on_thread in [false, true] {
        Tried::new(&daemon, EscapeAttempt::ALL, on_thread).assert_refused(EscapeAttempt::ALL);
    }
}

#[test]
fn a_daemon_whose_modules_make_rings_says_so_and_rings_open_nothing() {
    let folder = disk_folder();
    let arguments = ["--allow-path", text(folder.path()), "--rings", "any"];
    let daemon = start(&arguments);
    let (in_force, said) = restriction(&daemon.status(), "io_uring");
    assert!(!in_force, "{said}");
    let by_ring = [EscapeAttempt::ReadByRing, EscapeAttempt::ConnectByRing];
    let tried = Tried::new(
        &daemon,
        &[
            &[EscapeAttempt::MakeRing, EscapeAttempt::SocketByRing],
            &by_ring[..],
        ]
        .concat(),
        false,
    );
    if tried.came_to(EscapeAttempt::MakeRing) != 0 {
        return skipped("rings of a module's own", "this system makes none");
    }
    tried.assert_refused(&by_ring);
    // Before Linux 5.19 rings make none.
    let made = tried.came_to(EscapeAttempt::SocketByRing);
    assert!([0, EINVAL].contains(&made), "the status says so: {made}");
}

#[test]
fn each_means_can_be_switched_off_and_the_status_says_it() {
    let daemon = start(&["--no-landlock", "--no-seccomp", "--keep-capabilities"]);
    let status = daemon.status();
    for (name, option) in [
        ("paths", "--no-landlock"),
        ("network", "--no-landlock"),
        ("system calls", "--no-seccomp"),
        ("capabilities", "--keep-capabilities"),
    ] {
        let (in_force, said) = restriction(&status, name);
        assert!(!in_force && said.contains(option), "{name}: {said}");
    }
    let harmless = [
        EscapeAttempt::Read,
        EscapeAttempt::ConnectTcp,
        EscapeAttempt::ConnectUnix,
        EscapeAttempt::Datagram,
        EscapeAttempt::Signal,
    ];
    let tried = Tried::new(&daemon, &harmless, false);
    for attempt in harmless {
        assert_eq!(tried.came_to(attempt), 0, "{attempt:?}: the aims are right");
    }
}

#[test]
fn rings_from_the_start_serve_one_pool_after_the_other() {
    let folder = disk_folder();
    let daemon = start(&["--rings", "1", "--workers", "1"]);
    let create = |name: &str| {
        let file = folder.path().join(name);
        let create = ["pool", "create", text(&file), "--type", "file"];
        daemon.run(&[&create[..], &["--size", "4MiB", "--io-engine", "io_uring"]].concat())
    };
    for name in ["one", "two", "three"] {
        let _ = create(name).success();
        let refused = create("further").failure(1);
        assert!(refused.contains("--rings"), "{refused}");
        let name = folder.path().join(name);
        let _ = daemon.run(&["pool", "destroy", text(&name)]).success();
    }
}
