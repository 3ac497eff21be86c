//! Makes images of pools with a program of some commit, which later programs must open. What became of them lies in
//! `tests/tests/compatibility/images`; the page beside them says how to run this.
//!
//! It is built together with the program of that commit, whose daemon its client can talk to. So it uses only what
//! the client has had since pools lie on files.

#![allow(clippy::print_stdout, reason = "it says which image it has made")]

mod image;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chimaera_bdev_client::{
    Block, Client, CreateOptions, OwnerTag, PerfMetrics, PoolId, PoolQuery, Runtime, Status,
};
use image::{PAGE_BYTES, PoolImage, StoredBlock};

const QUERY: PoolQuery = PoolQuery::Local;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// How often a pool is made until the kill finds it in the state that is wanted.
const MAX_ATTEMPTS: u32 = 1000;

const WHAT: &str = "image_maker PROGRAM COMMIT FOLDER SCENARIO, where SCENARIO is closed, killed, grown, grown-once or \
                    long, and FOLDER takes the image and, for a while, the pool";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, commit, folder, scenario] = &arguments[..] else {
        panic!("{WHAT}");
    };
    let run: fn(&mut Maker) -> bool = match scenario.as_str() {
        "closed" => closed,
        "killed" => killed,
        "grown" => grown,
        "grown-once" => grown_once,
        "long" => long,
        _ => panic!("{WHAT}"),
    };
    let folder = std::path::absolute(folder).expect("a path");
    for attempt in 1..=MAX_ATTEMPTS {
        let path = folder.join(scenario);
        let _ = std::fs::remove_file(&path);
        let mut maker = Maker::new(program, &path);
        maker.attempt = attempt;
        if !run(&mut maker) {
            continue;
        }
        let image = maker.into_image(commit);
        std::fs::remove_file(&path).expect("the pool is not needed any more");
        see_that_it_is_restored(&image, &path);
        let file = folder.join(format!("{commit}-{scenario}.image"));
        std::fs::write(&file, image.to_text()).expect("the image");
        assert_eq!(PoolImage::parse(&image.to_text()).as_ref(), Some(&image));
        println!("{} after {attempt} attempts", file.display());
        return;
    }
    panic!("no attempt of {MAX_ATTEMPTS} came out as it should");
}

fn see_that_it_is_restored(image: &PoolImage, path: &Path) {
    image.restore(path).expect("the pool");
    let mut again = image.clone();
    again.take(path).expect("the pool");
    std::fs::remove_file(path).expect("the pool is not needed any more");
    assert_eq!(*image, again);
}

/// Blocks of all sizes, tagged and not, some of them overwritten and some freed, in a pool that its daemon closed.
fn closed(maker: &mut Maker) -> bool {
    maker.make(1, 3 * MIB);
    let first = maker.allocate(&[4 * KIB, 64 * KIB, 256 * KIB, MIB], 0);
    let second = maker.allocate(&[4 * KIB; 5], 7);
    let third = maker.allocate(&[64 * KIB, 4 * KIB], u64::MAX);
    maker.write(&[&first[..], &second, &third].concat(), 1);
    maker.flush();
    maker.free(&second[1..3]);
    maker.write(&[first[0], second[0], third[0]], 2);
    let never_written = maker.allocate(&[4 * KIB], 1 << 40);
    assert_eq!(never_written.len(), 1);
    maker.stop();
    true
}

/// Commits until both halves of the journal are in use, and a kill while the checkpoint of one of them is under way.
fn killed(maker: &mut Maker) -> bool {
    maker.make(2, 4 * MIB);
    let mut older = Vec::new();
    // The first half is full after four commits, and its checkpoint begins behind one of them.
    for commit in 0..9 + maker.attempt % 4 {
        let tag = if commit % 3 == 0 {
            0
        } else {
            u64::from(commit)
        };
        let blocks = maker.allocate(&[4 * KIB, 64 * KIB], tag);
        maker.write(&blocks, 1);
        if commit % 3 == 2 {
            maker.free(&older);
        } else {
            maker.write(&older, 2);
        }
        older = blocks;
        maker.flush();
    }
    // The flush does not cover these.
    maker.forget_to_flush();
    maker.kill();
    both_halves_are_in_use(&maker.path)
}

/// A pool that grew three times, with blocks in each part of it, and records of the journal about several parts.
fn grown(maker: &mut Maker) -> bool {
    maker.make(3, 4 * MIB);
    let mut tag = 1;
    // Growth of pools of version 2 by less than 4 MiB waits.
    for size in [9 * MIB, 14 * MIB, 22 * MIB] {
        // Until a block does not fit what there was before.
        while maker.remaining() >= 192 * KIB {
            let blocks = maker.allocate(&[64 * KIB, 4 * KIB], tag);
            maker.write(&blocks, 1);
            tag = (tag + 1) % 5;
        }
        maker.stop();
        maker.resize(size);
        maker.open();
        if size == 14 * MIB {
            let large = maker.allocate(&[MIB, 256 * KIB], 9);
            maker.write(&large, 3);
        }
    }
    maker.stop();
    maker.open();
    let blocks = maker.allocate(&[256 * KIB, 4 * KIB], 0);
    maker.write(&blocks, 4);
    maker.flush();
    let some: Vec<_> = maker.offsets().into_iter().step_by(5).collect();
    maker.free(&some);
    maker.flush();
    maker.forget_to_flush();
    maker.kill();
    true
}

