//! A client that has more in flight than its lane can hold.

use std::sync::Mutex;
use std::time::Instant;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, ModuleError, Request, Right,
    Worker,
};
use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{Descriptor, PoolId};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ping, status};
use chimaera_testing::{PATIENCE, until};

/// Keeps every task.
struct Keeping;

chimaera_chimod::export_chimod!(Keeping, "keeping");

static KEPT: Mutex<Vec<Request>> = Mutex::new(Vec::new());

impl Container for Keeping {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

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
    let (mut greedy, mut other) = (
        RawClient::new(host.connect().expect("connects")),
        RawClient::new(host.connect().expect("connects")),
    );
    assert_eq!(other.create_pool("keeping", "kept", POOL), None);
    assert_eq!(greedy.attach_pool("keeping", POOL), None);
    let kept = || KEPT.lock().expect("not poisoned").len();
    for record in 0..LANE_DEPTH {
        greedy.publish(&Descriptor {
            pool: POOL,
            record: record as u8,
            ..ping()
        });
    }
    until("all tasks are taken", || kept() == LANE_DEPTH);
    assert_eq!(status(&other.call(&ping())), None);
    greedy.publish(&ping());
    // The session ends, though its tasks in flight have not completed.
    let deadline = Instant::now() + PATIENCE;
    let mut session_count = 2;
    while session_count != 1 && Instant::now() < deadline {
        session_count = other.runtime_status().session_count;
    }
    // They are completed before anything is asserted, because the host's end waits for them.
    let kept: Vec<_> = KEPT.lock().expect("not poisoned").drain(..).collect();
    let kept_count = kept.len();
    kept.into_iter().for_each(|request| request.complete(&[]));
    assert_eq!(session_count, 1, "the session goes on");
    assert_eq!(kept_count, LANE_DEPTH, "one more reached the module");
    greedy.wait_for_end();
    assert_eq!(status(&other.call(&ping())), None);
}
