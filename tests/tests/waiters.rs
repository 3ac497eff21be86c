//! Tasks that wait to be submitted, against a real daemon: they move between threads, are given up, are as many
//! as there may be, and wait beside others.

use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::thread;

use chimaera_bdev_client::{
    Buffer, Client, ConnectOptions, PoolQuery, Runtime, Status, Task, TaskError, TaskSet,
};
use chimaera_client::Values;
use chimaera_client::proto::limits::LANE_DEPTH;
use chimaera_faulty_runtime::Method;
use chimaera_tests::{Daemon, Faulty, MIB, Pattern, Polled, RecordHolder, memory, until};

const QUERY: PoolQuery = PoolQuery::Local;
const BLOCK_BYTES: usize = 4096;

/// As many as a connection lets wait.
const MAX_UNSUBMITTED: usize = 16 * 1024;

type Waiter = Polled<Task<(Values, Option<Buffer>)>>;

fn setup() -> (Daemon, RecordHolder, Runtime) {
    let daemon = Daemon::start();
    let holding = RecordHolder::new(&daemon);
    let runtime = daemon.connect();
    (daemon, holding, runtime)
}

/// A task that found no room on the calling thread's lane, and was polled there.
fn waiting(pool: &Faulty) -> Waiter {
    let task = pool.start(Method::Complete, None);
    assert!(!task.is_submitted(), "there is room");
    Polled::new(task)
}

/// Polls a task, which must submit it, and waits for it.
fn submitted_when_polled(waiter: Waiter) -> Result<(Values, Option<Buffer>), TaskError> {
    waiter.poll_or(|task| {
        assert!(task.is_submitted(), "there is room on this thread");
        task.wait()
    })
}

#[test]
fn a_task_that_is_told_and_given_up_passes_its_turn_on_at_once() {
    let (_daemon, holding, runtime) = setup();
    let pool = holding.pool(&runtime);
    let _held = holding.take(&runtime, LANE_DEPTH - 1);
    let last = holding.take(&runtime, 1);
    let mut waiters: Vec<_> = (0..50).map(|_| waiting(&pool)).collect();
    holding.let_go(&last);
    waiters[0].wait_until_woken();
    // There is one record, and each task that is told of it is dropped instead of submitted.
    while waiters.len() > 1 {
        drop(waiters.remove(0));
        assert!(waiters[0].is_woken(), "the next was not told");
    }
    let task = waiters.remove(0).future;
    assert!(!task.is_submitted());
    task.wait().expect("completed");
}

/// To attach to its pool, a task has to be sent first. Waiting for room for that would be to wait for tasks that nobody
/// else ends.
#[test]
fn a_first_use_on_a_full_lane_waits_for_nothing_and_is_carried_out_once_there_is_room() {
    const NUMBER: u32 = 77;
    let (daemon, holding, runtime) = setup();
    let _ = Faulty::created(&daemon.connect(), NUMBER);
    let unattached = Faulty::new(&runtime, NUMBER);
    let held = holding.take(&runtime, LANE_DEPTH);
    let task = unattached.start(Method::Complete, None);
    assert!(!task.is_complete(), "there is room");
    holding.let_go(&held);
    task.wait().expect("completed");
}

#[test]
fn a_task_that_moves_to_a_thread_with_room_is_submitted_there_and_passes_its_turn_on() {
    let (_daemon, holding, runtime) = setup();
    let pool = holding.pool(&runtime);
    let _held = holding.take(&runtime, LANE_DEPTH - 1);
    let last = holding.take(&runtime, 1);
    let (moved, stays) = (waiting(&pool), waiting(&pool));
    let never_told = waiting(&pool);
    // A seat that was not told yet, and one that was.
    let elsewhere = |moved: Waiter| {
        thread::scope(|scope| {
            let there = scope.spawn(move || submitted_when_polled(moved).map(drop));
            there.join().expect("no panic").expect("completed");
        });
    };
    elsewhere(never_told);
    holding.let_go(&last);
    moved.wait_until_woken();
    elsewhere(moved);
    assert!(stays.is_woken(), "the turn was not passed on");
    submitted_when_polled(stays).expect("completed");
}

