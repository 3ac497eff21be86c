//! Sessions and pools that come and go at the same time. Alone in its program, because it counts
//! what the process has open.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, MAX_METHODS, ModuleError,
    Request, Right, Worker,
};
use chimaera_proto::admin::{FlushPools, Method};
use chimaera_proto::{Descriptor, PoolId, Status};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ping, status};
use chimaera_testing::{Watchdog, until};

/// Completes tasks at once, on a thread of its own, or by dropping them.
struct Churned;

chimaera_chimod::export_chimod!(Churned, "churned");

static COMPLETED: AtomicU64 = AtomicU64::new(0);

impl Container for Churned {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

    fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self)
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        COMPLETED.fetch_add(1, Ordering::Relaxed);
        match request.method() % 3 {
            0 => request.complete(&[]),
            1 => drop(std::thread::spawn(move || request.complete(&[]))),
            _ => drop(request),
        }
        Activity::PENDING
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("listed").count()
}

/// A client that uses and abuses pools for a while, then leaves with tasks in flight.
fn live(host: &Host, seed: u32) {
    let mut client = RawClient::new(host.connect().expect("connects"));
    let pool = PoolId::new(8000 + seed % 3, 0);
    let created = client.create_pool("churned", &pool.to_string(), pool);
    assert_eq!(created, None);
    for round in 0..20 {
        let task = Descriptor {
            method: (round + seed as u16) % MAX_METHODS,
            pool,
            record: 1,
            ..ping()
        };
        let ended = status(&client.call(&task));
        // Others destroy the pool, and make it again, meanwhile.
        let gone = [Status::Aborted, Status::PoolNotFound, Status::PoolChanged].map(Some);
        let expected = [&[None], gone.as_slice()].concat();
        assert!(expected.contains(&ended), "{ended:?}");
    }
    if seed.is_multiple_of(2) {
        let flushed = client.admin(Method::FlushPools, &FlushPools { pool: None });
        assert_eq!(status(&flushed), None);
    }
    let ended = client.destroy_pool(pool);
    assert!(
        [None, Some(Status::PoolNotFound)].contains(&ended),
        "{ended:?}"
    );
    for record in 1..32 {
        client.publish(&Descriptor {
            method: u16::from(record),
            pool,
            record,
            ..ping()
        });
    }
}

#[test]
fn sessions_and_pools_that_come_and_go_leave_nothing_behind() {
    let _watchdog = Watchdog::start();
    let files = open_files();
    for round in 0..10 {
        let host = Host::start(&Config {
            worker_count: 2,
            modules: vec![module()],
            ..Config::default()
        })
        .expect("the host starts");
        let deadline = Instant::now() + Duration::from_millis(100);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let host = &host;
                scope.spawn(move || {
                    let mut seed = thread + round;
                    while Instant::now() < deadline {
                        live(host, seed);
                        seed += 1;
                    }
                });
            }
        });
        drop(host);
    }
    assert!(COMPLETED.load(Ordering::Relaxed) > 0);
    // Threads of the module may still hold the workers' inboxes, and with them their files.
    until("its files are closed", || open_files() <= files);
}
