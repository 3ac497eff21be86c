//! Which module a daemon uses, where there are several of a name, and that it goes on using it whatever
//! happens to the file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Status};
use chimaera_tests::{
    Daemon, Faulty, MIB, assert_empty, assert_refused, client, exit, library_folder, memory,
    program, text,
};
use tempfile::TempDir;

const QUERY: PoolQuery = PoolQuery::Local;
const LIBRARY: &str = "libchimaera_bdev_runtime.so";

/// The program alone, as in a folder into which nothing else was built or installed.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        for part in ["bin", "lib/chimaera", "named"] {
            std::fs::create_dir_all(folder.path().join(part)).expect("a folder");
        }
        let installed = Self { folder };
        // By a process of its own: a file that is open for writing here is so in children that other tests fork
        // meanwhile, and cannot be run as long as they have it.
        let mut copy = Command::new("cp");
        copy.arg(program("chimaera")).arg(installed.program());
        assert!(copy.status().expect("cp runs").success());
        installed
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("bin/chimaera")
    }

    /// A folder that an operator may name.
    fn named(&self) -> PathBuf {
        self.folder.path().join("named")
    }

    fn start(&self, arguments: &[&str], variable: Option<&Path>) -> Daemon {
        let mut command = Command::new(self.program());
        command.args(["runtime", "start"]).args(arguments);
        match variable {
            Some(folder) => command.env("CHIMAERA_PLUGIN_PATH", folder),
            None => command.env_remove("CHIMAERA_PLUGIN_PATH"),
        };
        Daemon::start_by(command, TempDir::new().expect("a folder"))
    }
}

/// Where the module comes from, as `status` says it to programs and to people.
fn source(daemon: &Daemon) -> Option<String> {
    let status = daemon.status();
    let module = &status["modules"][0];
    assert_eq!(module["name"], "chimaera_bdev", "{status}");
    let library = module["library"].as_str().map(str::to_owned);
    assert_eq!(module["built_in"], library.is_none(), "{status}");
    let shown = daemon.run(&["runtime", "status"]).success();
    let said = library.as_deref().unwrap_or("built in");
    assert!(shown.contains(&format!("({said}")), "{shown}");
    library
}

#[test]
fn a_daemon_has_block_devices_built_in() {
    let daemon = Installed::new().start(&[], None);
    let before = daemon.run(&["runtime", "status"]).success();
    let expected = format!("chimaera_bdev {} (built in)", env!("CARGO_PKG_VERSION"));
    assert!(before.contains(&expected), "{before}");
    let pool = memory(&daemon.connect(), MIB);
    let blocks = pool.allocate_blocks(QUERY, MIB).expect("blocks");
    pool.free_blocks(QUERY, &blocks).expect("freed");
    assert_eq!(source(&daemon), None);
}

#[test]
fn a_library_that_nobody_named_does_not_stand_in_for_what_is_built_in() {
    let installed = Installed::new();
    for place in ["bin", "lib/chimaera"] {
        let stale = installed.folder.path().join(place).join(LIBRARY);
        std::fs::write(stale, "of an earlier release").expect("a file");
    }
    let daemon = installed.start(&[], None);
    let _ = memory(&daemon.connect(), MIB);
    assert_eq!(source(&daemon), None);
}

#[test]
fn a_library_in_a_folder_that_the_operator_names_replaces_what_is_built_in() {
    let installed = Installed::new();
    let library = installed.named().join(LIBRARY);
    std::fs::copy(library_folder().join(LIBRARY), &library).expect("the library");
    let named = installed.named();
    let ways = [
        (vec!["--plugin-dir", text(&named)], None),
        (vec![], Some(&*named)),
    ];
    for (arguments, variable) in ways {
        let daemon = installed.start(&arguments, variable);
        // Also before anybody has asked for the module.
        assert_eq!(source(&daemon).as_deref(), Some(text(&library)));
        let pool = memory(&daemon.connect(), MIB);
        assert_eq!(source(&daemon).as_deref(), Some(text(&library)));
        assert_empty(&pool);
    }

    // A library that cannot be used is not passed over: the operator named its folder.
    std::fs::write(&library, "no library").expect("a file");
    let daemon = installed.start(&["--plugin-dir", text(&named)], None);
    let pool = client(&daemon.connect(), 0);
    let refused = pool.create(PoolQuery::Dynamic, "memory", &CreateOptions::ram(MIB));
    assert_refused(refused, Status::ModuleIncompatible, &[text(&library)]);
}

