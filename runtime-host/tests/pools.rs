//! Pools that come and go while clients use them, rightly or not.

use std::sync::Mutex;
use std::time::Instant;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, ModuleError, Request, Worker,
};
use chimaera_proto::admin::{DestroyPool, GetOrCreatePool, Method};
use chimaera_proto::{Completion, Descriptor, PoolId, Status, codec};
use chimaera_runtime::{Config, Host};

mod support;

use support::{Client, PATIENCE, ping, status};

/// Completes a task at once, or keeps it in [`HELD`].
struct Holding;

chimaera_chimod::export_chimod!(Holding, "holding");

const HOLD: u16 = 1;

/// Tests that hold tasks use arguments of their own to tell them apart.
static HELD: Mutex<Vec<Request>> = Mutex::new(Vec::new());

impl Container for Holding {
    fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self)
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        match request.method() {
            HOLD => HELD.lock().expect("not poisoned").push(request),
            _ => request.complete(&[]),
        }
        Activity::IDLE
    }
}

fn host() -> Host {
    Host::start(&Config {
        worker_count: 2,
        modules: vec![module()],
        ..Config::default()
    })
    .expect("the host starts")
}

fn create(client: &mut Client, name: &str, id: PoolId) -> Completion {
    let request = GetOrCreatePool {
        module: "holding".to_owned(),
        name: name.to_owned(),
        id,
        params: Vec::new(),
    };
    client.admin(
        Method::GetOrCreatePool,
        &codec::encode(&request).expect("encodes"),
    )
}

fn destroy_request(id: PoolId) -> Vec<u8> {
    codec::encode(&DestroyPool { id }).expect("encodes")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_pool_that_is_being_destroyed_takes_no_task_whatever_id_it_names() {
    const POOL: PoolId = PoolId::new(8000, 0);
    let host = host();
    let (mut user, mut destroyer) = (Client::new(&host), Client::new(&host));
    assert_eq!(status(&create(&mut user, "drained", POOL)), None);
    let to = |pool, method| Descriptor {
        pool,
        method,
        ..ping()
    };
    assert_eq!(status(&user.call(&to(POOL, 0))), None);
    user.publish(&Descriptor {
        record: 1,
        ..to(POOL, HOLD)
    });
    until("the task arrives", || {
        !HELD.lock().expect("not poisoned").is_empty()
    });

    std::thread::scope(|scope| {
        let destroyed =
            scope.spawn(|| destroyer.admin(Method::DestroyPool, &destroy_request(POOL)));
        until("the pool is withdrawn", || {
            status(&user.call(&to(POOL, 0))) == Some(Status::PoolNotFound)
        });
        let through_null = status(&user.call(&to(PoolId::NULL, 0)));
        for request in HELD.lock().expect("not poisoned").drain(..) {
            request.complete(&[]);
        }
        assert_eq!(status(&destroyed.join().expect("joins")), None);
        assert_eq!(through_null, Some(Status::PoolNotFound));
    });
}

#[test]
fn a_pool_can_be_destroyed_while_its_creator_has_not_answered_yet() {
    let host = host();
    let (mut creator, mut destroyer) = (Client::new(&host), Client::new(&host));
    for round in 0..300 {
        let pool = PoolId::new(8001, round);
        std::thread::scope(|scope| {
            // It takes the pool the moment that it is known, which is before its creator answers.
            let destroyed = scope.spawn(|| {
                until("the pool is there and destroyed", || {
                    status(&destroyer.admin(Method::DestroyPool, &destroy_request(pool))).is_none()
                });
            });
            assert_eq!(status(&create(&mut creator, "short-lived", pool)), None);
            destroyed.join().expect("joins");
        });
    }
}
