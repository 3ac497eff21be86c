//! Limits on address space, met in the middle of the work: what does not fit is refused, and no process ends.

use chimaera_bdev_client::{CreateOptions, PoolQuery, Runtime, Status};
use chimaera_tests::{
    ClientProcess, Daemon, GIB, MIB, assert_refused, client, disk_folder, limit_address_space,
    memory, text,
};

/// As many keepers leave stacks behind for threads that come later.
const POOLS: u32 = 8;

#[test]
fn a_client_survives_connecting_with_any_address_space_left() {
    let daemon = Daemon::start();
    let mut client = ClientProcess::start(&daemon.socket(), &["connect-at-limits"]);
    client.expect("connected");
    client.succeed();
}

#[test]
fn a_daemon_without_address_space_lives_on_and_keeps_its_pools() {
    let mut daemon = Daemon::start();
    let folder = disk_folder();
    let holder = daemon.connect();
    let held = memory(&holder, 64 * MIB);
    let create = |number: u32| {
        let file = folder.path().join(format!("pool-{number}"));
        client(&holder, number).create(
            PoolQuery::Dynamic,
            text(&file),
            &CreateOptions::file().size(8 * MIB),
        )
    };
    // Their keepers leave stacks, from which threads start without further address space.
    for number in 1..=POOLS {
        create(number).expect("a pool");
    }
    for number in 1..=POOLS {
        let made = client(&holder, number).pool_id();
        holder.admin().destroy_pool(made).expect("destroys");
    }

    limit_address_space(daemon.process_id(), Some(1_000_000));
    for number in 1..=POOLS {
        // Either may be refused.
        let _ = create(number);
        drop(Runtime::connect_to(daemon.socket()));
    }
    limit_address_space(daemon.process_id(), None);

    let blocks = held.allocate_blocks(PoolQuery::Local, 4096);
    held.free_blocks(PoolQuery::Local, &blocks.expect("space"))
        .expect("frees");
    create(POOLS + 1).expect("a pool, now that there is room");
    let _ = daemon.run(&["runtime", "stop"]).success();
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_memory_pool_without_address_space_names_the_limit() {
    let daemon = Daemon::start();
    let holder = daemon.connect();
    limit_address_space(daemon.process_id(), Some(4 * GIB));
    let options = CreateOptions::ram(64 * GIB);
    let refused = client(&holder, 0).create(PoolQuery::Dynamic, "memory", &options);
    assert_refused(refused, Status::OutOfMemory, &["no room", "ulimit -v"]);
}
