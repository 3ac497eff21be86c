//! Several client processes at once on one pool of one daemon: none is disturbed by another, not
//! even by its death.

use std::path::Path;

use chimaera_bdev_client::{Block, Client, CreateOptions, PoolId, PoolQuery};
use chimaera_tests::{
    ClientProcess, Daemon, LoopDevice, MIB, assert_empty, disk_folder, json, parse_blocks, skipped,
    tmpfs_folder, until, whole_megabytes,
};

const POOL_BYTES: u64 = 48 * MIB;
const QUERY: PoolQuery = PoolQuery::Local;
const ROUNDS: &str = "120";

/// The pool in the hands of the test, which only counts.
fn create(daemon: &Daemon, name: &str, options: &CreateOptions) -> Client {
    let client = Client::new(&daemon.connect(), PoolId::new(8000, 0));
    let info = client
        .create(PoolQuery::Dynamic, name, options)
        .expect("the pool is made");
    assert!(info.created);
    client
}

fn remaining(pool: &Client) -> u64 {
    pool.get_stats().expect("statistics").remaining_size
}

fn bytes_of(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| block.size).sum()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn start_sharing(daemon: &Daemon, name: &str, writer: u32) -> ClientProcess {
    let writer = writer.to_string();
    let mut client = ClientProcess::start(&daemon.socket(), &["share", name, &writer, ROUNDS]);
    client.expect("ready");
    client
}

/// No byte may belong to two blocks.
#[track_caller]
fn assert_disjoint(mut blocks: Vec<Block>) {
    blocks.sort();
    for pair in blocks.windows(2) {
        assert!(
            pair[0].offset + pair[0].size <= pair[1].offset,
            "{pair:?} overlap"
        );
    }
    let end = blocks.last().map_or(0, |block| block.offset + block.size);
    assert!(end <= POOL_BYTES, "a block ends at {end:#x}");
}

/// Three processes use the pool at once; the test looks at what they hold together.
fn share(daemon: &Daemon, name: &str, options: &CreateOptions) {
    let pool = create(daemon, name, options);
    let stats = assert_empty(&pool);
    let room = stats.remaining_size;
    assert_eq!(stats.total_size, POOL_BYTES);

    let mut clients: Vec<_> = (1..=3)
        .map(|writer| start_sharing(daemon, name, writer))
        .collect();
    clients.iter_mut().for_each(ClientProcess::go_on);
    let held: Vec<_> = clients
        .iter_mut()
        .flat_map(|client| parse_blocks(&client.expect("holding")))
        .collect();
    assert!(
        !held.is_empty(),
        "processes that hold nothing prove nothing"
    );
    assert_eq!(remaining(&pool), room - bytes_of(&held));
    assert_disjoint(held);

    clients.iter_mut().for_each(ClientProcess::go_on);
    for mut client in clients {
        client.expect("done");
        client.succeed();
    }
    assert_eq!(remaining(&pool), room);
    let whole = match stats.persistent {
        true => whole_megabytes(POOL_BYTES),
        false => POOL_BYTES >> 20,
    };
    let all = pool.allocate_blocks(QUERY, whole << 20);
    let all = all.expect("a pool without blocks has room for whole ones");
    assert_eq!(all.len() as u64, whole);
}

#[test]
fn every_answer_about_a_pool_says_that_its_file_was_removed() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let name = text(&file);
    let run = |words: &[&str]| daemon.run(words).success();
    let create = ["pool", "create", name, "--type", "file", "--size", "8MiB"];
    let _ = run(&create);
    let said = run(&["pool", "flush", name]);
    assert_eq!(said, format!("flushed pool {name}\n"));
    assert_eq!(
        json(&run(&["runtime", "status", "--json"]))["lost_files"],
        json("[]")
    );

    std::fs::remove_file(&file).expect("removed");
    let removed = "it was removed, and all that it holds is lost when the pool ends";
    let said = run(&["pool", "flush", name]);
    assert!(said.contains(removed), "{said}");
    let said = run(&["pool", "stats", name]);
    assert!(said.contains(removed), "{said}");
    let said = run(&["runtime", "status"]);
    let line = format!("files       that of pool {name}: {removed}");
    assert!(said.contains(&line), "{said}");
    for (words, place) in [
        (&["pool", "flush", name, "--json"][..], "/file"),
        (&["pool", "stats", name, "--json"], "/file"),
        (&["runtime", "status", "--json"], "/lost_files/0/file"),
    ] {
        let said = json(&run(words));
        assert_eq!(said.pointer(place), Some(&json("\"removed\"")), "{said}");
    }
    let said = run(&["pool", "destroy", name]);
    assert!(
        said.contains("; its file had been removed, and what it held is lost"),
        "{said}"
    );

    // The pool's end notices a loss that nothing has noticed before.
    let _ = run(&create);
    std::fs::rename(&file, folder.path().join("moved")).expect("moved");
    let said = json(&run(&["pool", "destroy", name, "--json"]));
    assert_eq!(said["file"], "moved", "{said}");
}

