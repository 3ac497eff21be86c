//! Earlier programs themselves, which `tests/old_binary.sh` builds, beside the program of today.
//!
//! They refuse what they do not know and change nothing of it; what they made is used by the program of today.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_proto::limits::{LAYOUT_VERSION, PROTOCOL_VERSION};
use chimaera_tests::exit::{DAMAGED_METADATA, FAILED, NO_RUNTIME};
use chimaera_tests::{
    Daemon, ProgramOutput, disk_folder, finish, json, library_folder, program, skipped, text, until,
};
use tempfile::TempDir;

use crate::image::PAGE_BYTES;

/// The program of some commit.
struct Program {
    path: PathBuf,
}

impl Program {
    fn today() -> Self {
        Self {
            path: program("chimaera"),
        }
    }

    /// A command of this program that needs no daemon.
    fn run(&self, arguments: &[&str]) -> ProgramOutput {
        let mut command = Command::new(&self.path);
        command.args(arguments);
        finish(command)
    }

    /// A command of this program that talks to a daemon.
    fn ask(&self, daemon: &Daemon, arguments: &[&str]) -> ProgramOutput {
        finish(self.question(daemon, arguments))
    }

    fn question(&self, daemon: &Daemon, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).arg("--socket").arg(daemon.socket());
        command
    }

    fn start_daemon(&self) -> Daemon {
        let mut command = Command::new(&self.path);
        command.args(["runtime", "start"]);
        Daemon::start_by(command, TempDir::new().expect("a folder"))
    }

    /// Makes a pool in a file, or opens it.
    fn open(&self, daemon: &Daemon, pool: &Path) {
        let create = ["pool", "create", text(pool), "--type", "file"];
        let create = [&create[..], &["--size", "8MiB"]].concat();
        let _ = self.ask(daemon, &create).success();
    }

    /// The version of the format of the pool in a file.
    fn format_version(&self, pool: &Path) -> u64 {
        let found = self.run(&["pool", "inspect", text(pool), "--json"]);
        let found = json(&found.success());
        found["format_version"].as_u64().expect("a number")
    }

    /// Makes a pool and stops the daemon. Gives the version of the pool's format.
    fn make(&self, pool: &Path) -> u64 {
        let mut daemon = self.start_daemon();
        self.open(&daemon, pool);
        let journal = pool.with_extension("journal");
        let verify = ["verify", "run", "--seconds", "1", "--pool", text(pool)];
        let verify = [&verify[..], &["--journal", text(&journal)]].concat();
        let _ = self.ask(&daemon, &verify).success();
        let _ = self.ask(&daemon, &["runtime", "stop"]).success();
        assert_eq!(daemon.wait().0, Some(0));
        self.format_version(pool)
    }
}

/// Calls `test` with each earlier program that was built.
fn for_each_program(what: &str, test: impl Fn(&Program)) {
    let target = library_folder().parent().expect("below a target folder");
    let folders = fs::read_dir(target.join("old")).into_iter().flatten();
    let programs: Vec<_> = folders
        .map(|entry| entry.expect("an entry").path().join("chimaera"))
        .filter(|path| path.exists())
        .collect();
    if programs.is_empty() {
        skipped(what, "no earlier program is there: run tests/old_binary.sh");
    }
    for path in programs {
        test(&Program { path });
    }
}

/// A change of a pool's bytes.
type Change = fn(&mut [u8]);

/// What may have happened to a pool's beginning before an earlier program meets it, and the code with which that
/// refuses the pool.
const BEGINNINGS: [(&str, Change, i32); 4] = [
    ("whole", |_| {}, FAILED),
    ("page 0 gone", |bytes| bytes[..PAGE_BYTES].fill(0), FAILED),
    ("superblock 0 damaged", |bytes| bytes[100] ^= 1, FAILED),
    (
        "both superblocks gone",
        |bytes| bytes[..18 * PAGE_BYTES].fill(0),
        DAMAGED_METADATA,
    ),
];

