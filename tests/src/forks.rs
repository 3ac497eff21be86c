//! A process for tests that forks itself: connects to the daemon of `CHIMAERA_SOCKET`, forks, and
//! lets parent and child do what the test asks for. It says in lines how far it is, and waits for a
//! line where the test decides when it goes on.
//!
//! This is the only program of the tests with `unsafe`: forking needs it.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use chimaera_bdev_client::{
    Block, Buffer, Client, CreateOptions, Error, PoolId, PoolQuery, Runtime, Task, TaskSet,
};
use chimaera_tests::{MIB, Pattern, thread_sleeps, until};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

const QUERY: PoolQuery = PoolQuery::Local;
const BLOCK_BYTES: usize = 64 << 10;

/// Longer than anything here takes: what hangs is ended by SIGALRM.
const CHILD_SECONDS: u32 = 50;

type Written = Task<(u64, Buffer)>;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["leave-a-raw-child"] => leave_a_raw_child(),
        ["end", pool, how] => end(pool, how),
        ["work", pool] => work(pool),
        ["raw", pool] => raw(pool),
        ["while-locked"] => while_locked(),
        ["outlive", pool] => outlive(pool),
        ["embed", plugins, socket, file, how] => embed(plugins, socket, file, how),
        _ => panic!("no such command: {arguments:?}"),
    }
}

fn say(line: &str) {
    // The test may be gone; then nobody needs this process.
    if writeln!(std::io::stdout(), "{line}").is_err() {
        exit_at_once(1);
    }
}

/// Waits until the test says to go on. If it is gone, so is the reason to be here.
fn wait_for_the_test() {
    let mut line = String::new();
    if !std::io::stdin()
        .read_line(&mut line)
        .is_ok_and(|len| len > 0)
    {
        exit_at_once(1);
    }
}

/// Ends this process without running anything of it.
fn exit_at_once(code: i32) -> ! {
    // SAFETY: it ends the process, and nothing else.
    unsafe { libc::_exit(code) }
}

/// Forks. Gives `None` in the child, which ends by SIGALRM if it hangs.
fn fork_here() -> Option<Pid> {
    // SAFETY: the child does what a program may do after `fork` with this library, whose promise that
    // is, and with the system's, which sees to its allocator.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => {
            // SAFETY: it has the kernel send a signal later.
            unsafe { libc::alarm(CHILD_SECONDS) };
            None
        }
    }
}

/// Makes a child by the bare system call, so that no handler of the process runs. Gives `None` in the
/// child.
fn raw_clone() -> Option<Pid> {
    // SAFETY: as `fork` of a process whose other threads hold no lock that the child needs: the
    // child gets a copy of this thread and of all memory, and this thread's stack goes on.
    let id = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    assert!(id >= 0, "{}", std::io::Error::last_os_error());
    if id == 0 {
        // SAFETY: as in `fork_here`.
        unsafe { libc::alarm(CHILD_SECONDS) };
        return None;
    }
    Some(Pid::from_raw(id as i32))
}

/// Waits for a child, which must have ended well.
fn succeed(child: Pid) {
    let status = waitpid(child, None).expect("a child");
    assert_eq!(status, WaitStatus::Exited(child, 0));
}

/// Checks that a call refuses a connection of another process, by the name that its reader sees.
#[track_caller]
fn assert_forked<T>(result: Result<T, impl Into<Error>>) {
    let error: Error = match result {
        Ok(_) => panic!("it is done for another process"),
        Err(error) => error.into(),
    };
    assert_eq!(format!("{:?}", error.status()), "Forked", "{error}");
    assert!(error.to_string().contains("connect anew"), "{error}");
}

/// What a process has of a connection.
struct Held {
    runtime: Runtime,
    client: Client,
    block: Block,
    pattern: Pattern,
    /// Filled with 0xAB.
    buffer: Buffer,
    tasks: Vec<Written>,
    /// Where the tasks write.
    targets: Vec<Block>,
}

impl Held {
    fn new(pool: &str, writer: u32) -> Self {
        let runtime = Runtime::connect().expect("the daemon is there");
        let client = Client::open(&runtime, pool).expect("the pool is there");
        let allocate = || {
            client
                .allocate_blocks(QUERY, BLOCK_BYTES as u64)
                .expect("a block")[0]
        };
        let mut buffer = runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
        buffer.fill(0xAB);
        let targets: Vec<_> = (0..6).map(|_| allocate()).collect();
        let pattern = Pattern::new(writer, 1);
        let tasks = targets.iter().map(|block| {
            let mut buffer = runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
            pattern.fill(block.offset, &mut buffer);
            client.async_write(QUERY, block, buffer)
        });
        let tasks = tasks.collect();
        let block = allocate();
        let held = Self {
            runtime: runtime.clone(),
            block,
            pattern,
            buffer,
            tasks,
            targets,
            client,
        };
        held.write(1);
        held
    }

