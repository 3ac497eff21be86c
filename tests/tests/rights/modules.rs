//! A task reaches a pool only by a connection that was attached to it, as a pool of the module that its sender means,
//! and only by a method that the module declares.

use chimaera_bdev_client::{Client, CreateOptions, Error, PoolId, PoolQuery, Runtime, Status};
use chimaera_bdev_proto::{MODULE_NAME, Method};
use chimaera_client::proto::admin::{AttachPool, GetOrCreatePool};
use chimaera_client::{Call, Values};
use chimaera_echo_client::Client as EchoClient;
use chimaera_tests::exit::IN_THE_WAY;
use chimaera_tests::{Faulty, MIB, UsersDaemon, assert_refused, has_users};

use chimaera_faulty_runtime as faulty;

use super::{ID, OTHER, OWNER, QUERY, ram};

fn daemon() -> UsersDaemon {
    UsersDaemon::start_with(&["--modules", "chimaera_bdev,chimaera_echo,chimaera_faulty"])
}

/// Sends a task as it is, whatever the connection is attached to.
fn send(runtime: &Runtime, pool: PoolId, method: u16) -> Result<Values, Error> {
    runtime.call(&Call {
        pool,
        instance: 0,
        query: QUERY,
        method,
        arguments: [0; 3],
    })
}

fn attach(runtime: &Runtime, pool: PoolId, module: &str) -> Result<(), Error> {
    let asked = AttachPool {
        pool: pool.into(),
        module: module.to_owned(),
        incarnation: None,
    };
    runtime.admin().attach_pool(&asked).map(drop)
}

/// How many tasks a pool of the module that does everything wrong was handed before this one.
fn handed(pool: &Faulty) -> u64 {
    pool.call(faulty::Method::CountHanded).expect("it counts")[0]
}

#[test]
fn commands_for_block_devices_leave_pools_of_other_modules_alone() {
    if !has_users("commands and modules") {
        return;
    }
    let daemon = daemon();
    let runtime = daemon.user(OWNER);
    let echo = EchoClient::new(&runtime, PoolId::new(9000, 0));
    echo.create(PoolQuery::Dynamic, "echo", "hello")
        .expect("made");
    ram(&runtime, "blocks", ID, 0o600);
    for command in ["stats", "map", "blocks"] {
        let said = daemon.run_as(OWNER, &["pool", command, "echo"]);
        let said = said.failure(IN_THE_WAY);
        assert!(said.contains("module chimaera_echo"), "{command}: {said}");
        let _ = daemon.run_as(OWNER, &["pool", command, "blocks"]).success();
    }
    // To flush is the host's to ask of any module.
    for pool in ["echo", "blocks"] {
        let _ = daemon.run_as(OWNER, &["pool", "flush", pool]).success();
    }
    let bdev = Client::new(&runtime, PoolId::new(9000, 0));
    let words = ["module chimaera_echo", "not of chimaera_bdev"];
    assert_refused(bdev.get_stats(), Status::WrongModule, &words);
    let blocks = bdev.allocate_blocks(QUERY, 4096);
    assert_refused(blocks, Status::WrongModule, &words);
    let opened = Client::open(&runtime, "echo");
    assert_refused(opened, Status::WrongModule, &words);
    let made = bdev.create(PoolQuery::Dynamic, "echo", &CreateOptions::ram(MIB));
    assert_refused(made, Status::WrongModule, &words);
    let wrong = EchoClient::new(&runtime, ID).echo(7);
    assert_refused(wrong, Status::WrongModule, &["module chimaera_bdev"]);
    assert_eq!(echo.echo(7), Ok(7));
}

#[test]
fn a_task_of_a_connection_that_is_not_attached_reaches_no_module() {
    if !has_users("tasks without attachment") {
        return;
    }
    let daemon = daemon();
    let runtime = daemon.user(OWNER);
    let pool = Faulty::created(&runtime, 0);
    let id = pool.pool_id();
    assert_eq!(handed(&pool), 0);
    let complete = faulty::Method::Complete as u16;
    let strangers = [daemon.user(OWNER), daemon.user(OTHER), daemon.operator()];
    for stranger in &strangers {
        for method in 0..=faulty::Method::CountHanded as u16 {
            let refused = send(stranger, id, method);
            assert_refused(refused, Status::NotAttached, &[]);
        }
    }
    // The same user is no reason to be let in by another connection: what it means has not been settled.
    let refused = attach(&strangers[0], id, MODULE_NAME);
    assert_refused(refused, Status::WrongModule, &["chimaera_faulty"]);
    assert_refused(send(&strangers[0], id, complete), Status::NotAttached, &[]);
    let refused = attach(&strangers[1], id, faulty::MODULE_NAME);
    assert_refused(refused, Status::PermissionDenied, &["user 1001's"]);
    assert_refused(send(&strangers[1], id, complete), Status::NotAttached, &[]);
    let made = GetOrCreatePool::new(MODULE_NAME, "faulty 6666.0", id, Vec::new());
    let made = strangers[0]
        .admin()
        .get_or_create_pool(PoolQuery::Dynamic, &made);
    assert_refused(made, Status::WrongModule, &["chimaera_faulty"]);
    assert_refused(send(&strangers[0], id, complete), Status::NotAttached, &[]);
    assert_eq!(handed(&pool), 1, "only the count before was handed over");

    attach(&strangers[0], id, faulty::MODULE_NAME).expect("its owner");
    send(&strangers[0], id, complete).expect("attached");
    assert_eq!(handed(&pool), 3);
    // A pool that is not there is told apart.
    let absent = PoolId::new(6666, 1);
    assert_refused(send(&runtime, absent, complete), Status::PoolNotFound, &[]);
    assert_refused(
        attach(&runtime, absent, faulty::MODULE_NAME),
        Status::PoolNotFound,
        &[],
    );
}

#[test]
fn a_method_that_is_not_declared_reaches_no_module() {
    if !has_users("undeclared methods") {
        return;
    }
    let daemon = daemon();
    for runtime in [daemon.user(OWNER), daemon.operator()] {
        let pool = Faulty::created(&runtime, 0);
        let declared = faulty::METHOD_COUNT;
        let undeclared = [declared, 62, 63, 64, 65, 127, 128, 1 << 15, u16::MAX];
        for method in undeclared {
            let refused = send(&runtime, pool.pool_id(), method);
            assert_refused(refused, Status::UnknownMethod, &[]);
        }
        assert_eq!(handed(&pool), 0);
        send(&runtime, pool.pool_id(), faulty::Method::Complete as u16).expect("declared");
        assert_eq!(handed(&pool), 2);

        let blocks = ram(&runtime, "blocks", ID, 0o600);
        let numbers = Method::ALL.map(|method| method as u16);
        for method in (0..80).filter(|method| !numbers.contains(method)) {
            assert_refused(send(&runtime, ID, method), Status::UnknownMethod, &[]);
        }
        send(&runtime, ID, Method::Flush as u16).expect("declared");
        assert_eq!(blocks.all_blocks(QUERY).count(), 0);
    }
}
