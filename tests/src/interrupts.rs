//! A process for tests whose signal handler makes calls: connects to the daemon of `CHIMAERA_SOCKET`
//! and works with a pool, while SIGALRM interrupts it again and again at any instruction, and the handler
//! uses the same client as what it has interrupted.
//!
//! No program should do that; what it gets is to be either done or refused, and neither to hang nor to
//! spoil what it has interrupted. The allocator does not keep such a promise, so here no signal interrupts
//! it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread;

use chimaera_bdev_client::{Block, Buffer, Client, PoolQuery, Runtime, Status, Task, TaskError};
use chimaera_client::proto::limits::{LANE_DEPTH, MAX_LANES};
use chimaera_tests::{Pattern, until};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const QUERY: PoolQuery = PoolQuery::Local;
const BLOCK_BYTES: usize = 4096;

/// Lanes of a connection that threads share when they find no other.
const SHARED_LANES: usize = 8;

/// Blocks of a list: more than a lane has records.
const LISTED: usize = LANE_DEPTH + LANE_DEPTH / 2;

/// How often the handler must have been at work, and been refused, before the program ends.
const ENOUGH_DONE: u64 = 4000;
const ENOUGH_REFUSED: u64 = 100;

type Written = Task<(u64, Buffer)>;

/// The system's allocator, which no signal of this program interrupts.
struct Uninterrupted;

#[global_allocator]
static ALLOCATOR: Uninterrupted = Uninterrupted;

/// Runs an action while SIGALRM waits.
fn uninterrupted<T>(action: impl FnOnce() -> T) -> T {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut alarm = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the sets are filled before they are read, and both are there during the calls.
    unsafe {
        libc::sigemptyset(alarm.as_mut_ptr());
        libc::sigaddset(alarm.as_mut_ptr(), libc::SIGALRM);
        libc::pthread_sigmask(libc::SIG_BLOCK, alarm.as_ptr(), before.as_mut_ptr());
    }
    let result = action();
    // SAFETY: the set was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    result
}

// SAFETY: it is the system's allocator.
unsafe impl GlobalAlloc for Uninterrupted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller vouches for.
        uninterrupted(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches for.
        uninterrupted(|| unsafe { System.dealloc(address, layout) });
    }
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["own", pool] => own(pool),
        ["shared", pool] => shared(pool),
        _ => panic!("no such command: {arguments:?}"),
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Works on a lane of the thread's own.
fn own(pool: &str) {
    let runtime = Runtime::connect().expect("the daemon is there");
    let client = Client::open(&runtime, pool).expect("the pool is there");
    work_while_interrupted(&runtime, &client);
    // Nothing of the lane was lost on the way: as soon as the dropped tasks have ended, all of its records can
    // be had at once.
    until("all records are free", || {
        runtime.reap();
        let tasks = (0..LANE_DEPTH).map(|_| runtime.admin().async_ping());
        let tasks: Vec<_> = tasks.collect();
        let are_submitted = tasks.iter().all(Task::is_submitted);
        for task in tasks {
            task.wait().expect("an answer");
        }
        are_submitted
    });
    say("done");
}

/// Works on a lane that another thread uses all the time.
fn shared(pool: &str) {
    let runtime = Runtime::connect().expect("the daemon is there");
    let end = AtomicBool::new(false);
    let (opened, done) = (Barrier::new(2), Barrier::new(MAX_LANES + 1));
    thread::scope(|scope| {
        // All lanes are taken one after another. Of the threads that share, the one that came first
        // gets company: this thread.
        for number in 0..MAX_LANES {
            let (runtime, end, opened, done) = (&runtime, &end, &opened, &done);
            scope.spawn(move || {
                uninterrupted(|| {
                    runtime.admin().ping().expect("an answer");
                    opened.wait();
                    while number == MAX_LANES - SHARED_LANES && !end.load(Ordering::Relaxed) {
                        runtime.admin().ping().expect("an answer");
                    }
                    done.wait();
                });
            });
            opened.wait();
        }
        let client = Client::open(&runtime, pool).expect("the pool is there");
        work_while_interrupted(&runtime, &client);
        end.store(true, Ordering::Relaxed);
        done.wait();
    });
    say("done");
}

