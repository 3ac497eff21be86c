//! Executors with many more tasks than lanes have room for: whatever is given up at whatever moment, data is where it
//! belongs; and neither threads that block nor tasks that are awaited keep the others from a lane.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use chimaera_bdev_client::{Block, Client, CreateOptions, PoolQuery, Runtime, TaskError};
use chimaera_client::proto::limits::MAX_LANES;
use chimaera_tests::{Daemon, MIB, Pattern, Xorshift, until};
use tokio::time::timeout;

const QUERY: PoolQuery = PoolQuery::Local;
const BLOCK_BYTES: usize = 4096;

/// Lanes that threads share, the last of a connection.
const SHARED_LANES: usize = 8;

/// What blocks hold: what was written last, or one of two if the last write was given up.
type Expected = Vec<(Block, [Pattern; 2])>;

/// One user of a pool among many.
struct PoolUser {
    client: Client,
    number: u32,
    generation: u32,
    numbers: Xorshift,
    given_up: Arc<AtomicUsize>,
    expected: Expected,
}

impl PoolUser {
    async fn run(mut self) -> Result<Expected, TaskError> {
        for _ in 0..4 {
            let mut blocks = self.allocate().await?;
            let mut last = self
                .write(&blocks, false)
                .await?
                .unwrap_or_else(|_| unreachable!());
            for _ in 0..8 {
                self.read(&blocks, last).await?;
                let may_give_up = self.numbers.below(2) == 0;
                match self.write(&blocks, may_give_up).await? {
                    Ok(written) => last = written,
                    Err(perhaps) => {
                        // What was given up may still be carried out, so nothing more is written there.
                        self.expect(&blocks, [last, perhaps]);
                        blocks = self.allocate().await?;
                        last = self
                            .write(&blocks, false)
                            .await?
                            .unwrap_or_else(|_| unreachable!());
                    }
                }
            }
            self.expect(&blocks, [last; 2]);
        }
        Ok(self.expected)
    }

    fn expect(&mut self, blocks: &[Block], patterns: [Pattern; 2]) {
        let expected = blocks.iter().map(|&block| (block, patterns));
        self.expected.extend(expected);
    }

    /// One block, or several.
    async fn allocate(&mut self) -> Result<Vec<Block>, TaskError> {
        let mut blocks = Vec::new();
        for _ in 0..1 + self.numbers.below(3) {
            let more = self.client.async_allocate_blocks(QUERY, BLOCK_BYTES as u64);
            blocks.extend(more.await?);
        }
        Ok(blocks)
    }

    /// Waits for a moment that is about as long as a task takes, or much less.
    fn moment(&mut self) -> Duration {
        let limit = [1, 100, 2000][self.numbers.below(3)];
        Duration::from_micros(self.numbers.below(limit) as u64)
    }

    /// Writes the blocks. Gives the pattern, as an inner error if the write was given up.
    async fn write(
        &mut self,
        blocks: &[Block],
        may_give_up: bool,
    ) -> Result<Result<Pattern, Pattern>, TaskError> {
        let len = blocks.len() * BLOCK_BYTES;
        let mut buffer = self.client.runtime().allocate_buffer(len)?;
        self.generation += 1;
        let pattern = Pattern::new(self.number, self.generation);
        for (block, bytes) in blocks.iter().zip(buffer.chunks_mut(BLOCK_BYTES)) {
            pattern.fill(block.offset, bytes);
        }
        let write = match blocks {
            [block] => self.client.async_write(QUERY, block, buffer),
            blocks => self.client.async_write_blocks(QUERY, blocks, buffer),
        };
        let result = if may_give_up {
            match timeout(self.moment(), write).await {
                Ok(result) => result,
                Err(_) => {
                    self.given_up.fetch_add(1, Ordering::Relaxed);
                    return Ok(Err(pattern));
                }
            }
        } else {
            write.await
        };
        assert_eq!(result?.0, len as u64);
        Ok(Ok(pattern))
    }

