//! A client process for tests: does one thing against the daemon of `CHIMAERA_SOCKET`, says in
//! lines how far it is, and waits for a line where the test decides when it goes on.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use std::task::{Context, Poll, Waker};

use chimaera_bdev_client::{
    Block, BlockType, Client, ConnectOptions, CreateOptions, Error, PoolId, PoolQuery, Runtime,
    Status,
};
use chimaera_faulty_runtime::Method;
use chimaera_tests::{
    Faulty, MIB, Pattern, WakeCount, Xorshift, connect_at_limits, descriptors, limit_descriptors,
    show_blocks, until,
};

const QUERY: PoolQuery = PoolQuery::Local;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["share", pool, writer, rounds] => share(pool, number(writer), number(rounds)),
        ["storm", pool] => storm(pool),
        ["hold", pool, count] => hold(number(pool), number(count)),
        ["wait", pool] => wait(number(pool)),
        ["starve"] => starve(),
        ["work-with", limit, path] => work_with(number(limit), path),
        ["embed-with", limit, path] => embed_with(number(limit), path),
        ["find-a-runtime"] => find_a_runtime(),
        ["connect"] => connect(),
        ["write-until-refused", pool] => write_until_refused(pool),
        ["connect-at-limits"] => say(&format!("connected {}", connect_at_limits())),
        ["connect-until-refused"] => connect_until_refused(),
        ["take-threads"] => take_threads(),
        ["poll-tasks"] => poll_tasks(),
        _ => panic!("no such command: {arguments:?}"),
    }
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number")
}

fn say(line: &str) {
    // The test may be gone; then nobody needs this process.
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// Waits until the test says to go on. If it is gone, so is the reason to be here.
fn wait_for_the_test() {
    let mut line = String::new();
    if !std::io::stdin()
        .read_line(&mut line)
        .is_ok_and(|len| len > 0)
    {
        std::process::exit(1);
    }
}

/// Uses a pool together with other processes: allocates, writes, reads back and frees, in an
/// order of its own, and checks all that it holds again and again.
fn share(pool: &str, writer: u32, rounds: u32) {
    let runtime = Runtime::connect().expect("the daemon is there");
    let client = Client::open(&runtime, pool).expect("the pool is there");
    let mut mine = Blocks {
        client: &client,
        writer,
        live: Vec::new(),
    };
    let mut numbers = Xorshift::new(u64::from(writer) + 1);
    say("ready");
    wait_for_the_test();
    const SIZES: [u64; 6] = [1, 4096, 60_000, 200_000, 1 << 20, (2 << 20) + 1];
    for round in 0..rounds {
        let full = mine.live.len() >= 24;
        if full || (!mine.live.is_empty() && numbers.below(5) < 2) {
            let chosen = numbers.below(mine.live.len());
            mine.free(chosen);
        } else {
            mine.allocate(SIZES[numbers.below(SIZES.len())], round);
        }
        if !mine.live.is_empty() {
            let chosen = numbers.below(mine.live.len());
            mine.rewrite_a_part(chosen, &mut numbers);
            mine.check(chosen);
        }
    }
    mine.check_all();
    let held = mine.live.iter().map(|(block, _)| *block);
    say(&format!("holding {}", show_blocks(held)));
    wait_for_the_test();
    mine.check_all();
    while !mine.live.is_empty() {
        mine.free(0);
    }
    say("done");
}

/// The blocks of a process, and what it wrote to each.
struct Blocks<'a> {
    client: &'a Client,
    writer: u32,
    live: Vec<(Block, Pattern)>,
}

