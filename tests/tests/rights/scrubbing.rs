//! Whoever is let into a pool finds nothing in new blocks that others had written before, in whichever way it came to
//! lie there.

use std::path::PathBuf;

use chimaera_bdev_client::{
    Block, Client, CreateOptions, OwnerTag, PageCursor, PoolId, PoolQuery, ScrubPolicy,
};
use chimaera_tests::exit::IN_THE_WAY;
use chimaera_tests::{Daemon, MIB, UsersDaemon, chimaera, disk_folder, has_users, json, text};
use tempfile::TempDir;

use super::{GROUP, ID, MEMBER, OTHER, OWNER, QUERY, group, mode, owner, ram, set};

const SECRET: u8 = 0x5E;
const BLOCK: usize = 4096;

/// Allocates all blocks of 4 KiB that the pool has room for, in order.
fn all_blocks(pool: &Client) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Ok(more) = pool.allocate_blocks_for(QUERY, BLOCK as u64, OwnerTag(7)) {
        blocks.extend(more);
    }
    blocks.sort_by_key(|block| block.offset);
    blocks
}

fn free(pool: &Client, blocks: &[Block]) {
    pool.free_blocks(QUERY, blocks).expect("allocated");
}

/// Writes secrets to the whole of the pool, and frees it.
fn leave_secrets(pool: &Client) -> Vec<Block> {
    let blocks = all_blocks(pool);
    assert!(!blocks.is_empty());
    for block in &blocks {
        let written = pool.write_bytes(QUERY, block, &[SECRET; BLOCK]);
        written.expect("allocated");
    }
    pool.flush(QUERY).expect("the device is sound");
    free(pool, &blocks);
    pool.flush(QUERY).expect("the device is sound");
    blocks
}

fn bytes_of(pool: &Client, block: &Block) -> Vec<u8> {
    let buffer = pool.runtime().allocate_buffer(block.size as usize);
    let mut buffer = buffer.expect("a buffer");
    pool.read(QUERY, block, &mut buffer).expect("allocated");
    buffer.to_vec()
}

/// How many of the pool's free places hold a secret, as somebody sees who allocates all of them.
fn secrets_found(pool: &Client, places: &[Block]) -> usize {
    let blocks = all_blocks(pool);
    assert_eq!(blocks, places, "the same places");
    let is_secret = |block: &&Block| bytes_of(pool, block).contains(&SECRET);
    let found = blocks.iter().filter(is_secret).count();
    free(pool, &blocks);
    found
}

fn scrub(pool: &Client) -> ScrubPolicy {
    pool.get_stats().expect("readable").scrub
}

/// A pool of the owner's on a file.
fn file_pool(folder: &TempDir, daemon: &UsersDaemon, bits: u16) -> Client {
    let path = file_in(folder);
    let file = std::fs::File::create(&path).expect("there is room");
    file.set_len(16 * MIB).expect("there is room");
    let operator = daemon.operator();
    let options = CreateOptions::file().owner(OWNER.id).mode(bits);
    let made = Client::new(&operator, PoolId::NULL);
    let made = made.create(PoolQuery::Dynamic, text(&path), &options);
    assert!(made.expect("an operator may").created);
    Client::open(&daemon.user(OWNER), text(&path)).expect("its own")
}

fn file_in(folder: &TempDir) -> PathBuf {
    folder.path().join("pool")
}