#[test]
fn an_earlier_program_refuses_a_pool_of_a_newer_format_and_changes_nothing() {
    const WHAT: &str = "an earlier program and a newer pool";
    for_each_program(WHAT, |old| {
        let folder = disk_folder();
        let [pool, own] = ["pool", "own"].map(|name| folder.path().join(name));
        let (version, known) = (Program::today().make(&pool), old.make(&own));
        if version == known {
            return skipped(WHAT, "both programs write the same version of the format");
        }
        let versions =
            format!("its format has version {version}, this program knows version {known}");
        let made = fs::read(&pool).expect("the pool");
        let daemon = old.start_daemon();
        for (what, change, code) in BEGINNINGS {
            let mut bytes = made.clone();
            change(&mut bytes);
            fs::write(&pool, &bytes).expect("the pool");
            let refused = |output: ProgramOutput| {
                let said = output.failure(code);
                assert!(code != FAILED || said.contains(&versions), "{what}: {said}");
                assert!(
                    fs::read(&pool).expect("the pool") == bytes,
                    "{what}: {said}"
                );
            };
            refused(old.run(&["pool", "inspect", text(&pool)]));
            refused(old.run(&["pool", "check", text(&pool)]));
            refused(old.run(&["pool", "check", "--repair", text(&pool)]));
            refused(old.run(&["pool", "rename", text(&pool)]));
            let create = ["pool", "create", text(&pool), "--type", "file"];
            for option in [&[][..], &["--read-only"], &["--size", "16MiB"]] {
                refused(old.ask(&daemon, &[&create[..], option].concat()));
            }
        }
    });
}

#[test]
fn what_an_earlier_program_flushed_before_it_was_killed_is_there_today() {
    for_each_program("pools that an earlier program leaves", |old| {
        let folder = disk_folder();
        let [pool, journal] = ["pool", "journal"].map(|name| folder.path().join(name));
        let of_pool = ["--pool", text(&pool), "--journal", text(&journal)];
        let mut daemon = old.start_daemon();
        old.open(&daemon, &pool);
        let run = [&["verify", "run", "--seconds", "60"], &of_pool[..]].concat();
        let run = old.question(&daemon, &run);
        let run = std::thread::spawn(move || finish(run));
        until("progress of the workload", || {
            let len = fs::metadata(&journal).map_or(0, |found| found.len());
            len > 50_000 || run.is_finished()
        });
        daemon.kill();
        run.join().expect("the workload ends").failure(NO_RUNTIME);

        let today = Program::today();
        let daemon = Daemon::start();
        today.open(&daemon, &pool);
        let check = [&["verify", "check"], &of_pool[..]].concat();
        let _ = today.ask(&daemon, &check).success();
        let _ = today.ask(&daemon, &["runtime", "stop"]).success();
        // It is still what it was, also for the program that made it.
        let _ = old.run(&["pool", "check", text(&pool)]).success();
        assert_eq!(today.format_version(&pool), old.format_version(&pool));
        let daemon = old.start_daemon();
        old.open(&daemon, &pool);
        let _ = old.ask(&daemon, &check).success();
    });
}

#[test]
fn a_client_and_a_daemon_of_different_protocols_refuse_each_other_with_both_versions() {
    const WHAT: &str = "programs of different protocols";
    let today = Program::today();
    let of_today = Daemon::start();
    for_each_program(WHAT, |old| {
        let said = old.ask(&of_today, &["pool", "list"]);
        if said.code == Some(0) {
            return skipped(WHAT, "both programs speak the same version");
        }
        let said = said.failure(FAILED);
        let other = format!(
            "the other side speaks protocol version {PROTOCOL_VERSION} with layout version {LAYOUT_VERSION}"
        );
        assert!(said.contains(&other), "{said}");
        assert!(said.contains("this program speaks "), "{said}");

        let of_old = old.start_daemon();
        let said = today.ask(&of_old, &["pool", "list"]).failure(FAILED);
        let own = format!("this program speaks {PROTOCOL_VERSION} with {LAYOUT_VERSION}");
        for words in [
            "the other side speaks protocol version ",
            &own,
            "of one release",
        ] {
            assert!(said.contains(words), "{said}");
        }
        assert!(said.contains("the other side has the older one"), "{said}");
        let _ = old.ask(&of_old, &["runtime", "status"]).success();
    });
    assert_eq!(of_today.status()["pools"], 0, "it goes on");
}
