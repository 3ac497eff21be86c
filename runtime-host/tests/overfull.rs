//! A client that has more in flight than its lane can hold.

use std::sync::Mutex;
use std::time::Instant;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, ModuleError, Request, Worker,
};
use chimaera_proto::admin::{GetOrCreatePool, Method, RuntimeStatus};
use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{Descriptor, PoolId, codec};
use chimaera_runtime::{Config, Host};

mod support;

use support::{Client, PATIENCE, ping, status};

/// Keeps every task.
struct Keeping;

chimaera_chimod::export_chimod!(Keeping, "keeping");

static KEPT: Mutex<Vec<Request>> = Mutex::new(Vec::new());

impl Container for Keeping {
    fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self)
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        KEPT.lock().expect("not poisoned").push(request);
        Activity::IDLE
    }
}

#[test]
fn a_lane_takes_as_many_tasks_as_it_has_entries_and_one_more_ends_the_session() {
    const POOL: PoolId = PoolId::new(8000, 0);
    let host = Host::start(&Config {
        worker_count: 2,
        modules: vec![module()],
        ..Config::default()
    })
    .expect("the host starts");
    let (mut greedy, mut other) = (Client::new(&host), Client::new(&host));
    let request = codec::encode(&GetOrCreatePool {
        module: "keeping".to_owned(),
        name: "kept".to_owned(),
        id: POOL,
        params: Vec::new(),
    });
    let created = other.admin(Method::GetOrCreatePool, &request.expect("encodes"));
    assert_eq!(status(&created), None);
    let kept = || KEPT.lock().expect("not poisoned").len();
    for record in 0..LANE_DEPTH {
        greedy.publish(&Descriptor {
            pool: POOL,
            record: record as u8,
            ..ping()
        });
    }
    let deadline = Instant::now() + PATIENCE;
    while kept() < LANE_DEPTH {
        assert!(Instant::now() < deadline, "{} tasks were taken", kept());
        std::thread::yield_now();
    }
    assert_eq!(status(&other.call(&ping())), None);
    greedy.publish(&ping());
    // The session is ended, though what it has in flight is not.
    let mut session_count = 2;
    while session_count != 1 && Instant::now() < deadline {
        let answer = other.admin(Method::GetStatus, &codec::encode(&()).expect("encodes"));
        let runtime: RuntimeStatus = codec::decode(&other.reply(&answer)).expect("decodes");
        session_count = runtime.session_count;
    }
    // Before anything is asserted: the host's end waits for them.
    let kept: Vec<_> = KEPT.lock().expect("not poisoned").drain(..).collect();
    let kept_count = kept.len();
    kept.into_iter().for_each(|request| request.complete(&[]));
    assert_eq!(session_count, 1, "the session goes on");
    assert_eq!(kept_count, LANE_DEPTH, "one more reached the module");
    greedy.wait_for_end();
    assert_eq!(status(&other.call(&ping())), None);
}