#[test]
fn processes_share_memory_without_touching_each_others_blocks() {
    share(&Daemon::start(), "shared", &CreateOptions::ram(POOL_BYTES));
}

#[test]
fn processes_share_memory_that_two_workers_serve() {
    let daemon = Daemon::start_with(&["--workers", "2"]);
    share(&daemon, "shared", &CreateOptions::ram(POOL_BYTES));
}

#[test]
fn processes_share_a_file_on_disk_without_touching_each_others_blocks() {
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let options = CreateOptions::file().size(POOL_BYTES);
    share(
        &Daemon::start_with(&["--workers", "2"]),
        text(&file),
        &options,
    );
    let len = std::fs::metadata(&file).expect("the file stays").len();
    assert_eq!(len, POOL_BYTES);
}

#[test]
fn processes_share_a_file_on_tmpfs_without_touching_each_others_blocks() {
    let folder = match tmpfs_folder() {
        Ok(folder) => folder,
        Err(reason) => return skipped("a pool on tmpfs", &reason),
    };
    let file = folder.path().join("pool");
    let options = CreateOptions::file().size(POOL_BYTES);
    share(&Daemon::start(), text(&file), &options);
}

#[test]
fn processes_share_a_block_device_without_touching_each_others_blocks() {
    let device = match LoopDevice::attach(POOL_BYTES) {
        Ok(device) => device,
        Err(reason) => return skipped("a pool on a loop device", &reason),
    };
    share(
        &Daemon::start(),
        text(device.path()),
        &CreateOptions::file(),
    );
}

/// A process dies with I/O in flight while others work. The daemon forgets it, they do not
/// notice, and its blocks are still blocks.
fn kill_one_of_three(daemon: &Daemon, name: &str, options: &CreateOptions) {
    let pool = create(daemon, name, options);
    let room = assert_empty(&pool).remaining_size;
    let before = daemon.sessions();
    let mut others: Vec<_> = (1..=2)
        .map(|writer| start_sharing(daemon, name, writer))
        .collect();
    others.iter_mut().for_each(ClientProcess::go_on);
    let mut lost = Vec::new();
    for _ in 0..5 {
        let mut victim = ClientProcess::start(&daemon.socket(), &["storm", name]);
        let blocks = parse_blocks(&victim.expect("storming"));
        lost.extend(blocks);
        assert!(daemon.sessions() > before);
        victim.kill();
    }
    let mut held = lost.clone();
    for client in &mut others {
        held.extend(parse_blocks(&client.expect("holding")));
    }
    assert_eq!(remaining(&pool), room - bytes_of(&held));
    assert_disjoint(held);
    for mut client in others {
        client.go_on();
        client.expect("done");
        client.succeed();
    }
    until("the sessions of clients that ended end", || {
        daemon.sessions() == before
    });
    assert_eq!(remaining(&pool), room - bytes_of(&lost));
    pool.free_blocks(QUERY, &lost)
        .expect("what the dead left behind can be freed");
    assert_eq!(remaining(&pool), room);
}

#[test]
fn a_client_killed_while_it_writes_to_memory_disturbs_nobody() {
    kill_one_of_three(&Daemon::start(), "killed", &CreateOptions::ram(POOL_BYTES));
}

#[test]
fn a_client_killed_while_it_writes_to_disk_disturbs_nobody() {
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let options = CreateOptions::file().size(POOL_BYTES);
    kill_one_of_three(&Daemon::start(), text(&file), &options);
}
