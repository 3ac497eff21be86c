//! A process with as many mappings as the system allows it (`vm.max_map_count`): memory that cannot be mapped,
//! by whichever side, is a clear error, and nothing else is lost. Alone in its process, in which both sides are.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use chimaera_bdev_client::{PoolQuery, Runtime, Status};
use chimaera_client::ConnectOptions;
use chimaera_tests::{MIB, Pattern, Watchdog, memory, skipped};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

const PAGE_BYTES: usize = 4096;

/// More than the first segment has.
const LARGE: usize = 32 << 20;

/// All mappings that the system still allows.
struct Mappings(Vec<NonNull<std::ffi::c_void>>);

impl Mappings {
    fn take_all(&mut self) {
        loop {
            // Neighbours with the same rights would be one mapping.
            let rights = if self.0.len().is_multiple_of(2) {
                ProtFlags::PROT_READ
            } else {
                ProtFlags::PROT_NONE
            };
            let len = NonZeroUsize::new(PAGE_BYTES).expect("some bytes");
            // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
            match unsafe { mmap_anonymous(None, len, rights, MapFlags::MAP_PRIVATE) } {
                Ok(page) => self.0.push(page),
                Err(error) => return assert_eq!(error, Errno::ENOMEM),
            }
        }
    }

    fn give_back(&mut self, count: usize) {
        for page in self.0.drain(self.0.len() - count..) {
            // SAFETY: the page was mapped here, and nobody uses it.
            unsafe { munmap(page, PAGE_BYTES) }.expect("it was mapped");
        }
    }
}

#[test]
fn memory_that_cannot_be_mapped_is_refused_and_the_connection_goes_on() {
    const MAX_MAPPINGS: usize = 1 << 18;
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("a limit");
    let limit: usize = limit.trim().parse().expect("a number");
    if limit > MAX_MAPPINGS {
        return skipped(
            "a process with all mappings",
            "vm.max_map_count is too high",
        );
    }
    let _watchdog = Watchdog::start();
    let options = ConnectOptions::new().buffer_bytes(16 * MIB);
    let runtime = Runtime::embed()
        .with_module(chimaera_bdev_runtime::module())
        .workers(1)
        .connect_options(options)
        .start()
        .expect("the runtime starts");
    let pool = memory(&runtime, MIB);
    let block = pool.allocate_blocks(PoolQuery::Local, 4096).expect("space")[0];
    let works = || {
        let pattern = Pattern::new(1, 1);
        let mut buffer = runtime.allocate_buffer(4096).expect("there is room");
        pattern.fill(block.offset, &mut buffer);
        pool.write(PoolQuery::Local, &block, &buffer)
            .expect("written");
        buffer.fill(0);
        pool.read(PoolQuery::Local, &block, &mut buffer)
            .expect("read");
        pattern.check(block.offset, &buffer);
    };
    works();
    let mut mappings = Mappings(Vec::with_capacity(limit));
    let mut refused = Vec::new();
    for free in 0..8 {
        mappings.take_all();
        mappings.give_back(free);
        let large = runtime.allocate_buffer(LARGE);
        works();
        match large {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.status(), Status::OutOfMemory, "{error}");
                assert!(error.to_string().contains("vm.max_map_count"), "{error}");
                refused.push(error.to_string());
            }
        }
        assert!(runtime.is_connected());
    }
    // Either side has refused, both of them in this process.
    let by = |who: &str| refused.iter().any(|text| text.starts_with(who));
    for side in [
        "allocating 33554432 bytes of shared memory",
        "registering shared memory",
    ] {
        let words = format!("{side}: this process has no memory");
        assert!(by(&words), "{refused:?}");
    }
    mappings.give_back(mappings.0.len());
    let mut large = runtime.allocate_buffer(LARGE).expect("memory again");
    large.fill(7);
    works();
}
