//! What somebody knows of a pool holds as long as it is the same pool: what has become another one is used by nobody
//! who has not asked what is in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chimaera_bdev_client::{
    Block, Client, CreateOptions, Error, OwnerTag, PoolId, PoolQuery, Runtime, Status,
};
use chimaera_tests::{MIB, UsersDaemon, assert_refused, disk_folder, has_users, text};
use tempfile::TempDir;

use super::{Ends, ID, OWNER, QUERY, ram};

const TAG: OwnerTag = OwnerTag(7);

/// A pool on a file, which operators open for its owner.
struct FilePool {
    folder: TempDir,
}

impl FilePool {
    /// Opens the pool, and gives a client of its owner's with a block that is filled with 1.
    fn with_a_block(&self, daemon: &UsersDaemon) -> (Client, Block) {
        self.open(daemon);
        let pool = Client::open(&daemon.user(OWNER), text(&self.path())).expect("its own");
        let blocks = pool.allocate_blocks_for(QUERY, 4096, TAG);
        let block = blocks.expect("there is room")[0];
        fill(&pool, &block, 1).expect("its own");
        (pool, block)
    }

    fn new() -> Self {
        let folder = disk_folder();
        std::fs::File::create(folder.path().join("pool"))
            .and_then(|file| file.set_len(16 * MIB))
            .expect("there is room");
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("pool")
    }

    /// Has an operator open it.
    fn open(&self, daemon: &UsersDaemon) {
        let options = CreateOptions::file().owner(OWNER.id);
        let pool = Client::new(&daemon.operator(), PoolId::NULL);
        let made = pool.create(PoolQuery::Dynamic, text(&self.path()), &options);
        let permissions = made.expect("an operator may").permissions;
        assert_eq!((permissions.owner, permissions.mode), (OWNER.id, 0o600));
    }

    /// Ends it in good order, and opens it again.
    fn reopen(&self, daemon: &UsersDaemon) {
        let owners = daemon.user(OWNER);
        owners
            .admin()
            .destroy_pool(text(&self.path()))
            .expect("its own");
        self.open(daemon);
    }

    /// The owner's client over a connection of its own, who knows the pool as it was.
    fn known(&self, daemon: &UsersDaemon, incarnation: u64) -> Result<Client, Error> {
        let pool = Client::new(&daemon.user(OWNER), PoolId::NULL);
        let options = CreateOptions::file().incarnation(incarnation);
        pool.create(PoolQuery::Dynamic, text(&self.path()), &options)?;
        Ok(pool)
    }
}

fn fill(pool: &Client, block: &Block, byte: u8) -> Result<u64, Error> {
    let mut buffer = pool.runtime().allocate_buffer(4096).expect("a buffer");
    buffer.fill(byte);
    pool.write(QUERY, block, &buffer)
}

fn first_byte(pool: &Client, block: &Block) -> Result<u8, Error> {
    let mut buffer = pool.runtime().allocate_buffer(4096).expect("a buffer");
    pool.read(QUERY, block, &mut buffer)?;
    Ok(buffer[0])
}

/// As [`first_byte`], by a task.
fn first_byte_later(pool: &Client, block: &Block) -> Result<u8, Error> {
    let buffer = pool.runtime().allocate_buffer(4096).expect("a buffer");
    Ok(pool.async_read(QUERY, block, buffer).wait()?.1[0])
}

fn incarnation(pool: &Client) -> u64 {
    pool.incarnation().expect("it was used")
}