fn allocate(client: &Client) -> Block {
    let blocks = client.allocate_blocks(QUERY, BLOCK_BYTES as u64);
    blocks.expect("a block")[0]
}

/// What the interrupted program does, in every way, until the handler has done enough. Every byte is
/// looked at.
fn work_while_interrupted(runtime: &Runtime, client: &Client) {
    let blocks: [Block; 4] = std::array::from_fn(|_| allocate(client));
    let listed: Vec<_> = (0..LISTED).map(|_| allocate(client)).collect();
    let mut list = runtime
        .allocate_buffer(LISTED * BLOCK_BYTES)
        .expect("a buffer");
    let new = || runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
    Handler::install(runtime, client);
    for generation in 1.. {
        let pattern = Pattern::new(1, generation);
        let write = |block: &Block| {
            let mut buffer = new();
            pattern.fill(block.offset, &mut buffer);
            client.async_write(QUERY, block, buffer)
        };
        let tasks: [Written; 3] = std::array::from_fn(|n| write(&blocks[n]));
        let mut buffer = new();
        pattern.fill(blocks[3].offset, &mut buffer);
        client.write(QUERY, &blocks[3], &buffer).expect("a write");
        for task in tasks {
            let (written, _) = task.wait().expect("a write");
            assert_eq!(written, BLOCK_BYTES as u64);
        }
        for block in &blocks {
            buffer.fill(0);
            client.read(QUERY, block, &mut buffer).expect("a read");
            pattern.check(block.offset, &buffer);
        }
        drop(write(&blocks[0]));
        if generation % 16 == 0 {
            for (block, bytes) in listed.iter().zip(list.chunks_exact_mut(BLOCK_BYTES)) {
                pattern.fill(block.offset, bytes);
            }
            client.write_blocks(QUERY, &listed, &list).expect("writes");
            list.fill(0);
            client
                .read_blocks(QUERY, &listed, &mut list)
                .expect("reads");
            for (block, bytes) in listed.iter().zip(list.chunks_exact(BLOCK_BYTES)) {
                pattern.check(block.offset, bytes);
            }
        }
        if Handler::has_done_enough() {
            break;
        }
    }
    Handler::remove();
}

/// What the handler has.
struct Handler {
    runtime: Runtime,
    client: Client,
    /// For calls that wait; for tasks that one signal begins and a later one ends; for tasks that one
    /// begins and a later one drops.
    blocks: [Block; 3],
    generation: u32,
    buffer: Option<Buffer>,
    begun: Option<(Pattern, Written)>,
    dropped: Option<Written>,
    random: u64,
    done: u64,
    refused: u64,
}

static HANDLER: AtomicPtr<Handler> = AtomicPtr::new(ptr::null_mut());

impl Handler {
    fn install(runtime: &Runtime, client: &Client) {
        let handler = Self {
            runtime: runtime.clone(),
            client: client.clone(),
            blocks: std::array::from_fn(|_| allocate(client)),
            generation: 0,
            buffer: None,
            begun: None,
            dropped: None,
            random: 0x9e37_79b9_7f4a_7c15,
            done: 0,
            refused: 0,
        };
        HANDLER.store(Box::into_raw(Box::new(handler)), Ordering::Relaxed);
        react(SigHandler::Handler(handle));
        interrupt_after(1);
    }

    fn has_done_enough() -> bool {
        uninterrupted(|| {
            // SAFETY: it was installed, and the handler, which alone changes it, does not run meanwhile.
            let handler = unsafe { &*HANDLER.load(Ordering::Relaxed) };
            handler.done >= ENOUGH_DONE && handler.refused >= ENOUGH_REFUSED
        })
    }

