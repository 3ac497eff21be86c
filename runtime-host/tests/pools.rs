//! Pools that come and go while clients use them, rightly or not.

use std::sync::Mutex;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, ModuleError, Request, Right,
    Worker,
};
use chimaera_proto::{Descriptor, PoolId, Status};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ping, status};
use chimaera_testing::until;

/// Completes a task at once, or keeps it in [`HELD`].
struct Holding;

chimaera_chimod::export_chimod!(Holding, "holding");

const HOLD: u16 = 1;

/// Tests that hold tasks use arguments of their own to tell them apart.
static HELD: Mutex<Vec<Request>> = Mutex::new(Vec::new());

impl Container for Holding {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

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

#[test]
fn a_pool_that_is_being_destroyed_takes_no_task_whatever_id_it_names() {
    const POOL: PoolId = PoolId::new(8000, 0);
    let host = host();
    let (mut user, mut destroyer) = (
        RawClient::new(host.connect().expect("connects")),
        RawClient::new(host.connect().expect("connects")),
    );
    assert_eq!(user.create_pool("holding", "drained", POOL), None);
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
        let destroyed = scope.spawn(|| destroyer.destroy_pool(POOL));
        until("the pool is withdrawn", || {
            status(&user.call(&to(POOL, 0))) == Some(Status::PoolNotFound)
        });
        let through_null = status(&user.call(&to(PoolId::NULL, 0)));
        for request in HELD.lock().expect("not poisoned").drain(..) {
            request.complete(&[]);
        }
        assert_eq!(destroyed.join().expect("joins"), None);
        assert_eq!(through_null, Some(Status::PoolNotFound));
    });
}

#[test]
fn a_pool_can_be_destroyed_while_its_creator_has_not_answered_yet() {
    let host = host();
    let (mut creator, mut destroyer) = (
        RawClient::new(host.connect().expect("connects")),
        RawClient::new(host.connect().expect("connects")),
    );
    for round in 0..300 {
        let pool = PoolId::new(8001, round);
        std::thread::scope(|scope| {
            // Destroys the pool as soon as it is known, which is before its creator is answered.
            let destroyed = scope.spawn(|| {
                until("the pool is there and destroyed", || {
                    destroyer.destroy_pool(pool).is_none()
                });
            });
            let created = creator.create_pool("holding", "short-lived", pool);
            assert_eq!(created, None);
            destroyed.join().expect("joins");
        });
    }
}