#[test]
fn blocks_of_a_file_pool_hold_beyond_an_end_in_good_order_and_no_other() {
    if !has_users("incarnations of a file pool") {
        return;
    }
    let (daemon, file) = (UsersDaemon::start(), FilePool::new());
    let (pool, block) = file.with_a_block(&daemon);
    let first = incarnation(&pool);

    file.reopen(&daemon);
    let known = file
        .known(&daemon, first)
        .expect("it has ended in good order");
    assert_eq!(first_byte(&known, &block), Ok(1));
    let second = incarnation(&known);
    assert_ne!(first, second);
    let made_up = file.known(&daemon, first.wrapping_add(1).max(1));
    assert_refused(made_up, Status::PoolChanged, &["list the pool's blocks"]);

    file.reopen(&daemon);
    let missed = file.known(&daemon, first);
    assert_refused(missed, Status::PoolChanged, &[text(&file.path())]);
    let known = file
        .known(&daemon, second)
        .expect("it has ended in good order");
    assert_eq!(first_byte(&known, &block), Ok(1));
    let third = incarnation(&known);

    // What was not flushed may be forgotten: nobody knows but who looks.
    let daemon = daemon.killed_and_started();
    file.open(&daemon);
    let changed = file.known(&daemon, third);
    assert_refused(changed, Status::PoolChanged, &["was not flushed"]);
    let found = Client::open(&daemon.user(OWNER), text(&file.path())).expect("its own");
    let mine: Vec<_> = found
        .all_blocks(QUERY)
        .map(|block| block.expect("a list"))
        .filter(|owned| owned.owner == TAG)
        .collect();
    assert_eq!(mine.len(), 1);
    assert_eq!(mine[0].block, block);
    assert_eq!(first_byte(&found, &block), Ok(1));
    let now = incarnation(&found);
    file.known(&daemon, now).expect("what was found holds");
}

#[test]
fn a_connection_that_stays_goes_on_with_a_file_pool_that_ended_in_good_order() {
    if !has_users("a connection that outlives a pool") {
        return;
    }
    let (daemon, file) = (UsersDaemon::start(), FilePool::new());
    let (pool, block) = file.with_a_block(&daemon);
    for _ in 0..2 {
        file.reopen(&daemon);
        // The tasks of this connection were for the pool that has ended.
        assert_refused(first_byte(&pool, &block), Status::PoolChanged, &[]);
        assert_eq!(
            first_byte(&pool, &block),
            Ok(1),
            "it has been found to be the same"
        );
        assert!(!pool.has_changed());
    }
    // Two ends later nothing is certain.
    let idle = Client::open(&daemon.user(OWNER), text(&file.path())).expect("its own");
    file.reopen(&daemon);
    file.reopen(&daemon);
    for _ in 0..3 {
        assert_refused(first_byte(&idle, &block), Status::PoolChanged, &[]);
        assert_refused(first_byte_later(&idle, &block), Status::PoolChanged, &[]);
    }
    assert!(idle.has_changed());
    assert_eq!(idle.all_blocks(QUERY).count(), 1);
    assert!(!idle.has_changed());
    assert_eq!(first_byte(&idle, &block), Ok(1));
}

/// A memory pool with a block at its beginning that holds this byte.
fn made(runtime: &Runtime, byte: u8) -> (Client, Block) {
    let pool = ram(runtime, "pool", ID, 0o600);
    let block = pool.allocate_blocks(QUERY, 4096).expect("there is room")[0];
    fill(&pool, &block, byte).expect("its own");
    (pool, block)
}

/// Destroys the pool and makes another one in its place, with the same name, id and blocks.
fn made_anew(runtime: &Runtime, byte: u8) {
    runtime.admin().destroy_pool(ID).expect("its own");
    let _ = made(runtime, byte);
}