    /// Ends the signals, and what the handler has begun.
    fn remove() {
        interrupt_after(0);
        react(SigHandler::SigIgn);
        // SAFETY: it was made by `install`, and no handler uses it any more.
        let handler = unsafe { Box::from_raw(HANDLER.swap(ptr::null_mut(), Ordering::Relaxed)) };
        say(&format!("calls {} {}", handler.done, handler.refused));
        if let Some((_, task)) = handler.begun {
            // It may have been refused as it was begun.
            match task.wait() {
                Ok((written, _)) => assert_eq!(written, BLOCK_BYTES as u64),
                Err(error) => assert_eq!(error.status(), Status::Busy, "{error}"),
            }
        }
    }

    /// Does one of all that a program may do with a client.
    fn run(&mut self) -> Result<(), TaskError> {
        match self.next_random() % 8 {
            0 => self.runtime.admin().ping()?,
            1 => drop(self.client.get_stats()?),
            2 => self.buffer = Some(self.runtime.allocate_buffer(BLOCK_BYTES)?),
            3 => self.buffer = None,
            4 => self.write_and_read()?,
            5 => self.begin_or_end()?,
            6 if self.dropped.is_some() => self.dropped = None,
            6 => self.dropped = Some(self.write(self.blocks[2])?.1),
            _ => self.runtime.reap(),
        }
        Ok(())
    }

    fn write_and_read(&mut self) -> Result<(), TaskError> {
        let block = self.blocks[0];
        self.generation += 1;
        let pattern = Pattern::new(2, self.generation);
        let mut buffer = self.runtime.allocate_buffer(BLOCK_BYTES)?;
        pattern.fill(block.offset, &mut buffer);
        self.client.write(QUERY, &block, &buffer)?;
        self.read(block, pattern)
    }

    fn begin_or_end(&mut self) -> Result<(), TaskError> {
        let Some((pattern, mut task)) = self.begun.take() else {
            self.begun = Some(self.write(self.blocks[1])?);
            return Ok(());
        };
        match task.try_wait() {
            None => self.begun = Some((pattern, task)),
            Some(result) => {
                assert_eq!(result?.0, BLOCK_BYTES as u64);
                self.read(self.blocks[1], pattern)?;
            }
        }
        Ok(())
    }

    /// Begins to write a block.
    fn write(&mut self, block: Block) -> Result<(Pattern, Written), TaskError> {
        self.generation += 1;
        let pattern = Pattern::new(3, self.generation);
        let mut buffer = self.runtime.allocate_buffer(BLOCK_BYTES)?;
        pattern.fill(block.offset, &mut buffer);
        Ok((pattern, self.client.async_write(QUERY, &block, buffer)))
    }

    fn read(&self, block: Block, pattern: Pattern) -> Result<(), TaskError> {
        let mut buffer = self.runtime.allocate_buffer(BLOCK_BYTES)?;
        buffer.fill(0);
        self.client.read(QUERY, &block, &mut buffer)?;
        pattern.check(block.offset, &buffer);
        Ok(())
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }
}

extern "C" fn handle(_: libc::c_int) {
    let errno = nix::errno::Errno::last();
    // SAFETY: it was installed before the signals began; nobody else uses it while they come, and the
    // signal is blocked while it is handled.
    let handler = unsafe { &mut *HANDLER.load(Ordering::Relaxed) };
    match handler.run() {
        Ok(()) => handler.done += 1,
        Err(error) if error.status() == Status::Busy => {
            assert!(error.to_string().contains("signal handler"), "{error}");
            handler.refused += 1;
        }
        Err(error) => panic!("neither done nor refused: {error}"),
    }
    // The time runs from the end of this handler on, so that the program gets its turns; it differs each time.
    interrupt_after(1 + handler.next_random() % 150);
    errno.set();
}

fn react(handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does what this program is there to try.
    unsafe { sigaction(Signal::SIGALRM, &action) }.expect("a handler");
}

/// Has SIGALRM sent once, after so many microseconds, or, for 0, not at all.
fn interrupt_after(micros: u64) {
    let none = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let timer = libc::itimerval {
        it_interval: none,
        it_value: libc::timeval {
            tv_usec: micros as libc::suseconds_t,
            ..none
        },
    };
    // SAFETY: the timer is read during the call.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
}