impl Blocks<'_> {
    /// Allocates and fills blocks, all writes under way at once. If there is no space, another
    /// process has it.
    fn allocate(&mut self, size: u64, generation: u32) {
        let blocks = match self.client.allocate_blocks(QUERY, size) {
            Err(error) if error.status() == Status::NoSpace => return,
            result => result.expect("an allocation"),
        };
        let pattern = Pattern::new(self.writer, generation);
        let writes: Vec<_> = blocks
            .iter()
            .map(|block| {
                let mut buffer = self.buffer(block.size as usize);
                pattern.fill(block.offset, &mut buffer);
                self.client.async_write(QUERY, block, buffer)
            })
            .collect();
        for (block, write) in blocks.iter().zip(writes) {
            let (written, _) = write.wait().expect("a write");
            assert_eq!(written, block.size);
        }
        self.live
            .extend(blocks.into_iter().map(|block| (block, pattern)));
    }

    /// Writes again what is there, at an offset and of a length that nothing is aligned to: a
    /// neighbour's byte that this changes back is found by the neighbour.
    fn rewrite_a_part(&self, index: usize, numbers: &mut Xorshift) {
        let (block, pattern) = self.live[index];
        let start = numbers.below(block.size as usize);
        let len = 1 + numbers.below((block.size as usize - start).min(9000));
        let mut buffer = self.buffer(len);
        pattern.fill(block.offset + start as u64, &mut buffer);
        self.client
            .write_at(QUERY, &block, start as u64, &buffer)
            .expect("a write");
    }

    fn check(&self, index: usize) {
        let (block, pattern) = self.live[index];
        let mut buffer = self.buffer(block.size as usize);
        let read = self.client.read(QUERY, &block, &mut buffer);
        assert_eq!(read.expect("a read"), block.size);
        pattern.check(block.offset, &buffer);
    }

    fn check_all(&self) {
        (0..self.live.len()).for_each(|index| self.check(index));
    }

    fn free(&mut self, index: usize) {
        self.check(index);
        let (block, _) = self.live.swap_remove(index);
        self.client.free_blocks(QUERY, &[block]).expect("a free");
    }

    fn buffer(&self, len: usize) -> chimaera_bdev_client::Buffer {
        let buffer = self.client.runtime().allocate_buffer(len);
        buffer.expect("a buffer")
    }
}

/// Keeps as much I/O in flight as a lane takes, until it is killed.
fn storm(pool: &str) {
    const IN_FLIGHT: usize = 48;
    let runtime = Runtime::connect().expect("the daemon is there");
    let client = Client::open(&runtime, pool).expect("the pool is there");
    let blocks: Vec<Block> = (0..IN_FLIGHT)
        .map(|_| client.allocate_blocks(QUERY, BlockType::Kib64.size()))
        .map(|blocks| blocks.expect("an allocation")[0])
        .collect();
    let submit = |block: &Block, buffer| client.async_write(QUERY, block, buffer);
    let mut tasks: VecDeque<_> = blocks
        .iter()
        .map(|block| {
            let buffer = runtime.allocate_buffer(block.size as usize);
            (block, submit(block, buffer.expect("a buffer")))
        })
        .collect();
    say(&format!("storming {}", show_blocks(blocks.iter().copied())));
    while let Some((block, task)) = tasks.pop_front() {
        let (_, buffer) = task.wait().expect("a write");
        tasks.push_back((block, submit(block, buffer)));
    }
}

/// Leaves requests with a module that does not complete them.
fn hold(pool: u32, count: u32) {
    let runtime = Runtime::connect().expect("the daemon is there");
    let faulty = Faulty::new(&runtime, pool);
    let _tasks: Vec<_> = (0..count)
        .map(|_| {
            let buffer = runtime.allocate_buffer(64 << 10).expect("a buffer");
            faulty.start(Method::Hold, Some(buffer))
        })
        .collect();
    say("holding");
    wait_for_the_test();
}

/// Waits for a request that a module does not complete until it is told.
fn wait(pool: u32) {
    let runtime = Runtime::connect().expect("the daemon is there");
    let faulty = Faulty::new(&runtime, pool);
    say("waiting");
    faulty.call(Method::Hold).expect("released");
    say("released");
}

