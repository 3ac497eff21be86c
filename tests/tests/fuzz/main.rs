//! Hostile inputs for a real host with one worker: messages, tasks, creation parameters, whole sessions. A client that
//! behaves is served on, on the same worker, and finds its data as it left it. `CONTRIBUTING.md` says how to try more.

mod attacker;
mod control;
mod creation;
mod descriptors;
mod sessions;
mod tasks;

use std::io::Write as _;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use chimaera_bdev_proto::{
    BdevType, Block, CreateParams, IoEngine, Method, OwnerTag, TransferArguments,
    allocate_arguments,
};
use chimaera_proto::admin::{self, DestroyPool, GetOrCreatePool};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, DATA_OFFSET_BYTES};
use chimaera_proto::{Access, BufferRange, Descriptor, PoolId, codec};
use chimaera_runtime::{Config, Host, UsersCeiling, UsersSocket};
use chimaera_shm::Segment;
use chimaera_testing::raw_client::{RawClient, ping, status};
use chimaera_testing::{Fuzz, Pattern, Watchdog, until};
use tempfile::TempDir;

/// The pool of the client that behaves, and its owner, who is nobody's attacker.
const VICTIMS_POOL: PoolId = PoolId::new(9000, 1);
const VICTIM: u32 = 4711;
const DATA_OF_VICTIM: Pattern = Pattern::new(1, 1);

/// Behind the buffer of admin tasks.
const DATA: BufferRange = BufferRange {
    segment: 0,
    offset_bytes: DATA_OFFSET_BYTES as u64 + ADMIN_BUFFER_BYTES as u64,
    len_bytes: 4096,
    access: Access::ReadWrite,
};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Panics of the host's threads and of modules, which otherwise fail a task and no test. Those of tests have names.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_none() {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            report(panic);
        }));
    });
}

/// Parameters of a pool in memory.
fn in_memory(total_size: u64) -> CreateParams {
    CreateParams {
        bdev_type: BdevType::Ram,
        total_size,
        io_depth: None,
        alignment: None,
        io_engine: IoEngine::Auto,
        perf_metrics: None,
        overwrite: false,
        read_only: false,
        trust_owner: false,
        opened_by_daemon: false,
        scrub: None,
    }
}

/// A host, and a client of it that behaves.
struct Rig {
    /// Kept where a target fails: a host whose thread has panicked might never end.
    host: ManuallyDrop<Host>,
    socket: PathBuf,
    victim: RawClient,
    block: Block,
    folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        count_panics();
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("users.sock");
        let host = Host::start(&Config {
            listen: vec![UsersSocket {
                path: socket.clone(),
                mode: 0o600,
                group: None,
                max: UsersCeiling::Write,
            }],
            modules: vec![
                chimaera_bdev_runtime::module(),
                chimaera_echo_runtime::module(),
            ],
            worker_count: 1,
            ..Config::default()
        });
        let host = host.expect("the host starts");
        let mut victim = RawClient::new(host.connect().expect("connects"));
        let params = codec::encode(&in_memory(1 << 20)).expect("encodes");
        let asked = GetOrCreatePool {
            owner: Some(VICTIM),
            ..GetOrCreatePool::new("chimaera_bdev", "the victim's", VICTIMS_POOL, params)
        };
        victim.get_or_create(&asked).expect("is made");
        let allocated = victim.call(&Descriptor {
            method: Method::AllocateBlocks as u16,
            pool: VICTIMS_POOL,
            arguments: allocate_arguments(4096, OwnerTag::NONE),
            ..ping()
        });
        assert_eq!(status(&allocated), None);
        let [_, first, second, ..] = allocated.values;
        let mut rig = Self {
            host: ManuallyDrop::new(host),
            socket,
            victim,
            block: Block::from_words([first, second]).expect("a block"),
            folder,
        };
        let mut data = [0; 4096];
        DATA_OF_VICTIM.fill(0, &mut data);
        write(&rig.victim.segment, DATA.offset_bytes, &data);
        rig.transfer(Method::Write);
        rig
    }

    fn transfer(&mut self, method: Method) {
        let arguments = TransferArguments {
            block: self.block,
            offset_in_block: 0,
        };
        let done = self.victim.call(&Descriptor {
            method: method as u16,
            pool: VICTIMS_POOL,
            buffer: Some(DATA),
            arguments: arguments.to_arguments(),
            ..ping()
        });
        assert_eq!(status(&done), None, "{method:?}");
    }

    /// That the victim is served, and finds its data; and that nothing has panicked.
    fn check(&mut self) {
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "something panicked");
        write(&self.victim.segment, DATA.offset_bytes, &[0; 4096]);
        self.transfer(Method::Read);
        let mut data = [0; 4096];
        read(&self.victim.segment, DATA.offset_bytes, &mut data);
        DATA_OF_VICTIM.check(0, &data);
    }

    /// Destroys all pools but the victim's.
    fn destroy_others(&mut self) {
        for pool in self.victim.pools() {
            if (pool.id, pool.permissions.owner) != (VICTIMS_POOL, VICTIM) {
                let pool = pool.choice();
                // Its last session may be about to end it itself.
                let _ = self
                    .victim
                    .admin(admin::Method::DestroyPool, &DestroyPool { pool });
            }
        }
    }

    /// Gives a target the inputs that are kept for it, and more. Then nothing of whoever sent them is left.
    fn run(
        mut self,
        name: &str,
        cases: usize,
        mut target: impl FnMut(&mut Self, &[u8]) -> Vec<u32>,
    ) {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
        let fuzz = Fuzz::new(name, Path::new(corpus).join(name), cases);
        let count = fuzz.run(|input| {
            let outcomes = target(&mut self, input);
            self.check();
            outcomes
        });
        assert!(count.outcomes > 20, "{count:?}: does it still get through?");
        let _ = writeln!(std::io::stderr(), "{name}: {count:?}");
        // Everything else that waits has a limit of its own.
        let _watchdog = Watchdog::start();
        until("their sessions end", || {
            self.victim.runtime_status().session_count == 1
        });
        until("pools are made or ended", || {
            self.victim.runtime_status().changing_count == 0
        });
        self.check();
        ManuallyDrop::into_inner(self.host).end().expect("flushes");
    }
}

/// Puts bytes into memory that the host has mapped too.
fn write(segment: &Segment, offset: u64, bytes: &[u8]) {
    let place = segment.range(offset, bytes.len() as u64);
    let place = place.expect("in the segment").as_ptr();
    // SAFETY: the range is mapped; that the host may look at it meanwhile is what is tried.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
}

/// Takes bytes from there.
fn read(segment: &Segment, offset: u64, bytes: &mut [u8]) {
    let place = segment.range(offset, bytes.len() as u64);
    let place = place.expect("in the segment").as_ptr();
    // SAFETY: as above.
    unsafe { std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
}
