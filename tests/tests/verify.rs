//! `chimaera verify` against real daemons that are killed in the middle of the work, and the operator's
//! view of a pool on a file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use chimaera_tests::exit::{FAILED, IN_THE_WAY, NO_RUNTIME, NO_SPACE, NOT_PERMITTED};
use chimaera_tests::{Daemon, ProgramOutput, disk_folder, json, text, until};
use tempfile::TempDir;

const SIZE: &str = "32MiB";

/// A file for a pool and a journal, which outlive daemons.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: disk_folder(),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("pool")
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// A daemon that has the pool open.
    fn daemon(&self, further: &[&str]) -> Daemon {
        let daemon = Daemon::start();
        let file = self.file();
        let create = ["pool", "create", text(&file), "--type", "file"];
        let create = [&create[..], further].concat();
        let _ = daemon.run(&create).success();
        daemon
    }

    fn verify(&self, daemon: &Daemon, arguments: &[&str]) -> ProgramOutput {
        daemon.run(
            &self
                .arguments(arguments)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    }

    fn start(&self, daemon: &Daemon, arguments: &[&str]) -> Child {
        let arguments = self.arguments(arguments);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = daemon.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("starts")
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let (file, journal) = (self.file(), self.journal());
        let first = ["verify"].iter().chain(arguments);
        let last = ["--pool", text(&file), "--journal", text(&journal)];
        first.chain(&last).map(|&word| word.to_owned()).collect()
    }

    /// How far the journal has grown.
    fn written(&self) -> u64 {
        std::fs::metadata(self.journal()).map_or(0, |data| data.len())
    }
}

#[test]
fn all_that_was_flushed_is_there_however_often_the_daemon_is_killed() {
    let bench = Bench::new();
    for round in 0..4 {
        let mut daemon = match round {
            0 => bench.daemon(&["--size", SIZE]),
            _ => bench.daemon(&[]),
        };
        if round > 0 {
            let said = bench.verify(&daemon, &["check"]).success();
            assert!(said.contains("violations    0"), "{said}");
        }
        let before = bench.written();
        let run = ["run", "--seconds", "60", "--threads", "2"];
        let run = bench.start(&daemon, &run);
        // More than it takes to settle what the last round left open.
        until("work", || bench.written() > before + 5_000);
        daemon.kill();
        let output = run.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(NO_RUNTIME), "{said}");
        assert!(said.contains("the daemon went away"), "{said}");
        assert!(said.contains("chimaera verify check --pool"), "{said}");
    }
    let daemon = bench.daemon(&[]);
    let said = bench.verify(&daemon, &["run", "--seconds", "1"]).success();
    assert!(said.contains("the journal was continued"), "{said}");
    let _ = daemon.run(&["runtime", "stop"]).success();
    let daemon = bench.daemon(&[]);
    let said = bench.verify(&daemon, &["check"]).success();
    for line in ["recent        0", "being freed   0 gone, 0 still there"] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn a_bit_that_changed_is_found_and_nothing_goes_on_from_there() {
    let bench = Bench::new();
    let daemon = bench.daemon(&["--size", SIZE]);
    let run = ["run", "--seconds", "1", "--seed", "7"];
    let said = bench.verify(&daemon, &run).success();
    assert!(said.contains("ran with seed 7"), "{said}");
    let file = bench.file();
    let blocks = daemon.run(&["pool", "blocks", text(&file), "--json"]);
    let blocks = json(&blocks.success());
    let _ = daemon.run(&["runtime", "stop"]).success();
    let offset = blocks[0]["offset"].as_u64().expect("an offset");
    let device = OpenOptions::new().read(true).write(true).open(&file);
    let device = device.expect("opens");
    let mut byte = [0];
    device
        .read_exact_at(&mut byte, offset + 700)
        .expect("reads");
    device
        .write_all_at(&[byte[0] ^ 1], offset + 700)
        .expect("writes");

    let daemon = bench.daemon(&["--read-only"]);
    let finished = bench.verify(&daemon, &["check"]);
    assert!(
        finished
            .stdout
            .contains("a sector with a wrong checksum in sector 1"),
        "{finished:?}"
    );
    finished.failure(FAILED);
    let said = bench.verify(&daemon, &run).failure(FAILED);
    assert!(said.contains("the run does not go on"), "{said}");
}

#[test]
fn a_pool_without_room_for_a_block_is_not_called_intact() {
    let daemon = Daemon::start();
    let create = ["pool", "create", "tiny", "--type", "ram", "--size", "4KiB"];
    let _ = daemon.run(&create).success();
    let journal = daemon.folder().join("journal");
    let run = [
        "verify",
        "run",
        "--pool",
        "tiny",
        "--seconds",
        "1",
        "--journal",
    ];
    let said = daemon.run(&[&run[..], &[text(&journal)]].concat());
    let said = said.failure(NO_SPACE);
    assert!(said.contains("less than a block has"), "{said}");
}