    /// Reads and checks the blocks, after reads that were given up.
    async fn read(&mut self, blocks: &[Block], pattern: Pattern) -> Result<(), TaskError> {
        let len = blocks.len() * BLOCK_BYTES;
        loop {
            let buffer = self.client.runtime().allocate_buffer(len)?;
            let read = self.client.async_read_blocks(QUERY, blocks, buffer);
            let is_impatient = self.numbers.below(3) == 0;
            let result = if is_impatient {
                let Ok(result) = timeout(self.moment(), read).await else {
                    self.given_up.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                result
            } else {
                read.await
            };
            let (read, buffer) = result?;
            assert_eq!(read, len as u64);
            for (block, bytes) in blocks.iter().zip(buffer.chunks(BLOCK_BYTES)) {
                pattern.check(block.offset, bytes);
            }
            return Ok(());
        }
    }
}

#[test]
fn tasks_that_are_given_up_at_any_moment_leave_all_data_where_it_belongs() {
    const WORKERS: u32 = 300;
    let daemon = Daemon::start();
    let keeper = daemon.connect();
    let name = "executors";
    let options = CreateOptions::ram(256 * MIB);
    let _pool = Client::open_or_create(&keeper, name, &options).expect("creates");
    let given_up = Arc::new(AtomicUsize::new(0));
    let expected = {
        let runtime = daemon.connect();
        let client = Client::open(&runtime, name).expect("opens");
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_time()
            .build()
            .expect("tokio");
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| PoolUser {
                client: client.clone(),
                number,
                generation: 0,
                numbers: Xorshift::new(u64::from(number) + 1),
                given_up: Arc::clone(&given_up),
                expected: Vec::new(),
            })
            .map(|worker| tokio.spawn(worker.run()))
            .collect();
        let ended = workers.into_iter().map(|worker| tokio.block_on(worker));
        let expected: Vec<_> = ended
            .flat_map(|worker| worker.expect("no panic").expect("works"))
            .collect();
        expected
    };
    let given_up = given_up.load(Ordering::Relaxed);
    assert!(
        given_up > WORKERS as usize / 4,
        "only {given_up} were given up"
    );
    // A session ends when what it has in flight has; from then on nothing of it is written any more.
    until("the end of the session", || daemon.sessions() == 1);
    let client = Client::open(&keeper, name).expect("opens");
    let mut bytes = [0; BLOCK_BYTES];
    let mut wanted = [0; BLOCK_BYTES];
    for (block, patterns) in expected {
        client
            .read_bytes(QUERY, &block, &mut bytes)
            .expect("a read");
        let is_one = patterns.iter().any(|pattern| {
            pattern.fill(block.offset, &mut wanted);
            wanted == bytes
        });
        assert!(
            is_one,
            "the block at {:#x} is none of {patterns:?}",
            block.offset
        );
    }
}

/// Awaits pings, a hundred at a time, until told to end.
async fn await_pings(runtime: &Runtime, done: &AtomicUsize, is_over: &AtomicBool) {
    let ping = || runtime.admin().async_ping();
    let mut pings: VecDeque<_> = (0..100).map(|_| ping()).collect();
    while let Some(next) = pings.pop_front() {
        next.await.expect("a ping");
        done.fetch_add(1, Ordering::Relaxed);
        if !is_over.load(Ordering::Relaxed) {
            pings.push_back(ping());
        }
    }
}

fn block_on_tokio<F: Future>(future: F) -> F::Output {
    let tokio = tokio::runtime::Builder::new_current_thread().build();
    tokio.expect("tokio").block_on(future)
}

#[test]
fn threads_that_block_and_tasks_that_are_awaited_share_a_lane_and_neither_starves() {
    const ENOUGH: usize = 300;
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let (opened, end) = (
        Barrier::new(MAX_LANES - SHARED_LANES + 1),
        Barrier::new(MAX_LANES - SHARED_LANES + 1),
    );
    let is_over = AtomicBool::new(false);
    let counts: Vec<_> = (0..2 * SHARED_LANES).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        let (runtime, is_over) = (&runtime, &is_over);
        // These own all lanes that can be owned.
        for _ in 1..=MAX_LANES - SHARED_LANES {
            scope.spawn(|| {
                runtime.admin().ping().expect("a ping");
                opened.wait();
                end.wait();
            });
        }
        opened.wait();
        // One of each kind on each lane: they are given out in turn.
        for (number, done) in counts.iter().enumerate() {
            let (begun, begins) = std::sync::mpsc::channel();
            scope.spawn(move || {
                let ping = || runtime.admin().ping().expect("a ping");
                ping();
                begun.send(()).expect("it is waited for");
                if number < SHARED_LANES {
                    return block_on_tokio(await_pings(runtime, done, is_over));
                }
                while !is_over.load(Ordering::Relaxed) {
                    ping();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            begins.recv().expect("it has its lane");
        }
        // All go on until the slowest has had enough.
        until("everybody had a turn often", || {
            counts
                .iter()
                .all(|done| done.load(Ordering::Relaxed) >= ENOUGH)
        });
        is_over.store(true, Ordering::Relaxed);
        end.wait();
    });
}

#[test]
fn calls_that_block_come_between_tasks_that_wait_on_one_thread() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let (done, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    block_on_tokio(async {
        let mut pings = pin!(await_pings(&runtime, &done, &is_over));
        for calls in 0..2000 {
            // The pings have a turn whenever one is ready, and then comes a call.
            poll_fn(|context| {
                assert!(pings.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            runtime.admin().ping().expect("a ping");
            let done = done.load(Ordering::Relaxed);
            assert!(
                done > 0 || calls < 1000,
                "nothing is done for pings that wait"
            );
        }
        is_over.store(true, Ordering::Relaxed);
        pings.await;
    });
    assert!(done.load(Ordering::Relaxed) > 100);
}
