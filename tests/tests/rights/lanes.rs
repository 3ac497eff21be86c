//! Changes of permissions, as busy lanes on several workers see them: at once, in order, and for one pool alone.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use chimaera_bdev_client::{Block, Client, CreateOptions, PoolId, Runtime, Status};
use chimaera_tests::{User, UsersDaemon, has_users, until};

use super::images::OwnedFile;
use super::{Ends, ID, MEMBER, OTHER, OWNER, QUERY, mode, owner, ram, set};

/// How often permissions are taken and given back.
const ROUNDS: u64 = 48;

/// Threads that write, each over a lane of its own. Lanes are spread over the workers.
const WRITERS: usize = 4;

/// The other pool.
const STEADY: PoolId = PoolId::new(8000, 1);

/// Counts the changes that have been answered. It is even as long as everybody may write, and odd from the answer that
/// nobody may any more to the question for the right to be given back.
#[derive(Default)]
struct Era {
    number: AtomicU64,
    /// The latest one that each writer has seen at the beginning of a pass.
    passes: [AtomicU64; WRITERS],
    ends: AtomicBool,
}

impl Era {
    fn now(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    fn next(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until each writer has made a whole pass in this era.
    fn await_passes(&self) {
        let now = self.now();
        let is_past = |pass: &AtomicU64| pass.load(Ordering::SeqCst) >= now;
        until("a pass of each writer", || self.passes.iter().all(is_past));
    }
}

/// What a writer has seen.
#[derive(Debug, Default)]
struct Seen {
    allowed: u64,
    refused: u64,
    /// Writes that had to be refused and were not, or the other way round.
    wrong: Vec<String>,
}

/// Writes to both pools in turn until the end, and a batch to both at once in between. What was submitted after the
/// answer to a change is subject to it.
fn write(
    (era, writer): (&Era, usize),
    changing: &Client,
    steady: &Client,
    blocks: &[Block; 2],
) -> Seen {
    let mut seen = Seen::default();
    let buffer = |runtime: &Runtime| runtime.allocate_buffer(4096).expect("a buffer");
    let own = buffer(changing.runtime());
    while !era.ends.load(Ordering::SeqCst) {
        let began = era.now();
        let before = era.now();
        let written = changing.write(QUERY, &blocks[0], &own);
        seen.judge(
            before,
            era.now(),
            written.map(drop).map_err(|error| error.status()),
        );
        steady
            .write(QUERY, &blocks[1], &own)
            .expect("nobody changes this pool");
        let before = era.now();
        let tasks: Vec<_> = (0..8)
            .map(|index| {
                let pool = [changing, steady][index % 2];
                pool.async_write(QUERY, &blocks[index % 2], buffer(pool.runtime()))
            })
            .collect();
        for (index, task) in tasks.into_iter().enumerate() {
            let ended = task.wait().map(drop).map_err(|error| error.status());
            match index % 2 {
                0 => seen.judge(before, era.now(), ended),
                _ => ended.expect("nobody changes this pool"),
            }
        }
        era.passes[writer].store(began, Ordering::SeqCst);
    }
    seen
}

impl Seen {
    /// Looks at a write that began in one era and ended in another.
    fn judge(&mut self, before: u64, after: u64, ended: Result<(), Status>) {
        match ended {
            Ok(()) => self.allowed += 1,
            // The latter is for who attaches anew while the pool is another owner's than the one that it names.
            Err(Status::PermissionDenied | Status::PoolNotFound) => self.refused += 1,
            Err(status) => self.wrong.push(format!("{status:?}")),
        }
        // While a change is under way either is right.
        if before == after && before % 2 == 1 && ended.is_ok() {
            self.wrong.push(format!("written in era {before}"));
        }
    }
}

/// Has writers at work while `take` and `give` change the pool's permissions.
fn under_load(daemon: &UsersDaemon, take: impl Fn(), give: impl Fn()) {
    let operator = daemon.operator();
    let block = |name: &str| {
        let pool = Client::open_of(&operator, OWNER.id, name).expect("an operator may");
        pool.allocate_blocks(QUERY, 4096).expect("there is room")[0]
    };
    let blocks = [block("changing"), block("steady")];
    let connections = [daemon.user(MEMBER), daemon.user(OTHER)];
    let (era, start) = (&Era::default(), &Barrier::new(WRITERS + 1));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let runtime = &connections[writer % 2];
                let open = |name| Client::open_of(runtime, OWNER.id, name).expect("everybody may");
                let (changing, steady) = (open("changing"), open("steady"));
                let blocks = &blocks;
                scope.spawn(move || {
                    start.wait();
                    write((era, writer), &changing, &steady, blocks)
                })
            })
            .collect();
        let working = Ends(&era.ends);
        start.wait();
        for _ in 0..ROUNDS {
            take();
            era.next();
            era.await_passes();
            era.next();
            give();
            // Everybody may again, who is attached already: what was taken is not lost for good.
            for runtime in &connections {
                let pool = Client::open_of(runtime, OWNER.id, "changing").expect("given back");
                let buffer = runtime.allocate_buffer(4096).expect("a buffer");
                pool.write(QUERY, &blocks[0], &buffer).expect("given back");
            }
        }
        drop(working);
        let seen: Vec<_> = writers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        for seen in seen {
            let seen = seen.expect("a writer does not panic");
            assert!(seen.wrong.is_empty(), "{seen:?}");
            assert!(seen.allowed > 0 && seen.refused > 0, "{seen:?}");
        }
    });
    let status = daemon.0.status();
    assert_eq!(status["workers"], 2);
}