#[test]
fn a_damaged_journal_is_an_error_and_a_torn_one_is_not() {
    let bench = Bench::new();
    let daemon = bench.daemon(&["--size", SIZE]);
    let _ = bench.verify(&daemon, &["run", "--seconds", "1"]).success();
    let mut journal = OpenOptions::new()
        .append(true)
        .open(bench.journal())
        .expect("opens");
    journal.write_all(b"flushed 0 99").expect("writes");
    let _ = bench.verify(&daemon, &["check"]).success();
    let mut journal = File::options()
        .read(true)
        .write(true)
        .open(bench.journal())
        .expect("opens");
    let mut byte = [0];
    journal.seek(SeekFrom::Start(100)).expect("seeks");
    journal.read_exact(&mut byte).expect("reads");
    journal.write_all_at(&[byte[0] ^ 1], 100).expect("writes");
    for verify in [&["check"][..], &["run", "--seconds", "1"]] {
        let said = bench.verify(&daemon, verify).failure(FAILED);
        assert!(said.contains("line 2 is damaged"), "{said}");
    }
}

#[test]
fn the_operator_sees_what_is_in_a_pool_on_a_file() {
    let bench = Bench::new();
    let daemon = bench.daemon(&["--size", SIZE]);
    let file = bench.file();
    let pool = |command: &str| daemon.run(&["pool", command, text(&file)]);
    assert_eq!(pool("blocks").success(), "no blocks\n");
    let _ = bench.verify(&daemon, &["run", "--seconds", "1"]).success();
    assert!(pool("flush").success().starts_with("flushed pool"));
    let stats = pool("stats").success();
    assert!(stats.contains("persistent            yes"), "{stats}");

    let listed = pool("blocks").success();
    let blocks = json(
        &daemon
            .run(&["pool", "blocks", text(&file), "--json"])
            .success(),
    );
    let blocks = blocks.as_array().expect("a list");
    assert_eq!(listed.lines().count(), blocks.len() + 1);
    for block in blocks {
        let owner = block["owner"].as_str().expect("a tag");
        assert_eq!(owner.len(), 16);
        assert!(listed.contains(owner), "{owner}");
    }

    let map = pool("map").success();
    assert!(!map.contains('\x1b'), "no colour in a pipe");
    assert!(
        map.lines()
            .all(|line| line.chars().count() <= 80 || line.contains(text(&file)))
    );
    let image = bench.folder.path().join("map.svg");
    let said = daemon.run(&["pool", "map", text(&file), "--svg", text(&image)]);
    assert!(said.success().starts_with("wrote "));
    let image = std::fs::read_to_string(image).expect("an image");
    assert!(image.starts_with("<svg ") && image.ends_with("</svg>\n"));
    let _ = daemon.run(&["runtime", "stop"]).success();

    let daemon = bench.daemon(&["--read-only"]);
    let stats = daemon.run(&["pool", "stats", text(&file)]).success();
    assert!(stats.contains("read only             yes"), "{stats}");
    let other = bench.folder.path().join("other");
    let run = ["verify", "run", "--seconds", "1", "--pool", text(&file)];
    let run = [&run[..], &["--journal", text(&other)]].concat();
    daemon.run(&run).failure(NOT_PERMITTED);
}

#[test]
fn a_journal_is_for_the_pool_that_it_was_kept_for() {
    let bench = Bench::new();
    let daemon = bench.daemon(&["--size", SIZE]);
    let run = ["run", "--seconds", "1"];
    let finished = bench.verify(&daemon, &run);
    let advice = "chimaera verify check --pool";
    assert!(finished.stderr.contains(advice), "{finished:?}");
    let _ = finished.success();
    let create = ["pool", "create", "other", "--type", "ram", "--size", SIZE];
    let _ = daemon.run(&create).success();
    let before = bench.written();
    let journal = bench.journal();
    let other = ["--pool", "other", "--journal", text(&journal)];
    for command in [
        &["verify", "check"][..],
        &["verify", "run", "--seconds", "1"],
    ] {
        let said = daemon.run(&[command, &other].concat()).failure(IN_THE_WAY);
        for words in ["was kept for the pool", text(&bench.file())] {
            assert!(said.contains(words), "{said}");
        }
    }
    assert_eq!(bench.written(), before, "it is as it was");
    let _ = bench.verify(&daemon, &["check"]).success();
}