    fn write(&self, generation: u32) {
        let mut buffer = self.runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
        Pattern::new(self.block.offset as u32, generation).fill(self.block.offset, &mut buffer);
        let written = self.client.write(QUERY, &self.block, &buffer);
        assert_eq!(written.expect("a write"), BLOCK_BYTES as u64);
    }

    fn check(&self, generation: u32) {
        let mut buffer = self.runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
        let read = self.client.read(QUERY, &self.block, &mut buffer);
        assert_eq!(read.expect("a read"), BLOCK_BYTES as u64);
        Pattern::new(self.block.offset as u32, generation).check(self.block.offset, &buffer);
    }

    /// Everything is as it was, and goes on.
    fn goes_on(self) {
        assert!(self.runtime.is_connected());
        assert!(
            self.buffer.iter().all(|&byte| byte == 0xAB),
            "a child wrote it"
        );
        self.check(1);
        for generation in 2..20 {
            self.write(generation);
            self.check(generation);
        }
        thread::scope(|scope| {
            scope.spawn(|| self.check(19));
        });
        for (task, block) in self.tasks.into_iter().zip(&self.targets) {
            let (written, mut buffer) = task.wait().expect("a write");
            assert_eq!(written, BLOCK_BYTES as u64);
            self.client.read(QUERY, block, &mut buffer).expect("a read");
            self.pattern.check(block.offset, &buffer);
        }
    }

    /// Every call of a child says that the connection is another process's, whatever thread makes it.
    fn is_refused(&self) {
        assert!(!self.runtime.is_connected());
        let calls = || {
            assert_forked(self.runtime.admin().ping());
            assert_forked(self.runtime.admin().list_pools());
            assert_forked(self.runtime.admin().stop_runtime());
            assert_forked(self.runtime.allocate_buffer(4096));
            assert_forked(self.runtime.allocate_buffer(4 << 20));
            assert_forked(self.client.allocate_blocks(QUERY, 4096));
            assert_forked(self.client.free_blocks(QUERY, &[self.block]));
            assert_forked(self.client.get_stats());
            assert_forked(self.client.write(QUERY, &self.block, &self.buffer));
            self.runtime.reap();
        };
        calls();
        thread::scope(|scope| {
            scope.spawn(calls);
        });
    }

    /// All that a child can do with what it was left, and then let it go.
    fn serves_nobody(mut self) {
        self.is_refused();
        assert!(
            self.buffer.iter().all(|&byte| byte == 0),
            "the parent's memory"
        );
        self.buffer.fill(0xCD);
        let refused = self.client.async_write(QUERY, &self.block, self.buffer);
        let refused = refused.wait().expect_err("it is done for another process");
        let buffer = refused.buffer.expect("it comes back");
        assert!(buffer.iter().all(|&byte| byte == 0xCD));
        drop(buffer);
        let mut next = || self.tasks.pop().expect("there are enough");
        assert_forked(next().wait());
        let mut task = next();
        assert!(task.is_complete() && task.request().is_none());
        assert_forked(
            task.wait_timeout(Duration::from_secs(100))
                .expect("at once"),
        );
        let mut task = next();
        assert_forked(task.try_wait().expect("at once"));
        let mut task = next();
        match Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(result) => assert_forked(result),
            std::task::Poll::Pending => panic!("it would wait for ever"),
        }
        drop(next());
        let mut set = TaskSet::new();
        set.push(next());
        assert_forked(set.wait_any().expect("one"));
        drop((self.client, self.runtime));
    }
}

/// The child ends in this way, with all that it has of the connection.
fn end(pool: &str, how: &str) {
    let held = Held::new(pool, 1);
    let Some(child) = fork_here() else {
        match how {
            // Drops what it has.
            "return" => return,
            "exit" => std::process::exit(0),
            _ => exit_at_once(0),
        }
    };
    succeed(child);
    held.goes_on();
    say("done");
}

/// Children are refused, connect anew and work, while the parent's other threads take its locks all
/// the time.
fn work(pool: &str) {
    let held = Held::new(pool, 1);
    let stop = AtomicBool::new(false);
    let is_child = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let buffer = held.runtime.allocate_buffer(4096).expect("a buffer");
                    drop(held.runtime.admin().async_ping());
                    thread::scope(|scope| {
                        scope.spawn(|| held.runtime.admin().ping().expect("an answer"));
                    });
                    drop(buffer);
                }
            });
        }
        let mut children = Vec::new();
        for writer in 2..6 {
            let Some(child) = fork_here() else {
                held.is_refused();
                let own = Held::new(pool, writer);
                own.goes_on();
                // The scope's other threads are not here to be waited for.
                exit_at_once(0);
            };
            held.check(1);
            children.push(child);
        }
        children.into_iter().for_each(succeed);
        stop.store(true, Ordering::Relaxed);
        false
    });
    assert!(!is_child);
    if let Some(child) = fork_here() {
        succeed(child);
        held.goes_on();
        say("done");
    } else {
        held.serves_nobody();
        // It works as any other, and so can its children.
        let own = Held::new(pool, 7);
        match fork_here() {
            Some(child) => succeed(child),
            None => return own.serves_nobody(),
        }
        own.goes_on();
    }
}