fn with_pools() -> (UsersDaemon, Runtime) {
    let daemon = UsersDaemon::start();
    let owners = daemon.user(OWNER);
    ram(&owners, "changing", ID, 0o666);
    ram(&owners, "steady", STEADY, 0o666);
    (daemon, owners)
}

#[test]
fn once_a_mode_is_taken_back_no_task_uses_it_any_more() {
    if !has_users("modes under load") {
        return;
    }
    let (daemon, owners) = with_pools();
    let change = |bits| {
        let info = set(&owners, OWNER, "changing", mode(bits)).expect("its own");
        assert_eq!(info.permissions.mode, bits);
    };
    under_load(&daemon, || change(0o600), || change(0o666));
}

#[test]
fn once_a_pool_has_another_owner_no_task_uses_what_the_former_one_gave() {
    if !has_users("owners under load") {
        return;
    }
    let (daemon, owners) = with_pools();
    let operator = daemon.operator();
    let new = 1004;
    let heir = User::new(new);
    let take = || {
        set(&operator, OWNER, "changing", mode(0o600)).expect("an operator may");
        set(&operator, OWNER, "changing", owner(new)).expect("an operator may");
    };
    let give = || {
        set(&operator, heir, "changing", owner(OWNER.id)).expect("an operator may");
        set(&owners, OWNER, "changing", mode(0o666)).expect("its own again");
    };
    under_load(&daemon, take, give);
}

#[test]
fn whoever_has_lost_a_pool_does_not_change_what_has_become_somebody_elses() {
    if !has_users("changes that meet") {
        return;
    }
    let daemon = UsersDaemon::start();
    // To record a change on a device takes a while, in which others wait for their turn.
    let image = OwnedFile::new(&daemon, OWNER);
    let operator = daemon.operator();
    let opened = image.open(&operator, &CreateOptions::file().owner(OWNER.id));
    opened.expect("an operator may");
    let heir = User::new(1004);
    let ends = &AtomicBool::new(false);
    thread::scope(|scope| {
        let changing: Vec<_> = [0o600, 0o604]
            .into_iter()
            .map(|bits| {
                let (image, owners) = (&image, daemon.user(OWNER));
                scope.spawn(move || {
                    let mut changed = 0;
                    while !ends.load(Ordering::SeqCst) {
                        match set(&owners, OWNER, image.name(), mode(bits)) {
                            Ok(info) => {
                                assert_eq!(info.permissions.owner, OWNER.id);
                                changed += 1;
                            }
                            Err(error) => assert!(REFUSALS.contains(&error.status()), "{error}"),
                        }
                    }
                    changed
                })
            })
            .collect();
        let working = Ends(ends);
        for _ in 0..ROUNDS {
            let given = set(&operator, OWNER, image.name(), owner(heir.id));
            let given = given.expect("an operator may").permissions;
            let back = set(&operator, heir, image.name(), owner(OWNER.id));
            let back = back.expect("an operator may").permissions;
            assert_eq!(given.mode, back.mode, "changed by whose it was no longer");
        }
        drop(working);
        let changed = changing.into_iter().map(thread::ScopedJoinHandle::join);
        let changed: u64 = changed.map(|count| count.expect("no panic")).sum();
        assert!(changed > 0, "the owner changes its own");
    });
}

/// Why a change fails whose pool has become somebody else's meanwhile.
const REFUSALS: [Status; 2] = [Status::PermissionDenied, Status::PoolNotFound];