#[test]
fn folders_are_named_without_the_way_back_from_others() {
    let installed = Installed::new();
    let named = installed.folder.path().join("bin/../named");
    let nowhere = installed.folder.path().join("nowhere");
    let daemon = installed.start(&["--plugin-dir", text(&named)], Some(&nowhere));
    let absent = ["pool", "create", "p", "--module", "absent"];
    let said = daemon.run(&absent).failure(exit::NOT_FOUND);
    for folder in ["named", "lib/chimaera", "bin"] {
        let folder = installed.folder.path().join(folder);
        assert!(said.contains(text(&folder)), "{said}");
    }
    assert!(!said.contains(".."), "{said}");
    let missing = format!("{} (which is not there)", nowhere.display());
    assert!(said.contains(&missing), "{said}");
    assert_eq!(said.matches("which is not there").count(), 1, "{said}");
}

#[test]
fn a_library_that_was_built_again_is_not_what_is_in_use_and_log_and_status_say_so() {
    let folder = TempDir::new().expect("a folder");
    let library = folder.path().join(LIBRARY);
    let whole = std::fs::read(library_folder().join(LIBRARY)).expect("the library");
    let place = |content: &[u8]| {
        // As cargo does it: another file under the same name.
        let _ = std::fs::remove_file(&library);
        std::fs::write(&library, content).expect("a library");
    };
    place(&whole);
    let mut daemon = Daemon::start_with(&["--plugin-dir", text(folder.path())]);
    let runtime = daemon.connect();
    let create = |number: u32| {
        let pool = Client::new(&runtime, PoolId::new(8000, number));
        let options = CreateOptions::ram(MIB);
        pool.create(PoolQuery::Dynamic, &format!("memory {number}"), &options)
            .expect("the pool is made");
    };
    let is_stale = || daemon.status()["modules"][0]["stale"].clone();
    create(0);
    assert_eq!(is_stale(), false);
    // The same bytes again are the same library.
    place(&whole);
    create(1);
    assert_eq!(is_stale(), false);

    place(&[&whole[..], b"anything"].concat());
    assert_eq!(is_stale(), true);
    create(2);
    create(3);
    let shown = daemon.run(&["runtime", "status"]).success();
    let other = "of which there is another by now: stop the daemon and start it again to use that";
    assert!(shown.contains(other), "{shown}");
    // Were it looked for now, that of the next folder would be found.
    std::fs::remove_file(&library).expect("it was there");
    assert!(library_folder().join(LIBRARY).exists());
    assert_eq!(is_stale(), true);
    place(&whole);
    create(4);
    assert_eq!(is_stale(), false);

    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, log) = daemon.wait();
    let told = format!(
        "WARN module chimaera_bdev: its pools go on being made by what was loaded, from {0}: stop the daemon and \
         start it again to use {0} as it is now",
        library.display()
    );
    assert_eq!(
        log.matches("go on being made by what was loaded").count(),
        1,
        "{log}"
    );
    assert!(log.contains(&told), "{log}");
}