/// As `work`, of a child that no handler ran in. It has nothing in the place of the parent's memory,
/// so it does not touch it.
fn raw(pool: &str) {
    let held = Held::new(pool, 1);
    let Some(child) = raw_clone() else {
        assert!(!held.runtime.is_connected());
        assert_forked(held.runtime.admin().ping());
        assert_forked(held.runtime.allocate_buffer(4096));
        assert_forked(held.client.get_stats());
        let mut held = held;
        let task = held.tasks.pop().expect("there is one");
        assert!(task.is_complete());
        assert_forked(task.wait());
        // Drops everything.
        return;
    };
    succeed(child);
    held.goes_on();
    say("done");
}

/// The daemon stands still, and a thread waits for it with all locks taken that a thread takes.
fn while_locked() {
    let runtime = Runtime::connect().expect("the daemon is there");
    say("connected");
    wait_for_the_test();
    let (started, is_started) = channel();
    let waiting = runtime.clone();
    thread::spawn(move || {
        started
            .send(nix::unistd::gettid().as_raw())
            .expect("somebody waits");
        waiting.admin().ping().expect("an answer in the end");
    });
    let thread = is_started.recv().expect("it starts");
    until("the thread waits for the daemon", || thread_sleeps(thread));
    let Some(child) = fork_here() else {
        assert!(!runtime.is_connected());
        assert_forked(runtime.admin().ping());
        assert_forked(runtime.allocate_buffer(4096));
        return;
    };
    succeed(child);
    say("done");
    exit_at_once(0);
}

/// The child outlives the parent, which the test kills, and then connects.
fn outlive(pool: &str) {
    let held = Held::new(pool, 1);
    if let Some(child) = fork_here() {
        say(&format!("child {child}"));
        loop {
            thread::park();
        }
    }
    wait_for_the_test();
    held.serves_nobody();
    let own = Held::new(pool, 2);
    own.goes_on();
    say("done");
}

/// A runtime in this process, which listens and has a pool on a file. One child ends; another stays
/// until the test lets it go, and the parent's runtime ends in this way.
fn embed(plugins: &str, socket: &str, file: &str, how: &str) {
    let runtime = Runtime::embed()
        .plugin_folder(plugins)
        .listen(socket)
        .workers(1)
        .start()
        .expect("the runtime starts");
    let client = Client::new(&runtime, PoolId::new(8000, 0));
    client
        .create(
            PoolQuery::Dynamic,
            file,
            &CreateOptions::file().size(16 * MIB),
        )
        .expect("the pool is made");
    let memory = Client::new(&runtime, PoolId::new(8001, 0));
    memory
        .create(PoolQuery::Dynamic, "memory", &CreateOptions::ram(16 * MIB))
        .expect("the pool is made");
    let block = client
        .allocate_blocks(QUERY, BLOCK_BYTES as u64)
        .expect("a block")[0];
    match fork_here() {
        Some(child) => succeed(child),
        None => {
            assert_forked(client.get_stats());
            // A runtime of the child's own has threads of its own, among them that of its log.
            let own = Runtime::embed().workers(1).start();
            let own = own.expect("the child's runtime starts");
            own.admin().ping().expect("it answers");
            // The thread of the log takes its name when it first runs. No other would write the child's log.
            while !has_thread("chimaera-log") {
                thread::yield_now();
            }
            // Drops both runtimes, with them the hosts.
            return;
        }
    }
    let mut buffer = runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
    Pattern::new(1, 1).fill(block.offset, &mut buffer);
    client.write(QUERY, &block, &buffer).expect("a write");
    client.flush(QUERY).expect("a flush");
    let Some(child) = fork_here() else {
        wait_for_the_test();
        return;
    };
    say(&format!("child {child}"));
    if how == "killed" {
        loop {
            thread::park();
        }
    }
    drop((buffer, client, memory, runtime));
    say("ended");
    // The test lets the child go.
    succeed(child);
}

/// Whether this process has a thread of that name.
fn has_thread(name: &str) -> bool {
    std::fs::read_dir("/proc/self/task")
        .expect("threads")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .any(|found| found.trim() == name)
}

/// Leaves a child behind that holds a copy of everything, until the test lets it go.
fn leave_a_raw_child() {
    let runtime = Runtime::connect().expect("the daemon is there");
    runtime.admin().ping().expect("the daemon answers");
    let Some(child) = raw_clone() else {
        wait_for_the_test();
        exit_at_once(0);
    };
    say(&format!("child {child}"));
    loop {
        thread::park();
    }
}