/// A pool that grew once, with blocks in both parts. The first programs do not open it again, so what it must hold is
/// what was written to it.
fn grown_once(maker: &mut Maker) -> bool {
    maker.make(5, MIB);
    let mut blocks = maker.allocate(&[256 * KIB; 2], 1);
    maker.stop();
    maker.resize(2 * MIB);
    maker.open();
    blocks.extend(maker.allocate(&[256 * KIB; 3], 2));
    blocks.extend(maker.allocate(&[4 * KIB], 0));
    maker.write(&blocks, 1);
    maker.stop();
    maker.is_opened_again = false;
    true
}

/// A commit of so many tags that it takes three pages of the journal, or two records.
fn long(maker: &mut Maker) -> bool {
    maker.make(4, 4 * MIB);
    let blocks: Vec<u64> = (0..520)
        .flat_map(|number| maker.allocate(&[4 * KIB], number % 3))
        .collect();
    maker.write(&blocks[..3], 1);
    maker.flush();
    maker.kill();
    true
}

/// A pool that is being made, and its daemon.
struct Maker {
    attempt: u32,
    program: PathBuf,
    path: PathBuf,
    number: u32,
    daemon: Option<Child>,
    pool: Option<Client>,
    blocks: BTreeMap<u64, (Block, StoredBlock)>,
    /// Bytes that were free in the pool when its daemon was told to stop, or when it was opened last.
    remaining: u64,
    /// Whether the program that made the pool shows that it can open it.
    is_opened_again: bool,
}

impl Maker {
    fn new(program: &str, path: &Path) -> Self {
        Self {
            attempt: 1,
            program: program.into(),
            path: path.to_owned(),
            number: 0,
            daemon: None,
            pool: None,
            blocks: BTreeMap::new(),
            remaining: 0,
            is_opened_again: true,
        }
    }

    fn socket(&self) -> PathBuf {
        self.path.with_extension("sock")
    }

    /// Makes a pool of this size, with this minor number.
    fn make(&mut self, number: u32, size: u64) {
        File::create_new(&self.path).expect("a file");
        self.resize(size);
        self.number = number;
        self.open();
    }

    fn resize(&self, size: u64) {
        let file = OpenOptions::new().write(true).open(&self.path);
        file.expect("the pool").set_len(size).expect("a length");
    }

