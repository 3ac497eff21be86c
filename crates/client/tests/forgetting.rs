//! What the application says it has forgotten of a pool is not used by what it has asked for before.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chimaera_client::{Call, PoolHandle, PoolId, PoolQuery, Status, Task, Values};
use chimaera_testing::{FakeHost, Watchdog, attaching_to};
use support::{ECHO, FAIL, HOLD, call, module};

const ID: PoolId = PoolId::new(9000, 0);

fn submit(pool: &PoolHandle, call: Call) -> Task<Values> {
    pool.submit(call, None, |finished| finished.values().map_err(Into::into))
}

#[test]
fn a_task_from_before_the_application_forgot_is_for_no_pool_that_came_after() {
    let _watchdog = Watchdog::start();
    let incarnation = Arc::new(AtomicU32::new(1));
    let told = Arc::clone(&incarnation);
    let (host, runtime) =
        FakeHost::connect(attaching_to(move || told.load(Ordering::Relaxed), module));
    let pool = PoolHandle::new(&runtime, "module", ID);
    let echo = || pool.call(PoolQuery::Local, ECHO, [7, 0, 0]);
    pool.carry_out(&echo()).expect("it is attached to");

    incarnation.store(2, Ordering::Relaxed);
    let changed = u64::from(Status::PoolChanged.code());
    let fails = pool.call(PoolQuery::Local, FAIL, [changed, 0, 0]);
    let error = pool.carry_out(&fails).expect_err("as asked");
    assert_eq!(error.status(), Status::PoolChanged);
    // So the next use would have to ask, for which the lane has no room.
    let held: Vec<_> = std::iter::repeat_with(|| {
        runtime.submit(call(HOLD, 0), None, |finished| {
            finished.values().map_err(Into::into)
        })
    })
    .take_while(Task::is_submitted)
    .collect();
    let before = submit(&pool, echo());
    assert!(!before.is_submitted());
    pool.accept_change();
    let after = submit(&pool, echo());
    host.release_held();
    drop(held);
    let error = before.wait().expect_err("it was for the pool before");
    assert_eq!(error.status(), Status::PoolChanged);
    assert_eq!(after.wait().expect("it is for this pool")[0], 7);
    assert_eq!(pool.carry_out(&echo()).expect("likewise")[0], 7);
    assert!(!pool.has_changed());
}