#[test]
fn nobody_who_knows_a_memory_pool_uses_the_one_that_was_made_in_its_place() {
    if !has_users("a memory pool that is made anew") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (here, there) = (daemon.user(OWNER), daemon.user(OWNER));
    let (maker, block) = made(&here, 1);
    let beside = Client::open(&here, "pool").expect("its own");
    let elsewhere = Client::open(&daemon.user(OWNER), "pool").expect("its own");
    let clients = [&maker, &beside, &elsewhere];
    for client in clients {
        assert_eq!(first_byte(client, &block), Ok(1));
    }
    there.admin().destroy_pool(ID).expect("its own");
    for client in clients {
        assert_refused(first_byte(client, &block), Status::PoolNotFound, &[]);
        assert_refused(first_byte_later(client, &block), Status::PoolNotFound, &[]);
    }
    let _ = made(&there, 2);
    for client in clients {
        for _ in 0..3 {
            assert_refused(first_byte(client, &block), Status::PoolChanged, &[]);
            assert_refused(first_byte_later(client, &block), Status::PoolChanged, &[]);
            assert_refused(fill(client, &block, 3), Status::PoolChanged, &[]);
            let freed = client.free_blocks(QUERY, &[block]);
            assert_refused(freed, Status::PoolChanged, &[]);
        }
        assert!(client.has_changed());
        client.get_stats().expect("to look is no use of blocks");
        assert_eq!(client.map(QUERY).expect("likewise").len(), 4);
        assert!(client.has_changed());
    }
    // Each of them has to know for itself.
    assert_eq!(maker.all_blocks(QUERY).count(), 1);
    assert_eq!(first_byte(&maker, &block), Ok(2));
    assert_refused(first_byte(&beside, &block), Status::PoolChanged, &[]);
    beside.accept_change();
    assert_eq!(first_byte(&beside, &block), Ok(2));
    let listed = elsewhere.async_all_blocks(QUERY).wait().expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(first_byte(&elsewhere, &block), Ok(2));
    assert!(clients.iter().all(|client| !client.has_changed()));

    // Who does not notice the end at all finds the next one.
    made_anew(&there, 4);
    for client in clients {
        let read = first_byte_later(client, &block);
        assert_refused(read, Status::PoolChanged, &[]);
        assert_refused(first_byte(client, &block), Status::PoolChanged, &[]);
        client.accept_change();
        assert_eq!(first_byte(client, &block), Ok(4));
    }
    // It is enough to say so once, before it is known which pool is there.
    made_anew(&there, 5);
    for client in clients {
        assert_refused(first_byte(client, &block), Status::PoolChanged, &[]);
        client.accept_change();
        assert_eq!(first_byte(client, &block), Ok(5));
    }
}

#[test]
fn a_program_that_remembers_blocks_of_a_memory_pool_is_told_that_they_are_gone() {
    if !has_users("a memory pool's incarnation") {
        return;
    }
    let daemon = UsersDaemon::start();
    let runtime = daemon.user(OWNER);
    let (pool, block) = made(&runtime, 1);
    let first = incarnation(&pool);
    let again = |incarnation: u64| {
        let pool = Client::new(&daemon.user(OWNER), ID);
        let options = CreateOptions::ram(4 * MIB).incarnation(incarnation);
        pool.create(PoolQuery::Dynamic, "pool", &options)?;
        first_byte(&pool, &block)
    };
    assert_eq!(again(first), Ok(1));
    made_anew(&runtime, 2);
    assert_refused(again(first), Status::PoolChanged, &["\"pool\""]);
    let found = runtime.admin().find_pool(ID).expect("there").incarnation;
    assert_eq!(again(found), Ok(2));
}

#[test]
fn opening_the_new_pool_lets_no_other_thread_of_the_connection_use_it_unawares() {
    if !has_users("a pool that is made anew under load") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (here, there) = (daemon.user(OWNER), daemon.user(OWNER));
    let (_, block) = made(&there, 1);
    for round in 0..48 {
        let (old, new) = (1 + round % 2, 2 - round % 2);
        let clients: Vec<_> = (0..3)
            .map(|_| Client::open(&here, "pool").expect("its own"))
            .collect();
        let ends = &AtomicBool::new(false);
        thread::scope(|scope| {
            let readers: Vec<_> = clients
                .iter()
                .map(|client| {
                    scope.spawn(move || {
                        let mut strange = Vec::new();
                        while !ends.load(Ordering::SeqCst) {
                            match first_byte(client, &block) {
                                Ok(byte) if byte == old => {}
                                Err(error) if error.status() == Status::PoolNotFound => {}
                                Err(error) if error.status() == Status::PoolChanged => {}
                                other => strange.push(other),
                            }
                        }
                        strange
                    })
                })
                .collect();
            let reading = Ends(ends);
            made_anew(&there, new);
            let opened = Client::open(&here, "pool").expect("its own");
            assert_eq!(first_byte(&opened, &block), Ok(new), "who opens it knows");
            drop(reading);
            for reader in readers {
                assert_eq!(reader.join().expect("no panic"), [], "round {round}");
            }
        });
    }
}