    /// Starts a daemon and opens the pool.
    fn open(&mut self) {
        let mut daemon = Command::new(&self.program);
        daemon.args(["runtime", "start", "--socket"]);
        daemon.arg(self.socket()).stdin(Stdio::null());
        let daemon = daemon.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut daemon = daemon.expect("the daemon starts");
        let mut line = String::new();
        let stdout = daemon.stdout.take().expect("piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("the daemon's output");
        assert!(line.starts_with("ready"), "{line:?}");
        self.daemon = Some(daemon);
        let runtime = Runtime::connect_to(self.socket()).expect("a connection");
        let pool = Client::new(&runtime, PoolId::new(8001, self.number));
        let options = CreateOptions::file().perf_metrics(PerfMetrics {
            read_bandwidth_mbps: 1500.5,
            ..PerfMetrics::default()
        });
        let name = self.path.to_str().expect("UTF-8");
        // The kernel may keep the file of a daemon that was killed locked for a moment.
        let opened = std::iter::repeat_with(|| {
            std::thread::yield_now();
            pool.create(PoolQuery::Dynamic, name, &options)
        })
        .find(|opened| !matches!(opened, Err(error) if error.status() == Status::Busy));
        opened
            .expect("endless")
            .expect("the pool is made or opened");
        self.pool = Some(pool);
    }

    fn remaining(&self) -> u64 {
        self.pool().get_stats().expect("statistics").remaining_size
    }

    fn pool(&self) -> &Client {
        self.pool.as_ref().expect("it is open")
    }

    fn allocate(&mut self, sizes: &[u64], tag: u64) -> Vec<u64> {
        let mut offsets = Vec::new();
        for &size in sizes {
            let owner = OwnerTag(tag);
            let blocks = self.pool().allocate_blocks_for(QUERY, size, owner);
            for block in blocks.expect("room") {
                let stored = StoredBlock {
                    offset: block.offset,
                    size: block.size,
                    tag,
                    round: 0,
                };
                offsets.push(block.offset);
                self.blocks.insert(block.offset, (block, stored));
            }
        }
        offsets
    }

    /// Writes the first and the last page of the blocks that are still there.
    fn write(&mut self, offsets: &[u64], round: u8) {
        let runtime = self.pool().runtime().clone();
        let mut buffer = runtime.allocate_buffer(PAGE_BYTES).expect("a buffer");
        for offset in offsets {
            let Some((block, stored)) = self.blocks.get_mut(offset) else {
                continue;
            };
            stored.round = round;
            let (block, stored) = (*block, *stored);
            for page in stored.pages() {
                buffer.copy_from_slice(&stored.page(page));
                let written = self
                    .pool()
                    .write_at(QUERY, &block, page - stored.offset, &buffer);
                assert_eq!(written.expect("a write"), PAGE_BYTES as u64);
            }
        }
    }

    fn free(&mut self, offsets: &[u64]) {
        let gone = offsets.iter().filter_map(|at| self.blocks.remove(at));
        let gone: Vec<_> = gone.map(|(block, _)| block).collect();
        self.pool().free_blocks(QUERY, &gone).expect("allocated");
    }

    /// Frees a block and allocates another, of which the pool knows nothing after a kill.
    fn forget_to_flush(&mut self) {
        let (block, _) = self.blocks.values().next().expect("a block");
        let freed = self.pool().free_blocks(QUERY, &[*block]);
        freed.expect("allocated");
        let forgotten = self.pool().allocate_blocks(QUERY, 64 * KIB);
        forgotten.expect("room");
    }

    fn flush(&self) {
        self.pool().flush(QUERY).expect("a flush");
    }

    fn offsets(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    /// Kills the daemon.
    fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.kill().expect("it runs");
        daemon.wait().expect("it was started");
        self.pool = None;
        let _ = std::fs::remove_file(self.socket());
    }

    /// Has the daemon stop in good order.
    fn stop(&mut self) {
        self.remaining = self.remaining();
        self.pool = None;
        let mut stop = Command::new(&self.program);
        stop.args(["runtime", "stop", "--socket"])
            .arg(self.socket());
        let status = stop.stdout(Stdio::null()).status().expect("it runs");
        assert!(status.success());
        let status = self.daemon.take().expect("it runs").wait();
        assert!(status.expect("it was started").success());
    }

    /// The image.
    fn into_image(mut self, commit: &str) -> PoolImage {
        let name = self.path.to_str().expect("UTF-8");
        let id = PoolId::new(8001, self.number).to_string();
        let mut image = PoolImage::new(commit, name, &id);
        image.take(&self.path).expect("the pool");
        image.blocks = self.blocks.values().map(|(_, stored)| *stored).collect();
        if self.is_opened_again {
            self.open();
            self.compare(&image);
            self.stop();
        }
        image.remaining = self.remaining;
        image
    }

    /// Sees that the pool holds what the image says.
    fn compare(&self, image: &PoolImage) {
        let listed = self.pool().all_blocks(QUERY);
        let listed: Vec<_> = listed.map(|block| block.expect("a list")).collect();
        assert_eq!(listed.len(), image.blocks.len());
        for (found, stored) in listed.iter().zip(&image.blocks) {
            assert_eq!(found.block.offset, stored.offset);
            assert_eq!(found.block.size, stored.size);
            // Programs have different types for what they know of a tag.
            assert!(found.owner == OwnerTag(stored.tag), "{found:?}: {stored:?}");
        }
        let runtime = self.pool().runtime().clone();
        let mut buffer = runtime.allocate_buffer(PAGE_BYTES).expect("a buffer");
        for (block, stored) in self.blocks.values() {
            for page in stored.pages() {
                let offset = page - stored.offset;
                let read = self.pool().read_at(QUERY, block, offset, &mut buffer);
                assert_eq!(read.expect("a read"), PAGE_BYTES as u64);
                assert_eq!(&buffer[..], stored.page(page));
            }
        }
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Whether the journal has records of the two epochs behind that of both superblocks: a checkpoint is under way.
fn both_halves_are_in_use(path: &Path) -> bool {
    let bytes = std::fs::read(path).expect("the pool");
    let number = |at: usize| {
        let word = std::array::from_fn(|byte| bytes[at + byte]);
        u64::from_le_bytes(word)
    };
    let is_version_1 = bytes[16] == 1;
    let epoch_at = if is_version_1 { 152 } else { 104 };
    let epochs = [0, 16 * PAGE_BYTES].map(|superblock| number(superblock + epoch_at));
    let (halves, pages) = if is_version_1 {
        ([number(176), number(184)], number(192))
    } else {
        // The first area is the first region of the journal.
        let (first, pages) = (number(3400), number(3408) / 2);
        ([first, first + pages], pages)
    };
    let has = |epoch: u64| {
        let first = halves[(epoch % 2) as usize];
        let mut pages = (first..first + pages).map(|page| page as usize * PAGE_BYTES);
        pages.any(|at| &bytes[at..at + 4] == b"CJRN" && number(at + 8) == epoch)
    };
    epochs[0] == epochs[1] && epochs[0] > 0 && has(epochs[0] + 1) && has(epochs[0] + 2)
}