#[test]
fn whoever_is_let_in_later_finds_zeroes_in_new_blocks() {
    if !has_users("secrets in freed blocks") {
        return;
    }
    let (daemon, folder) = (UsersDaemon::start(), disk_folder());
    let owners = daemon.user(OWNER.with_groups(&[GROUP]));
    let path = file_in(&folder);
    for (name, pool) in [
        ("pool", ram(&owners, "pool", ID, 0o600)),
        (text(&path), file_pool(&folder, &daemon, 0o600)),
    ] {
        let places = leave_secrets(&pool);
        assert_eq!(secrets_found(&pool, &places), places.len(), "the owner's");
        assert_eq!(scrub(&pool), ScrubPolicy::None);

        set(&owners, OWNER, name, group(GROUP)).expect("its own");
        assert_eq!(scrub(&pool), ScrubPolicy::None, "nobody was let in");
        set(&owners, OWNER, name, mode(0o660)).expect("its own");
        let member = Client::open_of(&daemon.user(MEMBER), OWNER.id, name).expect("let in");
        assert_eq!(scrub(&member), ScrubPolicy::Allocate);
        assert_eq!(secrets_found(&member, &places), 0);

        // What the owner writes and frees from now on is nothing for others either, nor the rest of a block that is
        // written in part.
        leave_secrets(&pool);
        let blocks = all_blocks(&member);
        member
            .write_bytes(QUERY, &blocks[0], &[1; 10])
            .expect("allocated");
        let found = bytes_of(&member, &blocks[0]);
        assert!(found[..10] == [1; 10] && found[10..].iter().all(|byte| *byte == 0));
        free(&member, &blocks);
    }
}

#[test]
fn a_pool_that_is_given_away_has_no_secrets_in_new_blocks() {
    if !has_users("secrets in a pool that is given away") {
        return;
    }
    let daemon = UsersDaemon::start();
    let owners = daemon.user(OWNER);
    let pool = ram(&owners, "pool", ID, 0o600);
    let places = leave_secrets(&pool);
    set(&daemon.operator(), OWNER, "pool", owner(OTHER.id)).expect("an operator may");
    let other = Client::open_of(&daemon.user(OTHER), OTHER.id, "pool").expect("its own now");
    assert_eq!(secrets_found(&other, &places), 0);
}

/// The control: members of a pool that was theirs together from the beginning see each other's blocks, which is how
/// these tests know that there would be something to see.
#[test]
fn a_pool_that_was_shared_from_the_beginning_scrubs_only_if_it_is_asked_to() {
    if !has_users("secrets in a shared pool") {
        return;
    }
    let daemon = UsersDaemon::start();
    let owners = daemon.user(OWNER.with_groups(&[GROUP]));
    let make = |name, minor, policy| {
        let pool = Client::new(&owners, PoolId::new(8000, minor));
        let options = CreateOptions::ram(MIB).group(GROUP).mode(0o660);
        let options = options.scrub(policy);
        pool.create(PoolQuery::Dynamic, name, &options)
            .expect("made");
        pool
    };
    let found = |name, pool: &Client| {
        let places = leave_secrets(pool);
        let member = Client::open_of(&daemon.user(MEMBER), OWNER.id, name).expect("let in");
        (secrets_found(&member, &places), places.len())
    };
    let (seen, all) = found("dirty", &make("dirty", 1, ScrubPolicy::None));
    assert_eq!(seen, all);
    let (seen, _) = found("clean", &make("clean", 2, ScrubPolicy::Allocate));
    assert_eq!(seen, 0);
}

#[test]
fn zeroes_are_there_after_a_sigkill_too() {
    if !has_users("secrets after a SIGKILL") {
        return;
    }
    let (daemon, folder) = (UsersDaemon::start(), disk_folder());
    let pool = file_pool(&folder, &daemon, 0o600);
    let path = file_in(&folder);
    let places = leave_secrets(&pool);
    let owners = daemon.user(OWNER.with_groups(&[GROUP]));
    set(&owners, OWNER, text(&path), group(GROUP)).expect("its own");
    set(&owners, OWNER, text(&path), mode(0o660)).expect("its own");
    let member = Client::open_of(&daemon.user(MEMBER), OWNER.id, text(&path)).expect("let in");
    // Some are the member's for good, others are forgotten in the crash.
    let kept = member.allocate_blocks_for(QUERY, BLOCK as u64, OwnerTag(1));
    let kept = kept.expect("room")[0];
    member.flush(QUERY).expect("the device is sound");
    let forgotten = member.allocate_blocks_for(QUERY, BLOCK as u64, OwnerTag(2));
    let forgotten = forgotten.expect("room")[0];
    let written = member.write_bytes(QUERY, &forgotten, &[SECRET; BLOCK]);
    written.expect("allocated");
    drop((owners, member, pool));

    let daemon = daemon.killed_and_started();
    let operator = daemon.operator();
    let options = CreateOptions::file().owner(OWNER.id);
    let opened = Client::new(&operator, PoolId::NULL);
    opened
        .create(PoolQuery::Dynamic, text(&path), &options)
        .expect("an operator may");
    let member = Client::open_of(&daemon.user(MEMBER), OWNER.id, text(&path)).expect("let in");
    assert_eq!(scrub(&member), ScrubPolicy::Allocate);
    assert_eq!(listed(&member), [kept]);
    assert_eq!(bytes_of(&member, &kept), [0; BLOCK]);
    let others: Vec<_> = places.into_iter().filter(|place| *place != kept).collect();
    assert_eq!(secrets_found(&member, &others), 0);
}

