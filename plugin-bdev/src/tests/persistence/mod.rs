//! Pools that were there before: on a file, and on a device where there can be one.

mod characteristics;
mod copies;
mod damage;
mod failing;
mod freed;
mod growth;
mod identity;
mod inspected;
mod kept;
mod lost_file;
mod occupied;
mod read_only;
mod taken_back;
mod usage;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chimaera_bdev_format::Geometry;
use chimaera_bdev_format::image::{self, CheckMode, Inspection};
use chimaera_bdev_proto::{CreateParams, MEGABYTE, OwnedBlock, OwnerTag, UNIT_BYTES};
use chimaera_chimod::{Creator, ModuleError};
use chimaera_proto::{PoolId, Status};
use chimaera_testing::{LoopDevice, PATIENCE, SystemCallFilter, disk_folder};

use crate::testing::{POOL, ROOT, Recorder, TestPool, file_params, loop_device, name_in};

/// Bytes of a superblock.
const SUPERBLOCK_BYTES: usize = 8192;

/// A blank file or device of this size is too small for a far superblock.
const UNPROTECTED_BYTES: u64 = 3 * MEGABYTE;

/// The file or device on which a pool is opened again and again.
struct Store {
    name: String,
    device: Option<LoopDevice>,
    _folder: tempfile::TempDir,
}

impl Store {
    /// A blank file of this size.
    fn on_file(size: u64) -> Self {
        let folder = disk_folder();
        let name = name_in(&folder, "pool");
        let made = fs::File::create(&name).and_then(|file| file.set_len(size));
        made.expect("the build's folder can be written");
        Self {
            name,
            device: None,
            _folder: folder,
        }
    }

    /// A blank device of this size, where there can be one.
    fn on_device(size: u64) -> Option<Self> {
        let device = loop_device(size, &[])?;
        Some(Self {
            name: device.name().to_owned(),
            device: Some(device),
            _folder: disk_folder(),
        })
    }

    /// Opens the pool, or makes it.
    fn open(&self) -> TestPool {
        self.open_with(&file_params(0)).expect("it opens")
    }

    fn open_with(&self, params: &CreateParams) -> Result<TestPool, ModuleError> {
        self.open_as((POOL, false), params)
    }

    /// As the pool with this id, which nobody asked for if the second value is set.
    fn open_as(&self, id: (PoolId, bool), params: &CreateParams) -> Result<TestPool, ModuleError> {
        self.open_by(ROOT, id, params)
    }

    /// As [`Self::open_as`], as this user.
    fn open_by(
        &self,
        creator: Creator,
        id: (PoolId, bool),
        params: &CreateParams,
    ) -> Result<TestPool, ModuleError> {
        self.open_recorded(creator, id, params, Recorder::default)
    }

    /// Opens the pool, whose keeper is refused these system calls. What opening does itself is not.
    fn open_with_failing_keeper(&self, filter: &SystemCallFilter) -> TestPool {
        let recorder = || Recorder::refusing(filter.clone());
        let opened = self.open_recorded(ROOT, (POOL, false), &file_params(0), recorder);
        opened.expect("it opens")
    }

    fn open_recorded(
        &self,
        creator: Creator,
        id: (PoolId, bool),
        params: &CreateParams,
        recorder: impl Fn() -> Recorder,
    ) -> Result<TestPool, ModuleError> {
        let start = Instant::now();
        loop {
            let recorded = (1, Arc::new(recorder()));
            match TestPool::create_by(creator, id, &self.name, params, recorded) {
                // A process that another test is just starting has a copy of the device for a moment.
                Err(error)
                    if error.failure.status == Status::Busy
                        && self.device.is_some()
                        && start.elapsed() < PATIENCE =>
                {
                    std::thread::yield_now();
                }
                opened => return opened,
            }
        }
    }

    /// The pool is refused with this status and these words, and all is as it was.
    #[track_caller]
    fn assert_refused(&self, params: &CreateParams, status: Status, words: &[&str]) -> String {
        self.assert_refused_as((POOL, false), params, status, words)
    }

    #[track_caller]
    fn assert_refused_as(
        &self,
        id: (PoolId, bool),
        params: &CreateParams,
        status: Status,
        words: &[&str],
    ) -> String {
        let before = self.image();
        let Err(error) = self.open_as(id, params) else {
            panic!("opened with {params:?}");
        };
        assert_eq!(error.failure.status, status, "{error}");
        for word in [&self.name.as_str()].into_iter().chain(words) {
            assert!(error.message.contains(word), "no {word:?} in {error}");
        }
        assert!(self.image() == before, "a refusal changes nothing: {error}");
        error.message
    }

