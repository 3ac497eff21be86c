//! What was flushed outlives a daemon that is killed with SIGKILL at random moments, while clients work.

use std::path::Path;
use std::thread;

use chimaera_tests::{
    Daemon, LoopDevice, MIB, Xorshift, disk_folder, exit, json, skipped, text, until,
};
use tempfile::TempDir;

/// Kills per kind of pool, unless `CHIMAERA_KILLS` says otherwise: fifty in all.
const KILLS: u32 = 25;

const POOL_BYTES: u64 = 48 * MIB;

#[test]
fn a_pool_on_a_file_keeps_what_was_flushed_whenever_the_daemon_is_killed() {
    let folder = disk_folder();
    let pool = folder.path().join("pool");
    Killing::new(&pool, folder.path(), 1).run();
}

#[test]
fn a_pool_on_a_device_keeps_what_was_flushed_whenever_the_daemon_is_killed() {
    let folder = disk_folder();
    match LoopDevice::attach(POOL_BYTES) {
        Ok(device) => Killing::new(device.path(), folder.path(), 2).run(),
        Err(reason) => skipped("kills with a pool on a device", &reason),
    }
}

/// A pool, its workload's journal, and the daemons that are killed one after another.
struct Killing<'a> {
    pool: &'a str,
    journal: String,
    numbers: Xorshift,
}

impl<'a> Killing<'a> {
    fn new(pool: &'a Path, folder: &Path, seed: u64) -> Self {
        Self {
            pool: text(pool),
            journal: text(&folder.join("journal")).to_owned(),
            numbers: Xorshift::new(seed),
        }
    }

    fn run(mut self) {
        let kills = std::env::var("CHIMAERA_KILLS").ok();
        let kills = kills.map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
        let mut sockets = TempDir::new().expect("a folder");
        for kill in 0..kills {
            let daemon = self.open(sockets);
            if kill > 0 {
                self.check(&daemon);
            }
            sockets = self.work_until_killed(daemon);
        }
        let daemon = self.open(sockets);
        self.check(&daemon);
        let stats = daemon
            .run(&["pool", "stats", self.pool, "--json"])
            .success();
        let remaining = json(&stats)["remaining_size"].as_u64().expect("a size");
        // The daemon ends in order this time: then everything is in the table, and nothing is damaged.
        let _ = daemon.run(&["runtime", "stop"]).success();
        let found = chimaera_tests::chimaera(&["pool", "check", self.pool, "--json"]).success();
        let found = json(&found);
        assert_eq!(found["sound"], true, "{found}");
        assert_eq!(found["repairable"], json("[]"), "{found}");
        assert_eq!(found["journal_records"], 0, "{found}");
        assert_eq!(found["remaining_size"].as_u64(), Some(remaining));
    }

    /// A daemon with the pool, which is there since the first one. To be killed is no failure of the device: a pool
    /// with the mark of one would be refused.
    fn open(&self, sockets: TempDir) -> Daemon {
        let daemon = Daemon::start_in(sockets, &["--workers", "2"]);
        let size = POOL_BYTES.to_string();
        let create = [
            "pool", "create", self.pool, "--type", "file", "--size", &size,
        ];
        let _ = daemon.run(&create).success();
        daemon
    }

    fn check(&self, daemon: &Daemon) {
        let check = [
            "verify",
            "check",
            "--pool",
            self.pool,
            "--journal",
            &self.journal,
        ];
        let _ = daemon.run(&check).success();
    }

    /// Kills the daemon at a moment that depends on how far the workload has come.
    fn work_until_killed(&mut self, daemon: Daemon) -> TempDir {
        let seed = self.numbers.next_number().to_string();
        let run = daemon.command(&[
            "verify",
            "run",
            "--pool",
            self.pool,
            "--journal",
            &self.journal,
            "--seconds",
            "60",
            "--seed",
            &seed,
        ]);
        let begun = journal_bytes(&self.journal);
        let wanted = begun + 1 + self.numbers.next_number() % 20_000;
        let run = thread::spawn(move || chimaera_tests::finish(run));
        until("progress of the workload", || {
            journal_bytes(&self.journal) >= wanted || run.is_finished()
        });
        // A moment that nothing marks, between a few microseconds and a few milliseconds later.
        for _ in 0..self.numbers.next_number() % 300_000 {
            std::hint::spin_loop();
        }
        let sockets = daemon.kill_and_leave();
        let run = run.join().expect("the workload ends");
        run.failure(exit::NO_RUNTIME);
        sockets
    }
}

fn journal_bytes(path: &str) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