/// Runs out of descriptors for a while, in which threads want lanes, memory and connections.
fn starve() {
    const LARGE: usize = 1 << 30;
    let runtime = Runtime::connect().expect("the daemon is there");
    let works = |number: u64| -> Result<(), Error> {
        let client = Client::new(&runtime, PoolId::new(8000, 0));
        let blocks = client.allocate_blocks(QUERY, 4096)?;
        let mut buffer = runtime.allocate_buffer(4096)?;
        buffer.fill(number as u8);
        client.write(QUERY, &blocks[0], &buffer)?;
        client.free_blocks(QUERY, &blocks).map(drop)
    };
    let on_a_thread = |number| std::thread::scope(|scope| scope.spawn(|| works(number)).join());
    works(0).expect("there are descriptors");
    let before = descriptors(std::process::id()).len();
    let enough = limit_descriptors(std::process::id(), 0);
    for number in 0..20 {
        let lane = on_a_thread(number).expect("no panic");
        let memory = runtime.allocate_buffer(LARGE).map(drop);
        let connection = Runtime::connect().map(drop);
        for (what, result) in [
            ("lane", lane),
            ("memory", memory),
            ("connection", connection),
        ] {
            let error = result.expect_err(what);
            let is_clear = error.status() == Status::OutOfResources
                && error.to_string().contains("no file descriptor left")
                && error.to_string().contains("ulimit -n");
            assert!(is_clear, "{what}: {error}");
        }
        works(number).expect("a thread with a lane works on");
        assert!(runtime.is_connected());
    }
    limit_descriptors(std::process::id(), enough);
    assert_eq!(
        descriptors(std::process::id()).len(),
        before,
        "nothing stays open"
    );
    let buffer = runtime.allocate_buffer(LARGE).expect("memory again");
    for number in 0..20 {
        let lane = on_a_thread(number).expect("no panic");
        lane.expect("a lane again");
    }
    drop((buffer, Runtime::connect().expect("a connection again")));
    say("done");
}

/// Does a bit of everything with no more than so many descriptors, and says what came of it.
fn work_with(limit: u32, path: &str) {
    limit_descriptors(std::process::id(), limit.into());
    tell(Runtime::connect().and_then(|runtime| use_a_pool(&runtime, path)));
}

/// As [`work_with`], with a runtime in this process.
fn embed_with(limit: u32, path: &str) {
    let before = descriptors(std::process::id());
    let enough = limit_descriptors(std::process::id(), limit.into());
    let module = chimaera_bdev_runtime::module();
    let runtime = Runtime::embed().with_module(module).workers(1).start();
    tell(runtime.and_then(|runtime| use_a_pool(&runtime, path)));
    limit_descriptors(std::process::id(), enough);
    // Its last sockets are closed by a thread of their own.
    until("nothing of it is left", || {
        descriptors(std::process::id()) == before
    });
}

fn tell(result: Result<(), Error>) {
    match result {
        Ok(()) => say("outcome worked"),
        Err(error) => say(&format!("outcome {:?} {error}", error.status())),
    }
}

/// Writes a block of 4 KiB, and checks what is read from it then.
fn write_and_read_back(client: &Client, block: &Block) -> Result<(), Error> {
    let pattern = Pattern::new(1, 1);
    let mut buffer = client.runtime().allocate_buffer(4096)?;
    pattern.fill(block.offset, &mut buffer);
    client.write(QUERY, block, &buffer)?;
    buffer.fill(0);
    client.read(QUERY, block, &mut buffer)?;
    pattern.check(block.offset, &buffer);
    Ok(())
}

/// Makes a pool on a file, and uses it from two threads.
fn use_a_pool(runtime: &Runtime, path: &str) -> Result<(), Error> {
    let client = Client::new(runtime, PoolId::NULL);
    client.create(
        PoolQuery::Dynamic,
        path,
        &CreateOptions::file().size(8 * MIB),
    )?;
    let used = || -> Result<(), Error> {
        let blocks = client.allocate_blocks(QUERY, 4096)?;
        write_and_read_back(&client, &blocks[0])?;
        client.flush(QUERY)?;
        client.free_blocks(QUERY, &blocks).map(drop)
    };
    let results = std::thread::scope(|scope| {
        let other = scope.spawn(used);
        [used(), other.join().expect("no panic")]
    });
    let destroyed = runtime.admin().destroy_pool(client.pool_id());
    results.into_iter().chain([destroyed]).collect()
}

/// Writes to a pool as fast as it can, several tasks at a time, until it is refused, and says how.
fn write_until_refused(pool: &str) {
    let runtime = Runtime::connect().expect("the daemon is there");
    let client = Client::open(&runtime, pool).expect("the pool is there");
    let blocks = client.allocate_blocks(QUERY, 4096).expect("an allocation");
    say("writing");
    let round = || -> Result<(), Error> {
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let buffer = runtime.allocate_buffer(4096)?;
                Ok(client.async_write(QUERY, &blocks[0], buffer))
            })
            .collect();
        // All of them end, whatever the first came to.
        let ended = tasks
            .into_iter()
            .map(|task: Result<_, Error>| task?.wait().map(drop).map_err(Error::from));
        ended.fold(Ok(()), Result::and)?;
        client.get_stats().map(drop)
    };
    loop {
        if let Err(error) = round() {
            return say(&format!("{:?} {error}", error.status()));
        }
    }
}