#[test]
fn a_library_that_was_removed_is_in_use_as_long_as_the_daemon_runs_and_log_and_status_say_so() {
    const FAULTY: &str = "libchimaera_faulty_runtime.so";
    let installed = Installed::new();
    let named = installed.named();
    let library = named.join(FAULTY);
    let place = |folder: &Path| {
        std::fs::copy(library_folder().join(FAULTY), folder.join(FAULTY)).expect("the library");
    };
    place(&named);
    let mut daemon = installed.start(&["--plugin-dir", text(&named)], None);
    let runtime = daemon.connect();
    let _first = Faulty::created(&runtime, 0);
    let status = || {
        let status = daemon.status();
        let modules = status["modules"].as_array().expect("a list").clone();
        let module = modules
            .into_iter()
            .find(|module| module["name"] == "chimaera_faulty");
        let module = module.expect("it is in use");
        let shown = daemon.run(&["runtime", "status"]).success();
        (module["stale"] == true, module["removed"] == true, shown)
    };
    assert!(matches!(status(), (false, false, _)));

    std::fs::remove_file(&library).expect("it is there");
    let removed = |then: &str| {
        format!(
            "({}, which was removed: a daemon that is started now {then})",
            library.display()
        )
    };
    let (is_stale, is_removed, shown) = status();
    assert!(is_stale && is_removed, "{shown}");
    assert!(
        shown.contains(&removed("does not find the module")),
        "{shown}"
    );
    for number in 1..3 {
        let _further = Faulty::created(&runtime, number);
    }
    // A link that leads nowhere is as good as none.
    std::os::unix::fs::symlink("nowhere", &library).expect("a link");
    let (_, is_removed, shown) = status();
    assert!(
        is_removed && shown.contains(&removed("does not find the module")),
        "{shown}"
    );
    std::fs::remove_file(&library).expect("it is there");

    let beside = installed.folder.path().join("lib/chimaera");
    place(&beside);
    let (is_stale, is_removed, shown) = status();
    assert!(is_stale && is_removed, "{shown}");
    let other = format!("uses {}", beside.join(FAULTY).display());
    assert!(shown.contains(&removed(&other)), "{shown}");
    place(&named);
    assert!(matches!(status(), (false, false, _)));

    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, log) = daemon.wait();
    let told = format!(
        "WARN module chimaera_faulty: its pools go on being made by what was loaded, from {}, which was removed: a \
         daemon that is started now does not find the module",
        library.display()
    );
    assert_eq!(log.matches(&told).count(), 1, "{log}");
}

/// A pool of the module in use, which threads keep busy until they are told to stop.
fn keep_busy(pool: &Client, stop: &AtomicBool) {
    let runtime = pool.runtime();
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    while !stop.load(Ordering::Relaxed) {
        let blocks = pool.allocate_blocks(QUERY, 4096).expect("blocks");
        pool.write(QUERY, &blocks[0], &buffer).expect("written");
        pool.read(QUERY, &blocks[0], &mut buffer).expect("read");
        pool.free_blocks(QUERY, &blocks).expect("freed");
    }
}

#[test]
fn a_plugin_in_use_does_not_feel_what_happens_to_its_file() {
    let folder = TempDir::new().expect("a folder");
    let library = folder.path().join(LIBRARY);
    let whole = std::fs::read(library_folder().join(LIBRARY)).expect("the library");
    std::fs::write(&library, &whole).expect("a copy");
    let daemon = Daemon::start_with(&["--plugin-dir", text(folder.path())]);
    let runtime = daemon.connect();
    let pool = memory(&runtime, 64 * MIB);
    assert_eq!(source(&daemon).as_deref(), Some(text(&library)));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| keep_busy(&pool, &stop));
        }
        // In place, as a build or a copy without care does it.
        let overwrite = |content: &[u8]| {
            let mut file = OpenOptions::new().write(true).open(&library)?;
            file.write_all(content)
        };
        overwrite(&vec![0xCC; whole.len()]).expect("overwritten");
        // Code that nobody has called yet.
        let file = folder.path().join("pool");
        let other = Client::new(&runtime, PoolId::new(8001, 0));
        let options = CreateOptions::file().size(32 * MIB);
        other
            .create(PoolQuery::Dynamic, text(&file), &options)
            .expect("the pool is made");
        OpenOptions::new()
            .write(true)
            .open(&library)
            .and_then(|file| file.set_len(0))
            .expect("truncated");
        other.flush(QUERY).expect("flushed");
        runtime
            .admin()
            .destroy_pool(other.pool_id())
            .expect("ended");
        std::fs::remove_file(&library).expect("removed");
        runtime.admin().ping().expect("the daemon goes on");
        stop.store(true, Ordering::Relaxed);
    });
    assert_empty(&pool);
}