/// The pool's blocks, which fit on a page.
fn listed(pool: &Client) -> Vec<Block> {
    let page = pool
        .list_blocks(QUERY, PageCursor::START)
        .expect("readable");
    page.blocks.iter().map(|owned| owned.block).collect()
}

#[test]
fn the_program_says_whether_a_pool_scrubs() {
    let (daemon, folder) = (Daemon::start(), disk_folder());
    let path = file_in(&folder);
    let name = text(&path);
    let create = ["pool", "create", name, "--type", "file", "--size", "16MiB"];
    let _ = daemon.run(&create).success();
    let scrub = |daemon: &Daemon| {
        let stats = daemon.run(&["pool", "stats", "--json", name]).success();
        json(&stats)["scrub"].as_str().map(ToOwned::to_owned)
    };
    assert_eq!(scrub(&daemon).as_deref(), Some("none"));
    let said = daemon.run(&["pool", "chmod", "600", name]).success();
    assert!(!said.contains("zeroed"), "{said}");
    let said = daemon.run(&["pool", "chmod", "640", name]).success();
    assert!(said.contains("its blocks are zeroed before"), "{said}");
    assert_eq!(scrub(&daemon).as_deref(), Some("allocate"));
    let none = [&create[..], &["--scrub", "none"]].concat();
    let said = daemon.run(&none).failure(IN_THE_WAY);
    assert!(
        said.contains("--scrub is allocate, asked for none"),
        "{said}"
    );
    let allocate = [&create[..], &["--scrub", "allocate"]].concat();
    let said = daemon.run(&allocate).success();
    assert!(said.contains("its blocks are zeroed before"), "{said}");
    let said = daemon.run(&create).success();
    assert!(!said.contains("zeroed"), "{said}");
    let _ = daemon.run(&["pool", "destroy", name]).success();
    let found = chimaera(&["pool", "inspect", "--json", name]).success();
    assert_eq!(json(&found)["scrub"], "allocate");
    assert_eq!(json(&found)["features"]["read_only_compatible"], 1);

    // What is only read records nothing.
    let reading = ["pool", "create", name, "--type", "file", "--read-only"];
    let _ = daemon.run(&reading).success();
    let said = daemon.run(&["pool", "chmod", "600", name]).success();
    assert!(said.contains("for as long as it is open"), "{said}");
    let _ = daemon.run(&["pool", "destroy", name]).success();
    let found = chimaera(&["pool", "inspect", "--json", name]).success();
    assert_eq!(json(&found)["mode"], "640");

    // A mode that gives its maker nothing.
    let nothing = ["pool", "create", "shut", "--type", "ram", "--size", "1MiB"];
    let nothing = [&nothing[..], &["--mode", "0"]].concat();
    let _ = daemon.run(&nothing).success();

    // An image that nobody uses.
    let other = folder.path().join("other");
    let other = text(&other);
    let create = ["pool", "create", other, "--type", "file", "--size", "16MiB"];
    let _ = daemon.run(&create).success();
    let _ = daemon.run(&["pool", "destroy", other]).success();
    let chmod = |bits| chimaera(&["pool", "chmod", "--offline", "--json", bits, other]).success();
    assert_eq!(json(&chmod("400"))["scrub"], "none");
    assert_eq!(json(&chmod("604"))["scrub"], "allocate");
    assert_eq!(json(&chmod("600"))["scrub"], "allocate");
}
