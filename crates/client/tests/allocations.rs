//! A task in steady state allocates nothing, neither a call nor a handle.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use chimaera_testing::{FakeHost, Watchdog};
use support::{ECHO, FILL, echo, module, submit, submit_buffer};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: it is the system's allocator; the counter needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as the caller vouches for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches for.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn tasks_allocate_nothing_on_the_way() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let mut buffer = runtime.allocate_buffer(64).expect("buffer");
    let mut round = |number| {
        assert_eq!(echo(&runtime, number), number);
        let tasks = [(); 16].map(|()| submit(&runtime, ECHO, number));
        for task in tasks {
            assert_eq!(task.wait().expect("echo"), number);
        }
        let empty = runtime.allocate_buffer(0).expect("buffer");
        let full = std::mem::replace(&mut buffer, empty);
        (_, buffer) = submit_buffer(&runtime, FILL, number, full)
            .wait()
            .expect("fills");
    };
    (0..10).for_each(&mut round);
    let before = COUNT.get();
    (0..100).for_each(&mut round);
    assert_eq!(COUNT.get(), before);
}
