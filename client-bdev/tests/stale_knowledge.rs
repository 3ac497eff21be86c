//! What is known of a pool is known of one instance of it, and of one owner's.

use chimaera_bdev_client::{
    Client, CreateOptions, PoolChoice, PoolId, PoolQuery, Runtime, Status, embed,
};
use chimaera_testing::{MIB, Watchdog};

const QUERY: PoolQuery = PoolQuery::Local;
const ID: PoolId = PoolId::new(8000, 0);

fn embedded() -> Runtime {
    embed().workers(1).start().expect("starts")
}

/// Makes a pool in the place of the one that is there.
fn make_anew(maker: &Client, options: &CreateOptions) {
    maker.runtime().admin().destroy_pool(ID).expect("it ends");
    let made = maker.create(PoolQuery::Dynamic, "pool", options);
    assert!(made.expect("it is made").created);
}

#[test]
fn a_list_that_lay_there_while_its_pool_was_made_anew_says_nothing_of_the_new_one() {
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    let options = CreateOptions::ram(4 * MIB);
    let maker = Client::new(&runtime, ID);
    maker
        .create(PoolQuery::Dynamic, "pool", &options)
        .expect("it is made");
    let reader = Client::new(&runtime, ID);
    reader.allocate_blocks(QUERY, 4096).expect("there is room");
    let task = loop {
        make_anew(&maker, &options);
        maker.allocate_blocks(QUERY, 4096).expect("there is room");
        assert!(reader.has_changed());
        let task = reader.async_all_blocks(QUERY);
        // The list is made before this is, on the same lane. The task takes it only when it is asked, unless it was
        // there at once.
        maker.get_stats().expect("it is there");
        if reader.has_changed() {
            break task;
        }
    };
    make_anew(&maker, &options);
    let error = task.wait().expect_err("it is a list of the pool before");
    assert_eq!(error.status(), Status::PoolChanged);
    assert!(
        error.to_string().contains("list its blocks again"),
        "{error}"
    );
    assert!(reader.has_changed());
    let block = maker.allocate_blocks(QUERY, 4096).expect("there is room")[0];
    let refused = reader.free_blocks(QUERY, &[block]);
    assert_eq!(refused.expect_err("stale").status(), Status::PoolChanged);
    let listed = reader.async_all_blocks(QUERY).wait().expect("a list");
    assert_eq!(listed.len(), 1);
    assert!(!reader.has_changed());
    reader.free_blocks(QUERY, &[block]).expect("it is known");
}

#[test]
fn who_holds_one_owners_pool_is_not_led_to_anothers_with_the_same_id() {
    const OWNERS: [u32; 2] = [1003, 1004];
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    let make = |owner| {
        let client = Client::new(&runtime, ID);
        let options = CreateOptions::ram(4 * MIB).owner(owner);
        let made = client.create(PoolQuery::Dynamic, "pool", &options);
        assert!(made.expect("an operator may").created);
        client
    };
    let destroy = |owner| {
        let choice = PoolChoice {
            owner: Some(owner),
            ..ID.into()
        };
        runtime.admin().destroy_pool(choice).expect("it ends");
    };
    let first = make(OWNERS[0]);
    first.allocate_blocks(QUERY, 4096).expect("there is room");
    destroy(OWNERS[0]);
    let second = make(OWNERS[1]);
    let block = second.allocate_blocks(QUERY, 4096).expect("there is room")[0];
    for _ in 0..2 {
        let listed = first.async_all_blocks(QUERY).wait();
        assert_eq!(listed.expect_err("gone").status(), Status::PoolNotFound);
        let freed = first.free_blocks(QUERY, &[block]);
        assert_eq!(freed.expect_err("gone").status(), Status::PoolNotFound);
    }
    second.free_blocks(QUERY, &[block]).expect("its own");
    // When there is one of the first owner's again, it is that.
    destroy(OWNERS[1]);
    let third = make(OWNERS[0]);
    assert_eq!(first.all_blocks(QUERY).count(), 0);
    assert_eq!(first.incarnation(), third.incarnation());
    let block = first.allocate_blocks(QUERY, 4096).expect("there is room")[0];
    third.free_blocks(QUERY, &[block]).expect("it is the same");
}
