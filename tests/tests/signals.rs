//! What the daemon does with each signal, as `docs/OPERATING.md` has it, and that a library's threads leave
//! signals to the application.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use chimaera_bdev_client::{Block, Client, CreateOptions, PoolId, PoolQuery, Runtime, Status};
use chimaera_faulty_runtime::params;
use chimaera_tests::exit::NO_SPACE;
use chimaera_tests::{
    Daemon, Faulty, MIB, PATIENCE, Pattern, assert_refused, client, finish, is_ignored, program,
    skipped, text, until, within,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const QUERY: PoolQuery = PoolQuery::Local;

/// A shell that does something and then becomes the program whose arguments follow.
fn after(shell: &str, name: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell}; exec \"$@\""), "sh"])
        .arg(program(name));
    command
}

/// A daemon that leaves no core behind.
fn start_without_core(folder: TempDir) -> Daemon {
    let mut command = after("ulimit -c 0", "chimaera");
    command.args(["runtime", "start"]);
    Daemon::start_by(command, folder)
}

fn path_of(daemon: &Daemon) -> std::path::PathBuf {
    daemon.folder().join("pool")
}

/// Makes a file pool with a block that is flushed and one that is not.
fn fill(daemon: &Daemon, pattern: Pattern) -> [Block; 2] {
    let runtime = daemon.connect();
    let pool = client(&runtime, 3);
    let options = CreateOptions::file().size(16 * MIB);
    pool.create(PoolQuery::Dynamic, text(&path_of(daemon)), &options)
        .expect("the pool is made");
    let write = || {
        let block = pool.allocate_blocks(QUERY, 4096).expect("room")[0];
        let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
        pattern.fill(block.offset, &mut buffer);
        pool.write(QUERY, &block, &buffer).expect("written");
        block
    };
    let flushed = write();
    pool.flush(QUERY).expect("flushed");
    [flushed, write()]
}

/// The pool is whole and has these blocks, with what was written there.
fn check(path: &Path, pattern: Pattern, blocks: &[Block]) {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = Client::new(&runtime, PoolId::NULL);
    pool.create(PoolQuery::Dynamic, text(path), &CreateOptions::file())
        .expect("the pool is whole");
    for block in blocks {
        let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
        pool.read(QUERY, block, &mut buffer).expect("it is there");
        pattern.check(block.offset, &buffer);
    }
}

#[test]
fn signals_that_mean_an_end_flush_every_pool_first() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGPWR,
    ] {
        if is_ignored(signal) {
            skipped(signal.as_str(), "it is ignored by whoever started this");
            continue;
        }
        let mut daemon = Daemon::start();
        let pattern = Pattern::new(1, signal as u32);
        let blocks = fill(&daemon, pattern);
        // Two at once count as one: a program that passes a signal on may send it to a process and to its group.
        daemon.signal(signal);
        daemon.signal(Signal::SIGTERM);
        let (code, log) = daemon.wait();
        assert_eq!(code, Some(0), "{signal}: {log}");
        check(&path_of(&daemon), pattern, &blocks);
    }
}

#[test]
fn a_second_signal_ends_a_daemon_that_does_not_come_to_its_end() {
    let mut daemon = Daemon::start();
    let never = format!(
        "{}{}",
        params::FLUSH_WAITS,
        text(&daemon.folder().join("never"))
    );
    let faulty = Faulty::new(&daemon.connect(), 1);
    faulty.create(&never).expect("the pool is made");
    daemon.insist(Signal::SIGTERM);
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the second signal"), "{log}");
}

#[test]
fn signals_that_mean_nothing_to_a_daemon_do_nothing_to_it() {
    let mut daemon = Daemon::start();
    let pattern = Pattern::new(1, 7);
    let blocks = fill(&daemon, pattern);
    let meaningless = [
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGXCPU,
        Signal::SIGXFSZ,
        Signal::SIGPIPE,
        Signal::SIGSTKFLT,
        Signal::SIGCHLD,
        Signal::SIGURG,
        Signal::SIGWINCH,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGCONT,
    ];
    let runtime = daemon.connect();
    for _ in 0..2 {
        for signal in meaningless {
            daemon.signal(signal);
            runtime.admin().ping().expect("it serves");
        }
        // Real-time signals have no names here. The two below 34 are the system library's own.
        for number in [34, 40, 64] {
            let mut kill = Command::new("sh");
            let line = format!("kill -{number} {}", daemon.process_id());
            kill.args(["-c", &line]);
            let _ = finish(kill).success();
            runtime.admin().ping().expect("it serves");
        }
    }
    drop(runtime);
    daemon.signal(Signal::SIGTERM);
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "it takes the next one all the same: {log}");
    check(&path_of(&daemon), pattern, &blocks);
}

#[test]
fn a_daemon_that_was_stopped_goes_on() {
    let mut daemon = Daemon::start();
    let pattern = Pattern::new(1, 9);
    let blocks = fill(&daemon, pattern);
    daemon.signal(Signal::SIGSTOP);
    daemon.signal(Signal::SIGCONT);
    daemon.connect().admin().ping().expect("it serves");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
    check(&path_of(&daemon), pattern, &blocks);
}

