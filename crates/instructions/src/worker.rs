//! The cases of a worker.
//!
//! A lane is filled while the worker stands still. What is counted is the way from the completion
//! of its 32nd task to that of its 64th: as many tasks as a worker takes from a lane in one pass,
//! so that whatever a worker does once in a pass or a batch is in it, wherever it stood before.

use std::fs;
use std::path::Path;

use chimaera_bdev_client::{Block, Client as BdevClient, CreateOptions};
use chimaera_client::{Buffer, ConnectOptions, PoolId, PoolQuery, Runtime, Task};
use chimaera_echo_client::Client as EchoClient;
use chimaera_proto::limits::LANE_DEPTH;
use nix::unistd::Pid;

use crate::Result;
use crate::limits::Figure;
use crate::rounds::CaseRounds;
use crate::steps::Steps;
use crate::subject::{Subject, SubjectReady};

/// The subject that is a host.
pub(crate) const ROLE: &str = "host";

/// How a host names its workers, as far as the system keeps a thread's name.
const THREAD_NAME: &str = "chimaera-worker";

const BLOCK_BYTES: usize = 4096;

/// An empty task.
pub const ECHO: &str = "worker-echo";
/// An empty task, for two pools in turn.
pub const ECHO_OF_TWO: &str = "worker-echo-of-two-pools";
/// Reading 4 KiB of a memory pool.
pub const READ: &str = "worker-read-4KiB";
/// Writing 4 KiB to a memory pool.
pub const WRITE: &str = "worker-write-4KiB";
/// Allocating a block of 4 KiB.
pub const ALLOCATE: &str = "worker-allocate";
/// Freeing a block of 4 KiB.
pub const FREE: &str = "worker-free";

/// Counts all cases.
pub(crate) fn count(program: &Path) -> Result<Vec<Figure>> {
    let subject = Subject::start(program, ROLE)?;
    let mut ready = subject.go()?;
    let connection = ready
        .connection
        .take()
        .ok_or("a host can be connected to")?;
    let runtime = ConnectOptions::new().from_socket(connection)?;
    let thread = find_worker(subject.id())?;
    let mut worker = CountedWorker {
        steps: Steps::seize(subject, thread)?,
        ready,
    };
    let mut figures = vec![
        count_echo(&mut worker, &runtime)?,
        count_echo_of_two(&mut worker, &runtime)?,
    ];
    figures.extend(count_bdev(&mut worker, &runtime)?);
    Ok(figures)
}

fn count_echo(worker: &mut CountedWorker, runtime: &Runtime) -> Result<Figure> {
    let echo = EchoClient::new(runtime, PoolId::new(9000, 0));
    echo.create(PoolQuery::Dynamic, "echo", "")?;
    let mut rounds = CaseRounds::default();
    while rounds.goes_on(ECHO)? {
        let (count, _) = worker.round((0..LANE_DEPTH as u64).map(|word| echo.async_echo(word)))?;
        rounds.add(count);
    }
    figure(ECHO, &rounds)
}

/// Tasks for two pools in turn: none of them finds its pool remembered by the lane.
fn count_echo_of_two(worker: &mut CountedWorker, runtime: &Runtime) -> Result<Figure> {
    let pools = [9000, 9001].map(|major| EchoClient::new(runtime, PoolId::new(major, 0)));
    for (number, pool) in pools.iter().enumerate() {
        let name = if number == 0 { "echo" } else { "other" };
        pool.create(PoolQuery::Dynamic, name, "")?;
    }
    let mut rounds = CaseRounds::default();
    while rounds.goes_on(ECHO_OF_TWO)? {
        let in_turn = (0..LANE_DEPTH).map(|task| pools[task % 2].async_echo(task as u64));
        let (count, _) = worker.round(in_turn)?;
        rounds.add(count);
    }
    figure(ECHO_OF_TWO, &rounds)
}