    /// All that is there: what a crash at this moment would leave. While a checkpoint goes on, what is read first is
    /// older than what is read last, which no crash leaves. So it is read until nothing changes any more.
    fn image(&self) -> Vec<u8> {
        let read = || fs::read(&self.name).expect("read");
        let mut image = read();
        loop {
            let again = read();
            if again == image {
                return image;
            }
            image = again;
        }
    }

    /// Puts an image in the place of all that is there.
    fn put(&self, image: &[u8]) {
        self.write(0, image);
        if self.device.is_none() {
            self.resize(image.len() as u64);
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.name);
        let file = file.expect("opened");
        file.write_all_at(bytes, offset).expect("written");
        file.sync_all().expect("written");
    }

    /// Damages a byte.
    fn damage(&self, offset: u64) {
        let byte = self.image()[offset as usize];
        self.write(offset, &[byte ^ 0x10]);
    }

    /// Where each copy of the superblock of the pool begins that was made with the present size: the two at the
    /// beginning, and those far from it, if there are any.
    fn superblocks(&self) -> (Vec<u64>, Vec<u64>) {
        let geometry = Geometry::new(self.image().len() as u64 / UNIT_BYTES).expect("room");
        let places = geometry.superblocks().into_iter();
        places
            .map(|page| page * UNIT_BYTES)
            .partition(|&offset| offset < MEGABYTE)
    }

    /// All that is there but the superblocks, which each opening for writing changes.
    fn image_without_superblocks(&self) -> Vec<u8> {
        let mut image = self.image();
        let (near, far) = self.superblocks();
        for offset in near.into_iter().chain(far) {
            image[offset as usize..][..SUPERBLOCK_BYTES].fill(0);
        }
        image
    }

    /// What `pool check` finds.
    fn check(&self, mode: CheckMode) -> Result<Inspection, ModuleError> {
        Ok(image::check(Path::new(&self.name), mode)?)
    }

    /// What `pool check --repair` does.
    fn repair(&self) -> Inspection {
        let repaired = self.check(CheckMode::Repair { uuid: None });
        let repaired = repaired.expect("nothing is lost");
        assert!(repaired.repaired && repaired.is_sound(), "{repaired:?}");
        let again = self.check(CheckMode::Look).expect("a pool");
        let damage = (again.repairable, again.lost, again.mark);
        assert_eq!(damage, (vec![], vec![], None), "nothing is left to do");
        repaired
    }

    fn resize(&self, size: u64) {
        match &self.device {
            Some(device) => device.resize(size),
            None => {
                let file = OpenOptions::new().write(true).open(&self.name);
                let resized = file.and_then(|file| file.set_len(size));
                resized.expect("resized");
            }
        }
    }
}

/// Calls `test` with a blank store of each kind.
fn on_every_store(size: u64, test: impl Fn(&Store)) {
    test(&Store::on_file(size));
    if let Some(store) = Store::on_device(size) {
        test(&store);
    }
}

/// Bytes that differ from those of any other block everywhere.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let word = |at: u64| (seed << 32 ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (1..=len.div_ceil(8)).flat_map(|at| word(at).to_le_bytes());
    words.take(len as usize).collect()
}

/// Blocks, with what was written to them.
#[derive(Default)]
struct Written(Vec<(OwnedBlock, Vec<u8>)>);

impl Written {
    /// Blocks of all kinds, each with a tag and data of its own.
    fn of_all_kinds(pool: &TestPool) -> Self {
        let mut written = Self::default();
        for size in [4096, 65_536, 262_144, MEGABYTE, 2 * MEGABYTE, 1] {
            written.add(pool, size);
        }
        written
    }

    fn add(&mut self, pool: &TestPool, size: u64) {
        self.try_add(pool, size).expect("room");
    }

    fn try_add(&mut self, pool: &TestPool, size: u64) -> Result<(), Status> {
        let owner = OwnerTag(0x1000 + self.0.len() as u64);
        for block in pool.allocate_for(size, owner)? {
            let bytes = pattern(owner.0 ^ block.offset, block.size);
            pool.write(block, 0, &bytes).expect("written");
            self.0.push((OwnedBlock::new(block, owner), bytes));
        }
        Ok(())
    }

    /// The pool has these blocks and no others, as they are here.
    #[track_caller]
    fn assert_all_of(&self, pool: &TestPool) {
        let mut expected: Vec<_> = self.0.iter().map(|(owned, _)| *owned).collect();
        expected.sort();
        assert_eq!(pool.list(), expected);
        for (owned, bytes) in &self.0 {
            let block = owned.block;
            let read = pool.read(block, 0, bytes.len()).expect("allocated");
            assert!(&read == bytes, "{block:?} has other data");
        }
        assert_eq!(pool.stats().remaining_size, room(pool) - self.bytes());
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(owned, _)| owned.block.size).sum()
    }
}

/// Bytes of a pool that blocks can have.
fn room(pool: &TestPool) -> u64 {
    let stats = pool.stats();
    stats.total_size - stats.metadata_size
}
