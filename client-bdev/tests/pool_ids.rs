//! Which id a pool gets when it is created again, and what becomes of blocks of its predecessor.

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Runtime, Status};
use chimaera_testing::MIB;

const QUERY: PoolQuery = PoolQuery::Local;
const NAME: &str = "again";

fn embedded() -> Runtime {
    chimaera_bdev_client::embed()
        .workers(1)
        .start()
        .expect("it starts")
}

/// Destroys the pool and creates it again with the same client, while another client has a block of the first.
fn create_again(runtime: &Runtime, owner: &Client) {
    let options = CreateOptions::ram(4 * MIB);
    let first = owner.pool_id();
    let stranger = Client::new(runtime, first);
    let kept = stranger.allocate_blocks(QUERY, 4096).expect("a block");
    let admin = runtime.admin();
    admin.destroy_pool(first).expect("the pool ends");

    let info = owner.create(QUERY, NAME, &options).expect("it is made");
    assert!(info.created);
    assert_ne!(info.id, first);
    assert_eq!(owner.pool_id(), info.id);
    owner.allocate_blocks(QUERY, 4096).expect("a block");
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    let read = stranger.read(QUERY, &kept[0], &mut buffer);
    assert_eq!(read.expect_err("gone").status(), Status::PoolNotFound);

    let second = info.id;
    admin.destroy_pool(second).expect("the pool ends");
    let info = owner.async_create(QUERY, NAME, &options).wait();
    assert_ne!(info.expect("it is made").id, second);
}

#[test]
fn blocks_of_a_destroyed_pool_are_no_names_in_the_next_where_the_host_chose_the_id() {
    let runtime = embedded();
    let options = CreateOptions::ram(4 * MIB);
    let owner = Client::new(&runtime, PoolId::NULL);
    owner.create(QUERY, NAME, &options).expect("it is made");
    create_again(&runtime, &owner.clone());
    let opened = Client::open(&runtime, NAME).expect("it is there");
    assert_eq!(opened.pool_id(), owner.pool_id());
    create_again(&runtime, &opened);
    let found = Client::open_or_create(&runtime, NAME, &options).expect("it is there");
    create_again(&runtime, &found);
}

#[test]
fn an_id_that_the_caller_chose_is_asked_for_again() {
    let runtime = embedded();
    let options = CreateOptions::ram(4 * MIB);
    let id = PoolId::new(8000, 0);
    let client = Client::new(&runtime, id);
    for _ in 0..2 {
        let info = client.create(QUERY, NAME, &options).expect("it is made");
        assert_eq!((info.id, info.created), (id, true));
        runtime.admin().destroy_pool(id).expect("the pool ends");
    }
}