#[test]
fn signals_of_faults_end_the_daemon_as_a_crash_does_and_the_pool_is_whole() {
    for signal in [
        Signal::SIGABRT,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGTRAP,
        Signal::SIGSYS,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGKILL,
    ] {
        let mut daemon = start_without_core(TempDir::new().expect("a folder"));
        let pattern = Pattern::new(1, signal as u32);
        let [flushed, _] = fill(&daemon, pattern);
        // The standard library's handler, which looks for overflown stacks, lets a first one pass without effect.
        until("the daemon ends", || {
            daemon.signal(signal);
            Runtime::connect_to(daemon.socket()).is_err()
        });
        assert_eq!(daemon.wait().0, None, "{signal}");
        check(&path_of(&daemon), pattern, &[flushed]);
    }
}

#[test]
fn a_signal_that_whoever_starts_the_daemon_ignores_does_not_stop_it() {
    let mut command = after("trap '' HUP INT", "chimaera");
    command.args(["runtime", "start"]);
    let mut daemon = Daemon::start_by(command, TempDir::new().expect("a folder"));
    let runtime = daemon.connect();
    for signal in [Signal::SIGHUP, Signal::SIGINT] {
        daemon.signal(signal);
        runtime.admin().ping().expect("it serves");
    }
    drop(runtime);
    daemon.signal(Signal::SIGTERM);
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("SIGTERM: stopping"), "and none before: {log}");
}

#[test]
fn a_limit_on_files_is_an_error_of_the_write_that_meets_it() {
    let mut daemon = Daemon::start();
    let limit = |bytes: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg(format!("--fsize={bytes}:"));
        prlimit.args(["--pid", &daemon.process_id().to_string()]);
        prlimit.status().map(|status| status.success())
    };
    match limit("unlimited") {
        Ok(true) => {}
        refused => return skipped("a limit on files", &format!("prlimit: {refused:?}")),
    }
    let pattern = Pattern::new(1, 11);
    let blocks = fill(&daemon, pattern);
    let runtime = daemon.connect();
    let pool = client(&runtime, 3);
    let block = pool.allocate_blocks(QUERY, MIB).expect("room")[0];
    pool.flush(QUERY).expect("flushed");
    let buffer = runtime.allocate_buffer(4096).expect("a buffer");
    assert_eq!(limit(&block.offset.to_string()).ok(), Some(true));
    assert_refused(
        pool.write(QUERY, &block, &buffer),
        Status::IoError,
        &["File too large"],
    );
    let other = daemon.folder().join("other");
    let size = (64 * MIB).to_string();
    let refused = daemon.create_file_pool(&other, &size);
    let refused = refused.failure(NO_SPACE);
    assert!(refused.contains("File too large"), "{refused}");
    assert_eq!(limit("unlimited").ok(), Some(true));
    pool.write(QUERY, &block, &buffer)
        .expect("there is room again");
    drop(runtime);
    daemon.signal(Signal::SIGTERM);
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
    check(&path_of(&daemon), pattern, &blocks);
}

#[test]
fn a_client_with_a_limit_on_files_learns_of_it_instead_of_being_killed() {
    let daemon = Daemon::start();
    let mut command = after("ulimit -f 64", "chimaera-test-client");
    command
        .arg("find-a-runtime")
        .env("CHIMAERA_SOCKET", daemon.socket());
    let ended = finish(command);
    assert!(ended.success().contains("ulimit -f"));
    let mut command = after("ulimit -f 64", "chimaera");
    command
        .args(["pool", "list", "--socket"])
        .arg(daemon.socket());
    let refused = finish(command).failure(NO_SPACE);
    assert!(refused.contains("ulimit -f"), "{refused}");
}

/// Names and masks of this process's threads that are Chimaera's.
fn threads() -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc");
    let read = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        let mask = u64::from_str_radix(&field("SigBlk:")?, 16).ok()?;
        Some((field("Name:")?, mask))
    };
    let all = tasks.filter_map(read);
    all.filter(|(name, _)| name.starts_with("chimaera"))
        .collect()
}

/// What is wrong with the mask of a thread that is to leave signals to the application, but for those that a fault of
/// its own raises.
fn fault_of(name: &str, mask: u64) -> Option<String> {
    let own = [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGTRAP,
        Signal::SIGSYS,
        Signal::SIGABRT,
    ];
    let others = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGXFSZ,
        Signal::SIGCHLD,
        Signal::SIGALRM,
    ];
    let is_blocked = |signal: &&Signal| mask & 1 << (**signal as u32 - 1) != 0;
    let taken = others.iter().find(|signal| !is_blocked(signal));
    let blocked = own.iter().find(is_blocked);
    let taken = taken.map(|signal| format!("{name} takes {signal}"));
    taken.or_else(|| blocked.map(|signal| format!("{name} blocks {signal}")))
}

#[test]
fn threads_of_the_library_leave_signals_to_the_application() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("pool");
    let daemon = Daemon::start();
    let remote = daemon.connect();
    let runtime = Runtime::embed()
        .with_module(chimaera_bdev_runtime::module())
        .start()
        .expect("a runtime");
    let pool = client(&runtime, 1);
    let options = CreateOptions::file().size(16 * MIB);
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("created");
    remote.admin().ping().expect("connected");
    // A thread that is just beginning or ending has all signals blocked for a moment, by the system's library.
    let begin = Instant::now();
    let found = loop {
        let found = threads();
        match found.iter().find_map(|(name, mask)| fault_of(name, *mask)) {
            None => break found,
            Some(fault) => assert!(begin.elapsed() < PATIENCE, "{fault}"),
        }
        std::thread::yield_now();
    };
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    for part in ["contro", "worker", "log", "link", "job", "keeper"] {
        let found = names.iter().any(|name| name.contains(part));
        assert!(found, "no thread for {part} among {names:?}");
    }
    within("the end", move || drop((pool, runtime)));
}