/// The four of a memory pool, one after another in each round.
fn count_bdev(worker: &mut CountedWorker, runtime: &Runtime) -> Result<Vec<Figure>> {
    let local = PoolQuery::Local;
    let bdev = BdevClient::new(runtime, PoolId::new(8000, 0));
    bdev.create(PoolQuery::Dynamic, "memory", &CreateOptions::ram(64 << 20))?;
    let buffers = (0..LANE_DEPTH).map(|_| runtime.allocate_buffer(BLOCK_BYTES));
    let mut buffers = buffers.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut cases = [ALLOCATE, WRITE, READ, FREE].map(|case| (case, CaseRounds::default()));
    while any_goes_on(&cases)? {
        let allocations =
            (0..LANE_DEPTH).map(|_| bdev.async_allocate_blocks(local, BLOCK_BYTES as u64));
        let (allocated, blocks) = worker.round(allocations)?;
        let blocks: Vec<Block> = blocks.into_iter().flatten().collect();
        let (written, returned) = transfers(worker, &blocks, buffers, |block, buffer| {
            bdev.async_write(local, block, buffer)
        })?;
        let (read, returned) = transfers(worker, &blocks, returned, |block, buffer| {
            bdev.async_read(local, block, buffer)
        })?;
        buffers = returned;
        let frees = blocks
            .iter()
            .map(|&block| bdev.async_free_blocks(local, &[block]));
        let (freed, _) = worker.round(frees)?;
        for ((_, rounds), count) in cases.iter_mut().zip([allocated, written, read, freed]) {
            rounds.add(count);
        }
    }
    cases
        .iter()
        .map(|(case, rounds)| figure(case, rounds))
        .collect()
}

fn any_goes_on(cases: &[(&str, CaseRounds)]) -> Result<bool> {
    for (case, rounds) in cases {
        if rounds.goes_on(case)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn figure(case: &'static str, rounds: &CaseRounds) -> Result<Figure> {
    Figure::new(case, rounds, LANE_DEPTH / 2)
}

/// A round of transfers. Gives the count, and the buffers back.
fn transfers(
    worker: &mut CountedWorker,
    blocks: &[Block],
    buffers: Vec<Buffer>,
    start: impl Fn(&Block, Buffer) -> Task<(u64, Buffer)>,
) -> Result<(u64, Vec<Buffer>)> {
    let tasks = blocks
        .iter()
        .zip(buffers)
        .map(|(block, buffer)| start(block, buffer));
    let (count, results) = worker.round(tasks)?;
    Ok((
        count,
        results.into_iter().map(|(_, buffer)| buffer).collect(),
    ))
}

/// The thread that is counted.
struct CountedWorker {
    steps: Steps,
    ready: SubjectReady,
}

impl CountedWorker {
    /// Submits the tasks while the worker stands still, then counts what it takes for the second
    /// half of them. Gives their results too.
    fn round<T>(&mut self, tasks: impl Iterator<Item = Task<T>>) -> Result<(u64, Vec<T>)> {
        self.steps.stop()?;
        let tasks: Vec<_> = tasks.collect();
        if tasks.len() != LANE_DEPTH {
            return Err("a round fills a lane".into());
        }
        let copying = &self.ready.copying;
        let mut step_to = |task: usize| {
            let task = &tasks[task];
            self.steps.step_until(copying, |_| task.is_complete())
        };
        step_to(LANE_DEPTH / 2 - 1)?;
        let count = step_to(LANE_DEPTH - 1)?;
        self.steps.run(None)?;
        let results = tasks.into_iter().map(Task::wait);
        Ok((count, results.collect::<std::result::Result<_, _>>()?))
    }
}

/// The only worker of a host, by its thread's name.
fn find_worker(process: Pid) -> Result<Pid> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?;
        if fs::read_to_string(thread.path().join("comm"))?.starts_with(THREAD_NAME) {
            let id: i32 = thread.file_name().to_string_lossy().parse()?;
            return Ok(Pid::from_raw(id));
        }
    }
    Err(format!("the host has no thread called {THREAD_NAME}").into())
}