#[test]
fn a_task_that_moves_to_a_thread_without_room_waits_for_room_there() {
    let (_daemon, holding, runtime) = setup();
    let pool = holding.pool(&runtime);
    let _here = holding.take(&runtime, LANE_DEPTH);
    let moved = waiting(&pool);
    let (give, take) = channel::<Waiter>();
    thread::scope(|scope| {
        let (holding, runtime) = (&holding, &runtime);
        let other = scope.spawn(move || {
            let held = holding.take(runtime, LANE_DEPTH);
            let mut moved = take.recv().expect("it comes");
            assert!(moved.poll().is_pending() && !moved.future.is_submitted());
            holding.let_go(&held);
            moved.wait_until_woken();
            submitted_when_polled(moved).map(drop)
        });
        give.send(moved).expect("it is waited for");
        other.join().expect("no panic").expect("completed");
    });
}

/// Segments of clients that the daemon has.
fn segments(daemon: &Daemon) -> usize {
    let maps = format!("/proc/{}/maps", daemon.process_id());
    let maps = std::fs::read_to_string(maps).expect("it runs");
    maps.lines()
        .filter(|line| line.contains("memfd:chimaera-"))
        .count()
}

#[test]
fn as_many_wait_as_there_may_be_and_the_next_is_told_to_come_later() {
    // Buffers that stay behind would keep regions of memory, and then this one could not be had again without a further
    // segment. One region is kept for the next buffers, wherever it lies.
    const LARGE: usize = 40 << 20;
    let (daemon, holding, _) = setup();
    let options = ConnectOptions::new().buffer_bytes(96 * MIB);
    let runtime = options.connect_to(daemon.socket()).expect("connects");
    let pool = holding.pool(&runtime);
    let buffer = || runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
    drop((buffer(), runtime.allocate_buffer(LARGE).expect("a buffer")));
    let segments_before = segments(&daemon);
    for is_carried_out in [false, true, true] {
        let held = holding.take(&runtime, LANE_DEPTH);
        let mut waiting: Vec<_> = (0..MAX_UNSUBMITTED)
            .map(|_| pool.start(Method::Complete, Some(buffer())))
            .collect();
        assert!(waiting.iter().all(|task| !task.is_submitted()));
        for _ in 0..10 {
            let refused = pool.start(Method::Complete, Some(buffer())).wait();
            let refused = refused.expect_err("too many wait");
            assert_eq!(refused.status(), Status::Busy, "{refused}");
            assert!(refused.to_string().contains("wait for some"), "{refused}");
            assert_eq!(refused.buffer.expect("it comes back").len(), BLOCK_BYTES);
        }
        // One more may wait when one less does.
        drop(waiting.pop());
        waiting.push(pool.start(Method::Complete, Some(buffer())));
        assert!(!waiting[MAX_UNSUBMITTED - 1].is_submitted());
        holding.let_go(&held);
        if is_carried_out {
            for task in waiting {
                let (_, buffer) = task.wait().expect("completed");
                assert_eq!(buffer.expect("it comes back").len(), BLOCK_BYTES);
            }
        } else {
            drop(waiting);
        }
        for task in held.tasks {
            task.wait().expect("released");
        }
        drop(runtime.allocate_buffer(LARGE).expect("a buffer"));
        assert_eq!(segments(&daemon), segments_before, "buffers stay behind");
    }
}

/// Blocks with a pattern each.
fn written_blocks(client: &Client, count: u32) -> Vec<chimaera_bdev_client::Block> {
    (0..count)
        .map(|number| {
            let block = client
                .allocate_blocks(QUERY, BLOCK_BYTES as u64)
                .expect("a block")[0];
            let mut bytes = [0; BLOCK_BYTES];
            Pattern::new(number, 0).fill(block.offset, &mut bytes);
            client.write_bytes(QUERY, &block, &bytes).expect("a write");
            block
        })
        .collect()
}