/// Connects again and again, until that is refused, and says how.
fn connect_until_refused() {
    say("connecting");
    loop {
        match Runtime::connect() {
            Ok(runtime) => drop(runtime),
            Err(error) if error.is_no_daemon() => return say("NoDaemon"),
            Err(error) => return say(&format!("{:?} {error}", error.status())),
        }
    }
}

/// Takes all threads that its user can have, until the test ends it.
fn take_threads() {
    let take = || std::thread::Builder::new().spawn(std::thread::park);
    let taken: Vec<_> = std::iter::from_fn(|| take().ok()).collect();
    say(&format!("taken {}", taken.len()));
    wait_for_the_test();
    std::process::exit(0);
}

/// Connects to the daemon of the test. A process whose threads are limited has another real user than its effective
/// one, and so trusts no variable; but this program knows who has set it.
fn connect_though_limited() -> Result<Runtime, Error> {
    let socket = std::env::var_os("CHIMAERA_SOCKET").expect("the test names it");
    Runtime::connect_to(socket)
}

/// Polls a task until it has ended, as an executor does, each time that it is told to. Says whether the
/// connection has its thread for wakers then.
fn poll_tasks() {
    let runtime = connect_though_limited().expect("the daemon is there");
    // Made by the test, since to wait for a pool that is made is to poll a task.
    let pool = Faulty::new(&runtime, 0);
    pool.attach();
    say("ready");
    loop {
        wait_for_the_test();
        let mut task = Box::pin(pool.start(Method::Hold, None));
        let wakes = Arc::<WakeCount>::default();
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        let mut seen = wakes.get();
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert_eq!(pool.about_held(Method::Release, pool.pool_id()), 1);
        let result = loop {
            until("the waker is woken", || wakes.get() > seen);
            seen = wakes.get();
            if let Poll::Ready(result) = task.as_mut().poll(&mut context) {
                break result;
            }
        };
        result.expect("it was released");
        let threads = std::fs::read_dir("/proc/self/task").expect("threads");
        let has_thread = threads.into_iter().any(|thread| {
            let name = thread.expect("a thread").path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "chimaera-bell")
        });
        say(&format!(
            "completed {}",
            if has_thread { "with" } else { "without" }
        ));
    }
}

/// Connects to the daemon, and then to a runtime inside this process, as often as it is told to.
fn connect() {
    say("ready");
    loop {
        wait_for_the_test();
        let embedded = || Runtime::embed().workers(1).start();
        let ways = [connect_though_limited(), embedded()];
        let said = ways.map(
            |runtime| match runtime.and_then(|runtime| runtime.admin().ping()) {
                Ok(()) => "connected".to_owned(),
                Err(error) => format!("{:?} {error}", error.status()),
            },
        );
        say(&said.join("; "));
    }
}

/// Uses the daemon, or else a runtime inside this process, as an application would.
fn find_a_runtime() {
    let used = || -> Result<u32, Error> {
        let kept = Arc::new(());
        let options = ConnectOptions::new().keep_alive(Box::new(Arc::clone(&kept)));
        let runtime = chimaera_bdev_client::embed()
            .connect_options(options)
            .connect_or_start()?;
        if runtime.daemon().process_id != std::process::id() {
            assert_eq!(Arc::strong_count(&kept), 2, "the options are used");
        }
        let client = Client::new(&runtime, PoolId::NULL);
        client.create(PoolQuery::Dynamic, "found", &CreateOptions::ram(MIB))?;
        let blocks = client.allocate_blocks(QUERY, 4096)?;
        write_and_read_back(&client, &blocks[0])?;
        client.free_blocks(QUERY, &blocks)?;
        Ok(runtime.daemon().process_id)
    };
    match used() {
        Ok(process_id) if process_id == std::process::id() => say("embedded"),
        Ok(process_id) => say(&format!("connected {process_id}")),
        Err(error) => say(&format!("failed {error}")),
    }
}