#[test]
fn a_set_submits_what_waits_and_goes_to_another_thread_with_it() {
    const COUNT: u32 = 500;
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let client = memory(&runtime, 16 * MIB);
    let blocks = written_blocks(&client, COUNT);
    let read = |number: u32| {
        let (block, client) = (blocks[number as usize], client.clone());
        let buffer = runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
        let read = client.async_read(QUERY, &block, buffer);
        Task::of_steps(async move {
            let (_, buffer) = read.await?;
            Pattern::new(number, 0).check(block.offset, &buffer);
            Ok(number)
        })
    };
    // Plain tasks too, which a set asks for room itself.
    let plain = |number: u32| {
        let buffer = runtime.allocate_buffer(BLOCK_BYTES).expect("a buffer");
        client.async_read(QUERY, &blocks[number as usize], buffer)
    };
    let mut set: TaskSet<u32> = TaskSet::new();
    set.extend((0..COUNT).map(read));
    let mut plain_set = TaskSet::new();
    plain_set.extend((0..COUNT).map(plain));
    let mut seen = Vec::new();
    let mut plain_count = 0;
    for _ in 0..COUNT / 2 {
        seen.push(set.wait_any().expect("there are more").expect("a read"));
        let (read, _) = plain_set
            .wait_any()
            .expect("there are more")
            .expect("a read");
        assert_eq!(read, BLOCK_BYTES as u64);
        plain_count += 1;
    }
    thread::scope(|scope| {
        let rest = scope.spawn(move || {
            let rest: Vec<_> = std::iter::from_fn(|| set.wait_any())
                .map(|read| read.expect("a read"))
                .collect();
            let mut plain_rest = 0;
            while let Some(read) = plain_set.wait_any() {
                plain_rest += read.map(|_| 1).expect("a read");
            }
            (rest, plain_rest)
        });
        let (rest, plain_rest) = rest.join().expect("no panic");
        seen.extend(rest);
        plain_count += plain_rest;
    });
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..COUNT));
    assert_eq!(plain_count, COUNT);
}

#[test]
fn all_that_wait_are_told_when_the_daemon_is_killed() {
    const WAITING: usize = 200;
    for _ in 0..3 {
        let (mut daemon, holding, runtime) = setup();
        let client = memory(&runtime, 16 * MIB);
        let blocks = written_blocks(&client, 200);
        let pool = holding.pool(&runtime);
        let ways: [fn(Tasks); 5] = [
            wait_for_each,
            wait_for_any,
            await_each,
            wait_a_while,
            never_poll_before_the_end,
        ];
        let ready = Barrier::new(ways.len() + 1);
        thread::scope(|scope| {
            for way in ways {
                let (holding, runtime, ready) = (&holding, &runtime, &ready);
                let (pool, client, blocks) = (&pool, &client, &blocks);
                scope.spawn(move || {
                    let held = holding.take(runtime, LANE_DEPTH);
                    let buffer = |len| runtime.allocate_buffer(len).expect("a buffer");
                    let tasks: Vec<_> = (0..WAITING)
                        .map(|_| pool.start(Method::Complete, Some(buffer(BLOCK_BYTES))))
                        .collect();
                    let large = buffer(blocks.len() * BLOCK_BYTES);
                    let across = client.async_write_blocks(QUERY, blocks, large);
                    ready.wait();
                    way(tasks);
                    assert!(lost(across.wait()).is_some(), "the buffer is gone");
                    for task in held.tasks {
                        assert!(lost(task.wait()).is_none());
                    }
                });
            }
            ready.wait();
            daemon.kill();
        });
        assert!(!runtime.is_connected());
    }
}

/// The buffer of a task that ended with its connection.
fn lost<T>(result: Result<T, TaskError>) -> Option<Buffer> {
    let Err(error) = result else {
        panic!("the daemon was killed before");
    };
    assert_eq!(error.status(), Status::ConnectionLost, "{error}");
    error.into_buffer()
}

type Tasks = Vec<Task<(Values, Option<Buffer>)>>;

fn wait_for_each(tasks: Tasks) {
    for task in tasks {
        assert!(lost(task.wait()).is_some(), "the buffer is gone");
    }
}

fn wait_for_any(tasks: Tasks) {
    let mut set = TaskSet::new();
    set.extend(tasks);
    while let Some(result) = set.wait_any() {
        assert!(lost(result).is_some(), "the buffer is gone");
    }
}

fn await_each(tasks: Tasks) {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("tokio");
    let spawned: Vec<_> = tasks.into_iter().map(|task| tokio.spawn(task)).collect();
    for task in spawned {
        // The executor's threads have lanes with room, so some may have been carried out before.
        let buffer = match tokio.block_on(task).expect("no panic") {
            Ok((_, buffer)) => buffer,
            lost_one => lost(lost_one),
        };
        assert!(buffer.is_some(), "the buffer is gone");
    }
}

fn wait_a_while(tasks: Tasks) {
    for mut task in tasks {
        let result = loop {
            if let Some(result) = task.wait_timeout(std::time::Duration::from_millis(1)) {
                break result;
            }
        };
        assert!(lost(result).is_some(), "the buffer is gone");
    }
}

fn never_poll_before_the_end(tasks: Tasks) {
    until("each has ended", || tasks.iter().all(Task::is_complete));
    wait_for_each(tasks);
}
